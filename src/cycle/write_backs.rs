//! Write-backs go beside everything else: the referrals side grants far fewer writes than the leads side, and no lead
//! waits for them.
//!
//! A write-back is planned like any other write and waits here. While the pass goes on, two workers send what waits, each
//! write put on record before; their outcomes are settled whenever the pass comes by. What is still waiting when the time
//! is over stays due in the ledger.

use std::collections::{BTreeSet, VecDeque};

use super::apply::Ready;
use super::lane::Lane;
use super::rows::is_older;
use super::sending::Remotes;
use super::{Budget, CycleError, Mode, Pass};
use crate::model::{Entry, ExternalReference, Fault, ReferralId, ReferralStatus, RemoteError, Side, Standing};
use crate::plan::Row;
use crate::ports::{ActionKind, Batch};

/// What a pass may spend before write-backs make it keep somebody waiting no longer.
const WRITE_BACK_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// Write-backs that wait in memory; more of them stay due in the ledger.
pub(super) const WRITE_BACKS_MAX: usize = 1000;

/// Write-backs of one intent record: as many as leave in a few seconds.
const INTENDED_MAX: usize = 16;

/// So many that are due are not read one by one: a sweep lists a hundred of them with one request.
const READ_SINGLY_MAX: usize = 100;

/// Write-backs of one pass.
#[derive(Default)]
pub(super) struct WriteBacks {
    /// Planned, and not on record yet.
    waiting: VecDeque<Ready>,
    /// On record: waiting for a worker, in its hands, or done and not settled.
    under_way: BTreeSet<ReferralId>,
    is_overfull: bool,
    /// Some were put on record in this pass.
    has_begun: bool,
    lane: Lane,
}

impl WriteBacks {
    /// Takes a planned write-back; false when too many wait already.
    pub(super) fn add(&mut self, ready: Ready) -> bool {
        let has_room = self.waiting.len() < WRITE_BACKS_MAX;
        if has_room {
            self.waiting.push_back(ready);
        }
        self.is_overfull |= !has_room;
        has_room
    }

    /// Whether some had no room since this was asked last.
    pub(super) fn take_overfull(&mut self) -> bool {
        std::mem::take(&mut self.is_overfull)
    }

    /// Rows that are decided anew wait no longer.
    pub(super) fn forget(&mut self, is_decided: impl Fn(ReferralId) -> bool) {
        self.waiting.retain(|ready| !is_decided(ready.row.id));
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }
}

