//! What may be sent now: so many at once, so many a minute, and nothing at all while the service asked us to wait.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::pace::{Departure, Facet, Learned, Pace, Remaining};
use super::settings::LimitSettings;
use super::transport::SetupError;
use super::{Effect, retry};
use crate::model::{Side, Timestamp};
use crate::ports::Clock;

/// A whole window, in the cells of `governor`.
const CELLS: f64 = 1e7;
/// The window of `requests_per_minute`.
const MINUTE: Duration = Duration::from_secs(60);
/// The most requests that may leave at once; else as many as come in a second.
const BURST_MAX: f64 = 20.0;
/// The part of a service's window that may be used at once after a pause.
const PROTECTED_BURST: f64 = 0.015;
/// The shortest wait.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// How long somebody waits whose turn it is not.
const TURN_PAUSE: Duration = Duration::from_millis(10);
/// Reads that go before a write that waits.
const READS_BEFORE_A_WRITE: u32 = 4;
/// A `Retry-After` longer than this is an alarm.
pub const ALARM_AFTER: Duration = Duration::from_secs(3600);

/// A clock that only goes forward, counted from its making; steps back of the local clock are left out.
#[derive(Clone)]
pub struct Elapsed {
    clock: Arc<dyn Clock>,
    reading: Arc<Mutex<Reading>>,
}

struct Reading {
    seen: Timestamp,
    elapsed: Duration,
}

impl Elapsed {
    /// Starts at zero.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let seen = clock.now();
        Elapsed { clock, reading: Arc::new(Mutex::new(Reading { seen, elapsed: Duration::ZERO })) }
    }

    fn get(&self) -> Duration {
        let now = self.clock.now();
        let mut reading = lock(&self.reading);
        let step = now.since(reading.seen);
        reading.elapsed = reading.elapsed.saturating_add(step);
        reading.seen = now;
        reading.elapsed
    }
}

impl governor::clock::Clock for Elapsed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.get())
    }
}

/// Rates and parallelism of one service.
pub struct Limiter {
    clock: Arc<dyn Clock>,
    elapsed: Elapsed,
    /// What the operator allows, lowered when the service refuses.
    rate: Valve,
    asked: Mutex<Learned>,
    /// What the service protects itself with, where that is documented.
    protected: Option<Protected>,
    parallelism: Arc<Parallelism>,
    queue: Mutex<Turns>,
}

/// The valves of a service that protects itself.
struct Protected {
    requests: Valve,
    execution: Valve,
    pace: Mutex<Pace>,
}

impl Limiter {
    /// A limiter with nothing under way.
    ///
    /// # Errors
    /// When a limit is zero.
    pub fn new(limits: LimitSettings, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        if limits.requests_per_minute == 0 {
            return Err(SetupError::new("requests_per_minute must be at least 1"));
        }
        if limits.in_flight_max == 0 {
            return Err(SetupError::new("in_flight_max must be at least 1"));
        }
        let elapsed = Elapsed::new(Arc::clone(&clock));
        let per_minute = f64::from(limits.requests_per_minute);
        let rate = Valve::new(MINUTE, (per_minute / 60.0).clamp(1.0, BURST_MAX) / per_minute, &elapsed);
        let protected = limits.protection.map(|protection| Protected {
            requests: Valve::new(protection.window, PROTECTED_BURST, &elapsed),
            execution: Valve::new(protection.window, PROTECTED_BURST, &elapsed),
            pace: Mutex::new(Pace::new(protection)),
        });
        Ok(Limiter {
            clock,
            elapsed,
            rate,
            asked: Mutex::new(Learned::at_most(per_minute, MINUTE)),
            protected,
            parallelism: Arc::new(Parallelism::new(limits.in_flight_max as usize)),
            queue: Mutex::default(),
        })
    }

