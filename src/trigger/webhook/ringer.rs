//! From many deliveries to few rings: a pause that lets them gather, and a number per minute.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::trigger::Bell;

const MINUTE: Duration = Duration::from_secs(60);

/// How often deliveries may ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the first delivery to the ring; whatever comes meanwhile is the same ring.
    pub debounce: Duration,
    /// Rings within a minute; those beyond are one ring, later.
    pub rings_per_minute: u32,
}

/// Gathers deliveries into rings. None is lost: every delivery is followed by a ring, in the end.
#[derive(Clone, Debug, Default)]
pub struct Ringer {
    asked: Arc<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    is_asked: AtomicBool,
    notify: Notify,
}

impl Ringer {
    /// A verified delivery came. Never blocks.
    pub fn ask(&self) {
        self.asked.is_asked.store(true, Ordering::SeqCst);
        self.asked.notify.notify_one();
    }

    /// Rings `bell` at the pace, until `stop`. `pace` is asked each time, since a reload may change it; `rung` is told.
    pub async fn run(
        &self,
        bell: &Bell,
        pace: impl Fn() -> Pace + Send,
        rung: impl Fn() + Send,
        stop: &CancellationToken,
    ) {
        let mut last: VecDeque<Instant> = VecDeque::new();
        let ringing = async {
            loop {
                self.asked.notify.notified().await;
                if !self.asked.is_asked.load(Ordering::SeqCst) {
                    continue;
                }
                let Pace { debounce, rings_per_minute } = pace();
                tokio::time::sleep(debounce).await;
                let cap = usize::try_from(rings_per_minute.max(1)).unwrap_or(usize::MAX);
                last.retain(|at| at.elapsed() < MINUTE);
                if last.len() >= cap
                    && let Some(oldest) = last.get(last.len() - cap)
                {
                    tokio::time::sleep_until(*oldest + MINUTE).await;
                }
                // Before the ring: what comes from here on is answered by the next one.
                self.asked.is_asked.store(false, Ordering::SeqCst);
                last.push_back(Instant::now());
                bell.ring();
                rung();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = ringing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn start(pace: Pace) -> (Ringer, Arc<AtomicUsize>, CancellationToken) {
        let (ringer, count, stop) = (Ringer::default(), Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (running, counted, stopped) = (ringer.clone(), count.clone(), stop.clone());
        tokio::spawn(async move {
            let rung = move || {
                counted.fetch_add(1, Ordering::SeqCst);
            };
            running.run(&Bell::new(), move || pace, rung, &stopped).await;
        });
        (ringer, count, stop)
    }

    const PACE: Pace = Pace { debounce: Duration::from_secs(1), rings_per_minute: 5 };

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_ring_after_the_pause() {
        let (ringer, count, _stop) = start(PACE);
        for _ in 0..1000 {
            ringer.ask();
        }
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(count.load(Ordering::SeqCst), 0, "it gathers");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_rings_at_most_so_often_a_minute_and_its_end_is_not_lost() {
        let (ringer, count, _stop) = start(PACE);
        let began = Instant::now();
        for _ in 0..3000 {
            ringer.ask();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let minutes = usize::try_from(began.elapsed().as_secs().div_ceil(60)).expect("few");
        let during = count.load(Ordering::SeqCst);
        assert!(during <= 5 * minutes, "{during} in {minutes} minutes");
        assert!(during >= 5 * (minutes - 1), "{during} in {minutes} minutes");
        ringer.ask();
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(count.load(Ordering::SeqCst) > during, "the last delivery rings, too");
    }

    #[tokio::test(start_paused = true)]
    async fn each_quiet_delivery_rings_once() {
        let (ringer, count, stop) = start(PACE);
        for number in 1..=4 {
            ringer.ask();
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert_eq!(count.load(Ordering::SeqCst), number);
        }
        stop.cancel();
        ringer.ask();
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(count.load(Ordering::SeqCst), 4);
    }
}
