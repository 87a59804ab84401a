//! The client of one service: gate, limiter and token around one `send`, and a loop that asks whether to go on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use uuid::Uuid;

use super::classify::{Closing, Judged, Verdict, classify};
use super::limit::{Gate, Limiter, Permit};
use super::retry;
use super::settings::{HttpSettings, LimitSettings};
use super::transport::{Request, SetupError, Transport, Wire};
use super::{Answer, Call, Dialect, Effect, Tokens};
use crate::model::{Fault, RemoteError, Timestamp};
use crate::ports::{Allowance, Clock, Line, Traffic};

/// Writes of which it is remembered how often they were refused; beyond, all are forgotten.
const REFUSED_WRITES_MAX: usize = 10_000;

/// Longest wait after a throttling that does not say how long: each one in a row doubles the wait, up to this.
pub const UNTOLD_WAIT_MAX: Duration = Duration::from_secs(300);

/// A client for one service: everything both adapters share.
pub struct Client {
    dialect: Arc<dyn Dialect>,
    wire: Arc<dyn Wire>,
    settings: HttpSettings,
    limiter: Limiter,
    gate: Gate,
    /// Why the gate was closed, where that is not our doing: told by every call that finds it closed.
    closed_why: Mutex<Option<String>>,
    /// Throttlings in a row that did not say how long to wait.
    untold: AtomicU32,
    tokens: Arc<Tokens>,
    clock: Arc<dyn Clock>,
    requests_sent: AtomicU64,
    traffic: Mutex<Traffic>,
    allowance: Mutex<Option<Allowance>>,
    refused_writes: Mutex<RefusedWrites>,
}

/// How often each write was refused so far, by its idempotency key.
///
/// A write whose answer was lost is repeated under the same key, and a write that was answered gets a new one
/// (partner-center §1.5): a refusal, a throttling and a refused token are answers, silence and a server fault are none.
#[derive(Default)]
struct RefusedWrites(HashMap<Uuid, u32>);

impl RefusedWrites {
    /// The key under which the write of `key` goes out next.
    fn current(&self, key: Uuid) -> Uuid {
        match self.0.get(&key) {
            None => key,
            Some(refusals) => Uuid::new_v5(&key, &refusals.to_be_bytes()),
        }
    }

    fn note(&mut self, key: Uuid, verdict: &Verdict) {
        match verdict {
            Verdict::Done(_) => {
                self.0.remove(&key);
            }
            Verdict::Again(error) | Verdict::Renew(error) | Verdict::Final(error) => {
                if error.status.is_some() && !error.is_outcome_unknown {
                    if self.0.len() >= REFUSED_WRITES_MAX {
                        self.0.clear();
                    }
                    *self.0.entry(key).or_default() += 1;
                }
            }
        }
    }
}

impl Client {
    /// A client for the scheme, host and port of `base`.
    ///
    /// # Errors
    /// When `base` is plain http to another machine, a limit is zero, or proxy or root certificates cannot be used.
    pub fn new(
        dialect: Arc<dyn Dialect>,
        base: Url,
        http: &HttpSettings,
        limits: LimitSettings,
        tokens: Arc<Tokens>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        Ok(Client {
            wire: Arc::new(Transport::new(&base, http)?),
            settings: http.clone(),
            limiter: Limiter::new(limits, Arc::clone(&clock))?,
            gate: Gate::new(dialect.side(), Arc::clone(&clock)),
            closed_why: Mutex::default(),
            dialect,
            tokens,
            clock,
            requests_sent: AtomicU64::new(0),
            traffic: Mutex::default(),
            allowance: Mutex::default(),
            refused_writes: Mutex::default(),
            untold: AtomicU32::new(0),
        })
    }

    /// For how long to leave the service alone: as long as it says, and ever longer while it does not say.
    fn window_of(&self, closing: Closing) -> Duration {
        if closing.is_told {
            return closing.window;
        }
        let is_first = self.gate.remaining().is_zero(); // Several calls may be answered with the same throttling.
        let before = match is_first {
            true => self.untold.fetch_add(1, Ordering::Relaxed),
            false => self.untold.load(Ordering::Relaxed).saturating_sub(1),
        };
        let doubled = closing.window.saturating_mul(1 << before.min(10));
        doubled.min(UNTOLD_WAIT_MAX.max(closing.window))
    }

    /// The same client over another wire.
    #[must_use]
    pub fn over(self, wire: Arc<dyn Wire>) -> Self {
        Client { wire, ..self }
    }