    /// Waits until one more request with so many operations may leave. The permit is held until its answer is here.
    pub async fn admit(&self, effect: Effect, operations: u32) -> Permit {
        {
            let place = Place::take(&self.queue, effect);
            let part = || lock(&self.asked).part(1.0);
            loop {
                let wait = match lock(&self.queue).may_go(effect) {
                    true => self.rate.take(part()),
                    false => Err(TURN_PAUSE),
                };
                match wait {
                    Ok(()) => break,
                    Err(wait) => self.clock.sleep(wait).await,
                }
            }
            place.leave();
        }
        lock(&self.asked).spend(self.elapsed.get(), 1.0);
        if let Some(Protected { requests, execution, pace }) = &self.protected {
            self.wait_for(requests, || lock(pace).request_part()).await;
            self.wait_for(execution, || {
                let pace = lock(pace);
                pace.execution_part(pace.estimate(effect, operations))
            })
            .await;
        }
        let mut permit = self.parallelism.acquire().await;
        permit.departure =
            self.protected.as_ref().map(|known| lock(&known.pace).leave(self.elapsed.get(), effect, operations));
        permit
    }

    async fn wait_for(&self, valve: &Valve, part: impl Fn() -> f64) {
        while let Err(wait) = valve.take(part()) {
            self.clock.sleep(wait).await;
        }
    }

    /// Takes notice of an answer: what it shows as left of the service's window, and which limit refused it, if one did.
    pub fn learn(&self, permit: &Permit, remaining: Remaining, refused: Option<Facet>) {
        let now = self.elapsed.get();
        match refused {
            Some(Facet::Concurrency) => self.parallelism.lower(permit.epoch),
            Some(Facet::Requests | Facet::Unknown) if self.protected.is_none() => lock(&self.asked).refuse(now),
            Some(_) => {}
            None => {
                self.parallelism.raise();
                let mut asked = lock(&self.asked);
                let spent = asked.spend(now, 0.0);
                asked.learn(now, (spent, spent), None);
            }
        }
        if let (Some(known), Some(departure)) = (&self.protected, &permit.departure) {
            let mut pace = lock(&known.pace);
            let more = pace.answer(now, departure, remaining, refused);
            known.execution.owe(pace.execution_part(more));
        }
    }

    /// Notes how many requests at once the service recommends: never more than that, nor than was configured.
    pub fn recommend(&self, parallelism: usize) {
        self.parallelism.cap(parallelism);
    }

    /// Requests that may be under way at once, at the moment.
    pub fn parallelism(&self) -> usize {
        lock(&self.parallelism.state).limit
    }

    /// How long the service is thought to work on one write; zero where its work is not metered.
    pub fn write_time(&self) -> Duration {
        let estimate = |known: &Protected| lock(&known.pace).estimate(Effect::Write, 1);
        self.protected.as_ref().map_or(Duration::ZERO, |known| Duration::from_secs_f64(estimate(known)))
    }
}

/// One rate, in parts of a whole window. What one request takes may change from one to the next.
struct Valve {
    rate: RateLimiter<NotKeyed, InMemoryState, Elapsed, NoOpMiddleware<Nanos>>,
    elapsed: Elapsed,
    burst: u32,
    /// Cells that passed without being taken: fractions, and what turned out dearer than it was thought.
    owed: Mutex<f64>,
}

impl Valve {
    /// One whole for each window; `burst` of it may pass at once.
    fn new(window: Duration, burst: f64, elapsed: &Elapsed) -> Self {
        let burst = ((CELLS * burst).ceil() as u32).max(1);
        let quota = Quota::with_period(window.div_f64(CELLS)).expect("a window is longer than so many nanoseconds");
        let quota = quota.allow_burst(NonZeroU32::new(burst).expect("at least 1 is not zero"));
        let rate = RateLimiter::direct_with_clock(quota, elapsed.clone());
        Valve { rate, elapsed: elapsed.clone(), burst, owed: Mutex::new(0.0) }
    }

