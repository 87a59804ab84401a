//! What a service grants, learned from its answers: arithmetic over plain data, with the time passed in.
//!
//! A service that protects itself meters three things apart: requests, execution time, and requests at once (the last
//! is `limit.rs`'s). What is documented is where we begin. What an answer shows as left of a window says what that window
//! holds: with several servers each shows less used than we have spent, with other programs under our name each shows
//! more. A refusal counts more than arithmetic. All of it is lowered at once and raised slowly.

use std::collections::VecDeque;
use std::time::Duration;

use super::Effect;

/// With less of a window spent than this, what an answer shows says little about us.
const SPENT_MIN: f64 = 0.05;
/// With less of a window spent than this, more than documented is not believed.
const SPENT_TO_RAISE: f64 = 0.2;
/// Answers of which the least generous counts: each may come from another server.
const SHOWN_MAX: usize = 32;
/// The least and the most of what is documented that is believed to be granted.
const GRANTED: (f64, f64) = (0.1, 16.0);
/// How much more is tried at a time, and how long after the last time.
const RAISE: (f64, Duration) = (1.05, Duration::from_secs(10));
/// What is left of the pace after a refusal, and at the least after many.
const LOWERED: (f64, f64) = (0.9, 0.3);
/// How much of it comes back at a time, and how long after the last time.
const RECOVERED: (f64, Duration) = (0.02, Duration::from_secs(30));
/// Answers that show nothing are no reason to try more before so much of what is granted was used without a refusal.
const PRESSED: f64 = 0.8;
/// What an operation is thought to take before the first answer: dataverse §6.1 leaves 200 ms for each of 6000 requests.
const FIRST_COST: f64 = 0.1;
/// The weight of a new observation of what an operation takes.
const COST_WEIGHT: f64 = 0.2;
/// The quickest answer of this long, and of as long before, is taken for the distance.
const ROUND_TRIP_PERIOD: Duration = Duration::from_secs(300);

/// What a service is documented to grant one user at one server within a sliding window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protection {
    /// The window.
    pub window: Duration,
    /// Requests; many operations in one request are one.
    pub requests: u32,
    /// Execution time of all operations together.
    pub execution: Duration,
    /// The part of all this that we may use, up to 1; the rest is for people and other programs.
    pub share: f64,
}

/// Which limit refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facet {
    /// Too many requests.
    Requests,
    /// Too much execution time.
    Execution,
    /// Too many at once.
    Concurrency,
    /// It did not say.
    Unknown,
}

/// What an answer shows as left of the window; `None` where it shows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Remaining {
    /// Requests.
    pub requests: Option<f64>,
    /// Seconds of execution.
    pub execution: Option<f64>,
}

/// What is known of a service's protection.
#[derive(Clone, Debug)]
pub struct Pace {
    protection: Protection,
    requests: Learned,
    execution: Learned,
    round_trip: RoundTrip,
    read_cost: Option<f64>,
    write_cost: Option<f64>,
}

/// One request as it left: what it is thought to cost, and what we had spent then, itself included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Departure {
    at: Duration,
    effect: Effect,
    operations: f64,
    execution: f64,
    requests_spent: f64,
    execution_spent: f64,
}

impl Pace {
    /// Nothing but what is documented.
    pub fn new(protection: Protection) -> Self {
        let learned = |limit| Learned::new(limit, protection.window);
        Pace {
            requests: learned(f64::from(protection.requests)),
            execution: learned(protection.execution.as_secs_f64()),
            protection,
            round_trip: RoundTrip::default(),
            read_cost: None,
            write_cost: None,
        }
    }

    /// The part of one whole window that one request takes.
    pub fn request_part(&self) -> f64 {
        self.requests.part(1.0) / self.protection.share
    }

    /// The part of one whole window that so much execution takes.
    pub fn execution_part(&self, seconds: f64) -> f64 {
        self.execution.part(seconds) / self.protection.share
    }