impl Pass<'_> {
    /// True for writes that go beside everything else.
    pub(super) fn goes_beside(kind: ActionKind) -> bool {
        match kind {
            ActionKind::WriteBack => true,
            ActionKind::Create
            | ActionKind::Update
            | ActionKind::Accept
            | ActionKind::Close
            | ActionKind::Disqualify => false,
        }
    }

    /// Lets write-backs wait for a worker; those without room stay due in the ledger.
    pub(super) fn put_beside(&mut self, write_backs: Vec<Ready>) {
        for ready in write_backs {
            let id = ready.row.id;
            if !self.write_backs.add(ready) {
                self.decided.remove(&id);
                self.report.pending += 1;
            }
        }
    }

    /// At most one write is in flight for each referral: rows with a write-back under way are decided after its outcome,
    /// and not at all when they show nothing but what it wrote.
    pub(super) async fn settle_busy(&mut self, rows: &mut Vec<Row>) -> Result<(), CycleError> {
        let is_busy = |pass: &Self, row: &Row| pass.write_backs.under_way.contains(&row.id);
        let mut busy: Vec<Row> = rows.extract_if(.., |row| is_busy(self, row)).collect();
        if busy.is_empty() {
            return Ok(());
        }
        // They are decided anew below: what an outcome makes of them must not leave once more beside that.
        let ids: BTreeSet<ReferralId> = busy.iter().map(|row| row.id).collect();
        loop {
            let again = self.rest_write_backs().await?;
            self.write_backs.forget(|id| ids.contains(&id));
            if again.is_empty() {
                break;
            }
            self.send(again).await?;
        }
        for row in &mut busy {
            row.entry = self.ports.store.get(row.id)?;
        }
        busy.retain(|row| match (row.entry.as_ref(), row.referral.present(), row.lead.present()) {
            (Some(entry), Some(referral), None) => !is_older(entry, referral) && !self.is_settled(entry, referral),
            (_, _, _) => true,
        });
        rows.append(&mut busy);
        Ok(())
    }

    /// Settles what the workers have done and gives them more; returns writes of other kinds that follow from it.
    pub(super) async fn serve_write_backs(&mut self) -> Result<Vec<Ready>, CycleError> {
        let again = self.settle_write_backs().await?;
        self.refill_lane().await?;
        Ok(again)
    }

    /// Gives the workers more before they run out of it.
    async fn refill_lane(&mut self) -> Result<(), CycleError> {
        let has_work = !self.write_backs.waiting.is_empty() && self.write_backs.lane.untried() < INTENDED_MAX / 2;
        // No more than this is read first after a kill.
        let has_room = self.write_backs.under_way.len() < self.setup.settings.batch_max.max(1) as usize;
        if has_work && has_room && self.may_write_back() {
            self.intend_write_backs().await?;
        }
        Ok(())
    }

    /// Waits for something else while the workers go on.
    pub(super) async fn beside_write_backs<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        while !self.write_backs.waiting.is_empty() {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.write_backs.lane.progress() => {}
            }
            if let Err(error) = self.refill_lane().await {
                tracing::debug!("no more write-backs for now: {error}");
                break; // Whoever records the outcome of the work meets the same, and says so.
            }
        }
        work.await
    }

    /// Sends every write-back that waits, as long as there is time.
    pub(super) async fn finish_write_backs(&mut self) -> Result<(), CycleError> {
        loop {
            if !self.has_time() || !self.may_write() || self.postpones_write_backs() {
                self.write_backs.lane.stop();
            }
            let again = self.serve_write_backs().await?;
            self.send(again).await?;
            if self.write_backs.is_idle() {
                return Ok(());
            }
            if self.write_backs.under_way.is_empty() {
                // Nothing can be sent now.
                match self.ports.portal.line().closed_until().filter(|_| self.may_write()) {
                    Some(until) if self.waits_out(&throttled(until)).await => continue,
                    _ => return Ok(()),
                }
            }
            self.write_backs.lane.progress().await;
        }
    }

    /// The end of the pass: nothing more is begun, what is in flight ends, what waits stays due in the ledger.
    pub(super) async fn close_write_backs(&mut self) -> Result<(), CycleError> {
        let again = self.rest_write_backs().await?;
        self.report.pending += (again.len() + self.write_backs.waiting.len()) as u64;
        self.write_backs.waiting.clear();
        Ok(())
    }

    /// Rows that are due for nothing but their write-back: many are listed by a sweep, few are read one by one.
    pub(super) async fn due_write_backs(&mut self, ids: Vec<ReferralId>) -> Result<(), CycleError> {
        let mut rows = Vec::new();
        for id in ids.into_iter().take(READ_SINGLY_MAX) {
            if self.decided.contains(&id) {
                continue;
            }
            let mut row = Row::new(id);
            row.entry = self.ports.store.get(id)?;
            rows.push(row);
        }
        self.process(rows).await
    }

    /// True when a sweep shall list what is due for its write-back.
    pub(super) fn is_sweep_cheaper(due: &[ReferralId]) -> bool {
        due.len() > READ_SINGLY_MAX
    }

    /// Nothing is missing but the lead's id on the referral, and it is due.
    pub(super) fn awaits_write_back(&self, entry: &Entry) -> bool {
        let is_told = matches!(entry.external_reference, ExternalReference::Ours | ExternalReference::Foreign);
        let is_open = entry.referral_status != ReferralStatus::Closed;
        let is_plain = entry.outcome.is_none() && entry.trouble.is_none() && !entry.has_recalled();
        let has_moved = entry.groups.iter().any(|group| group.referral_moved.is_some() || group.lead_moved.is_some());
        let is_due = entry.look_at.is_some_and(|at| at <= self.ports.clock.now());
        let is_linked = entry.standing == Standing::Linked && entry.referral_etag.is_some();
        self.setup.policy.writes_referrals() && is_linked && !is_told && is_open && is_plain && !has_moved && is_due
    }

    fn may_write_back(&self) -> bool {
        let is_possible = self.is_up(Side::Portal) && self.ports.portal.line().closed_until().is_none();
        let is_time = self.has_time() && !self.postpones_write_backs();
        self.may_write() && is_time && is_possible && self.has_enough(Side::Portal)
    }

    /// Somebody waits for the next pass, and this one has had some time and has begun some write-backs: however often
    /// somebody rings, they go on.
    pub(super) fn postpones_write_backs(&self) -> bool {
        let has_lasted = self.ports.clock.now().since(self.began) >= WRITE_BACK_TIME;
        self.gives_way() && has_lasted && self.write_backs.has_begun
    }

    /// Nothing is begun, and what is in flight ends; returns writes of other kinds that follow from it.
    async fn rest_write_backs(&mut self) -> Result<Vec<Ready>, CycleError> {
        self.write_backs.lane.rest().await;
        self.settle_write_backs().await
    }

    async fn settle_write_backs(&mut self) -> Result<Vec<Ready>, CycleError> {
        let is_stopped = self.write_backs.lane.is_stopped() || !self.may_write();
        let done = self.write_backs.lane.take_done();
        if is_stopped {
            self.take_back_untried().await?;
        }
        for (_, ready, _) in &done {
            self.write_backs.under_way.remove(&ready.row.id);
        }
        if self.write_backs.under_way.is_empty() {
            self.write_backs.lane.go_on();
        }
        match done.is_empty() {
            true => Ok(Vec::new()),
            false => self.settle_done(done).await,
        }
    }

    /// What is on record and was not tried waits again.
    async fn take_back_untried(&mut self) -> Result<(), CycleError> {
        let untried = self.write_backs.lane.take_untried();
        if untried.is_empty() {
            return Ok(());
        }
        let settled = untried.iter().map(|(commit, ready)| (*commit, ready.row.id)).collect();
        for (_, ready) in untried.into_iter().rev() {
            self.write_backs.under_way.remove(&ready.row.id);
            self.write_backs.waiting.push_front(ready);
        }
        self.ports.store.record(Batch { settled, ..Batch::default() }).await?;
        Ok(())
    }

    /// Puts the next write-backs on record and sees to it that somebody sends them.
    async fn intend_write_backs(&mut self) -> Result<(), CycleError> {
        let batch_max = INTENDED_MAX.min(self.setup.settings.batch_max.max(1) as usize);
        let mut next: Vec<Ready> = Vec::new();
        // Those that operators hold make room for others.
        while next.len() < batch_max && !self.write_backs.waiting.is_empty() {
            let room = (batch_max - next.len()).min(self.write_backs.waiting.len());
            next.extend(self.write_backs.waiting.drain(..room));
            self.heed_operators(&mut next)?;
        }
        if next.is_empty() || !self.may_write() {
            self.write_backs.waiting.extend(next);
            return Ok(());
        }
        self.allow();
        *self.attempted.entry(ActionKind::WriteBack).or_default() += next.len();
        let commit = self.ports.store.intend(next.iter().map(|ready| ready.action.intended()).collect()).await?;
        self.write_backs.has_begun = true;
        self.write_backs.under_way.extend(next.iter().map(|ready| ready.row.id));
        let on_record = next.into_iter().map(|ready| (commit, ready));
        self.write_backs.lane.put(on_record, &Remotes::of(self.ports), &self.setup.policy);
        Ok(())
    }

    /// A scan that finds no lead to write waits for the write-backs it has found instead of leaving them to the next one.
    pub(super) async fn make_room_for_write_backs(&mut self) -> Result<(), CycleError> {
        match self.write_backs.waiting.len() >= READ_SINGLY_MAX {
            true => self.finish_write_backs().await,
            false => Ok(()),
        }
    }

    /// A pass without a work budget is patient with write-backs as well.
    pub(super) fn is_unlimited(&self) -> bool {
        self.mode == Mode::Write(Budget::Unlimited)
    }
}

fn throttled(until: crate::model::Timestamp) -> RemoteError {
    RemoteError::new(Side::Portal, "write back", Fault::Throttled { until })
}
