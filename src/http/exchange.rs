//! The narrow seam below the adapters: one call in, one answer out.

use std::time::Duration;

use async_trait::async_trait;

use super::{Answer, Call};
use crate::model::RemoteError;
use crate::ports::Line;

/// What an adapter needs of the client stack; a test may answer in its place.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Sends one call through the whole stack.
    async fn send(&self, call: Call) -> Result<Answer, RemoteError>;
    /// The line it goes over.
    fn line(&self) -> &dyn Line;
    /// Notes how many requests at once the service recommends.
    fn recommend(&self, parallelism: u16);
    /// Requests that may be under way at once, at the moment.
    fn parallelism(&self) -> usize;
    /// How long the service is thought to work on one write; zero where nobody knows.
    fn write_time(&self) -> Duration;
}

#[async_trait]
impl Exchange for super::Client {
    async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        super::Client::send(self, call).await
    }

    fn line(&self) -> &dyn Line {
        self
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