    /// Seconds of execution that so many operations are thought to take.
    pub fn estimate(&self, effect: Effect, operations: u32) -> f64 {
        let one = match effect {
            Effect::Read => self.read_cost,
            Effect::Write => self.write_cost,
        };
        one.unwrap_or(FIRST_COST) * f64::from(operations.max(1))
    }

    /// Notes a request that leaves now.
    pub fn leave(&mut self, now: Duration, effect: Effect, operations: u32) -> Departure {
        let execution = self.estimate(effect, operations);
        Departure {
            at: now,
            effect,
            operations: f64::from(operations.max(1)),
            execution,
            requests_spent: self.requests.spend(now, 1.0),
            execution_spent: self.execution.spend(now, execution),
        }
    }

    /// Learns from an answer; returns by how many seconds of execution the request was thought too cheap.
    pub fn answer(&mut self, now: Duration, left: &Departure, remaining: Remaining, refused: Option<Facet>) -> f64 {
        let elapsed = now.saturating_sub(left.at);
        let execution = elapsed.saturating_sub(self.round_trip.note(now, elapsed)).as_secs_f64();
        match refused {
            Some(Facet::Requests) => self.requests.refuse(now),
            Some(Facet::Execution) => self.execution.refuse(now),
            Some(Facet::Unknown) => {
                self.requests.refuse(now);
                self.execution.refuse(now);
            }
            Some(Facet::Concurrency) => {}
            None => {
                let requests = (left.requests_spent, self.requests.spent.total(now));
                let execution_spent = (left.execution_spent, self.execution.spent.total(now));
                self.requests.learn(now, requests, remaining.requests);
                self.execution.learn(now, execution_spent, remaining.execution);
                let cost = match left.effect {
                    Effect::Read => &mut self.read_cost,
                    Effect::Write => &mut self.write_cost,
                };
                let one = execution / left.operations;
                *cost = Some(cost.map_or(one, |known| known + COST_WEIGHT * (one - known)));
            }
        }
        // What was refused was not carried out.
        let taken = if refused.is_some() { 0.0 } else { execution };
        self.execution.spent.add(now, left.at, taken - left.execution);
        taken - left.execution
    }
}

/// One limit, as learned.
#[derive(Clone, Debug)]
pub struct Learned {
    /// As documented.
    limit: f64,
    window: Duration,
    /// The most that was ever shown as left: an environment may have more than is documented.
    shown_limit: f64,
    /// What is granted to us, as a multiple of what is documented.
    granted: f64,
    /// More than this is not tried.
    most: f64,
    /// What of it is used since the last refusals.
    caution: f64,
    /// What the last answers said about `granted`.
    shown: VecDeque<f64>,
    spent: Spent,
    raised_at: Duration,
    /// The last refusal, or the last step back from it.
    eased_at: Duration,
}

impl Learned {
    /// A limit as documented.
    pub fn new(limit: f64, window: Duration) -> Self {
        Learned {
            limit,
            window,
            shown_limit: limit,
            granted: 1.0,
            most: GRANTED.1,
            caution: 1.0,
            shown: VecDeque::new(),
            spent: Spent::new(window),
            raised_at: Duration::ZERO,
            eased_at: Duration::ZERO,
        }
    }

    /// A limit that is never exceeded, whatever is granted.
    pub fn at_most(limit: f64, window: Duration) -> Self {
        Learned { most: 1.0, ..Learned::new(limit, window) }
    }

    /// Notes an amount that is spent now; returns what was spent within the window, this included.
    pub fn spend(&mut self, now: Duration, amount: f64) -> f64 {
        self.spent.add(now, now, amount);
        self.spent.total(now)
    }

    /// The part of one whole window that an amount takes.
    pub fn part(&self, amount: f64) -> f64 {
        amount / self.limit / self.factor()
    }

    /// How much of what is documented is used.
    fn factor(&self) -> f64 {
        self.granted * self.caution
    }

