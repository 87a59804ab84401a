//! Trouble of one id: what a service answers about it alone with a fault of the server, while it answers for others.
//!
//! A single call may be answered 500 for a reason of its own (partner-center §1.11, dataverse §7): a record that the service
//! cannot print, a plug-in that crashes on one lead. Such a row waits with patience and in the end becomes a dead letter, as
//! one that is refused does. Only when several ids are answered so in one pass is it the whole side's trouble.

use uuid::Uuid;

use super::{CycleError, Pass};
use crate::model::{Fault, ReferralStatus, RemoteError, Side};
use crate::plan::{Row, backoff};
use crate::ports::ActionKind;

/// Different ids of one side that may be answered with a fault of the server in one pass; with one more the side is down.
const TROUBLED_MAX: usize = 3;

impl Pass<'_> {
    /// True for an answer that concerns one id, as far as can be told: a fault of the server, while at most [`TROUBLED_MAX`]
    /// ids of that side had one.
    pub(super) fn is_of_one_id(&mut self, id: Uuid, error: &RemoteError) -> bool {
        is_fault_of_server(error) && self.is_among_few(id, error.side)
    }

    /// The same of a write that was not done. Besides, it may be refused without a word of the service itself, by a firewall
    /// that dislikes a text of one lead: that is no lost role as long as leads are shown.
    pub(super) fn is_of_one_write(&mut self, id: Uuid, error: &RemoteError) -> bool {
        let is_foreign = error.fault == Fault::Unauthorized && error.status == Some(403) && error.code.is_none();
        (is_fault_of_server(error) || (is_foreign && self.is_sighted)) && self.is_among_few(id, error.side)
    }

    fn is_among_few(&mut self, id: Uuid, side: Side) -> bool {
        let troubled = self.troubled.entry(side).or_default();
        troubled.insert(id);
        troubled.len() <= TROUBLED_MAX
    }

    /// So many ids were troubled that the next one would take the side down.
    pub(super) fn is_worn(&self, side: Side) -> bool {
        self.troubled.get(&side).is_some_and(|troubled| troubled.len() >= TROUBLED_MAX)
    }

    /// A row of which a part could not be read for a reason of its own, and whose time has not come again. A dead letter is
    /// tried all the same, at the longest interval: some time it has to be found out what it says, and what came of a write.
    pub(super) fn waits_to_be_read(&self, row: &Row) -> bool {
        let Some(entry) = row.entry.as_ref().filter(|entry| backoff::unread_side(entry).is_some()) else {
            return false;
        };
        let policy = &self.setup.policy;
        let until = entry.trouble.as_ref().map(|trouble| backoff::next_attempt(trouble, row.id, &policy.retry));
        until.is_some_and(|until| self.ports.clock.now() < until) && !policy.ignores_delays
    }

    /// The same of a row whose lead, or what speaks for it, is the part that could not be read.
    pub(super) fn waits_for_its_lead(&self, row: &Row) -> bool {
        row.entry.as_ref().and_then(backoff::unread_side) == Some(Side::Crm) && self.waits_to_be_read(row)
    }

    /// What was attempted and is proven not to have been done does not count.
    pub(super) fn take_back(&mut self, kind: ActionKind) {
        if let Some(attempted) = self.attempted.get_mut(&kind) {
            *attempted = attempted.saturating_sub(1);
        }
    }

    /// Steps of a former attempt that the referral, read just now, proves not to have been done: they are counted when they
    /// are sent again.
    pub(super) async fn uncount_undone(&mut self, read: &[Row]) -> Result<(), CycleError> {
        for kind in [ActionKind::Accept, ActionKind::Close] {
            let is_undone = |row: &&Row| {
                let is_meant = row.intent.as_ref().is_some_and(|intent| intent.kind == kind);
                let status = row.referral.present().map(|referral| referral.status);
                let open: &[ReferralStatus] = match kind {
                    ActionKind::Accept => &[ReferralStatus::New],
                    _ => &[ReferralStatus::New, ReferralStatus::Active],
                };
                is_meant && status.is_some_and(|status| open.contains(&status))
            };
            self.uncount_braked(kind, read.iter().filter(is_undone).count()).await?;
        }
        Ok(())
    }

    /// Notes that a write of this row was not done, for its own reason: it is tried again with patience.
    pub(super) fn note_undone(&mut self, row: &mut Row, kind: ActionKind, error: &RemoteError) {
        *self.report.failed.entry(kind).or_default() += 1;
        let (now, policy) = (self.ports.clock.now(), &self.setup.policy);
        let Some(entry) = &mut row.entry else { return };
        backoff::failed(entry, error, now, policy.configuration, &row.referral, &row.lead, &policy.retry);
        let trouble = entry.trouble.as_ref().filter(|trouble| !trouble.is_dead_letter);
        entry.look_at = trouble.map(|trouble| backoff::next_attempt(trouble, row.id, &policy.retry));
    }
}

/// The service answered, and could not do it. Silence, a lost connection and a redirect are not that.
pub(super) fn is_fault_of_server(error: &RemoteError) -> bool {
    error.fault == Fault::Unavailable && error.status.is_some_and(|status| status >= 400)
}
