//! The truth table: one row in, what it needs out.
//!
//! | referral | lead    | entry    | then                                              |
//! |----------|---------|----------|---------------------------------------------------|
//! | seen     |         |          | scope, adoption, then create or link               |
//! | seen     | any     | linked   | both ways, each group by its base and its owner    |
//! |          | seen    | linked   | status and two-way groups go back                  |
//! | any      | absent  | linked   | the lead was deleted: leave it or create it again  |
//! | absent   | any     | linked   | hold: it may come back                             |
//! |          |         | linked   | what was due: settled closings, retries            |

pub(super) mod groups;
mod intent;
pub(super) mod link;
mod memory;
mod writes;

use crate::model::{Base, Entry, LeadId, LeadState, ReferralId, ReferralStatus, Standing, Timestamp};
use crate::plan::action::{Action, Hold, Needs};
use crate::plan::fields::Merge;
use crate::plan::policy::Policy;
use crate::plan::snapshot::{Row, Seen};
use crate::plan::{backoff, scope, status};
use memory::{first_entry, remember_lead, remember_referral};
use writes::Writes;

/// How often a referral that could not be found any more is asked for again.
const MISSING_AGAIN: std::time::Duration = std::time::Duration::from_secs(15 * 60);

/// What one row needs.
#[derive(Clone, Debug, PartialEq)]
pub struct RowPlan {
    /// Which referral.
    pub id: ReferralId,
    /// The next entry, should no write be made; `None` when nothing is known of this referral.
    pub entry: Option<Entry>,
    /// Reads that are missing before the row can be decided.
    pub needs: Needs,
    /// The next write; what follows it is planned again from its answer.
    pub action: Option<Action>,
    /// Differences left alone.
    pub holds: Vec<Hold>,
    /// The linked lead vanished in this row: the brake counts these.
    pub vanished: Option<LeadId>,
    /// Why it is not imported.
    pub out_of_scope: Option<scope::OutOfScope>,
    /// Nobody can know yet what came of the write whose answer was lost: the record of it stays.
    pub keeps_intent: bool,
    /// Order of urgency; smaller first.
    pub urgency: Urgency,
}

/// Order of urgency: expiring, new, high value, rest; within one kind the older deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency(u8, i64);

impl Urgency {
    /// It is about to expire unanswered, or new.
    pub fn is_urgent(self) -> bool {
        self.0 <= 1
    }
}

/// Decides what one row needs.
pub fn plan_row(row: &Row, policy: &Policy, now: Timestamp) -> RowPlan {
    let mut draft = Draft::new(row, policy, now);
    draft.run();
    draft.finish()
}

/// As [`plan_row`], and how each group of fields was decided, for a person who asks why.
pub fn trace_row(row: &Row, policy: &Policy, now: Timestamp) -> (RowPlan, Vec<GroupTrace>) {
    let mut draft = Draft { trace: Some(Vec::new()), ..Draft::new(row, policy, now) };
    draft.run();
    let trace = draft.trace.take().unwrap_or_default();
    (draft.finish(), trace)
}

/// How one group of fields was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupTrace {
    /// Its place in [`crate::plan::mapping::Mapping::groups`].
    pub index: usize,
    /// What both sides had agreed on before.
    pub base: Option<Base>,
    /// When the referral's value was first seen to have moved, while that is not settled.
    pub referral_moved: Option<Timestamp>,
    /// The same of the lead's value.
    pub lead_moved: Option<Timestamp>,
    /// What the merge decided.
    pub decision: Merge,
    /// The decision has no effect: the group is frozen.
    pub is_silent: bool,
}

/// A row while it is being decided.
struct Draft<'a> {
    row: &'a Row,
    policy: &'a Policy,
    now: Timestamp,
    entry: Option<Entry>,
    needs: Needs,
    action: Option<Action>,
    holds: Vec<Hold>,
    vanished: Option<LeadId>,
    out_of_scope: Option<scope::OutOfScope>,
    keeps_intent: bool,
    /// The row was due by itself.
    was_due: bool,
    /// Bits of the holds it had before.
    before: u32,
    /// Bits of holds that were raised once and still stand.
    raised: u32,
    /// How groups were decided, when somebody asks.
    trace: Option<Vec<GroupTrace>>,
}

