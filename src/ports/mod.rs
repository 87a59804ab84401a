//! The outside world: what a cycle needs of it, and nothing else.

mod crm;
mod decisions;
mod line;
mod memo;
mod page;
mod portal;
mod store;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{Side, Timestamp};

pub use crate::model::Take;
pub use crm::{
    ChangeLink, Changes, ColumnKind, ColumnSchema, Crm, CrmIdentity, FindBy, FirstPages, LeadSchema, LeadVersion,
    Tracked,
};
pub use decisions::{Backfill, DecisionChange, Decisions, Groups, LatchedBrake};
pub use line::{Allowance, Line, Traffic};
pub use memo::{Memo, RequestsToday, SweepCursor, Tracking};
pub use page::{Cursor, Defect, Page};
pub use portal::{Portal, Scan};
pub use store::{
    ActionKind, Batch, Check, Counters, ExportCheck, ExportsKept, HistoryLine, IntendedAction, Intent, Opening, Pruned,
    StateStore, StoreError,
};

/// Everything a cycle may touch.
#[derive(Clone)]
pub struct Ports {
    /// Where referrals come from.
    pub portal: Arc<dyn Portal>,
    /// Where leads live.
    pub crm: Arc<dyn Crm>,
    /// Where the ledger is kept.
    pub store: Arc<dyn StateStore>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Ports {
    /// The line to the service of this side.
    pub fn line(&self, side: Side) -> &dyn Line {
        match side {
            Side::Portal => self.portal.line(),
            Side::Crm => self.crm.line(),
        }
    }
}

/// The time, so that histories can run on a paused clock.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The local instant.
    fn now(&self) -> Timestamp;
    /// Waits.
    async fn sleep(&self, duration: Duration);
}
