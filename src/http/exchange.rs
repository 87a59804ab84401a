//! The narrow seam below the adapters: one call in, one answer out.

use std::time::Duration;

use async_trait::async_trait;

use super::{Answer, Call};
use crate::model::{RemoteError, Timestamp};
use crate::ports::{Allowance, Traffic};

/// What an adapter needs of the client stack; a test may answer in its place.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Sends one call through the whole stack.
    async fn send(&self, call: Call) -> Result<Answer, RemoteError>;
    /// Until when the service asked us not to send anything; `None` when it is open.
    fn closed_until(&self) -> Option<Timestamp>;
    /// Restores a window that a former process was told of.
    fn close_until(&self, until: Timestamp);
    /// Requests sent so far, retries included, tokens excluded.
    fn requests_sent(&self) -> u64;
    /// How they were answered; a batch is one.
    fn traffic(&self) -> Traffic;
    /// Limits what is sent from now on; `None` is no limit.
    fn allow(&self, allowance: Option<Allowance>);
    /// Notes how many requests at once the service recommends.
    fn recommend(&self, parallelism: u16);
    /// Requests that may be under way at once, at the moment.
    fn parallelism(&self) -> usize {
        1
    }
    /// How long the service is thought to work on one write; zero where nobody knows.
    fn write_time(&self) -> Duration {
        Duration::ZERO
    }
}

#[async_trait]
impl Exchange for super::Client {
    async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        super::Client::send(self, call).await
    }

    fn closed_until(&self) -> Option<Timestamp> {
        super::Client::closed_until(self)
    }

    fn close_until(&self, until: Timestamp) {
        super::Client::close_until(self, until);
    }

    fn requests_sent(&self) -> u64 {
        super::Client::requests_sent(self)
    }

    fn traffic(&self) -> Traffic {
        super::Client::traffic(self)
    }

    fn allow(&self, allowance: Option<Allowance>) {
        super::Client::allow(self, allowance);
    }

    fn recommend(&self, parallelism: u16) {
        super::Client::recommend(self, parallelism);
    }

    fn parallelism(&self) -> usize {
        super::Client::parallelism(self)
    }

    fn write_time(&self) -> Duration {
        super::Client::write_time(self)
    }
}
