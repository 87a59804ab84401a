//! A port with a detour in front: the calls a test is about go another way, and all others straight on.

use std::sync::Arc;

use async_trait::async_trait;
use referrald::model::{
    ETag, Lead, LeadDraft, LeadId, Opportunity, Patch, Referral, ReferralId, RemoteError, Timestamp,
};
use referrald::ports::{Crm, CrmIdentity, Cursor, FindBy, FirstPages, LeadSchema, Line, Page, Portal, Scan, Tracked};
use uuid::Uuid;

/// The port that the program gets.
pub struct Detour<T>(pub T);

/// The calls of a port, listed once: what a detour does not take itself goes straight on to the port.
macro_rules! detour {
    (
        $(#[$doc:meta])* $detour:ident for $port:ident
        $( async $call:ident($($argument:ident: $type:ty),*) -> $answer:ty; )*
        $( say $word:ident -> $said:ty; )*
    ) => {
        $(#[$doc])*
        #[async_trait]
        pub trait $detour: Send + Sync {
            fn port(&self) -> &dyn $port;
            $(
                async fn $call(&self, $($argument: $type),*) -> $answer {
                    self.port().$call($($argument),*).await
                }
            )*
        }

        #[async_trait]
        impl<T: $detour> $port for Detour<T> {
            $(
                async fn $call(&self, $($argument: $type),*) -> $answer {
                    self.0.$call($($argument),*).await
                }
            )*
            $(
                fn $word(&self) -> $said {
                    self.0.port().$word()
                }
            )*
        }
    };
}

detour! {
    /// On the way to the referrals.
    PortalDetour for Portal
    async page(scan: &Scan, cursor: Option<&Cursor>) -> Result<Page<Referral>, RemoteError>;
    async get(id: ReferralId) -> Result<Referral, RemoteError>;
    async patch(id: ReferralId, etag: &ETag, patch: &Patch, request: Uuid) -> Result<Option<Referral>, RemoteError>;
    say line -> &dyn Line;
}

detour! {
    /// On the way to the leads.
    CrmDetour for Crm
    async identity() -> Result<CrmIdentity, RemoteError>;
    async schema() -> Result<Arc<LeadSchema>, RemoteError>;
    async leads_changed_since(since: Timestamp, also: &[LeadId], cursor: Option<&Cursor>) -> Result<Page<Lead>, RemoteError>;
    async lead_changes(link: Option<&Cursor>) -> Result<Tracked, RemoteError>;
    async opportunities_changed_since(since: Timestamp, cursor: Option<&Cursor>) -> Result<Page<Opportunity>, RemoteError>;
    async both_changed_since(leads: Timestamp, also: &[LeadId], opportunities: Timestamp) -> Option<Result<FirstPages, RemoteError>>;
    async leads(ids: &[LeadId]) -> Result<Vec<Lead>, RemoteError>;
    async get(id: LeadId) -> Result<Lead, RemoteError>;
    async opportunities_of(leads: &[LeadId]) -> Result<Vec<Opportunity>, RemoteError>;
    async find(by: FindBy, referrals: &[ReferralId]) -> Result<Vec<Lead>, RemoteError>;
    async create(referral: ReferralId, computed: LeadId, draft: &LeadDraft, request: Uuid) -> Result<Lead, RemoteError>;
    async update(id: LeadId, etag: &ETag, draft: &LeadDraft, request: Uuid) -> Result<Lead, RemoteError>;
    async get_by_referral(referral: ReferralId, computed: LeadId) -> Result<Lead, RemoteError>;
    say is_schema_doubtful -> bool;
    say writes_at_once -> usize;
    say line -> &dyn Line;
}
