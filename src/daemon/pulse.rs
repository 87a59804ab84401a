//! A sign of life: says whether the loop makes progress, for the watchdog.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shared between the loop and the watchdog. A loop that waits for its bell is alive; one that is stuck in a cycle is not.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    cycle_since: Arc<Mutex<Option<Instant>>>,
}

impl Pulse {
    /// A pulse of a loop that waits.
    pub fn new() -> Self {
        Pulse::default()
    }

    /// Marks a cycle as running until the guard is dropped.
    pub fn cycle(&self) -> Beat {
        self.set(Some(Instant::now()));
        Beat { pulse: self.clone() }
    }

    /// True unless a cycle has been running for longer than `stuck_after`.
    pub fn is_alive(&self, stuck_after: Duration) -> bool {
        let since = *self.cycle_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_none_or(|since| since.elapsed() <= stuck_after)
    }

    fn set(&self, since: Option<Instant>) {
        *self.cycle_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// Says that a cycle is running; dropped when it ends, however it ends.
#[derive(Debug)]
pub struct Beat {
    pulse: Pulse,
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pulse;

    #[tokio::test(start_paused = true)]
    async fn a_waiting_loop_is_alive_and_a_stuck_cycle_is_not() {
        let (pulse, limit) = (Pulse::new(), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(pulse.is_alive(limit), "waiting for the bell is no trouble");
        let beat = pulse.cycle();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(pulse.is_alive(limit));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!pulse.is_alive(limit));
        drop(beat);
        assert!(pulse.is_alive(limit));
    }
}
