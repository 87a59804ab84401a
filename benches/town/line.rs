//! The line to a service that answers in no time: what a bench measures is the program's own work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use referrald::http::{Answer, Call, Exchange};
use referrald::model::{RemoteError, Timestamp};
use referrald::ports::{Allowance, Line, Traffic};

/// A line whose other end is a function.
pub struct Answering<F> {
    answer: F,
    sent: AtomicU64,
}

impl<F: Fn(&Call) -> Answer + Send + Sync> Answering<F> {
    /// A line that answers so.
    pub fn new(answer: F) -> Self {
        Answering { answer, sent: AtomicU64::new(0) }
    }
}

#[async_trait]
impl<F: Fn(&Call) -> Answer + Send + Sync> Exchange for Answering<F> {
    async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok((self.answer)(&call))
    }

    fn line(&self) -> &dyn Line {
        self
    }

    fn recommend(&self, _parallelism: u16) {}

    fn parallelism(&self) -> usize {
        1
    }

    fn write_time(&self) -> Duration {
        Duration::ZERO
    }
}

#[async_trait]
impl<F: Send + Sync> Line for Answering<F> {
    fn closed_until(&self) -> Option<Timestamp> {
        None
    }

    fn close_until(&self, _until: Timestamp) {}

    async fn closed_beyond(&self, _known: Option<Timestamp>) -> Timestamp {
        std::future::pending().await
    }

    fn lose_patience(&self) {}

    fn requests_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn allow(&self, _allowance: Option<Allowance>) {}
}
