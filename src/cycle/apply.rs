//! Every write of a pass: one intent record, then the services, then the ledger.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;

use super::sending::{Remotes, Sent, Silence, send_one, side_of};
use super::{CycleError, Mode, Pass, Sentence};
use crate::model::{Closing, Entry, ReferralId, RemoteError};
use crate::plan::{Action, Hold, Next, Outcome, Row, RowPlan, Step, backoff, settle};
use crate::ports::{ActionKind, Batch, HistoryLine};

/// Times a row is read and decided again in one pass after its version turned out to be stale.
const CONFLICTS_MAX: u32 = 3;

/// Writes to one row in one pass: create, write-back, accept, close and a margin.
const STEPS_MAX: u32 = 8;

/// Writes begun at once, at least; the adapters' own limits are narrower.
const IN_FLIGHT_MIN: usize = 32;

/// Irreversible steps begun at once: each write follows its fresh read, whatever another one waits for. The rate that is asked of
/// the referrals side (partner-center §1.12) is reached all the same.
const IRREVERSIBLE_AT_ONCE: usize = 1;

/// A row that has something to send.
pub(super) struct Ready {
    pub(super) row: Row,
    pub(super) action: Action,
    is_urgent: bool,
    conflicts: u32,
    steps: u32,
    /// What came of the last attempt, when it was read whether it had been done.
    failure: Option<RemoteError>,
}

impl Ready {
    /// What a planned row sends, if it does; the row goes on with the entry of its plan.
    pub(super) fn of(row: Row, plan: RowPlan) -> Option<Ready> {
        let is_urgent = plan.urgency.is_urgent();
        let row = Row { entry: plan.entry, ..row };
        plan.action.map(|action| Ready { row, action, is_urgent, conflicts: 0, steps: 0, failure: None })
    }
}

/// A row after its action was tried, and the commit number of its intent.
pub(super) type Done = (u64, Ready, Sent);

