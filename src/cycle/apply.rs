//! Every write of a pass: one intent record, then the services, then the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt;
use serde_json::json;

use super::{CycleError, Mode, OLD_OUTCOMES, Pass, Sentence, VANISHED_BRAKE};
use crate::model::{Closing, Entry, Fault, ReferralId, RemoteError, Side, Standing};
use crate::plan::{Action, Hold, Next, Outcome, Row, RowPlan, Seen, Step, backoff, brakes, plan_row, settle};
use crate::ports::{ActionKind, Batch, Clock, Crm, HistoryLine, Portal, Ports};

/// Times a row is read and decided again in one pass after its version turned out to be stale.
const CONFLICTS_MAX: u32 = 3;

/// Writes to one row in one pass: create, write-back, accept, close and a margin.
const STEPS_MAX: u32 = 8;

/// Entries read at once when a set is looked for.
const SCAN_STEP: usize = 500;

/// Writes begun at once, at least; the adapters' own limits are narrower.
const IN_FLIGHT_MIN: usize = 32;

/// Writes of one batch in a row that a service may leave unanswered or refuse as a whole, before the others of that batch
/// wait for the next pass: a silent service would otherwise cost its whole patience for each of them.
const UNANSWERED_MAX: u32 = 5;

/// A row that has something to send.
pub(super) struct Ready {
    pub(super) row: Row,
    pub(super) action: Action,
    is_urgent: bool,
    conflicts: u32,
    steps: u32,
}

/// A row after its action was tried, and the commit number of its intent.
pub(super) type Done = (u64, Ready, Sent);

/// What is to be remembered of a row while it is planned again.
struct Before {
    place: usize,
    closing: Option<Closing>,
    entry: Option<Entry>,
    conflicts: u32,
    steps: u32,
}