    /// Lets a part of a window pass now, or says how long to wait. What is larger than the burst passes as a whole and is
    /// waited for by what comes next.
    fn take(&self, part: f64) -> Result<(), Duration> {
        let mut owed = lock(&self.owed);
        let due = *owed + part * CELLS;
        let cells = (due.max(0.0) as u32).min(self.burst);
        let Some(count) = NonZeroU32::new(cells) else {
            *owed = due;
            return Ok(());
        };
        match self.rate.check_n(count) {
            Ok(Ok(())) => {
                *owed = due - f64::from(cells);
                Ok(())
            }
            Ok(Err(early)) => Err(early.wait_time_from(self.elapsed.now()).max(WAIT_MIN)),
            Err(_) => Err(WAIT_MIN), // Never: it is cut to the burst.
        }
    }

    /// What has passed turned out to be more by a part of a window, or less when it is negative.
    fn owe(&self, part: f64) {
        let mut owed = lock(&self.owed);
        *owed = (*owed + part * CELLS).clamp(-f64::from(self.burst), CELLS);
    }
}

/// Reads go before writes that wait: somebody is going to plan with what they bring. But a write waits for so many only.
#[derive(Debug, Default)]
struct Turns {
    reads: usize,
    writes: usize,
    /// Reads that went while a write waited, since the last write.
    overtaken: u32,
}

impl Turns {
    fn may_go(&self, effect: Effect) -> bool {
        match effect {
            Effect::Read => self.writes == 0 || self.overtaken < READS_BEFORE_A_WRITE,
            Effect::Write => self.reads == 0 || self.overtaken >= READS_BEFORE_A_WRITE,
        }
    }

    fn gone(&mut self, effect: Effect) {
        match effect {
            Effect::Read if self.writes > 0 => self.overtaken += 1,
            Effect::Read => {}
            Effect::Write => self.overtaken = 0,
        }
    }

    fn waiting(&mut self, effect: Effect) -> &mut usize {
        match effect {
            Effect::Read => &mut self.reads,
            Effect::Write => &mut self.writes,
        }
    }
}

/// A place in the queue, given up with whoever has it.
struct Place<'a> {
    queue: &'a Mutex<Turns>,
    effect: Effect,
}

impl<'a> Place<'a> {
    fn take(queue: &'a Mutex<Turns>, effect: Effect) -> Self {
        *lock(queue).waiting(effect) += 1;
        Place { queue, effect }
    }

    fn leave(self) {
        lock(self.queue).gone(self.effect);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = lock(self.queue);
        let waiting = queue.waiting(self.effect);
        *waiting = waiting.saturating_sub(1);
    }
}

/// A semaphore whose size follows the service: additive increase, multiplicative decrease.
struct Parallelism {
    semaphore: Arc<Semaphore>,
    /// As configured.
    most: usize,
    state: Mutex<ParallelismState>,
}

struct ParallelismState {
    limit: usize,
    /// The limit grows up to here: what is configured, or less when the service recommends less.
    cap: usize,
    /// Permits to withdraw when they come back.
    owed: usize,
    /// Good answers since the last change.
    good: usize,
    /// Counts the halvings.
    epoch: u64,
}

impl Parallelism {
    fn new(most: usize) -> Self {
        let state = ParallelismState { limit: most, cap: most, owed: 0, good: 0, epoch: 0 };
        Parallelism { semaphore: Arc::new(Semaphore::new(most)), most, state: Mutex::new(state) }
    }

    async fn acquire(self: &Arc<Self>) -> Permit {
        let permit = Arc::clone(&self.semaphore).acquire_owned().await.expect("the semaphore is never closed");
        Permit { permit: Some(permit), departure: None, epoch: lock(&self.state).epoch, home: Arc::clone(self) }
    }

    fn lower(&self, epoch: u64) {
        let mut state = lock(&self.state);
        if state.epoch != epoch {
            return;
        }
        let next = (state.limit / 2).max(1);
        self.shrink(&mut state, next);
        state.good = 0;
        state.epoch += 1;
    }

    fn cap(&self, cap: usize) {
        let mut state = lock(&self.state);
        state.cap = cap.clamp(1, self.most);
        if state.limit > state.cap {
            let next = state.cap;
            self.shrink(&mut state, next);
        }
    }

    fn shrink(&self, state: &mut ParallelismState, next: usize) {
        let cut = state.limit - next;
        state.owed += cut - self.semaphore.forget_permits(cut);
        state.limit = next;
    }