/// What is to be remembered of a row while it is planned again.
struct Before {
    place: usize,
    kind: ActionKind,
    failure: Option<RemoteError>,
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
            self.note_plan(&row, &plan);
            if let (Some(_), Some(entry)) = (&plan.action, &mut plan.entry) {
                entry.look_at = Some(now); // Until it is done, the next pass looks at it again.
            }
            if let Some(entry) = &plan.entry
                && row.entry.as_ref() != Some(entry)
            {
                entries.push((row.id, Some(entry.clone())));
            }
            match plan.action.as_ref().is_some_and(|action| self.is_braked(action.kind())) {
                true => self.deferred.push((row, plan)),
                false => queue.extend(Ready::of(row, plan)),
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

    /// Counts and tells what was decided about a row.
    fn note_plan(&mut self, row: &Row, plan: &RowPlan) {
        self.note_holds(row.entry.as_ref().map_or(0, |entry| entry.holds), plan);
        warn_of_flapping(row, plan);
        let is_troubled = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.trouble.is_some());
        let Some(action) = &plan.action else {
            if is_troubled(&plan.entry) && !is_troubled(&row.entry) {
                *self.report.failed.entry(ActionKind::Create).or_default() += 1;
            }
            return;
        };
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
            if !self.may_write() || !self.may_begin() {
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
            self.report.is_stop_wanted = true;
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
        let at_once = match batch.iter().any(|ready| ready.action.kind().is_irreversible()) {
            true => IRREVERSIBLE_AT_ONCE,
            false => self.ports.crm.writes_at_once().max(IN_FLIGHT_MIN),
        };
        let sending = futures_util::stream::iter(batch)
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
            .buffered(at_once)
            .collect::<Vec<Done>>();
        let done = self.beside_write_backs(sending).await;
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
                    self.take_back(ready.action.kind());
                    record.settled.push((commit, ready.row.id));
                    again.push(Ready { conflicts: ready.conflicts + 1, ..ready });
                    continue;
                }
                Sent::NotTried => {
                    self.take_back(ready.action.kind());
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
        let Ready { row, action, is_urgent, conflicts, steps, .. } = ready;
        let kind = action.kind();
        let (mut row, next) = settle(row, &action, &outcome, &self.setup.policy, now);
        self.note_outcome(&row, &action, &outcome, record);
        if let Outcome::LeadWritten(_) = outcome {
            self.count_backfill(&action, true);
        }
        match next {
            Next::Plan => {
                record.settled.push((commit, row.id));
                again.push(Ready { row, action, is_urgent, conflicts, steps: steps + 1, failure: None });
            }
            Next::Failed => {
                *self.report.failed.entry(kind).or_default() += 1;
                record.settled.push((commit, row.id));
                record.entries.extend(row.entry.map(|entry| (row.id, Some(entry))));
            }
            Next::Later => {
                if let Outcome::Failed(error) = &outcome {
                    if self.is_of_one_write(row.id.uuid(), error) {
                        self.take_back(kind);
                        self.note_undone(&mut row, kind, error);
                        record.settled.push((commit, row.id));
                        record.entries.extend(row.entry.map(|entry| (row.id, Some(entry))));
                        return Ok(());
                    }
                    self.note_down(error);
                    if self.waits_out(error).await {
                        self.down.remove(&error.side);
                        let (row, conflicts) = (row.clone(), conflicts + 1);
                        again.push(Ready { row, action, is_urgent, conflicts, steps, failure: None });
                    }
                }
                self.report.pending += 1;
                record.settled.push((commit, row.id));
            }
            Next::Read => {
                let is_unknown = matches!(&outcome, Outcome::Failed(error) if error.is_outcome_unknown);
                // Who answers is asked once more than who is silent: what is not done then waits with patience.
                let is_answered = matches!(&outcome, Outcome::Failed(error) if error.status.is_some());
                let is_asked = conflicts < CONFLICTS_MAX || (is_unknown && is_answered);
                let is_known = is_asked && self.read_after(&mut row, &action).await;
                if is_known || !is_unknown {
                    record.settled.push((commit, row.id)); // Else the intent stays, and the next pass reads first.
                }
                if is_known {
                    let failure = failure_of(outcome);
                    again.push(Ready { row, action, is_urgent, conflicts: conflicts + 1, steps, failure });
                } else {
                    self.report.pending += 1;
                    match is_unknown {
                        true => drop(self.unresolved.insert(row.id)),
                        false => self.take_back(kind),
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
        let is_read = match action {
            Action::Create { .. } => self.read_created(row).await,
            Action::Update { lead, .. } => {
                row.opportunities = None;
                let rows = std::slice::from_mut(row);
                self.read_leads(rows, &[*lead]).await && self.follow(rows).await && self.read_opportunities(rows).await
            }
            Action::Patch { .. } => self.read_referral(row).await,
        };
        let is_out_of_reach = self.unreadable.remove(&row.id).is_some();
        is_read && !is_out_of_reach
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
        for (place, Ready { row, action, conflicts, steps, failure, .. }) in rows.iter().enumerate() {
            let (kind, closing, entry) = (action.kind(), closing_of(action), row.entry.clone());
            let (conflicts, steps, failure) = (*conflicts, *steps, failure.clone());
            before.insert(row.id, Before { place, kind, failure, closing, entry, conflicts, steps });
        }
        let mut planned = self.plan_rows(rows.into_iter().map(|ready| ready.row).collect()).await?;
        planned.sort_by_key(|(row, _)| before.get(&row.id).map(|before| before.place));
        for (mut row, mut plan) in planned {
            let id = row.id;
            let Some(Before { kind, failure, closing, entry, conflicts, steps, .. }) = before.remove(&id) else {
                continue;
            };
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
            // The same is asked for again by who has just been read: it was not done.
            let failure = failure.filter(|_| plan.action.as_ref().is_some_and(|action| action.kind() == kind));
            if let Some(error) = &failure {
                self.take_back(kind);
                if conflicts > CONFLICTS_MAX && error.is_outcome_unknown {
                    row.entry = plan.entry;
                    self.note_undone(&mut row, kind, error);
                    entries.extend(row.entry.map(|entry| (id, Some(entry))));
                    continue;
                }
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
                let row = Row { entry: plan.entry, ..row };
                let ready = Ready { row, action, is_urgent, conflicts, steps, failure: None };
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
}

fn failure_of(outcome: Outcome) -> Option<RemoteError> {
    match outcome {
        Outcome::Failed(error) => Some(error),
        Outcome::LeadWritten(_) | Outcome::ReferralWritten(_) => None,
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

fn fault_word(error: &RemoteError) -> &'static str {
    if error.is_outcome_unknown {
        return "unknown";
    }
    error.fault.word()
}
