//! Kinds of writes with a brake: judged over everything planned, sent or held as a whole.

use std::collections::BTreeSet;

use super::apply::Ready;
use super::{CycleError, Mode, OLD_OUTCOMES, Pass, VANISHED_BRAKE};
use crate::model::{Closing, Entry, ReferralId, Side, Standing, Timestamp};
use crate::plan::{Action, Hold, Row, RowPlan, brakes};
use crate::ports::{ActionKind, Batch, LatchedBrake};

/// Rows with what is planned for them.
type Planned = Vec<(Row, RowPlan)>;

/// Entries read at once when a set is looked for.
const SCAN_STEP: usize = 500;

impl Pass<'_> {
    /// Kinds with a brake wait until the last page is planned; acceptances and closings always have one.
    pub(super) fn is_braked(&self, kind: ActionKind) -> bool {
        if self.released.contains(&kind) {
            return false;
        }
        // Without a limit they still wait for all that is known of their leads.
        kind.is_irreversible()
            || brakes::brakes(&self.setup.brakes).iter().any(|brake| brake.kind == kind && brake.limit > 0)
    }

    /// Judges the kinds that waited, over everything planned so far; what passes is sent, what does not waits on.
    /// Vanished leads are judged when the last page of the pass is planned: they are in no hurry.
    pub(super) async fn braked(&mut self, is_last: bool) -> Result<(), CycleError> {
        let mut held = Vec::new();
        if is_last {
            self.judge_vanished().await?;
        }
        self.judge_old_outcomes().await?;
        let held_already = self.prove_sight().await?;
        for brake in brakes::brakes(&self.setup.brakes) {
            let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deferred)
                .into_iter()
                .partition(|(_, plan)| plan.action.as_ref().is_some_and(|action| action.kind() == brake.kind));
            self.deferred = others;
            let is_unproven = held_already.contains(&brake.kind);
            if is_unproven || (brake.kind.is_irreversible() && !self.may_send_irreversible()) {
                held.extend(mine);
                continue;
            }
            // Nothing planned proves nothing while not everything was looked at.
            let is_whole = self.down.is_empty() && !self.is_incomplete && self.has_time();
            if mine.is_empty() && !is_whole {
                continue;
            }
            let (mut queue, mine) = self.part_let_go(brake.name, mine, is_whole);
            let window = self.window(brake.kind);
            let actions: Vec<&Action> = mine.iter().filter_map(|(_, plan)| plan.action.as_ref()).collect();
            let digest = brakes::digest(&actions);
            let approved = self.decisions.approved.clone();
            match brakes::judge(brake, &actions, &window, |digest| approved.contains(digest), self.ports.clock.now()) {
                Some(latch) => {
                    self.latch(brake.name, latch);
                    held.extend(mine);
                }
                None => {
                    if self.mode != Mode::Forecast {
                        self.unlatch(brake.name);
                    }
                    if approved.contains(&digest) {
                        let lines = actions.iter().map(|action| brakes::line(action));
                        self.decisions.let_go.entry(brake.name.to_owned()).or_default().extend(lines);
                    }
                    self.consume(&digest);
                    queue.extend(mine);
                }
            }
            if self.may_write() && !queue.is_empty() {
                self.send_braked(brake.kind, queue).await?;
            }
        }
        self.deferred.extend(held);
        Ok(())
    }

    /// Kinds of irreversible writes of which the latched brake would hold the same set again.
    pub(super) fn held_already(&self) -> BTreeSet<ActionKind> {
        let is_held = |brake: &brakes::Brake| {
            let Some(latched) = self.decisions.brakes.get(brake.name) else { return false };
            let actions = self.deferred.iter().filter_map(|(_, plan)| plan.action.as_ref());
            let mine: Vec<&Action> = actions.filter(|action| action.kind() == brake.kind).collect();
            let is_approved = |digest: &str| self.decisions.approved.contains(digest);
            let again = brakes::judge(*brake, &mine, &self.window(brake.kind), is_approved, self.ports.clock.now());
            !self.decisions.let_go.contains_key(brake.name) && again.is_some_and(|again| again.digest == latched.digest)
        };
        let brakes = brakes::brakes(&self.setup.brakes);
        brakes.iter().filter(|brake| brake.kind.is_irreversible() && is_held(brake)).map(|brake| brake.kind).collect()
    }

    /// What an approval has let go before, and what has to be judged.
    fn part_let_go(&mut self, brake: &str, planned: Planned, is_whole: bool) -> (Planned, Planned) {
        let named = |plan: &RowPlan| plan.action.as_ref().map(brakes::line);
        if is_whole {
            self.keep_let_go(brake, planned.iter().filter_map(|(_, plan)| named(plan)).collect());
        }
        let Some(let_go) = self.decisions.let_go.get(brake) else { return (Vec::new(), planned) };
        planned.into_iter().partition(|(_, plan)| named(plan).is_some_and(|line| let_go.contains(&line)))
    }

    /// Of what was let go only this is still to be done: the rest is done, or is something else by now.
    fn keep_let_go(&mut self, brake: &str, open: BTreeSet<String>) {
        if let Some(let_go) = self.decisions.let_go.get_mut(brake) {
            let_go.retain(|line| open.contains(line));
        }
        self.decisions.let_go.retain(|_, let_go| !let_go.is_empty());
    }

    /// Sends what no brake holds; what there is no time for stays due.
    async fn send_braked(&mut self, kind: ActionKind, planned: Planned) -> Result<(), CycleError> {
        let count = planned.len();
        self.count_braked(kind, count).await?;
        let queue = planned.into_iter().filter_map(|(row, plan)| Ready::of(row, plan)).collect();
        self.released.insert(kind);
        let before = self.attempted.get(&kind).copied().unwrap_or(0);
        self.send(queue).await?;
        self.released.remove(&kind);
        let sent = self.attempted.get(&kind).copied().unwrap_or(0).saturating_sub(before);
        self.uncount_braked(kind, count.saturating_sub(sent)).await
    }

    /// Counts what a brake still holds back at the end of a pass.
    pub(super) fn note_braked(&mut self) {
        // Rows that the brake on vanished leads held are looked at by every pass: none is gone any more.
        if !self.has_held_vanished && self.down.is_empty() && !self.is_incomplete {
            self.unlatch(VANISHED_BRAKE);
        }
        self.report.pending += self.deferred.len() as u64;
        for brake in brakes::brakes(&self.setup.brakes) {
            let is_held = |plan: &RowPlan| plan.action.as_ref().is_some_and(|action| action.kind() == brake.kind);
            let count = self.deferred.iter().filter(|(_, plan)| is_held(plan)).count() as u64;
            if count > 0 && self.decisions.brakes.contains_key(brake.name) {
                *self.report.holds.entry(Hold::Brake { name: brake.name }.name().to_owned()).or_default() += count;
            }
        }
    }

    /// Vanished leads are nobody's news until the brake has judged how many there are: those that this pass found, and those
    /// that it held before and has not looked at again, for a pass may have no time to ask for all of them.
    async fn judge_vanished(&mut self) -> Result<(), CycleError> {
        let mut ids = self.held_vanished()?;
        ids.extend(self.vanished.iter().map(|(row, _)| row.id));
        let lines: BTreeSet<String> = ids.iter().map(|id| brakes::line_of_vanished(*id)).collect();
        self.keep_let_go(VANISHED_BRAKE, lines);
        if ids.is_empty() {
            return Ok(());
        }
        let let_go = self.decisions.let_go.get(VANISHED_BRAKE).cloned().unwrap_or_default();
        let is_free = |id: ReferralId| let_go.contains(&brakes::line_of_vanished(id));
        ids.retain(|id| !is_free(*id));
        let (mut rows, held): (Planned, Planned) =
            std::mem::take(&mut self.vanished).into_iter().partition(|(row, _)| is_free(row.id));
        let linked = self.ports.store.counters()?.by_standing.get(&Standing::Linked).copied().unwrap_or(0);
        let approved = self.decisions.approved.clone();
        let now = self.ports.clock.now();
        self.decisions.vanished.retain(|at| now.since(*at) < brakes::HOUR);
        let recent = self.decisions.vanished.len() as u64;
        match brakes::judge_vanished(&ids, recent, linked, &self.setup.brakes, |digest| approved.contains(digest), now)
        {
            Some(latch) => {
                self.report.pending += latch.count;
                self.latch(VANISHED_BRAKE, latch);
                self.has_held_vanished = true;
                self.hold_vanished(held).await?;
            }
            None => {
                self.unlatch(VANISHED_BRAKE);
                let digest = brakes::digest_vanished(&ids);
                match approved.contains(&digest) {
                    true => {
                        let lines = ids.iter().map(|id| brakes::line_of_vanished(*id));
                        self.decisions.let_go.entry(VANISHED_BRAKE.to_owned()).or_default().extend(lines);
                        self.consume(&digest);
                    }
                    false => self.decisions.vanished.extend(held.iter().map(|_| now)),
                }
                rows.extend(held);
            }
        }
        self.keep_decisions_of_pass().await?;
        self.is_vanish_judged = true;
        let acted = self.act(rows).await;
        self.is_vanish_judged = false;
        acted
    }

    /// Referrals whose leads the brake on vanished leads holds back, by what is on record.
    fn held_vanished(&self) -> Result<BTreeSet<ReferralId>, CycleError> {
        let bit = Hold::LeadVanished.bit();
        let index = u8::try_from(bit.trailing_zeros()).unwrap_or(u8::MAX);
        match self.ports.store.counters()?.holds.get(&index).copied().unwrap_or(0) {
            0 => Ok(BTreeSet::new()),
            _ => self.with_hold(bit, |id, _| id),
        }
    }

    /// What is to be kept of all entries with this bit among their holds. Reads the whole ledger.
    pub(super) fn with_hold<T, C>(&self, bit: u32, keep: impl Fn(ReferralId, Entry) -> T) -> Result<C, CycleError>
    where
        C: Default + Extend<T>,
    {
        let (mut found, mut after) = (C::default(), None);
        loop {
            let entries = self.ports.store.scan(after, SCAN_STEP)?;
            let Some((last, _)) = entries.last() else { return Ok(found) };
            after = Some(*last);
            let held = entries.into_iter().filter(|(_, entry)| entry.holds & bit != 0);
            found.extend(held.map(|(id, entry)| keep(id, entry)));
        }
    }

    /// The rows are due at once, and their entries say why they wait.
    async fn hold_vanished(&mut self, rows: Planned) -> Result<(), CycleError> {
        let (now, bit) = (self.ports.clock.now(), Hold::LeadVanished.bit());
        let later = |(row, _): (Row, RowPlan)| {
            row.entry.map(|entry| {
                let holds = entry.holds | bit;
                (row.id, Some(Entry { look_at: Some(now), holds, ..entry }))
            })
        };
        let entries: Vec<_> = rows.into_iter().filter_map(later).collect();
        if self.may_write() && !entries.is_empty() {
            self.ports.store.record(Batch { entries, ..Batch::default() }).await?;
        }
        Ok(())
    }

    /// Latches, counters and used approvals pass the barrier before what they let go.
    async fn keep_decisions_of_pass(&self) -> Result<(), CycleError> {
        match self.mode {
            Mode::Forecast => Ok(()),
            Mode::Write(_) => Ok(self.keep_decisions().await?),
        }
    }

    /// Outcomes older than their link are listed together; an approval of exactly these lets them settle.
    async fn judge_old_outcomes(&mut self) -> Result<(), CycleError> {
        let Some(latch) = self.decisions.brakes.get(OLD_OUTCOMES).cloned() else { return Ok(()) };
        if !self.decisions.approved.contains(&latch.digest) || !self.may_write() {
            return Ok(());
        }
        let approved = |id: ReferralId, entry: Entry| {
            let outcome = entry.outcome.map(|outcome| crate::model::ObservedOutcome { is_approved: true, ..outcome });
            Row { entry: Some(Entry { outcome, ..entry }), ..Row::new(id) }
        };
        let rows: Vec<Row> = self.with_hold(1 << self.old_outcome_bit(), approved)?;
        self.unlatch(OLD_OUTCOMES);
        self.consume(&latch.digest);
        let ids: BTreeSet<ReferralId> = rows.iter().map(|row| row.id).collect();
        if digest_of_old_outcomes(&ids) != latch.digest {
            tracing::warn!(
                "the set of outcomes older than their link has changed since it was listed; it is listed anew"
            );
            self.note_old_outcomes(&ids);
            return Ok(());
        }
        self.process(rows).await
    }

    /// An approval is used up by what it released.
    pub(super) fn consume(&mut self, digest: &str) {
        if self.decisions.approved.remove(digest) {
            self.consumed.insert(digest.to_owned());
        }
    }

    /// The bit of "outcome older than the link" in an entry.
    pub(super) fn old_outcome_bit(&self) -> u8 {
        let name = Hold::OutcomeOlderThanLink { closing: Closing::Won }.name();
        crate::plan::HOLD_NAMES.iter().position(|known| *known == name).map_or(0, |index| index as u8)
    }

    fn window(&self, kind: ActionKind) -> Vec<Timestamp> {
        match kind {
            ActionKind::Close => self.decisions.closings.clone(),
            ActionKind::Accept => self.decisions.acceptances.clone(),
            ActionKind::Create | ActionKind::Update | ActionKind::Disqualify | ActionKind::WriteBack => {
                vec![self.ports.clock.now(); self.attempted.get(&kind).copied().unwrap_or(0)]
            }
        }
    }

    /// Counters pass the durable barrier before the writes they count.
    async fn count_braked(&mut self, kind: ActionKind, count: usize) -> Result<(), CycleError> {
        let now = self.ports.clock.now();
        let window = match kind {
            ActionKind::Close => &mut self.decisions.closings,
            ActionKind::Accept => &mut self.decisions.acceptances,
            ActionKind::Create | ActionKind::Update | ActionKind::Disqualify | ActionKind::WriteBack => return Ok(()),
        };
        window.retain(|at| now.since(*at) < brakes::HOUR);
        window.extend(std::iter::repeat_n(now, count));
        self.keep_decisions().await?;
        Ok(())
    }

    /// Irreversible steps wait while the leads side is not known, the referrals side is down or there is no time left.
    fn may_send_irreversible(&self) -> bool {
        // What was planned while writing was stopped rests on a ledger that remembers nothing of this pass: a lead that
        // this pass saw reopened may look as it did before.
        let is_remembered = !self.was_stopped;
        let is_possible = is_remembered && self.is_up(Side::Portal) && self.has_time();
        self.mode == Mode::Forecast || (self.is_crm_observed && self.is_up(Side::Crm) && is_possible)
    }

    /// Takes back what was counted and not even tried.
    pub(super) async fn uncount_braked(&mut self, kind: ActionKind, count: usize) -> Result<(), CycleError> {
        let window = match kind {
            ActionKind::Close => &mut self.decisions.closings,
            ActionKind::Accept => &mut self.decisions.acceptances,
            ActionKind::Create | ActionKind::Update | ActionKind::Disqualify | ActionKind::WriteBack => return Ok(()),
        };
        window.truncate(window.len().saturating_sub(count));
        if count > 0 {
            self.keep_decisions().await?;
        }
        Ok(())
    }

    /// Notes outcomes older than their link as one set that can be approved.
    pub(super) fn note_old_outcomes(&mut self, ids: &BTreeSet<ReferralId>) {
        if ids.is_empty() {
            return;
        }
        let digest = digest_of_old_outcomes(ids);
        let reason = format!(
            "{} outcomes are older than the link to their lead and are not sent; `referrald approve {digest}` sends them",
            ids.len()
        );
        let latch = LatchedBrake { since: self.began, count: ids.len() as u64, limit: 0, digest, reason, side: None };
        self.latch(OLD_OUTCOMES, latch);
    }
}

/// Names the exact set of outcomes older than their link.
fn digest_of_old_outcomes(ids: &BTreeSet<ReferralId>) -> String {
    let mut lines: Vec<String> = ids.iter().map(|id| format!("older outcome {id}")).collect();
    brakes::digest_lines(&mut lines)
}
