//! Every write of a pass: one intent record, then the services, then the ledger.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use serde_json::json;

use super::{CycleError, Mode, OLD_OUTCOMES, Pass, Sentence, VANISHED_BRAKE};
use crate::model::{Entry, Fault, ReferralId, RemoteError, Side, Standing};
use crate::plan::{Action, Hold, Next, Outcome, Row, RowPlan, Seen, Step, backoff, brakes, plan_row, settle};
use crate::ports::{ActionKind, Batch, HistoryLine, Ports};

/// Times a row is read and decided again in one pass after its version turned out to be stale.
const CONFLICTS_MAX: u32 = 3;

/// Writes to one row in one pass: create, write-back, accept, close and a margin.
const STEPS_MAX: u32 = 8;

/// Entries read at once when a set is looked for.
const SCAN_STEP: usize = 500;

/// Writes in flight at once; the adapters' own limits are narrower.
const IN_FLIGHT_MAX: usize = 32;

/// A row that has something to send.
struct Ready {
    row: Row,
    action: Action,
    conflicts: u32,
    steps: u32,
}

impl Pass<'_> {
    /// Records what was seen of planned rows and sends what may be sent now, the urgent first.
    pub(super) async fn act(&mut self, mut planned: Vec<(Row, RowPlan)>) -> Result<(), CycleError> {
        planned.sort_by_key(|(row, plan)| (plan.urgency, row.id));
        let ids: BTreeSet<ReferralId> = planned.iter().map(|(row, _)| row.id).collect();
        self.deferred.retain(|(row, _)| !ids.contains(&row.id)); // Decided anew.
        let now = self.ports.clock.now();
        let mut entries = Vec::new();
        let mut queue = Vec::new();
        for (row, mut plan) in planned {
            if plan.vanished.is_some() && !self.released.contains(&ActionKind::Disqualify) && !self.is_vanish_judged {
                self.vanished.push((row, plan));
                continue;
            }
            self.note_holds(&plan);
            let had_trouble = row.entry.as_ref().is_some_and(|entry| entry.trouble.is_some());
            if plan.action.is_none() && !had_trouble && plan.entry.as_ref().is_some_and(|entry| entry.trouble.is_some())
            {
                *self.report.failed.entry(ActionKind::Create).or_default() += 1;
            }
            if let Some(action) = &plan.action {
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
                queue.push(Ready { row, action, conflicts: 0, steps: 0 });
            }
        }
        if !self.may_write() {
            return Ok(());
        }
        if !entries.is_empty() {
            self.ports.store.record(Batch { entries, ..Batch::default() }).await?;
        }
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
    pub(super) async fn braked(&mut self) -> Result<(), CycleError> {
        let mut held = Vec::new();
        self.judge_vanished().await?;
        self.judge_old_outcomes().await?;
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
                                plan.action.map(|action| Ready { row, action, conflicts: 0, steps: 0 })
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
    fn consume(&mut self, digest: &str) {
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
            ActionKind::Create | ActionKind::Update | ActionKind::Disqualify | ActionKind::WriteBack => Vec::new(),
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
        let is_possible = is_remembered && self.is_up(Side::Portal) && self.has_time() && !self.is_over_budget();
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
    async fn send(&mut self, mut queue: Vec<Ready>) -> Result<(), CycleError> {
        let batch_max = self.setup.settings.batch_max.max(1) as usize;
        while !queue.is_empty() {
            let waiting: Vec<Ready> = queue.split_off(queue.len().min(batch_max));
            let (batch, left): (Vec<Ready>, Vec<Ready>) =
                queue.into_iter().partition(|ready| self.is_up(side_of(&ready.action)));
            self.report.pending += left.len() as u64;
            if !self.has_time() || self.is_over_budget() {
                self.report.pending += (batch.len() + waiting.len()) as u64;
                return Ok(());
            }
            let again = self.send_batch(batch).await?;
            queue = again;
            queue.extend(waiting);
        }
        Ok(())
    }

    /// True when a daily request budget is used up.
    fn is_over_budget(&self) -> bool {
        let (portal, crm) = self.setup.requests_per_day;
        let day = self.began.millis().div_euclid(86_400_000);
        let spent = if self.memo.requests_today.day == day { self.memo.requests_today } else { Default::default() };
        let now_portal = spent.portal + self.ports.portal.requests_sent() - self.requests_before.0;
        let now_crm = spent.crm + self.ports.crm.requests_sent() - self.requests_before.1;
        (portal > 0 && now_portal >= portal) || (crm > 0 && now_crm >= crm)
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
        let ports = self.ports.clone();
        let policy = self.setup.policy.clone();
        let done: Vec<(Ready, Sent)> = futures_util::stream::iter(batch)
            .map(|mut ready| {
                let (ports, policy) = (&ports, &policy);
                async move {
                    let sent = send_one(ports, policy, &mut ready.row, &mut ready.action).await;
                    (ready, sent)
                }
            })
            .buffered(IN_FLIGHT_MAX)
            .collect()
            .await;
        let mut record = Batch::default();
        let mut again = Vec::new();
        for (ready, sent) in done {
            let outcome = match sent {
                Sent::Outcome(outcome) => outcome,
                Sent::Changed => {
                    record.settled.push((commit, ready.row.id));
                    again.push(Ready { conflicts: ready.conflicts + 1, ..ready });
                    continue;
                }
            };
            self.settle_one(ready, outcome, commit, &mut record, &mut again).await?;
        }
        let (queue, entries) = self.plan_again(again).await?;
        record.entries.extend(entries);
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
        let Ready { row, action, conflicts, steps } = ready;
        let kind = action.kind();
        let (mut row, next) = settle(row, &action, &outcome, &self.setup.policy, now);
        self.note_outcome(&row, kind, &outcome, record);
        match next {
            Next::Plan => {
                record.settled.push((commit, row.id));
                again.push(Ready { row, action, conflicts, steps: steps + 1 });
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
                        again.push(Ready { row: row.clone(), action, conflicts: conflicts + 1, steps });
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
                    again.push(Ready { row, action, conflicts: conflicts + 1, steps });
                } else {
                    self.report.pending += 1;
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

    /// Plans rows again after a write or a read; returns what to send next and what to record.
    async fn plan_again(
        &mut self,
        rows: Vec<Ready>,
    ) -> Result<(Vec<Ready>, Vec<(ReferralId, Option<Entry>)>), CycleError> {
        let now = self.ports.clock.now();
        let (mut queue, mut entries) = (Vec::new(), Vec::new());
        for ready in rows {
            let Ready { row, conflicts, steps, .. } = ready;
            let id = row.id;
            let before = row.entry.clone();
            let Some((row, mut plan)) = self.plan_rows(vec![row]).await?.pop() else {
                entries.extend(before.map(|entry| (id, Some(Entry { look_at: Some(now), ..entry }))));
                continue;
            };
            if plan.vanished.is_some() && !self.is_vanish_judged {
                // A write met a lead that is gone: the brake counts it like one that a reading missed.
                entries.extend(before.map(|entry| (id, Some(Entry { look_at: Some(now), ..entry }))));
                self.vanished.push((row, plan));
                continue;
            }
            if plan.action.is_some()
                && let Some(entry) = &mut plan.entry
            {
                entry.look_at = Some(now);
            }
            if plan.vanished.is_some() {
                self.vanished.push((row, plan));
                continue;
            }
            entries.extend(plan.entry.clone().map(|entry| (id, Some(entry))));
            let Some(action) = plan.action.clone() else {
                self.note_holds(&plan);
                continue;
            };
            if conflicts > CONFLICTS_MAX || steps > STEPS_MAX {
                self.report.pending += 1;
            } else if self.is_braked(action.kind()) {
                self.deferred.push((row, plan));
            } else {
                queue.push(Ready { row: Row { entry: plan.entry, ..row }, action, conflicts, steps });
            }
        }
        Ok((queue, entries))
    }

    fn note_outcome(&mut self, row: &Row, kind: ActionKind, outcome: &Outcome, record: &mut Batch) {
        let words = match outcome {
            Outcome::LeadWritten(_) | Outcome::ReferralWritten(_) => {
                *self.report.done.entry(kind).or_default() += 1;
                tracing::info!(referral.id = %row.id, "{kind} done");
                "done".to_owned()
            }
            Outcome::Failed(error) => {
                tracing::warn!(referral.id = %row.id, request_id = error.request_id.as_deref(), "{kind} failed: {error}");
                fault_word(error).to_owned()
            }
        };
        let at = self.ports.clock.now();
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

/// Names the exact set of outcomes older than their link.
fn digest_of_old_outcomes(ids: &BTreeSet<ReferralId>) -> String {
    let mut lines: Vec<String> = ids.iter().map(|id| format!("older outcome {id}")).collect();
    brakes::digest_lines(&mut lines)
}

/// What sending one action gave.
enum Sent {
    /// An answer or a failure.
    Outcome(Outcome),
    /// A fresh read showed something else than the plan expected: nothing was sent, the row is decided again.
    Changed,
}

/// Sends one action. An irreversible step is sent only when a fresh read still asks for the very same step.
async fn send_one(ports: &Ports, policy: &crate::plan::Policy, row: &mut Row, action: &mut Action) -> Sent {
    let needs_fresh = matches!(action, Action::Patch { step, is_fresh, .. } if *step != Step::None && !*is_fresh);
    if needs_fresh {
        match fresh(ports, policy, row, action).await {
            // What is settled afterwards is what was sent, not what was planned before the read.
            Ok(Some(again)) => *action = again,
            Ok(None) => return Sent::Changed,
            Err(error) => return Sent::Outcome(Outcome::Failed(error)),
        }
    }
    let request = request_id(action);
    Sent::Outcome(match action {
        Action::Create { referral, lead, draft, .. } => {
            lead_outcome(ports.crm.create(*referral, *lead, draft, request).await)
        }
        Action::Update { lead, etag, draft, .. } => lead_outcome(ports.crm.update(*lead, etag, draft, request).await),
        Action::Patch { referral, etag, patch, .. } => {
            patch_outcome(ports.portal.patch(*referral, etag, patch, request).await)
        }
    })
}

/// Reads the referral and decides the row again; the action, if it is still the same irreversible step.
async fn fresh(
    ports: &Ports,
    policy: &crate::plan::Policy,
    row: &mut Row,
    action: &Action,
) -> Result<Option<Action>, RemoteError> {
    match ports.portal.get(row.id).await {
        Ok(referral) => row.referral = Seen::from(referral),
        Err(error) if error.fault == Fault::Missing => row.referral = Seen::Absent,
        Err(error) => return Err(error),
    }
    row.is_referral_fresh = true;
    let plan = plan_row(row, policy, ports.clock.now());
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
    match error.fault {
        Fault::Throttled { .. } => "throttled",
        Fault::Unavailable => "unavailable",
        Fault::Conflict => "conflict",
        Fault::Missing => "missing",
        Fault::Refused => "refused",
        Fault::Unauthorized => "unauthorized",
        Fault::NeedsHuman => "needs a human",
        Fault::Malformed => "malformed",
    }
}