    /// Sends one call: admission (gate, limiter, token, gate again), send, classify, and again while it makes sense.
    ///
    /// # Errors
    /// See `Effect` for what a lost answer means. `Fault::Throttled` comes at once, and nothing is sent, while the
    /// service is closed for longer than `retry_after_wait_max`.
    pub async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        if let Some(reason) = self.wire.refuse(&call.url) {
            return Err(RemoteError::new(self.dialect.side(), call.operation, Fault::Refused).with_message(reason));
        }
        let mut deadline = None;
        let mut attempt = 1;
        let mut is_renewed = false;
        loop {
            let (permit, token) = self.admit(&call).await?;
            // Standing in line for the first time does not count.
            let deadline = *deadline.get_or_insert_with(|| self.clock.now().plus(self.call_time_max(&call)));
            let result = self.wire.send(self.request(&call, &token)).await;
            let heard = result.as_ref().ok().map(|response| self.dialect.remaining(&response.headers));
            let judged = classify(self.dialect.as_ref(), call.operation, call.effect, result, self.clock.now());
            self.count(&judged);
            if let (Some(key), Effect::Write) = (call.request, call.effect) {
                self.refused_writes().note(key, &judged.verdict);
            }
            if let Some(remaining) = heard {
                self.limiter.learn(&permit, remaining, judged.closing.and_then(|closing| closing.facet));
            }
            if let Some(closing) = judged.closing {
                // A window of nothing must not make the next attempt follow at once.
                self.gate.close(self.window_of(closing).max(self.settings.retry_delay.get()));
                let why = match (closing.facet, &judged.verdict) {
                    (None, Verdict::Again(error)) => error.message.clone(),
                    (_, _) => None,
                };
                *self.closed_why.lock().unwrap_or_else(PoisonError::into_inner) = why;
            }
            drop(permit);
            match judged.verdict {
                Verdict::Done(answer) => {
                    self.untold.store(0, Ordering::Relaxed);
                    self.closed_why.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return Ok(answer);
                }
                Verdict::Final(error) => {
                    // Also what an adapter takes for the matter of one item: to doubt too much costs next to nothing.
                    let is_about_rights = matches!(error.status, Some(401 | 403));
                    if is_about_rights || error.needs_human() {
                        self.tokens.doubt(&token);
                    }
                    return Err(error);
                }
                Verdict::Renew(error) if is_renewed => {
                    self.tokens.doubt(&token);
                    return Err(error);
                }
                Verdict::Renew(_) => {
                    is_renewed = true;
                    self.tokens.invalidate(&token);
                    continue;
                }
                Verdict::Again(error) => {
                    let is_last = attempt >= self.settings.attempts_max || self.clock.now() >= deadline;
                    if is_last || self.gate.remaining() > self.settings.retry_after_wait_max.get() {
                        return Err(self.with_window(error));
                    }
                    // A closed gate is waited for on the way in.
                    if self.gate.remaining().is_zero() {
                        let (first, longest) = (self.settings.retry_delay.get(), self.settings.retry_delay_max.get());
                        self.clock.sleep(retry::delay(attempt, first, longest)).await;
                    }
                }
            }
            attempt += 1;
        }
    }

    /// Notes how many requests at once the service recommends.
    pub fn recommend(&self, parallelism: u16) {
        self.limiter.recommend(parallelism.into());
    }

    /// Requests that may be under way at once, at the moment; falls when the service refuses parallel ones.
    pub fn parallelism(&self) -> usize {
        self.limiter.parallelism()
    }

    /// How long the service is thought to work on one write; zero where its work is not metered.
    pub fn write_time(&self) -> Duration {
        self.limiter.write_time()
    }

    /// The sign-in of this service.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Waits until one request may leave, and gets what it needs. The gate is asked last, without waiting, so that
    /// nothing leaves inside a window that closed while we stood in line.
    async fn admit(&self, call: &Call) -> Result<(Permit, SecretString), RemoteError> {
        let throttled = |until| RemoteError {
            message: self.closed_why.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..RemoteError::new(self.dialect.side(), call.operation, Fault::Throttled { until })
        };
        let mut closings = 0;
        loop {
            self.gate.pass(self.settings.retry_after_wait_max.get()).await.map_err(throttled)?;
            let permit = self.limiter.admit(call.effect, call.items).await;
            let token = self.tokens.bearer().await?;
            closings += 1;
            match self.gate.closed_until() {
                None => {
                    let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
                    return match Allowance::take(&mut allowance, call.items, self.clock.now()) {
                        Ok(()) => Ok((permit, token)),
                        Err(until) => Err(throttled(until).with_message(Allowance::USED_UP)),
                    };
                }
                Some(until) if closings >= self.settings.attempts_max => return Err(throttled(until)),
                Some(_) => {}
            }
        }
    }

    fn request(&self, call: &Call, token: &SecretString) -> Request {
        let key = call.request.map(|key| self.refused_writes().current(key));
        let mut headers = self.dialect.headers(Uuid::new_v4(), key);
        if call.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        for name in call.headers.keys() {
            headers.remove(name);
        }
        headers.extend(call.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        headers.insert(AUTHORIZATION, authorization(token));
        self.requests_sent.fetch_add(u64::from(call.items), Ordering::Relaxed);
        Request {
            method: call.method.clone(),
            url: call.url.clone(),
            headers,
            body: call.body.clone(),
            timeout: self.timeout(call),
        }
    }

    fn refused_writes(&self) -> MutexGuard<'_, RefusedWrites> {
        self.refused_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, judged: &Judged) {
        let word = match &judged.verdict {
            Verdict::Done(_) => "done",
            Verdict::Again(error) | Verdict::Renew(error) | Verdict::Final(error) => error.fault.word(),
        };
        let asked_to_wait = judged.closing.map_or(Duration::ZERO, |closing| closing.window);
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        *traffic.outcomes.entry(word.to_owned()).or_default() += 1;
        let millis = u64::try_from(asked_to_wait.as_millis()).unwrap_or(u64::MAX);
        traffic.asked_to_wait_ms = traffic.asked_to_wait_ms.saturating_add(millis);
    }

    /// A throttled failure tells the end of the window that is known by now.
    fn with_window(&self, error: RemoteError) -> RemoteError {
        match (&error.fault, self.gate.closed_until()) {
            (Fault::Throttled { .. }, Some(until)) => RemoteError { fault: Fault::Throttled { until }, ..error },
            (_, _) => error,
        }
    }

    fn timeout(&self, call: &Call) -> Duration {
        let one = match call.effect {
            Effect::Read => self.settings.read_timeout.get(),
            Effect::Write => self.settings.write_timeout.get(),
        };
        match call.timeout {
            // A batch gets no more time than its items would get one by one.
            Some(most) if call.items > 1 => most.min(one.saturating_mul(call.items)),
            Some(timeout) => timeout,
            None => one,
        }
    }

    /// After this time no further attempt is begun: every attempt and every pause at its longest.
    fn call_time_max(&self, call: &Call) -> Duration {
        let pause = self.settings.retry_delay_max.get().max(self.settings.retry_after_wait_max.get());
        self.timeout(call).saturating_add(pause).saturating_mul(self.settings.attempts_max)
    }
}

