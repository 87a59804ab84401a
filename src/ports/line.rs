//! The line to one service: when it may be used, how much, and what became of it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// The line to one service: what can be asked and told of it, whatever is sent over it. Who wraps it hands it on whole.
#[async_trait]
pub trait Line: Send + Sync {
    /// Until when the service asked us not to send anything; `None` when it is open.
    fn closed_until(&self) -> Option<Timestamp>;

    /// Restores a window that a former process was told of. A longer one that is known already stays.
    fn close_until(&self, until: Timestamp);

    /// Waits until the service asks us not to send anything until later than `known`, and says until when.
    async fn closed_beyond(&self, known: Option<Timestamp>) -> Timestamp;

    /// Nobody waits for the end of a window any more: a request that finds it closed fails at once, unsent, whatever its
    /// patience was. For the end of the process.
    fn lose_patience(&self);

    /// Requests sent since the process started, retries included, tokens excluded; items of a batch count singly.
    fn requests_sent(&self) -> u64;

    /// How they were answered.
    fn traffic(&self) -> Traffic;

    /// Limits what is sent from now on; takes the place of what was allowed before. `None` is no limit. A request beyond
    /// it fails with `Fault::Throttled`, unsent.
    fn allow(&self, allowance: Option<Allowance>);
}

/// What became of the requests to one service since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Requests by outcome: `done`, or the fault in a word ([`crate::model::Fault::word`]). Retries count each, a batch is one.
    pub outcomes: BTreeMap<String, u64>,
    /// How long the service asked us to leave it alone, all its answers added up, in milliseconds.
    pub asked_to_wait_ms: u64,
}

/// What may still be sent to one service; a request beyond it fails unsent, as `Fault::Throttled` until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// So many requests, retries included …
    pub requests: u64,
    /// … until this instant; from then on nothing is limited.
    pub until: Timestamp,
}

impl Allowance {
    /// Uses up so many requests; the error is the end of a budget that has too few left.
    pub fn take(allowance: &mut Option<Allowance>, items: u32, now: Timestamp) -> Result<(), Timestamp> {
        match allowance {
            Some(Allowance { until, .. }) if *until <= now => *allowance = None,
            Some(Allowance { requests, until }) => match requests.checked_sub(u64::from(items)) {
                Some(left) => *requests = left,
                None => return Err(*until),
            },
            None => {}
        }
        Ok(())
    }

    /// The words of a refusal.
    pub const USED_UP: &str = "today's requests are used up; nothing was sent (requests_per_day)";
}