impl Pass<'_> {
    /// Records what was seen of planned rows and sends what may be sent now, the urgent first.
    pub(super) async fn act(&mut self, mut planned: Vec<(Row, RowPlan)>) -> Result<(), CycleError> {
        planned.sort_by_key(|(row, plan)| (plan.urgency, row.id));
        let ids: BTreeSet<ReferralId> = planned.iter().map(|(row, _)| row.id).collect();
        // Decided anew.
        self.deferred.retain(|(row, _)| !ids.contains(&row.id));
        self.vanished.retain(|(row, _)| !ids.contains(&row.id));
        self.write_backs.forget(|id| ids.contains(&id));
        let now = self.ports.clock.now();
        let mut entries = Vec::new();
        let mut queue = Vec::new();
        self.restart_unwritten(&planned).await?;
        for (row, mut plan) in planned {
            if plan.vanished.is_some() && !self.is_vanish_judged {
                self.vanished.push((row, plan));
                continue;
            }
            self.note_holds(row.entry.as_ref().map_or(0, |entry| entry.holds), &plan);
            warn_of_flapping(&row, &plan);
            let had_trouble = row.entry.as_ref().is_some_and(|entry| entry.trouble.is_some());
            if plan.action.is_none() && !had_trouble && plan.entry.as_ref().is_some_and(|entry| entry.trouble.is_some())
            {
                *self.report.failed.entry(ActionKind::Create).or_default() += 1;
            }
            if let Some(action) = &plan.action {
                self.count_backfill(action, false);
                if self.mode == Mode::Forecast {
                    let kind = action.kind().to_string();
                    let mut text = action.to_string();
                    if self.setup.with_values {
                        for (name, value) in action.values() {
                            text.push_str(&format!("\n    {name} = {value}"));
                        }
                    }
                    self.forecast.actions.push(Sentence { referral: plan.id.to_string(), kind, text });
                }
                if let Some(entry) = &mut plan.entry {
                    entry.look_at = Some(now); // Until it is done, the next pass looks at it again.
                }
            }
            if let Some(entry) = &plan.entry
                && row.entry.as_ref() != Some(entry)
            {
                entries.push((row.id, Some(entry.clone())));
            }
            let is_braked = plan.action.as_ref().is_some_and(|action| self.is_braked(action.kind()));
            if is_braked {
                self.deferred.push((row, plan));
            } else if let Some(action) = plan.action {
                let row = Row { entry: plan.entry, ..row };
                let is_urgent = plan.urgency.is_urgent();
                queue.push(Ready { row, action, is_urgent, conflicts: 0, steps: 0 });
            }
        }
        if !self.may_write() {
            return Ok(());
        }
        if !entries.is_empty() {
            self.ports.store.record(Batch { entries, ..Batch::default() }).await?;
        }
        let beside: Vec<Ready> = queue.extract_if(.., |ready| Self::goes_beside(ready.action.kind())).collect();
        self.put_beside(beside);
        self.send(queue).await
    }

    /// Kinds with a brake wait until the last page is planned; acceptances and closings always have one.
    fn is_braked(&self, kind: ActionKind) -> bool {
        if self.released.contains(&kind) {
            return false;
        }
        brakes::brakes(&self.setup.brakes).iter().any(|brake| brake.kind == kind && brake.limit > 0)
    }

    /// Judges the kinds that waited, over everything planned so far; what passes is sent, what does not waits on.
    /// Vanished leads are judged when the last page of the pass is planned: they are in no hurry.
    pub(super) async fn braked(&mut self, is_last: bool) -> Result<(), CycleError> {
        let mut held = Vec::new();
        if is_last {
            self.judge_vanished().await?;
        }
        self.judge_old_outcomes().await?;
        self.prove_sight().await?;
        for brake in brakes::brakes(&self.setup.brakes) {
            let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deferred)
                .into_iter()
                .partition(|(_, plan)| plan.action.as_ref().is_some_and(|action| action.kind() == brake.kind));
            self.deferred = others;
            let is_irreversible = matches!(brake.kind, ActionKind::Accept | ActionKind::Close);
            if is_irreversible && !self.may_send_irreversible() {
                held.extend(mine);
                continue;
            }
            // Nothing planned proves nothing while not everything was looked at.
            let is_whole = self.down.is_empty() && !self.is_incomplete && self.has_time();
            if mine.is_empty() && !is_whole {
                continue;
            }
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
                    self.consume(&digest);
                    if self.may_write() && !mine.is_empty() {
                        let planned = mine.len();
                        self.count_braked(brake.kind, planned).await?;
                        let queue = mine
                            .into_iter()
                            .filter_map(|(row, plan)| {
                                let row = Row { entry: plan.entry, ..row };
                                let is_urgent = plan.urgency.is_urgent();
                                plan.action.map(|action| Ready { row, action, is_urgent, conflicts: 0, steps: 0 })
                            })
                            .collect();
                        self.released.insert(brake.kind);
                        let before = self.attempted.get(&brake.kind).copied().unwrap_or(0);
                        self.send(queue).await?;
                        self.released.remove(&brake.kind);
                        let sent = self.attempted.get(&brake.kind).copied().unwrap_or(0) - before;
                        self.uncount_braked(brake.kind, planned.saturating_sub(sent)).await?;
                    }
                }
            }
        }
        self.deferred.extend(held);
        Ok(())
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

    /// Vanished leads are nobody's news until the brake has judged how many there are.
    async fn judge_vanished(&mut self) -> Result<(), CycleError> {
        if self.vanished.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.vanished);
        let ids: Vec<ReferralId> = rows.iter().map(|(row, _)| row.id).collect();
        let linked = self.ports.store.counters()?.by_standing.get(&Standing::Linked).copied().unwrap_or(0);
        let approved = self.decisions.approved.clone();
        let now = self.ports.clock.now();
        match brakes::judge_vanished(&ids, linked, &self.setup.brakes, |digest| approved.contains(digest), now) {
            Some(latch) => {
                self.report.pending += latch.count;
                self.latch(VANISHED_BRAKE, latch);
                self.has_held_vanished = true;
                let vanished = Hold::LeadVanished.bit();
                let later = |row: Row| {
                    row.entry.map(|entry| {
                        let holds = entry.holds | vanished;
                        (row.id, Some(Entry { look_at: Some(now), holds, ..entry }))
                    })
                };
                let entries: Vec<_> = rows.into_iter().filter_map(|(row, _)| later(row)).collect();
                if self.may_write() {
                    self.ports.store.record(Batch { entries, ..Batch::default() }).await?;
                }
                Ok(())
            }
            None => {
                self.unlatch(VANISHED_BRAKE);
                self.consume(&brakes::digest_vanished(&ids));
                self.is_vanish_judged = true;
                let acted = self.act(rows).await;
                self.is_vanish_judged = false;
                acted
            }
        }
    }

    /// Outcomes older than their link are listed together; an approval of exactly these lets them settle.
    async fn judge_old_outcomes(&mut self) -> Result<(), CycleError> {
        let Some(latch) = self.decisions.brakes.get(OLD_OUTCOMES).cloned() else { return Ok(()) };
        if !self.decisions.approved.contains(&latch.digest) || !self.may_write() {
            return Ok(());
        }
        let bit = 1 << self.old_outcome_bit();
        let (mut after, mut rows) = (None, Vec::new());
        loop {
            let entries = self.ports.store.scan(after, SCAN_STEP)?;
            let Some((last, _)) = entries.last() else { break };
            after = Some(*last);
            for (id, entry) in entries.into_iter().filter(|(_, entry)| entry.holds & bit != 0) {
                let outcome =
                    entry.outcome.map(|outcome| crate::model::ObservedOutcome { is_approved: true, ..outcome });
                rows.push(Row { entry: Some(Entry { outcome, ..entry }), ..Row::new(id) });
            }
        }
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
        let name = Hold::OutcomeOlderThanLink { closing: crate::model::Closing::Won }.name();
        crate::plan::HOLD_NAMES.iter().position(|known| *known == name).map_or(0, |index| index as u8)
    }

    fn window(&self, kind: ActionKind) -> Vec<crate::model::Timestamp> {
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
    async fn uncount_braked(&mut self, kind: ActionKind, count: usize) -> Result<(), CycleError> {
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

    /// Sends a queue batch by batch; rows with more to do come back into it.
    pub(super) async fn send(&mut self, mut queue: Vec<Ready>) -> Result<(), CycleError> {
        let batch_max = self.setup.settings.batch_max.max(1) as usize;
        queue.extend(self.serve_write_backs().await?);
        while !queue.is_empty() {
            self.heed_operators(&mut queue)?;
            let waiting: Vec<Ready> = queue.split_off(queue.len().min(batch_max));
            let (batch, left): (Vec<Ready>, Vec<Ready>) = queue.into_iter().partition(|ready| {
                let side = side_of(&ready.action);
                self.is_up(side) && (ready.is_urgent || self.has_enough(side))
            });
            self.report.pending += left.len() as u64;
            if !self.may_write() || !self.has_time() {
                self.report.pending += (batch.len() + waiting.len()) as u64;
                return Ok(());
            }
            self.allow();
            self.keep_decisions().await?; // Latches and used approvals first.
            let again = self.send_batch(batch).await?;
            queue = again;
            queue.extend(waiting);
            queue.extend(self.serve_write_backs().await?);
        }
        Ok(())
    }

    /// What operators decided since the pass began counts for what is not sent yet.
    pub(super) fn heed_operators(&mut self, queue: &mut Vec<Ready>) -> Result<(), CycleError> {
        let decisions = self.ports.store.decisions()?;
        if decisions.is_suspended {
            self.stopped = Some(super::SUSPENDED.to_owned());
        }
        queue.retain(|ready| !decisions.held.contains(&ready.row.id)); // They are due, so the next pass lists them.
        self.setup.policy.decisions.held.extend(decisions.held);
        Ok(())
    }

    /// One intent record, the writes, their outcomes in one transaction; returns rows with more to do.
    async fn send_batch(&mut self, batch: Vec<Ready>) -> Result<Vec<Ready>, CycleError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        for ready in &batch {
            *self.attempted.entry(ready.action.kind()).or_default() += 1;
        }
        let commit = self.ports.store.intend(batch.iter().map(|ready| ready.action.intended()).collect()).await?;
        let remotes = Remotes::of(self.ports);
        let policy = self.setup.policy.clone();
        let silence = Silence::default();
        let done: Vec<Done> = futures_util::stream::iter(batch)
            .map(|mut ready| {
                let (remotes, policy, silence) = (&remotes, &policy, &silence);
                async move {
                    let side = side_of(&ready.action);
                    if silence.is_long(side) {
                        return (commit, ready, Sent::NotTried);
                    }
                    let sent = send_one(remotes, policy, &mut ready.row, &mut ready.action).await;
                    silence.note(side, &sent);
                    (commit, ready, sent)
                }
            })
            .buffered(self.ports.crm.writes_at_once().max(IN_FLIGHT_MIN))
            .collect()
            .await;
        self.settle_done(done).await
    }

    /// The outcomes of writes in one transaction; returns rows with more to do.
    pub(super) async fn settle_done(&mut self, done: Vec<Done>) -> Result<Vec<Ready>, CycleError> {
        let mut record = Batch::default();
        let mut again = Vec::new();
        for (commit, ready, sent) in done {
            let outcome = match sent {
                Sent::Outcome(outcome) => outcome,
                Sent::Changed => {
                    record.settled.push((commit, ready.row.id));
                    again.push(Ready { conflicts: ready.conflicts + 1, ..ready });
                    continue;
                }
                Sent::NotTried => {
                    record.settled.push((commit, ready.row.id));
                    self.report.pending += 1;
                    continue;
                }
            };
            self.settle_one(ready, outcome, commit, &mut record, &mut again).await?;
        }
        let (queue, entries) = self.plan_again(again).await?;
        // What is known of an outcome is kept until the row could be decided with it.
        record.settled.retain(|(_, id)| !self.unresolved.contains(id));
        record.entries.extend(entries);
        record.memo = Some(self.counted()?);
        self.ports.store.record(record).await?;
        Ok(queue)
    }

    async fn settle_one(
        &mut self,
        ready: Ready,
        outcome: Outcome,
        commit: u64,
        record: &mut Batch,
        again: &mut Vec<Ready>,
    ) -> Result<(), CycleError> {
        let now = self.ports.clock.now();
        let Ready { row, action, is_urgent, conflicts, steps } = ready;
        let kind = action.kind();
        let (mut row, next) = settle(row, &action, &outcome, &self.setup.policy, now);
        self.note_outcome(&row, &action, &outcome, record);
        if let Outcome::LeadWritten(_) = outcome {
            self.count_backfill(&action, true);
        }
        match next {
            Next::Plan => {
                record.settled.push((commit, row.id));
                again.push(Ready { row, action, is_urgent, conflicts, steps: steps + 1 });
            }
            Next::Failed => {
                *self.report.failed.entry(kind).or_default() += 1;
                record.settled.push((commit, row.id));
                record.entries.extend(row.entry.map(|entry| (row.id, Some(entry))));
            }
            Next::Later => {
                if let Outcome::Failed(error) = &outcome {
                    self.note_down(error);
                    if self.waits_out(error).await {
                        self.down.remove(&error.side);
                        again.push(Ready { row: row.clone(), action, is_urgent, conflicts: conflicts + 1, steps });
                    }
                }
                self.report.pending += 1;
                record.settled.push((commit, row.id));
            }
            Next::Read => {
                let is_known = conflicts < CONFLICTS_MAX && self.read_after(&mut row, &action).await;
                let is_unknown = matches!(&outcome, Outcome::Failed(error) if error.is_outcome_unknown);
                if is_known || !is_unknown {
                    record.settled.push((commit, row.id)); // Else the intent stays, and the next pass reads first.
                }
                if is_known {
                    again.push(Ready { row, action, is_urgent, conflicts: conflicts + 1, steps });
                } else {
                    self.report.pending += 1;
                    if is_unknown {
                        self.unresolved.insert(row.id);
                    }
                    if let (Outcome::Failed(error), Some(entry), false) = (&outcome, &mut row.entry, is_unknown) {
                        let (referral, lead) = (&row.referral, &row.lead);
                        let policy = &self.setup.policy;
                        backoff::failed(entry, error, now, policy.configuration, referral, lead, &policy.retry);
                    }
                    let entry = row.entry.map(|entry| Entry { look_at: Some(now), ..entry });
                    record.entries.extend(entry.map(|entry| (row.id, Some(entry))));
                }
            }
        }
        Ok(())
    }

    /// Reads the side that was written: its version changed, or nobody knows whether it was written.
    async fn read_after(&mut self, row: &mut Row, action: &Action) -> bool {
        match action {
            Action::Create { .. } => self.read_created(row).await,
            Action::Update { lead, .. } => {
                row.opportunities = None;
                let rows = std::slice::from_mut(row);
                self.read_leads(rows, &[*lead]).await && self.follow(rows).await && self.read_opportunities(rows).await
            }
            Action::Patch { .. } => self.read_referral(row).await,
        }
    }

    /// Plans rows again after a write or a read; returns what to send next and what to record. All of them together: two
    /// rows that were led to one lead by their answers are claimants of it.
    async fn plan_again(
        &mut self,
        rows: Vec<Ready>,
    ) -> Result<(Vec<Ready>, Vec<(ReferralId, Option<Entry>)>), CycleError> {
        let now = self.ports.clock.now();
        let look_again = |entry: Entry| Some(Entry { look_at: Some(now), ..entry });
        let (mut queue, mut beside, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let mut before: BTreeMap<ReferralId, Before> = BTreeMap::new();
        for (place, Ready { row, action, conflicts, steps, .. }) in rows.iter().enumerate() {
            let (closing, entry) = (closing_of(action), row.entry.clone());
            before.insert(row.id, Before { place, closing, entry, conflicts: *conflicts, steps: *steps });
        }
        let mut planned = self.plan_rows(rows.into_iter().map(|ready| ready.row).collect()).await?;
        planned.sort_by_key(|(row, _)| before.get(&row.id).map(|before| before.place));
        for (row, mut plan) in planned {
            let id = row.id;
            let Some(Before { closing, entry, conflicts, steps, .. }) = before.remove(&id) else { continue };
            if plan.vanished.is_some() && !self.is_vanish_judged {
                // A write met a lead that is gone: the brake counts it like one that a reading missed.
                entries.extend(entry.map(|entry| (id, look_again(entry))));
                self.vanished.retain(|(known, _)| known.id != row.id);
                self.vanished.push((row, plan));
                continue;
            }
            if plan.action.is_some()
                && let Some(entry) = &mut plan.entry
            {
                entry.look_at = Some(now);
            }
            if plan.vanished.is_some() {
                self.vanished.retain(|(known, _)| known.id != row.id);
                self.vanished.push((row, plan));
                continue;
            }
            entries.extend(plan.entry.clone().map(|entry| (id, Some(entry))));
            warn_of_flapping(&row, &plan);
            let Some(action) = plan.action.clone() else {
                self.note_holds(row.entry.as_ref().map_or(0, |entry| entry.holds), &plan);
                continue;
            };
            if conflicts > CONFLICTS_MAX || steps > STEPS_MAX {
                self.report.pending += 1;
            } else if self.is_braked(action.kind()) || is_another_closing(closing, &action) {
                self.deferred.push((row, plan));
            } else {
                let goes_beside = Self::goes_beside(action.kind());
                let is_urgent = plan.urgency.is_urgent();
                let ready = Ready { row: Row { entry: plan.entry, ..row }, action, is_urgent, conflicts, steps };
                if goes_beside { beside.push(ready) } else { queue.push(ready) }
            }
        }
        self.put_beside(beside);
        // What is left could not be read.
        for (id, before) in before {
            entries.extend(before.entry.map(|entry| (id, look_again(entry))));
        }
        Ok((queue, entries))
    }

    fn note_outcome(&mut self, row: &Row, action: &Action, outcome: &Outcome, record: &mut Batch) {
        let kind = action.kind();
        let words = match outcome {
            Outcome::LeadWritten(_) | Outcome::ReferralWritten(_) => {
                *self.report.done.entry(kind).or_default() += 1;
                tracing::info!(referral.id = %row.id, "{kind} done");
                let gist = action.gist();
                if gist.is_empty() { "done".to_owned() } else { format!("done {gist}") }
            }
            Outcome::Failed(error) => {
                tracing::warn!(referral.id = %row.id, request_id = error.request_id.as_deref(), "{kind} failed: {error}");
                fault_word(error).to_owned()
            }
        };
        let at = self.ports.clock.now();
        let fault = matches!(outcome, Outcome::Failed(_)).then_some(words.as_str());
        self.report.note(at, row.id, kind, &action.to_string(), fault);
        record.history.push(HistoryLine { referral: row.id, at, kind, outcome: words });
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
        let latch = crate::ports::LatchedBrake { since: self.began, count: ids.len() as u64, limit: 0, digest, reason };
        self.latch(OLD_OUTCOMES, latch);
    }
}

/// How an action closes its referral, if it does.
fn closing_of(action: &Action) -> Option<Closing> {
    match action {
        Action::Patch { step: Step::Close(closing), .. } => Some(*closing),
        Action::Create { .. } | Action::Update { .. } | Action::Patch { .. } => None,
    }
}

/// A closing that became another closing is not the one that a brake let pass.
fn is_another_closing(before: Option<Closing>, action: &Action) -> bool {
    matches!((before, closing_of(action)), (Some(before), Some(now)) if before != now)
}

/// Says once that two authors undo each other.
fn warn_of_flapping(row: &Row, plan: &RowPlan) {
    let earlier = row.entry.as_ref().map_or(0, |entry| entry.holds);
    let is_new = |hold: &&Hold| matches!(hold, Hold::Flapping { .. }) && earlier & hold.bit() == 0;
    for hold in plan.holds.iter().filter(is_new) {
        tracing::warn!(referral.id = %plan.id, "{hold}");
    }
}

/// Names the exact set of outcomes older than their link.
fn digest_of_old_outcomes(ids: &BTreeSet<ReferralId>) -> String {
    let mut lines: Vec<String> = ids.iter().map(|id| format!("older outcome {id}")).collect();
    brakes::digest_lines(&mut lines)
}

/// What sending one action gave.
pub(super) enum Sent {
    /// An answer or a failure.
    Outcome(Outcome),
    /// A fresh read showed something else than the plan expected: nothing was sent, the row is decided again.
    Changed,
    /// The service has been silent for too long: nothing was sent, the row waits.
    NotTried,
}

/// How many writes in a row each side has left unanswered or refused as a whole.
#[derive(Default)]
struct Silence {
    portal: AtomicU32,
    crm: AtomicU32,
}

impl Silence {
    fn of(&self, side: Side) -> &AtomicU32 {
        match side {
            Side::Portal => &self.portal,
            Side::Crm => &self.crm,
        }
    }

    fn is_long(&self, side: Side) -> bool {
        self.of(side).load(Ordering::Relaxed) >= UNANSWERED_MAX
    }

    fn note(&self, side: Side, sent: &Sent) {
        match sent {
            Sent::Outcome(Outcome::Failed(error)) if error.stops_side() => {
                self.of(error.side).fetch_add(1, Ordering::Relaxed);
            }
            Sent::Outcome(_) | Sent::Changed => self.of(side).store(0, Ordering::Relaxed),
            Sent::NotTried => {}
        }
    }
}

/// What sending needs of the outside world. Not the ledger: a write that is given up with its pass must not keep it open.
#[derive(Clone)]
pub(super) struct Remotes {
    portal: Arc<dyn Portal>,
    crm: Arc<dyn Crm>,
    clock: Arc<dyn Clock>,
}

impl Remotes {
    pub(super) fn of(ports: &Ports) -> Remotes {
        Remotes { portal: Arc::clone(&ports.portal), crm: Arc::clone(&ports.crm), clock: Arc::clone(&ports.clock) }
    }
}

/// Sends one action. An irreversible step is sent only when a fresh read still asks for the very same step.
pub(super) async fn send_one(
    remotes: &Remotes,
    policy: &crate::plan::Policy,
    row: &mut Row,
    action: &mut Action,
) -> Sent {
    let needs_fresh = matches!(action, Action::Patch { step, is_fresh, .. } if *step != Step::None && !*is_fresh);
    if needs_fresh {
        match fresh(remotes, policy, row, action).await {
            // What is settled afterwards is what was sent, not what was planned before the read.
            Ok(Some(again)) => *action = again,
            Ok(None) => return Sent::Changed,
            Err(error) => return Sent::Outcome(Outcome::Failed(error)),
        }
    }
    let request = request_id(action);
    Sent::Outcome(match action {
        Action::Create { referral, lead, draft, .. } => {
            lead_outcome(remotes.crm.create(*referral, *lead, draft, request).await)
        }
        Action::Update { lead, etag, draft, .. } => lead_outcome(remotes.crm.update(*lead, etag, draft, request).await),
        Action::Patch { referral, etag, patch, .. } => {
            patch_outcome(remotes.portal.patch(*referral, etag, patch, request).await)
        }
    })
}

/// Reads the referral and decides the row again; the action, if it is still the same irreversible step.
async fn fresh(
    remotes: &Remotes,
    policy: &crate::plan::Policy,
    row: &mut Row,
    action: &Action,
) -> Result<Option<Action>, RemoteError> {
    match remotes.portal.get(row.id).await {
        Ok(referral) => row.referral = Seen::from(referral),
        Err(error) if error.fault == Fault::Missing => row.referral = Seen::Absent,
        Err(error) => return Err(error),
    }
    row.is_referral_fresh = true;
    let plan = plan_row(row, policy, remotes.clock.now());
    if let Some(entry) = plan.entry {
        row.entry = Some(entry);
    }
    let is_same = |again: &Action| match (again, action) {
        (Action::Patch { step: again, .. }, Action::Patch { step, .. }) => again == step,
        (_, _) => false,
    };
    Ok(plan.action.filter(is_same))
}

fn lead_outcome(result: Result<crate::model::Lead, RemoteError>) -> Outcome {
    match result {
        Ok(lead) => Outcome::LeadWritten(Box::new(lead)),
        Err(error) => Outcome::Failed(error),
    }
}

fn patch_outcome(result: Result<Option<crate::model::Referral>, RemoteError>) -> Outcome {
    match result {
        Ok(referral) => Outcome::ReferralWritten(referral.map(Box::new)),
        Err(error) => Outcome::Failed(error),
    }
}

/// The idempotency key of one logical write: the same action gives the same key, also after a restart.
fn request_id(action: &Action) -> uuid::Uuid {
    let what = match action {
        Action::Create { referral, draft, .. } => json!([referral, "create", draft.columns, draft.owner]),
        Action::Update { referral, etag, draft, .. } => json!([referral, "update", etag, draft.columns]),
        Action::Patch { referral, etag, patch, .. } => json!([referral, "patch", etag, patch.operations]),
    };
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, what.to_string().as_bytes())
}

fn side_of(action: &Action) -> Side {
    match action {
        Action::Create { .. } | Action::Update { .. } => Side::Crm,
        Action::Patch { .. } => Side::Portal,
    }
}

fn fault_word(error: &RemoteError) -> &'static str {
    if error.is_outcome_unknown {
        return "unknown";
    }
    error.fault.word()
}