#[async_trait]
impl Line for Client {
    fn closed_until(&self) -> Option<Timestamp> {
        self.gate.closed_until()
    }

    fn close_until(&self, until: Timestamp) {
        self.gate.close(until.since(self.clock.now()));
    }

    async fn closed_beyond(&self, known: Option<Timestamp>) -> Timestamp {
        self.gate.closed_beyond(known).await
    }

    fn lose_patience(&self) {
        self.gate.lose_patience();
    }

    fn requests_sent(&self) -> u64 {
        self.requests_sent.load(Ordering::Relaxed)
    }

    fn traffic(&self) -> Traffic {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn allow(&self, allowance: Option<Allowance>) {
        *self.allowance.lock().unwrap_or_else(PoisonError::into_inner) = allowance;
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("side", &self.dialect.side())
            .field("closed_until", &self.closed_until())
            .field("requests_sent", &self.requests_sent())
            .finish_non_exhaustive()
    }
}

fn authorization(token: &SecretString) -> HeaderValue {
    // `Tokens` hands out nothing but header characters.
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
        .expect("an access token consists of header characters");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Side;

    #[test]
    fn no_more_refused_writes_are_remembered_than_the_limit() {
        let mut known = RefusedWrites::default();
        let error = RemoteError { status: Some(409), ..RemoteError::new(Side::Portal, "x", Fault::Conflict) };
        for number in 0..=REFUSED_WRITES_MAX as u128 {
            known.note(Uuid::from_u128(number), &Verdict::Final(error.clone()));
        }
        assert_eq!(known.0.len(), 1);
    }
}
