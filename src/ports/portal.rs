//! The port to the referrals.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Cursor, Line, Page};
use crate::model::{ETag, Patch, Referral, ReferralId, RemoteError, Timestamp};

/// Where referrals come from.
#[async_trait]
pub trait Portal: Send + Sync {
    /// Reads one page of a scan. `cursor` is the one the page before ended with; `None` starts the scan.
    async fn page(&self, scan: &Scan, cursor: Option<&Cursor>) -> Result<Page<Referral>, RemoteError>;

    /// Reads one referral. `Fault::Missing` when it does not exist or is not visible.
    async fn get(&self, id: ReferralId) -> Result<Referral, RemoteError>;

    /// Writes one JSON Patch under `If-Match`. Returns the entity when the service sends it, else `None`.
    ///
    /// `Fault::Conflict` when the version is stale. `request` is the idempotency key: the same for replays of one write.
    async fn patch(
        &self,
        id: ReferralId,
        etag: &ETag,
        patch: &Patch,
        request: uuid::Uuid,
    ) -> Result<Option<Referral>, RemoteError>;

    /// The line to the service.
    fn line(&self) -> &dyn Line;
}

/// Which referrals to list, in which order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scan {
    /// `updatedDateTime desc`: the newest changes first.
    Recent,
    /// `createdDateTime asc`: every referral; updates do not reshuffle it.
    Sweep,
    /// `status eq 'New'`, oldest first: the peek that begins a catch-up.
    New,
    /// Opt-in filter `updatedDateTime ge`; `Fault::Refused` when the service does not know it.
    ChangedSince(Timestamp),
    /// `engagementId eq`: all referrals of one engagement (partner-center §1.3).
    Engagement(uuid::Uuid),
}
