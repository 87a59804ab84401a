//! Ports whose answers to writes do not arrive any more: what a process sees that is killed right after it sent them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use referrald::model::{
    ETag, Lead, LeadDraft, LeadId, Opportunity, Patch, Referral, ReferralId, RemoteError, Timestamp,
};
use referrald::ports::{Crm, CrmIdentity, Cursor, FindBy, LeadSchema, Line, Page, Portal, Scan, Tracked};
use uuid::Uuid;

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
impl<T: Portal> Portal for Deaf<T> {
    async fn page(&self, scan: &Scan, cursor: Option<&Cursor>) -> Result<Page<Referral>, RemoteError> {
        self.0.page(scan, cursor).await
    }

    async fn get(&self, id: ReferralId) -> Result<Referral, RemoteError> {
        self.0.get(id).await
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

    fn line(&self) -> &dyn Line {
        self.0.line()
    }
}

#[async_trait]
impl<T: Crm> Crm for Deaf<T> {
    async fn identity(&self) -> Result<CrmIdentity, RemoteError> {
        self.0.identity().await
    }

    async fn schema(&self) -> Result<Arc<LeadSchema>, RemoteError> {
        self.0.schema().await
    }

    fn is_schema_doubtful(&self) -> bool {
        self.0.is_schema_doubtful()
    }

    async fn leads_changed_since(
        &self,
        since: Timestamp,
        also: &[LeadId],
        cursor: Option<&Cursor>,
    ) -> Result<Page<Lead>, RemoteError> {
        self.0.leads_changed_since(since, also, cursor).await
    }

    async fn lead_changes(&self, link: Option<&Cursor>) -> Result<Tracked, RemoteError> {
        self.0.lead_changes(link).await
    }

    async fn opportunities_changed_since(
        &self,
        since: Timestamp,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Opportunity>, RemoteError> {
        self.0.opportunities_changed_since(since, cursor).await
    }

    async fn leads(&self, ids: &[LeadId]) -> Result<Vec<Lead>, RemoteError> {
        self.0.leads(ids).await
    }

    async fn get(&self, id: LeadId) -> Result<Lead, RemoteError> {
        self.0.get(id).await
    }

    async fn opportunities_of(&self, leads: &[LeadId]) -> Result<Vec<Opportunity>, RemoteError> {
        self.0.opportunities_of(leads).await
    }

    async fn find(&self, by: FindBy, referrals: &[ReferralId]) -> Result<Vec<Lead>, RemoteError> {
        self.0.find(by, referrals).await
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

    async fn get_by_referral(&self, referral: ReferralId, computed: LeadId) -> Result<Lead, RemoteError> {
        self.0.get_by_referral(referral, computed).await
    }

    fn writes_at_once(&self) -> usize {
        self.0.writes_at_once()
    }

    fn line(&self) -> &dyn Line {
        self.0.line()
    }
}
