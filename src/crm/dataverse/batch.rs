//! Writes that want to leave at the same moment travel together: `$batch` (dataverse §5.1).
//!
//! It stands between the adapter and the client stack and is one like it, so nobody above knows how a write travels. Every
//! write keeps its own condition and gets its own answer, judged by the same table. Few writes go singly and in
//! parallel, which is faster (dataverse §5.3); many go in batches, which cost one request of the service's 6000.

pub(super) mod multipart;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::api::PREFER;
use super::query::Root;
use crate::http::{Answer, Call, Dialect, Effect, Exchange, PartVerdict, judge_part};
use crate::model::{Fault, RemoteError, Side, Timestamp};
use crate::ports::{Clock, Line};

/// Fewer writes than this at once go singly (dataverse §5.3: "if batching start at 10").
pub const BATCH_MIN: usize = 10;

/// Most writes in one batch (dataverse §5.1: 1000; but they are executed one after the other).
pub const BATCH_SIZE_MAX: u32 = 1000;

/// Work in one batch, as far as it is known what a write takes: whatever waits for the last answer waits no longer than this,
/// and a broken connection leaves no more behind.
pub const BATCH_WORK_MAX: Duration = Duration::from_secs(3);

/// How long one batch may take (dataverse §5.3: at least 240 s).
pub const BATCH_TIMEOUT: Duration = Duration::from_secs(240);

/// How long no batch is tried after the service refused one as a whole.
pub const BATCH_PAUSE: Duration = Duration::from_secs(3600);

/// Batches in a row that may be answered with a fault of the server as a whole; then writes go singly for a while.
const FAULTS_MAX: usize = 2;

/// How often a write lets others catch up before it leaves.
const TURNS: usize = 2;

/// A client stack that gathers writes.
pub struct Batches {
    inner: Arc<dyn Exchange>,
    dialect: Arc<dyn Dialect>,
    clock: Arc<dyn Clock>,
    root: Root,
    /// Most writes in one batch; halved when the service finds a batch too large.
    size: AtomicUsize,
    waiting: Mutex<Waiting>,
    off_until: Mutex<Option<Timestamp>>,
    /// Batches in a row that were answered with a fault as a whole.
    faults: AtomicUsize,
}

/// Writes that have not left yet.
#[derive(Default)]
struct Waiting {
    queue: VecDeque<Item>,
    last_ticket: u64,
}

/// One write and who waits for its answer.
struct Item {
    ticket: u64,
    call: Call,
    answer: oneshot::Sender<Result<Answer, RemoteError>>,
}

impl Batches {
    /// Gathers up to `size` writes to one request; 1 or 0: none at all.
    pub fn new(
        inner: Arc<dyn Exchange>,
        dialect: Arc<dyn Dialect>,
        clock: Arc<dyn Clock>,
        root: Root,
        size: u32,
    ) -> Self {
        let size = AtomicUsize::new(size.min(BATCH_SIZE_MAX) as usize);
        Batches {
            inner,
            dialect,
            clock,
            root,
            size,
            waiting: Mutex::default(),
            off_until: Mutex::default(),
            faults: AtomicUsize::new(0),
        }
    }

