//! Ports whose answers to writes do not arrive any more: what a process sees that is killed right after it sent them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use referrald::model::{ETag, Lead, LeadDraft, LeadId, Patch, Referral, ReferralId, RemoteError};
use referrald::ports::{Crm, Portal};
use uuid::Uuid;

use crate::detour::{CrmDetour, PortalDetour};

/// Once set, no write is answered.
pub type IsDeaf = Arc<AtomicBool>;

pub struct Deaf<T>(pub T, pub IsDeaf);

impl<T> Deaf<T> {
    async fn heard<A>(&self, answer: A) -> A {
        if self.1.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        answer
    }
}

#[async_trait]
impl<T: Portal> PortalDetour for Deaf<T> {
    fn port(&self) -> &dyn Portal {
        &self.0
    }

    async fn patch(
        &self,
        id: ReferralId,
        etag: &ETag,
        patch: &Patch,
        request: Uuid,
    ) -> Result<Option<Referral>, RemoteError> {
        let answer = self.0.patch(id, etag, patch, request).await;
        self.heard(answer).await
    }
}

#[async_trait]
impl<T: Crm> CrmDetour for Deaf<T> {
    fn port(&self) -> &dyn Crm {
        &self.0
    }

    async fn create(
        &self,
        referral: ReferralId,
        computed: LeadId,
        draft: &LeadDraft,
        request: Uuid,
    ) -> Result<Lead, RemoteError> {
        let answer = self.0.create(referral, computed, draft, request).await;
        self.heard(answer).await
    }

    async fn update(&self, id: LeadId, etag: &ETag, draft: &LeadDraft, request: Uuid) -> Result<Lead, RemoteError> {
        let answer = self.0.update(id, etag, draft, request).await;
        self.heard(answer).await
    }
}