impl<'a> Draft<'a> {
    fn new(row: &'a Row, policy: &'a Policy, now: Timestamp) -> Self {
        let entry = match (&row.entry, row.referral.present()) {
            (Some(entry), _) => Some(entry.clone()),
            (None, Some(referral)) => Some(first_entry(referral, now)),
            (None, None) => None,
        };
        Draft {
            row,
            policy,
            now,
            entry,
            needs: Needs::default(),
            action: None,
            holds: Vec::new(),
            vanished: None,
            out_of_scope: None,
            keeps_intent: false,
            was_due: false,
            before: 0,
            raised: 0,
            trace: None,
        }
    }

    /// The row had this kind of hold when it was last planned.
    fn had(&self, hold: &Hold) -> bool {
        self.before & hold.bit() != 0
    }

    fn run(&mut self) {
        let Some(mut entry) = self.entry.take() else {
            self.needs.referral = self.row.referral.is_unseen();
            return;
        };
        self.was_due = entry.look_at.is_some_and(|at| at <= self.now);
        self.before = entry.holds;
        if self.policy.decisions.held.contains(&self.row.id) {
            // As it was, so that whatever changes meanwhile is news when the hold is lifted. What we wrote is no news.
            self.holds.push(Hold::ByOperator);
            self.remember_intent(&mut entry);
            entry.holds = self.holds.iter().fold(0, |bits, hold| bits | hold.bit());
            entry.look_at = None;
            entry.outcome = None; // What happens meanwhile is not weighed, so settling begins anew.
            self.entry = Some(entry);
            return;
        }
        entry.look_at = None;
        if self.waits_to_be_read(&mut entry) {
            self.entry = Some(entry);
            return;
        }
        if self.had(&Hold::ByOperator) {
            self.needs.referral = self.row.referral.is_unseen();
            self.needs.lead = entry.link.is_some() && self.row.lead.is_unseen();
        }
        if self.had(&Hold::LeadVanished) {
            self.needs.lead |= entry.link.is_some() && self.row.lead.is_unseen();
        }
        if let Some(referral) = self.row.referral.present() {
            remember_referral(&mut entry, referral);
            self.note_our_closing(&mut entry, referral);
        }
        if backoff::wake(&mut entry, &self.row.referral, &self.row.lead, self.policy.configuration) {
            // What failed is to be tried again: it takes both sides to know what that was.
            self.needs.referral |= self.row.referral.is_unseen();
            self.needs.lead |= entry.link.is_some() && self.row.lead.is_unseen();
        }
        if matches!(self.row.referral, Seen::Absent) {
            // Its version is forgotten, so that it is looked at again as soon as it is listed.
            entry.referral_etag = None;
            self.holds.push(Hold::ReferralMissing);
            self.remember_intent(&mut entry);
            entry.look_at = Some(self.now.plus(MISSING_AGAIN));
            if !self.row.lead.is_unseen() || self.row.opportunities.is_some() {
                // What the lead says meanwhile is not weighed: both sides are read when it is back.
                entry.link.iter_mut().for_each(|link| link.etag = None);
                entry.outcome = None;
            }
        } else {
            match entry.standing {
                Standing::Pending | Standing::OutOfScope | Standing::ClosedUnlinked => self.link(&mut entry),
                Standing::LeadTaken | Standing::LeadGone => self.look_again(&mut entry),
                Standing::Linked => {}
            }
            if entry.standing == Standing::Linked {
                self.linked(&mut entry);
            }
        }
        if entry.standing == Standing::Linked {
            // Who owns a lead is not read: it stands until somebody says that it is done.
            self.raised |= self.before & Hold::NoOwner.bit();
        }
        entry.holds = self.holds.iter().fold(self.raised, |bits, hold| bits | hold.bit());
        self.entry = Some(entry);
    }

