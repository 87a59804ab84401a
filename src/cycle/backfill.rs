//! A rewrite after a change of mapping, asked for by an operator: a sweep whose linked rows are planned with
//! [`Row::backfill`]. Its first leads are a sample: it waits until somebody has looked at them.

use super::{BACKFILL_BRAKE, CycleError, Mode, Pass};
use crate::model::{LeadState, Referral, Standing};
use crate::plan::action::{Action, Rule};
use crate::plan::{Groups, Row, Seen, brakes};
use crate::ports::{Backfill, LatchedBrake};

/// Sweeps of one backfill: rows that could not be written in one of them are tried by the next.
const ROUNDS_MAX: u32 = 5;

impl Pass<'_> {
    /// Begins the backfill that was asked for, or goes on with it; an approval of its sample lets the rest go.
    pub(super) async fn prepare_backfill(&mut self) -> Result<(), CycleError> {
        self.backfill = self.decisions.backfill.clone().filter(|job| job.finished.is_none());
        let Some(job) = &mut self.backfill else {
            self.unlatch(BACKFILL_BRAKE);
            return Ok(());
        };
        if let Some(latch) = self.decisions.brakes.get(BACKFILL_BRAKE) {
            let digest = latch.digest.clone();
            if digest != digest_of(job) {
                // The sample of an earlier one.
            } else if self.decisions.approved.contains(&digest) {
                job.is_approved = true;
                job.is_begun = false; // What was passed over while it waited comes now.
                self.consume(&digest);
            } else {
                self.backfill = None;
                return Ok(());
            }
            self.unlatch(BACKFILL_BRAKE);
        }
        if let Some(job) = &mut self.backfill
            && !job.is_begun
        {
            job.is_begun = true;
            job.rounds += 1;
            job.left = 0;
            self.memo.sweep = None;
            self.memo.is_sweep_due = true;
            self.keep_backfill().await?;
        }
        Ok(())
    }

    /// Marks the rows of a sweep's page that the backfill is about, and adds those that are unchanged: no more than may
    /// still be rewritten. Returns the rest of the page, which comes when it is known how many of these differed.
    pub(super) fn mark_for_backfill(
        &mut self,
        rows: &mut Vec<Row>,
        items: Vec<Referral>,
    ) -> Result<Vec<Referral>, CycleError> {
        let Some(job) = &self.backfill else { return Ok(Vec::new()) };
        let limit = self.setup.brakes.backfill_sample;
        let mut room =
            if job.is_approved || limit == 0 { u64::MAX } else { limit.saturating_sub(job.written + job.left) };
        let (groups, room_was) = (job.groups, room);
        let mut items = items.into_iter();
        while room > 0 {
            let Some(referral) = items.next() else { break };
            let Some(entry) = self.ports.store.get(referral.id)? else { continue };
            let is_open = entry.link.as_ref().is_some_and(|link| link.status.state == LeadState::Open);
            if entry.standing != Standing::Linked || !is_open {
                continue;
            }
            room -= 1;
            match rows.iter_mut().find(|row| row.id == referral.id) {
                Some(row) => row.backfill = Some(groups),
                None if super::rows::is_unchanged(&entry, &referral) => {
                    let backfill = Some(groups);
                    let (id, referral) = (referral.id, Seen::from(referral));
                    rows.push(Row { entry: Some(entry), referral, backfill, ..Row::new(id) });
                }
                None => {} // A stale listing: this version is not the one we know.
            }
        }
        Ok(if room_was == 0 { Vec::new() } else { items.collect() })
    }

    /// Counts what a page's plans want to rewrite, and what came of it.
    pub(super) fn count_backfill(&mut self, action: &Action, is_done: bool) {
        let rewrites = match action {
            Action::Update { groups, .. } => groups.iter().any(|write| write.rule == Rule::Backfill),
            Action::Create { .. } | Action::Patch { .. } => false,
        };
        let Some(job) = self.backfill.as_mut().filter(|_| rewrites) else { return };
        if is_done {
            job.written += 1;
            job.left = job.left.saturating_sub(1);
        } else {
            job.left += 1;
        }
    }

    /// After a page of the sweep: the sample is complete, or it goes on.
    pub(super) async fn after_backfill_page(&mut self) -> Result<(), CycleError> {
        let limit = self.setup.brakes.backfill_sample;
        let Some(job) = &self.backfill else { return Ok(()) };
        if self.decisions.backfill.as_ref() == Some(job) {
            return Ok(());
        }
        let is_sample_complete = limit > 0 && !job.is_approved && job.written >= limit;
        if is_sample_complete {
            let digest = digest_of(job);
            let reason = format!(
                "the backfill of {} has rewritten its first {} leads: look at them; `referrald approve {digest}` rewrites the rest, `referrald backfill --stop` leaves them (brakes.backfill_sample)",
                words(job),
                job.written
            );
            let latch =
                LatchedBrake { since: self.ports.clock.now(), count: job.written, limit, digest, reason, side: None };
            self.latch(BACKFILL_BRAKE, latch);
        }
        self.keep_backfill().await?;
        if is_sample_complete {
            self.backfill = None;
        }
        Ok(())
    }

    /// The sweep of a backfill has met everything.
    pub(super) async fn finish_backfill(&mut self) -> Result<(), CycleError> {
        let now = self.ports.clock.now();
        let Some(job) = &mut self.backfill else { return Ok(()) };
        let (name, written, left) = (words(job), job.written, job.left);
        if left > 0 && job.rounds < ROUNDS_MAX {
            job.is_begun = false;
        } else {
            job.finished = Some(now);
            match left {
                0 => tracing::info!("the backfill of {name} is finished: {written} leads were rewritten"),
                _ => tracing::warn!(
                    "the backfill of {name} is finished: {written} leads were rewritten, {left} could not be; `referrald backfill` tries them again"
                ),
            }
        }
        self.keep_backfill().await?;
        if self.backfill.as_ref().is_some_and(|job| job.finished.is_some()) {
            self.backfill = None;
        }
        Ok(())
    }

    /// Writes the job down, unless an operator stopped it or asked for another one meanwhile.
    async fn keep_backfill(&mut self) -> Result<(), CycleError> {
        if self.mode == Mode::Forecast || !self.may_write() {
            return Ok(());
        }
        let Some(job) = self.backfill.clone() else { return Ok(()) };
        let change = move |kept: &mut crate::ports::Decisions| {
            let is_same = kept.backfill.as_ref().is_some_and(|kept| kept.asked == job.asked && kept.finished.is_none());
            if is_same {
                kept.backfill = Some(job);
            }
        };
        let (_, after) = self.ports.store.decide(Box::new(change)).await?;
        let is_ours =
            after.backfill.as_ref().zip(self.backfill.as_ref()).is_some_and(|(kept, job)| kept.asked == job.asked);
        self.decisions.backfill = after.backfill;
        if !is_ours || self.decisions.backfill.as_ref().is_some_and(|job| job.finished.is_some()) {
            self.backfill = None;
        }
        self.keep_decisions().await?;
        Ok(())
    }
}

/// Names one backfill: an approval of its sample is about no other.
fn digest_of(job: &Backfill) -> String {
    brakes::digest_lines(&mut [format!("backfill {} {}", words(job), job.asked)])
}

/// Which groups, for people.
pub(super) fn words(job: &Backfill) -> String {
    match (&job.groups, &job.group) {
        (Groups::All, _) => "all groups".to_owned(),
        (Groups::One(_), name) => format!("group {}", name.as_deref().unwrap_or("?")),
    }
}
