//! What may be sent now: so many at once, so many a minute, and nothing at all while the service asked us to wait.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::retry;
use super::settings::LimitSettings;
use super::transport::SetupError;
use crate::model::{Side, Timestamp};
use crate::ports::Clock;

/// The share of a minute's requests that may leave at once, as a divisor.
const BURST_DIVISOR: u32 = 60;
/// The most requests that may leave at once.
const BURST_MAX: u32 = 20;
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

/// Steady rate and parallelism of one service.
pub struct Limiter {
    clock: Arc<dyn Clock>,
    elapsed: Elapsed,
    rate: RateLimiter<NotKeyed, InMemoryState, Elapsed, NoOpMiddleware<Nanos>>,
    parallelism: Arc<Parallelism>,
}

impl Limiter {
    /// A limiter with nothing under way.
    ///
    /// # Errors
    /// When a limit is zero.
    pub fn new(limits: LimitSettings, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let per_minute = NonZeroU32::new(limits.requests_per_minute)
            .ok_or_else(|| SetupError::new("requests_per_minute must be at least 1"))?;
        if limits.in_flight_max == 0 {
            return Err(SetupError::new("in_flight_max must be at least 1"));
        }
        let burst = NonZeroU32::new((limits.requests_per_minute / BURST_DIVISOR).clamp(1, BURST_MAX))
            .expect("a number clamped to at least 1 is not zero");
        let elapsed = Elapsed::new(Arc::clone(&clock));
        let quota = Quota::per_minute(per_minute).allow_burst(burst);
        let rate = RateLimiter::direct_with_clock(quota, elapsed.clone());
        Ok(Limiter { clock, elapsed, rate, parallelism: Arc::new(Parallelism::new(limits.in_flight_max as usize)) })
    }

    /// Waits until one more request may leave. The permit is held until its answer is here.
    pub async fn admit(&self) -> Permit {
        let permit = self.parallelism.acquire().await;
        while let Err(early) = self.rate.check() {
            self.clock.sleep(early.wait_time_from(self.elapsed.now()).max(Duration::from_millis(1))).await;
        }
        permit
    }

    /// Halves the parallelism: there were too many at once. Refusals of requests that left before the last halving
    /// say nothing new.
    pub fn slow_down(&self, permit: &Permit) {
        self.parallelism.lower(permit.epoch);
    }

    /// Notes an answer that was no throttling; enough of them raise the parallelism by one.
    pub fn speed_up(&self) {
        self.parallelism.raise();
    }

    /// Notes how many requests at once the service recommends: never more than that, nor than was configured.
    pub fn recommend(&self, parallelism: usize) {
        self.parallelism.cap(parallelism);
    }

    /// Requests that may be under way at once, at the moment.
    pub fn parallelism(&self) -> usize {
        lock(&self.parallelism.state).limit
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
        Permit { permit: Some(permit), epoch: lock(&self.state).epoch, home: Arc::clone(self) }
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
}

#[derive(Default)]
struct GateState {
    /// In elapsed time, so that a step back of the local clock does not prolong the window.
    closed_until: Duration,
    is_alarmed: bool,
}

impl Gate {
    /// An open gate.
    pub fn new(side: Side, clock: Arc<dyn Clock>) -> Self {
        Gate { side, elapsed: Elapsed::new(Arc::clone(&clock)), clock, state: Mutex::default() }
    }

    /// Closes the gate for `window` from now on; a longer window that is already known stays.
    pub fn close(&self, window: Duration) {
        let now = self.elapsed.get();
        let mut state = lock(&self.state);
        if state.closed_until <= now {
            state.is_alarmed = false;
        }
        state.closed_until = state.closed_until.max(now.saturating_add(window));
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

    /// Waits until the gate is open.
    ///
    /// # Errors
    /// The end of the window, at once, when it is longer than `patience`.
    pub async fn pass(&self, patience: Duration) -> Result<(), Timestamp> {
        while let Some(until) = self.closed_until() {
            let remaining = self.remaining();
            if remaining > patience {
                return Err(until);
            }
            self.clock.sleep(retry::spread(remaining).max(Duration::from_millis(1))).await;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
