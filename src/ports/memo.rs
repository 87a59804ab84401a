//! What the ledger remembers besides entries.

use serde::{Deserialize, Serialize};

use super::Cursor;
use crate::model::{LeadId, ReferralId, Timestamp, Watermark};

/// What is remembered besides entries; at most a few kilobytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memo {
    /// Greatest `updatedDateTime` accounted for.
    pub referrals_seen: Option<Watermark>,
    /// Greatest lead `modifiedon` accounted for.
    pub leads_seen: Option<Watermark>,
    /// Greatest opportunity `modifiedon` accounted for.
    pub opportunities_seen: Option<Watermark>,
    /// Cycles so far: every fifth reads the overlap.
    pub cycles: u64,
    /// A sweep under way.
    pub sweep: Option<SweepCursor>,
    /// When the last sweep was finished.
    pub swept: Option<Timestamp>,
    /// Entries there were when it was finished: what the next one should meet at least.
    pub entries_at_sweep: Option<u64>,
    /// When all linked leads were last read by id.
    pub leads_read: Option<Timestamp>,
    /// The sweep under way looks again at referrals that did not change, because the configuration did: those that are not
    /// linked, that a filter froze, or whose consent was withdrawn.
    pub is_rescan: bool,
    /// A sweep is due whatever the schedule says (first start, damage, unordered answer).
    pub is_sweep_due: bool,
    /// When an unordered listing last forced a sweep, or a page that cannot be read sent one back to its beginning.
    pub unordered_sweep: Option<Timestamp>,
    /// A reading of all linked leads by id under way: the last referral done.
    pub lead_reading: Option<Option<ReferralId>>,
    /// The CRM organization this ledger belongs to.
    pub crm_organization: Option<uuid::Uuid>,
    /// Our user in it.
    pub crm_user: Option<uuid::Uuid>,
    /// The partner organization this ledger belongs to.
    pub partner_organization: Option<String>,
    /// Of no use any more: where an earlier program kept closed windows ([`super::Decisions::closed_until`]). Memos are
    /// read by the order of their fields.
    pub former_windows: (Option<Timestamp>, Option<Timestamp>),
    /// Requests spent today per side, and the day (days since 1970 in UTC) they belong to.
    pub requests_today: RequestsToday,
    /// When the last cycle that observed both sides ended.
    pub last_success: Option<Timestamp>,
    /// When the last cycle ended, and its report as JSON text without personal data.
    pub last_report: Option<(Timestamp, String)>,
    /// The last stop was orderly.
    pub is_stopped_cleanly: bool,
    /// Hash of all that entries were fitted to: mapping, status, write, link and scope settings, the referral id column, and
    /// what the mapping takes from the live schema. A change has every entry looked at once.
    pub configuration: u64,
    // A memo of an earlier program ends before one of these; nothing is the default of each (`store::sled::codec`).
    /// How far change tracking of leads has come; `None` where leads are polled.
    pub tracking: Option<Tracking>,
    /// What the sweep under way has met: the sum of [`crate::plan::brakes::weight`] over known referrals, each once.
    pub sweep_met: u128,
    /// Referrals of its last page: one that moved onto the next page is not met twice.
    pub sweep_page: Vec<ReferralId>,
    /// Linked leads whose referral id column is empty, as of a master that another lead was merged into: a poll asks for
    /// them by id. The last ones, at most [`crate::cycle::UNNAMED_MAX`].
    pub unnamed: Vec<LeadId>,
}

/// How far change tracking of leads has come (`dataverse.observe = "delta"`). Leads are polled as well until it is
/// [`Tracking::Proven`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Tracking {
    /// The whole table is being read, page by page.
    Whole {
        /// The next page; `None` for the first.
        next: Option<Cursor>,
        /// Pages read so far.
        pages: u32,
    },
    /// The whole table was read: what changed since comes by this link.
    Fresh(Cursor),
    /// What changed since the last pass comes by this link.
    Proven(Cursor),
    /// The service keeps no changes for us.
    Off {
        /// Why, for people.
        why: String,
        /// When it is asked again.
        again: Timestamp,
    },
}

/// A sweep under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepCursor {
    /// Where the next page begins; `None` for the first.
    pub cursor: Option<Cursor>,
    /// When it began, in server time: what was updated later is the incremental scan's business.
    pub began: Timestamp,
    /// Pages read so far.
    pub pages: u32,
    /// Known referrals met so far.
    pub met: u64,
}

/// Requests spent on a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsToday {
    /// Days since 1970-01-01 in UTC.
    pub day: i64,
    /// Sent to the portal.
    pub portal: u64,
    /// Sent to the CRM.
    pub crm: u64,
}