    fn raise(&self) {
        let mut state = lock(&self.state);
        if state.limit >= state.cap {
            return;
        }
        state.good += 1;
        if state.good >= state.limit {
            state.good = 0;
            state.limit += 1;
            match state.owed.checked_sub(1) {
                Some(owed) => state.owed = owed,
                None => self.semaphore.add_permits(1),
            }
        }
    }
}

/// The right to have one request under way.
pub struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    departure: Option<Departure>,
    epoch: u64,
    home: Arc<Parallelism>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.home.state);
        if let Some(owed) = state.owed.checked_sub(1)
            && let Some(permit) = self.permit.take()
        {
            state.owed = owed;
            permit.forget();
        }
    }
}

/// The closed window of a whole service: shared by all calls, never by one task.
pub struct Gate {
    side: Side,
    clock: Arc<dyn Clock>,
    elapsed: Elapsed,
    state: Mutex<GateState>,
    /// A window has begun or grown, or nobody is to wait for its end.
    changed: Notify,
}

#[derive(Default)]
struct GateState {
    /// In elapsed time, so that a step back of the local clock does not prolong the window.
    closed_until: Duration,
    is_alarmed: bool,
    is_impatient: bool,
}

impl Gate {
    /// An open gate.
    pub fn new(side: Side, clock: Arc<dyn Clock>) -> Self {
        let elapsed = Elapsed::new(Arc::clone(&clock));
        Gate { side, elapsed, clock, state: Mutex::default(), changed: Notify::new() }
    }

    /// Closes the gate for `window` from now on; a longer window that is already known stays.
    pub fn close(&self, window: Duration) {
        let now = self.elapsed.get();
        let mut state = lock(&self.state);
        if state.closed_until <= now {
            state.is_alarmed = false;
        }
        state.closed_until = state.closed_until.max(now.saturating_add(window));
        self.changed.notify_waiters();
        if window > ALARM_AFTER && !state.is_alarmed {
            state.is_alarmed = true;
            tracing::error!(
                side = %self.side,
                until = %self.clock.now().plus(window),
                "the service asked us to wait for more than an hour; nothing is sent until then"
            );
        }
    }

    /// How long the gate stays closed; zero when it is open.
    pub fn remaining(&self) -> Duration {
        let now = self.elapsed.get();
        lock(&self.state).closed_until.saturating_sub(now)
    }

    /// The end of the window in the local clock; `None` when the gate is open.
    pub fn closed_until(&self) -> Option<Timestamp> {
        let remaining = self.remaining();
        (!remaining.is_zero()).then(|| self.clock.now().plus(remaining))
    }

