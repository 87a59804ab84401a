//! The world behind the ports, without sockets: thousands of histories on a paused clock.
//!
//! It reads the world's JSON with its own small decoder and behaves as a well-mannered client: one gate per service that
//! honours `Retry-After`, short retries of reads, and an unknown outcome whenever the answer to a write is lost.

mod crm;
mod portal;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Notify;

use crate::model::{Fault, RemoteError, Side, Timestamp};
use crate::ports::{Allowance, Line, Traffic};

use super::clock::{SimClock, read_http_date, read_retry_after};
use super::exchange::{Answer, Delivery, Request, Service};
use super::world::World;

pub use crm::{DirectCrm, DirectCrmSettings};
pub use portal::DirectPortal;

/// How long a caller waits for an answer that never comes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a 429 without `Retry-After` closes a service (dataverse §6.3).
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// Attempts of a read, the first included.
const READ_ATTEMPTS_MAX: u32 = 3;
/// Simulated time that every request takes.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// What both sides share: the way into the world and the gate.
#[derive(Debug)]
struct DirectLine {
    world: Arc<Mutex<World>>,
    clock: SimClock,
    service: Service,
    side: Side,
    gate: Mutex<Gate>,
    /// A window has begun or grown.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Gate {
    closed_until: Option<Timestamp>,
    sent: u64,
    allowance: Option<Allowance>,
}

impl DirectLine {
    fn new(world: Arc<Mutex<World>>, service: Service, side: Side) -> Self {
        let clock = lock(&world).clock().clone();
        DirectLine { world, clock, service, side, gate: Mutex::default(), changed: Notify::new() }
    }

    fn server_time(answer: &Answer) -> Option<Timestamp> {
        read_http_date(answer.header("date")?)
    }

    /// Sends a request; reads are tried a few times.
    async fn send(&self, operation: &'static str, request: Request) -> Result<Answer, RemoteError> {
        // Let other tasks in, as a socket would.
        tokio::task::yield_now().await;
        let mut attempt = 1;
        loop {
            let sent = self.once(operation, &request);
            if request.is_write() {
                tokio::task::yield_now().await; // Done over there, and nobody here knows of it yet.
            }
            let failure = match sent {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let is_worth_it = matches!(failure.fault, Fault::Unavailable | Fault::Malformed) && !request.is_write();
            if !is_worth_it || attempt >= READ_ATTEMPTS_MAX {
                return Err(failure);
            }
            self.clock.advance(Duration::from_secs(1 << attempt));
            attempt += 1;
        }
    }

    fn once(&self, operation: &'static str, request: &Request) -> Result<Answer, RemoteError> {
        let failure = |fault| RemoteError::new(self.side, operation, fault);
        if let Some(until) = self.closed_until() {
            return Err(failure(Fault::Throttled { until }));
        }
        let spend = || Allowance::take(&mut lock(&self.gate).allowance, 1, self.clock.at());
        let used_up = |until| failure(Fault::Throttled { until }).with_message(Allowance::USED_UP);
        spend().map_err(used_up)?;
        let mut answer = self.exchange(request);
        if answer.status == 401 && arrives(&answer) {
            // A fresh token, once.
            spend().map_err(used_up)?;
            answer = self.exchange(request);
        }
        let lost = |fault| RemoteError { is_outcome_unknown: request.is_write(), ..failure(fault) };
        match answer.delivery {
            Delivery::Whole => {}
            Delivery::Slow(delay) => self.clock.advance(delay),
            Delivery::Hang => {
                self.clock.advance(PATIENCE);
                return Err(lost(Fault::Unavailable));
            }
            Delivery::Reset => return Err(lost(Fault::Unavailable)),
            Delivery::Truncated(_) => return Err(lost(Fault::Malformed)),
        }
        let is_html = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
        match answer.status {
            200..=299 if is_html => Err(lost(Fault::Malformed)),
            200..=299 => Ok(answer),
            _ => Err(self.refusal(operation, request, &answer)),
        }
    }

    fn exchange(&self, request: &Request) -> Answer {
        self.clock.advance(ROUND_TRIP);
        lock(&self.gate).sent += 1;
        let mut request = request.clone();
        request.is_trusted = true;
        request.in_flight = 1;
        lock(&self.world).ask(self.service, &request)
    }

    fn refusal(&self, operation: &'static str, request: &Request, answer: &Answer) -> RemoteError {
        let body = answer.value();
        let inner = body.pointer("/error/innerError/code").and_then(Value::as_str);
        let code = inner.or(body.pointer("/error/code").or(body.get("code")).and_then(Value::as_str));
        let until = answer.header("retry-after").and_then(|text| read_retry_after(text, self.clock.at()));
        let message = body.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
        let fault = match answer.status {
            429 => self.throttle(until.unwrap_or(self.clock.at().plus(DEFAULT_WAIT))),
            503 if until.is_some() => self.throttle(until.unwrap_or(self.clock.at())),
            401 if code == Some("900421") => Fault::NeedsHuman,
            // Refused for one referral is refused for that one alone (partner-center §1.11).
            403 if self.side == Side::Portal && operation != "list referrals" => Fault::Refused,
            401 | 403 => Fault::Unauthorized,
            // A 404 may speak of a bound lookup (dataverse §8 row 28).
            404 if code == Some("0x80040217") && !message.starts_with("lead ") => Fault::Refused,
            404 | 410 => Fault::Missing,
            409 | 412 => Fault::Conflict,
            500.. => Fault::Unavailable,
            _ => Fault::Refused,
        };
        let is_outcome_unknown = fault == Fault::Unavailable && request.is_write();
        RemoteError {
            status: Some(answer.status),
            code: code.map(str::to_owned),
            is_outcome_unknown,
            ..RemoteError::new(self.side, operation, fault)
        }
    }

    fn throttle(&self, until: Timestamp) -> Fault {
        self.close_until(until);
        Fault::Throttled { until }
    }

    fn malformed(&self, operation: &'static str) -> RemoteError {
        RemoteError::new(self.side, operation, Fault::Malformed)
    }
}

#[async_trait]
impl Line for DirectLine {
    fn closed_until(&self) -> Option<Timestamp> {
        lock(&self.gate).closed_until.filter(|until| *until > self.clock.at())
    }

    fn close_until(&self, until: Timestamp) {
        let mut gate = lock(&self.gate);
        gate.closed_until = gate.closed_until.max(Some(until));
        self.changed.notify_waiters();
    }

    async fn closed_beyond(&self, known: Option<Timestamp>) -> Timestamp {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(until) = self.closed_until().filter(|until| known.is_none_or(|known| *until > known)) {
                return until;
            }
            changed.await;
        }
    }

    /// Nobody waits here: a closed gate refuses at once.
    fn lose_patience(&self) {}

    fn requests_sent(&self) -> u64 {
        lock(&self.gate).sent
    }

    /// Nothing: the journal of the world tells more.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn allow(&self, allowance: Option<Allowance>) {
        lock(&self.gate).allowance = allowance;
    }
}

fn arrives(answer: &Answer) -> bool {
    matches!(answer.delivery, Delivery::Whole | Delivery::Slow(_))
}

/// A panic of another test thread must not hide the first failure.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

fn stamp(value: &Value, pointer: &str) -> Option<Timestamp> {
    Timestamp::parse(value.pointer(pointer)?.as_str()?)
}