    fn finish(self) -> RowPlan {
        let urgency = urgency(self.row, self.entry.as_ref(), self.now, self.policy);
        RowPlan {
            id: self.row.id,
            entry: self.entry,
            needs: self.needs,
            action: self.action,
            holds: self.holds,
            vanished: self.vanished,
            out_of_scope: self.out_of_scope,
            keeps_intent: self.keeps_intent,
            urgency,
        }
    }

    /// A linked referral: what was seen is remembered, then fields, then status.
    fn linked(&mut self, entry: &mut Entry) {
        let Some(mut link) = entry.link.take() else {
            entry.standing = Standing::Pending;
            self.needs.referral = self.row.referral.is_unseen();
            return;
        };
        if link.etag.is_none() {
            // Nothing seen meanwhile counts: an operator has just released it, or the referral was out of sight.
            self.needs.referral |= entry.referral_etag.is_none() && self.row.referral.is_unseen();
            self.needs.lead |= self.row.lead.is_unseen();
            if !self.needs.is_empty() {
                entry.link = Some(link);
                return;
            }
        }
        if entry.has_recalled() {
            // A recalled base is proven by versions, and only while both are the ones recalled: in one go.
            self.needs.referral |= self.row.referral.is_unseen();
            self.needs.lead |= self.row.lead.is_unseen();
            if !self.needs.is_empty() {
                entry.link = Some(link);
                return;
            }
        }
        match &self.row.lead {
            Seen::Absent => return self.lead_is_gone(entry, link),
            Seen::Present(lead) if lead.is_merged && lead.master.is_some() => {
                self.needs.lead = true; // It speaks no more: its master does. So may one on the way to it.
                entry.link = Some(link);
                return;
            }
            Seen::Present(lead) if lead.id != link.lead => {
                if let Some(by) = self.taken_by(lead) {
                    self.holds.push(Hold::LeadTaken { lead: lead.id, by });
                    entry.standing = Standing::LeadTaken;
                    entry.link = None;
                    return;
                }
                // A merge: followed to the master, with no base and the reference as it is. What the master says was
                // said before it spoke for this referral.
                entry.groups.clear();
                entry.outcome = None;
                link = self.link_to(lead);
            }
            Seen::Present(lead) => remember_lead(&mut link, lead),
            Seen::Unseen => {}
        }
        if let Some(opportunities) = &self.row.opportunities {
            let deal = status::deal(opportunities);
            let before = self.row.entry.as_ref().and_then(|entry| entry.link.as_ref());
            let was_heard =
                before.is_some_and(|before| before.lead == link.lead && before.status.state == LeadState::Qualified);
            link.has_changed_state |= was_heard && deal != link.deal;
            link.deal = deal;
        } else if link.status.state == LeadState::Qualified && matches!(self.row.lead, Seen::Present(_)) {
            self.needs.opportunities = true;
        }
        if self.needs.opportunities {
            entry.link = Some(link);
            return;
        }
        self.freeze(entry);
        let mut writes = Writes::default();
        self.fields(entry, &link, &mut writes);
        self.column(&link, &mut writes);
        if self.needs.is_empty() {
            self.closed_over_there(entry, &link, &mut writes);
            self.lead_action(entry, &link, &mut writes);
            self.referral_action(entry, &link, writes);
        }
        entry.link = Some(link);
    }
}

/// Order of urgency of a row.
fn urgency(row: &Row, entry: Option<&Entry>, now: Timestamp, policy: &Policy) -> Urgency {
    let Some(entry) = entry else { return Urgency(9, 0) };
    let deadline = entry.deadline.map_or(i64::MAX, Timestamp::millis);
    let is_expiring = entry.deadline.is_some_and(|end| end.minus(policy.status.deadline_warning.get()) <= now);
    let is_new = entry.referral_status == ReferralStatus::New;
    let is_valuable = row.referral.present().is_some_and(scope::is_high_value);
    let class = match (is_expiring, is_new, is_valuable) {
        (true, _, _) => 0,
        (false, true, _) => 1,
        (false, false, true) => 2,
        (false, false, false) => 3,
    };
    Urgency(class, deadline)
}