    fn is_on(&self) -> bool {
        let off_until = *self.off_until.lock().unwrap_or_else(PoisonError::into_inner);
        self.size() > 1 && off_until.is_none_or(|until| until <= self.clock.now())
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    fn queue(&self, call: Call) -> (u64, oneshot::Receiver<Result<Answer, RemoteError>>) {
        let (answer, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.last_ticket += 1;
        let ticket = waiting.last_ticket;
        waiting.queue.push_back(Item { ticket, call, answer });
        (ticket, receiver)
    }

    /// Takes what leaves now; `None` when the write has left with others.
    fn take(&self, ticket: u64) -> Option<Vec<Item>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever stopped waiting wants nothing written any more.
        waiting.queue.retain(|item| !item.answer.is_closed());
        let place = waiting.queue.iter().position(|item| item.ticket == ticket)?;
        let size = self.size();
        if waiting.queue.len() < BATCH_MIN.min(size) || size < 2 {
            return waiting.queue.remove(place).map(|item| vec![item]);
        }
        // A batch is carried out one write after the other, so what waits is spread over all that may be under way.
        let count = waiting.queue.len().div_ceil(self.inner.parallelism().max(1)).max(BATCH_MIN).min(size);
        let count = count.min(self.work_max()).min(waiting.queue.len());
        Some(waiting.queue.drain(..count).collect())
    }

    /// Writes that one batch may carry for their work.
    fn work_max(&self) -> usize {
        let one = self.inner.write_time().as_secs_f64();
        if one > 0.0 { ((BATCH_WORK_MAX.as_secs_f64() / one) as usize).max(1) } else { usize::MAX }
    }

    /// Sends a read. A part of its answer that is throttled closes the service for everybody (dataverse §6.1).
    async fn read(&self, call: Call) -> Result<Answer, RemoteError> {
        let (operation, effect, is_batch) = (call.operation, call.effect, call.items > 1);
        let answer = self.inner.send(call).await?;
        let parts = if is_batch { multipart::parts(&answer).unwrap_or_default() } else { Vec::new() };
        for part in parts.into_iter().filter(|part| !part.status.is_success()) {
            let verdict = judge_part(self.dialect.as_ref(), operation, effect, part, self.clock.now());
            if let PartVerdict::NotDone(error) = verdict
                && let Fault::Throttled { until } = error.fault
            {
                self.inner.line().close_until(until);
                return Err(error);
            }
        }
        Ok(answer)
    }

    /// Sends what was taken and hands out the answers.
    async fn deliver(&self, mut items: Vec<Item>) {
        if items.len() > 1 {
            items = self.deliver_together(items).await;
        }
        let singly = items.into_iter().map(|item| async {
            let answer = self.inner.send(item.call).await;
            let _ = item.answer.send(answer); // Nobody may be waiting any more.
        });
        join_all(singly).await;
    }

    /// Sends one batch; gives back what surely was not done and can go singly.
    async fn deliver_together(&self, items: Vec<Item>) -> Vec<Item> {
        let calls: Vec<&Call> = items.iter().map(|item| &item.call).collect();
        match self.inner.send(call(&self.root, "write leads in a batch", Effect::Write, &calls)).await {
            Ok(answer) => {
                self.faults.store(0, Ordering::Relaxed);
                self.hand_out(items, &answer)
            }
            Err(error) if is_not_spoken(&error) || is_refused_on_the_way(&error) => {
                self.shrink(error.status, items.len());
                items
            }
            Err(error) => {
                let is_refused = !error.is_outcome_unknown && !is_of_the_moment(&error.fault);
                let is_faulty =
                    !is_of_all_requests(&error) && self.faults.fetch_add(1, Ordering::Relaxed) + 1 >= FAULTS_MAX;
                if is_refused {
                    self.pause("the service refused a batch as a whole");
                } else if is_faulty {
                    self.pause("the service answers batches with a fault");
                }
                for item in items {
                    let error = match is_refused {
                        true => unknown(&item.call, "the batch was refused as a whole"),
                        // The answer is about the batch and about none of its writes.
                        false => RemoteError { operation: item.call.operation, status: None, ..error.clone() },
                    };
                    let _ = item.answer.send(Err(error));
                }
                Vec::new()
            }
        }
    }

    /// Gives each write its part of the answer; gives back what surely was not done.
    fn hand_out(&self, items: Vec<Item>, answer: &Answer) -> Vec<Item> {
        let parts = multipart::parts(answer).filter(|parts| parts.len() <= items.len());
        let Some(parts) = parts else {
            self.pause("the answer to a batch could not be understood");
            for item in items {
                let error = unknown(&item.call, "the answer to the batch could not be understood");
                let _ = item.answer.send(Err(error));
            }
            return Vec::new();
        };
        let now = self.clock.now();
        let mut left = Vec::new();
        let mut parts = parts.into_iter();
        for item in items {
            let Some(part) = parts.next() else {
                let error = unknown(&item.call, "the answer to the batch ends before this write");
                let _ = item.answer.send(Err(error));
                continue;
            };
            let result = match judge_part(self.dialect.as_ref(), item.call.operation, item.call.effect, part, now) {
                PartVerdict::Done(part) => Ok(Answer { server_time: answer.server_time, ..part }),
                PartVerdict::Failed(error) => Err(error),
                PartVerdict::NotDone(error) => {
                    if let Fault::Throttled { until } = error.fault {
                        self.inner.line().close_until(until);
                    }
                    left.push(item);
                    continue;
                }
            };
            let _ = item.answer.send(result);
        }
        left
    }

    /// The service does not take this batch: a smaller one the next time, or none for a while.
    fn shrink(&self, status: Option<u16>, count: usize) {
        let half = count / 2;
        if status == Some(StatusCode::PAYLOAD_TOO_LARGE.as_u16()) && half >= BATCH_MIN {
            tracing::warn!(writes = half, "the service finds a batch of {count} writes too large; now {half} at most");
            self.size.store(half, Ordering::Relaxed);
        } else {
            self.pause("the service takes no batches");
        }
    }

    fn pause(&self, why: &str) {
        let until = self.clock.now().plus(BATCH_PAUSE);
        tracing::warn!(%until, "{why}; writes go singly until then (dataverse.batch_size)");
        *self.off_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

#[async_trait]
impl Exchange for Batches {
    async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        if call.effect == Effect::Read {
            return self.read(call).await;
        }
        if !self.is_on() {
            return self.inner.send(call).await;
        }
        let lost = unknown(&call, "the batch that carried this write was given up");
        let (ticket, mut answer) = self.queue(call);
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        while let Some(items) = self.take(ticket) {
            let is_mine = items.iter().any(|item| item.ticket == ticket);
            self.deliver(items).await;
            if is_mine {
                break;
            }
        }
        (&mut answer).await.unwrap_or(Err(lost))
    }

    fn line(&self) -> &dyn Line {
        self.inner.line()
    }

    fn recommend(&self, parallelism: u16) {
        self.inner.recommend(parallelism);
    }

    fn parallelism(&self) -> usize {
        self.inner.parallelism()
    }

    fn write_time(&self) -> Duration {
        self.inner.write_time()
    }
}

/// One request that carries these calls; every one is carried out and answered by itself.
pub(super) fn call(root: &Root, operation: &'static str, effect: Effect, calls: &[&Call]) -> Call {
    let boundary = format!("batch_{}", Uuid::new_v4().simple());
    let mut headers = HeaderMap::new();
    let content_type = format!("multipart/mixed; boundary={boundary}");
    let content_type = HeaderValue::from_str(&content_type).expect("a GUID's digits are header characters");
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(PREFER, HeaderValue::from_static("odata.continue-on-error"));
    Call {
        operation,
        method: Method::POST,
        url: root.at("$batch", &[]),
        headers,
        body: Some(multipart::body(&boundary, calls).into()),
        effect,
        request: None,
        timeout: (effect == Effect::Write).then_some(BATCH_TIMEOUT),
        items: u32::try_from(calls.len()).unwrap_or(u32::MAX),
    }
}

/// The resource, the method or the form is not known there, or it is too large: whatever the body says, a repetition is
/// harmless, for every write carries its condition.
pub(super) fn is_not_spoken(error: &RemoteError) -> bool {
    matches!(error.status, Some(404 | 405 | 413 | 415 | 501))
}

/// A refusal of this form by who stands before the service: no word of the service itself (dataverse §5.1). Nothing was done.
fn is_refused_on_the_way(error: &RemoteError) -> bool {
    error.fault == Fault::Unauthorized && error.status == Some(403) && error.code.is_none()
}

/// Faults that every other request would meet as well: a closed window, a sign-in that needs a person, no answer at all.
pub(super) fn is_of_all_requests(error: &RemoteError) -> bool {
    let is_silence = error.status.is_none() && is_of_the_moment(&error.fault);
    is_silence || matches!(error.fault, Fault::Throttled { .. } | Fault::NeedsHuman)
}

/// Faults that say nothing about batches.
pub(super) fn is_of_the_moment(fault: &Fault) -> bool {
    match fault {
        Fault::Throttled { .. } | Fault::Unavailable | Fault::Unauthorized | Fault::NeedsHuman => true,
        Fault::Conflict | Fault::Missing | Fault::Refused | Fault::Malformed => false,
    }
}

/// A write of which nobody knows whether it was carried out.
fn unknown(call: &Call, message: &str) -> RemoteError {
    RemoteError {
        is_outcome_unknown: true,
        ..RemoteError::new(Side::Crm, call.operation, Fault::Unavailable).with_message(message)
    }
}