    /// Takes notice of an answer that was no refusal. `spent`: when its request left, and by now.
    pub fn learn(&mut self, now: Duration, spent: (f64, f64), remaining: Option<f64>) {
        let (step, pause) = RECOVERED;
        if self.caution < 1.0 && now.saturating_sub(self.eased_at) >= pause {
            self.caution = (self.caution + step).min(1.0);
            self.eased_at = now;
        }
        match remaining {
            Some(remaining) => self.show(now, spent, remaining),
            None => self.press(now, spent.1),
        }
    }

    /// An answer shows what is left. Whether the service counts a request when it comes or when it is done, nobody knows: of
    /// what was under way meanwhile any part may be in what it shows.
    fn show(&mut self, now: Duration, spent: (f64, f64), remaining: f64) {
        self.shown_limit = self.shown_limit.max(remaining);
        let used = self.shown_limit - remaining;
        let spent = used.clamp(spent.0.min(spent.1), spent.0.max(spent.1));
        if spent < SPENT_MIN * self.limit || used <= 0.0 {
            return;
        }
        self.shown.push_back(spent / used * self.shown_limit / self.limit);
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_front();
        }
        let least = self.shown.iter().copied().fold(self.most, f64::min).max(GRANTED.0);
        let (step, pause) = RAISE;
        let may_raise = now.saturating_sub(self.raised_at) >= pause && self.shown.len() == SHOWN_MAX;
        if least < self.granted {
            self.granted = least;
        } else if may_raise && (least <= 1.0 || spent >= SPENT_TO_RAISE * self.limit) {
            self.granted = least.min(self.granted * step);
            self.raised_at = now;
        }
    }

    /// An answer shows nothing: more is tried when a whole window went by with nearly all of it used.
    fn press(&mut self, now: Duration, spent: f64) {
        let is_blind = self.shown.is_empty() && now.saturating_sub(self.raised_at) >= self.window;
        if is_blind && self.caution >= 1.0 && spent >= PRESSED * self.limit * self.granted {
            self.granted = (self.granted * RAISE.0).min(self.most);
            self.raised_at = now;
        }
    }

    /// Takes notice of a refusal.
    pub fn refuse(&mut self, now: Duration) {
        self.caution = (self.caution * LOWERED.0).max(LOWERED.1);
        self.eased_at = now;
        self.raised_at = now;
        if self.shown.is_empty() {
            // Nothing but refusals tells where the limit is.
            self.granted = (self.granted / RAISE.0).max(GRANTED.0);
        }
    }
}

/// What we spent within the last window, by the second.
#[derive(Clone, Debug)]
struct Spent {
    window: u64,
    seconds: VecDeque<(u64, f64)>,
    sum: f64,
}

impl Spent {
    fn new(window: Duration) -> Self {
        Spent { window: window.as_secs().max(1), seconds: VecDeque::new(), sum: 0.0 }
    }

    /// Adds an amount that was spent at `at`, or takes it back when it is negative.
    fn add(&mut self, now: Duration, at: Duration, amount: f64) {
        self.forget(now);
        let second = at.as_secs();
        let is_new = self.seconds.back().is_none_or(|(last, _)| *last < second);
        match self.seconds.iter_mut().rev().find(|(known, _)| *known == second) {
            Some((_, spent)) => *spent += amount,
            None if is_new => self.seconds.push_back((second, amount)),
            None => return, // It is over.
        }
        self.sum += amount;
    }

    fn total(&mut self, now: Duration) -> f64 {
        self.forget(now);
        self.sum.max(0.0)
    }

    fn forget(&mut self, now: Duration) {
        let oldest = now.as_secs().saturating_sub(self.window);
        while let Some((_, spent)) = self.seconds.front().copied().filter(|(second, _)| *second < oldest) {
            self.seconds.pop_front();
            self.sum -= spent;
        }
    }
}

/// The distance to the service: the quickest answer of late.
#[derive(Clone, Copy, Debug, Default)]
struct RoundTrip {
    since: Duration,
    shortest: Option<Duration>,
    before: Option<Duration>,
}

