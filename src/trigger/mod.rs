//! Reasons to run. Nothing here knows what a cycle is; it only rings.

pub mod schedule;
pub mod settings;
pub mod webhook;

use std::sync::Arc;

use tokio::sync::Notify;

/// Asking for a cycle. Any number of rings before the next [`Bell::rung`] count as one: that is what keeps a burst of
/// triggers from becoming a burst of cycles.
#[derive(Clone, Debug, Default)]
pub struct Bell {
    notify: Arc<Notify>,
}

impl Bell {
    /// A bell that nobody has rung.
    pub fn new() -> Self {
        Bell::default()
    }

    /// Asks for a cycle. Never blocks; rings that come while a cycle runs cause exactly one more.
    pub fn ring(&self) {
        // `Notify` keeps one permit, and only one.
        self.notify.notify_one();
    }

    /// Waits for a ring, or takes the one that came before. There is one listener: the daemon's loop.
    pub async fn rung(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Bell;

    #[tokio::test(start_paused = true)]
    async fn a_hundred_rings_are_one() {
        let bell = Bell::new();
        for _ in 0..100 {
            bell.ring();
        }
        bell.rung().await;
        let second = tokio::time::timeout(Duration::from_secs(3600), bell.rung()).await;
        assert!(second.is_err(), "a second cycle for the same burst");
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_before_anyone_listens_is_kept() {
        let bell = Bell::new();
        bell.clone().ring();
        tokio::time::timeout(Duration::from_secs(1), bell.rung()).await.expect("the ring was lost");
    }
}