    /// Waits for a window that ends later than `known`; the end of it.
    pub async fn closed_beyond(&self, known: Option<Timestamp>) -> Timestamp {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(until) = self.closed_until().filter(|until| known.is_none_or(|known| *until > known)) {
                return until;
            }
            changed.await;
        }
    }

    /// Nobody waits for the end of a window from now on.
    pub fn lose_patience(&self) {
        lock(&self.state).is_impatient = true;
        self.changed.notify_waiters();
    }

    /// Waits until the gate is open.
    ///
    /// # Errors
    /// The end of the window, at once, when it is longer than `patience`, or nobody is to wait any more.
    pub async fn pass(&self, patience: Duration) -> Result<(), Timestamp> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let Some(until) = self.closed_until() else { return Ok(()) };
            let remaining = self.remaining();
            if remaining > patience || lock(&self.state).is_impatient {
                return Err(until);
            }
            tokio::select! {
                () = self.clock.sleep(retry::spread(remaining).max(WAIT_MIN)) => {}
                () = changed => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_goes_before_writes_that_wait_and_a_write_waits_for_so_many_only() {
        let queue = Mutex::new(Turns::default());
        let (write, read) = (Place::take(&queue, Effect::Write), Place::take(&queue, Effect::Read));
        for _ in 0..READS_BEFORE_A_WRITE {
            assert!(lock(&queue).may_go(Effect::Read) && !lock(&queue).may_go(Effect::Write));
            Place::take(&queue, Effect::Read).leave();
        }
        assert!(!lock(&queue).may_go(Effect::Read) && lock(&queue).may_go(Effect::Write));
        write.leave();
        assert!(lock(&queue).may_go(Effect::Read));
        drop(read);
        assert!(lock(&queue).may_go(Effect::Write), "who gives up holds nobody up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_valve_passes_its_burst_and_then_its_rate_and_remembers_what_was_too_cheap() {
        let clock: Arc<dyn Clock> = Arc::new(crate::sim::SimClock::of_runtime(Timestamp::from_seconds(0)));
        let valve = Valve::new(Duration::from_secs(100), 0.02, &Elapsed::new(clock));
        assert_eq!((valve.take(0.01), valve.take(0.01)), (Ok(()), Ok(())));
        let wait = valve.take(0.01).expect_err("the burst is over");
        assert!((0.9..=1.1).contains(&wait.as_secs_f64()), "{wait:?}");
        tokio::time::sleep(wait + Duration::from_millis(10)).await;
        assert_eq!(valve.take(0.01), Ok(()));
        valve.owe(0.03);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(valve.take(0.01), Ok(()), "half of the debt and itself, as much as may pass at once");
        let wait = valve.take(0.0).expect_err("the rest of the debt");
        assert!(wait > Duration::from_millis(1900), "{wait:?}");
    }

    #[tokio::test]
    async fn a_halving_takes_back_permits_that_are_out() {
        let parallelism = Arc::new(Parallelism::new(8));
        let mut permits = Vec::new();
        for _ in 0..8 {
            permits.push(parallelism.acquire().await);
        }
        parallelism.lower(permits[0].epoch);
        assert_eq!(lock(&parallelism.state).limit, 4);
        drop(permits);
        assert_eq!(parallelism.semaphore.available_permits(), 4);
    }

    #[tokio::test]
    async fn refusals_of_one_burst_halve_once() {
        let parallelism = Arc::new(Parallelism::new(8));
        let (one, other) = (parallelism.acquire().await, parallelism.acquire().await);
        parallelism.lower(one.epoch);
        parallelism.lower(other.epoch);
        assert_eq!(lock(&parallelism.state).limit, 4);
        drop((one, other));
        for _ in 0..10 {
            let next = parallelism.acquire().await;
            parallelism.lower(next.epoch);
        }
        assert_eq!(lock(&parallelism.state).limit, 1, "never less than one");
        assert_eq!(parallelism.semaphore.available_permits(), 1);
    }

    #[tokio::test]
    async fn success_gives_back_one_at_a_time_and_no_more_than_there_were() {
        let parallelism = Arc::new(Parallelism::new(4));
        let out = [parallelism.acquire().await, parallelism.acquire().await, parallelism.acquire().await];
        parallelism.lower(out[0].epoch);
        for (answers, limit) in [(1, 2), (1, 3), (2, 3), (1, 4), (50, 4)] {
            (0..answers).for_each(|_| parallelism.raise());
            assert_eq!(lock(&parallelism.state).limit, limit);
        }
        drop(out);
        assert_eq!(parallelism.semaphore.available_permits(), 4);
    }

    #[tokio::test]
    async fn the_service_may_recommend_fewer_at_once_and_never_more_than_configured() {
        let parallelism = Arc::new(Parallelism::new(8));
        let out = [parallelism.acquire().await, parallelism.acquire().await, parallelism.acquire().await];
        for (recommended, limit) in [(2, 2), (0, 1), (5, 1), (52, 1)] {
            parallelism.cap(recommended);
            assert_eq!(lock(&parallelism.state).limit, limit, "{recommended}");
        }
        drop(out);
        assert_eq!(parallelism.semaphore.available_permits(), 1);
        (0..100).for_each(|_| parallelism.raise());
        assert_eq!(lock(&parallelism.state).limit, 8, "it grows with good answers, up to what is configured");
        assert_eq!(parallelism.semaphore.available_permits(), 8);
    }
}