impl RoundTrip {
    /// Takes notice of how long an answer took; returns the distance.
    fn note(&mut self, now: Duration, elapsed: Duration) -> Duration {
        if now.saturating_sub(self.since) >= ROUND_TRIP_PERIOD {
            *self = RoundTrip { since: now, shortest: None, before: self.shortest.or(self.before) };
        }
        let shortest = self.shortest.map_or(elapsed, |known| known.min(elapsed));
        self.shortest = Some(shortest);
        self.before.map_or(shortest, |before| before.min(shortest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn documented(share: f64) -> Protection {
        Protection { window: WINDOW, requests: 6000, execution: Duration::from_secs(1200), share }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// An answer after `elapsed` seconds to a request with so many writes.
    fn write(pace: &mut Pace, at: f64, operations: u32, elapsed: f64) -> f64 {
        let departure = pace.leave(seconds(at), Effect::Write, operations);
        pace.answer(seconds(at + elapsed), &departure, Remaining::default(), None)
    }

    #[test]
    fn the_distance_is_no_execution_time_and_a_batch_is_one_request_with_the_work_of_all() {
        let mut pace = Pace::new(documented(1.0));
        let read = pace.leave(seconds(0.0), Effect::Read, 1);
        pace.answer(seconds(0.2), &read, Remaining::default(), None);
        assert!((write(&mut pace, 1.0, 1, 0.7) - 0.4).abs() < 1e-9, "0.1 s was expected, 0.5 s it took");
        assert!((pace.estimate(Effect::Write, 20) - 10.0).abs() < 1e-9);
        assert!(write(&mut pace, 2.0, 20, 10.2).abs() < 1e-9);
        assert!((pace.execution_part(12.0) - 0.01).abs() < 1e-9, "12 of 1200 s");
        assert!((pace.request_part() - 1.0 / 6000.0).abs() < 1e-9);
        let half = Pace::new(documented(0.5));
        assert!((half.execution_part(12.0) - 0.02).abs() < 1e-9, "the other half is for others");
    }

    #[test]
    fn two_servers_show_half_of_what_was_spent_and_grant_twice_as_much() {
        let mut limit = Learned::new(1200.0, WINDOW);
        for second in 0..600 {
            limit.learn(seconds(f64::from(second)), (800.0, 800.0), Some(800.0));
        }
        assert!((limit.factor() - 2.0).abs() < 1e-9, "{}", limit.factor());
        assert!((limit.part(24.0) - 0.01).abs() < 1e-9);
    }

    #[test]
    fn what_is_under_way_makes_nobody_believe_in_less_or_in_more() {
        // Long requests: the service has counted all of them, none, or those that are done.
        for counted in [0.0, 40.0, 80.0] {
            let mut limit = Learned::new(1200.0, WINDOW);
            for second in 0..300 {
                let left = 4.0 * f64::from(second);
                let shown = Some(1200.0 - (left + counted).min(1200.0));
                limit.learn(seconds(f64::from(second)), (left, left + 80.0), shown);
                assert!((limit.factor() - 1.0).abs() < 1e-9, "{counted} s at {second} s: {}", limit.factor());
            }
        }
    }

    #[test]
    fn more_than_documented_is_tried_step_by_step_and_only_when_many_answers_say_so() {
        let mut limit = Learned::new(1200.0, WINDOW);
        for _ in 0..SHOWN_MAX * 2 {
            limit.learn(seconds(20.0), (800.0, 800.0), Some(800.0));
        }
        assert!((limit.factor() - 1.05).abs() < 1e-9, "one step in ten seconds");
        limit.learn(seconds(31.0), (800.0, 800.0), Some(400.0));
        assert!((limit.factor() - 1.0).abs() < 1e-9, "one server that shows more used than the others is believed");
    }

    #[test]
    fn other_programs_under_our_name_are_left_what_they_use() {
        // We and somebody else share one server. What we may use follows from what is shown, and settles.
        let (mut limit, others) = (Learned::new(1200.0, WINDOW), 300.0);
        let mut ours = 600.0;
        for second in 0..6000 {
            limit.learn(seconds(f64::from(second)), (ours, ours), Some((1200.0 - ours - others).max(0.0)));
            ours += (1200.0 * limit.factor() - ours) / 300.0;
        }
        assert!((ours - 900.0).abs() < 20.0, "{ours}");
    }

    #[test]
    fn an_environment_may_have_more_than_is_documented() {
        let mut limit = Learned::new(6000.0, WINDOW);
        for second in 0..600 {
            limit.learn(seconds(f64::from(second)), (3000.0, 3000.0), Some(if second == 0 { 8000.0 } else { 5000.0 }));
        }
        assert!((limit.factor() - 8.0 / 6.0).abs() < 1e-9, "{}", limit.factor());
    }

    #[test]
    fn a_refusal_lowers_at_once_and_what_was_lowered_comes_back_slowly() {
        let mut limit = Learned::new(1200.0, WINDOW);
        limit.learn(seconds(0.0), (100.0, 100.0), Some(1100.0));
        limit.refuse(seconds(1.0));
        assert!((limit.factor() - 0.9).abs() < 1e-9);
        for _ in 0..100 {
            limit.refuse(seconds(2.0));
        }
        assert!((limit.factor() - 0.3).abs() < 1e-9, "never to nothing");
        limit.learn(seconds(31.0), (100.0, 100.0), Some(1100.0));
        assert!((limit.factor() - 0.3).abs() < 1e-9);
        for second in (32..4000).step_by(5) {
            limit.learn(seconds(f64::from(second)), (100.0, 100.0), Some(1100.0));
        }
        assert!((limit.factor() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn without_a_word_of_what_is_left_a_full_window_without_refusal_is_a_reason_to_try_more() {
        let mut limit = Learned::new(1200.0, WINDOW);
        limit.learn(seconds(301.0), (500.0, 500.0), None);
        assert!((limit.factor() - 1.0).abs() < 1e-9, "not half of it was used");
        limit.learn(seconds(302.0), (1100.0, 1100.0), None);
        assert!((limit.factor() - 1.05).abs() < 1e-9);
        limit.refuse(seconds(400.0));
        assert!((limit.factor() - 0.9).abs() < 1e-9);
        let mut fixed = Learned::at_most(60.0, Duration::from_secs(60));
        fixed.learn(seconds(301.0), (60.0, 60.0), None);
        assert!((fixed.factor() - 1.0).abs() < 1e-9, "what an operator set is not exceeded");
    }

    #[test]
    fn what_was_spent_leaves_with_its_second_and_is_corrected_in_it() {
        let mut spent = Spent::new(WINDOW);
        spent.add(seconds(10.0), seconds(10.0), 5.0);
        spent.add(seconds(20.0), seconds(20.0), 3.0);
        spent.add(seconds(25.0), seconds(10.0), -2.0);
        assert!((spent.total(seconds(30.0)) - 6.0).abs() < 1e-9);
        assert!((spent.total(seconds(311.0)) - 3.0).abs() < 1e-9);
        spent.add(seconds(311.0), seconds(10.0), 9.0);
        assert!((spent.total(seconds(311.0)) - 3.0).abs() < 1e-9, "that second is over");
    }

    #[test]
    fn the_distance_follows_when_it_grows() {
        let mut round_trip = RoundTrip::default();
        let millis = Duration::from_millis;
        assert_eq!(round_trip.note(seconds(1.0), millis(50)), millis(50));
        assert_eq!(round_trip.note(seconds(2.0), millis(300)), millis(50));
        assert_eq!(round_trip.note(seconds(301.0), millis(200)), millis(50), "of the period before");
        assert_eq!(round_trip.note(seconds(602.0), millis(300)), millis(200));
    }
}
