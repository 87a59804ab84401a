//! The lane beside everything else: two workers that send what is on record, while the pass goes on with other things.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

use super::apply::{Done, Ready};
use super::sending::{Remotes, Sent, send_one};
use crate::plan::{Outcome, Policy};

/// Write-backs in flight at once (partner-center §1.9: few at once; the adapter's own limit may be narrower).
const WORKERS: usize = 2;

/// Writes on record, with the commit number of their intent, and those who send them. Workers end with the lane.
#[derive(Default)]
pub(super) struct Lane {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

/// What the pass and its workers share.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    done: Mutex<Vec<Done>>,
    is_stopped: AtomicBool,
    progress: Notify,
}

/// What is not in anybody's hands, and who is there to take it. Both under one lock: a worker that leaves because nothing
/// waits must not be counted by who puts something there.
#[derive(Default)]
struct Queue {
    items: VecDeque<(u64, Ready)>,
    workers: usize,
}

impl Lane {
    /// Lets more wait, and sees to it that somebody sends them.
    pub(super) fn put(&mut self, more: impl IntoIterator<Item = (u64, Ready)>, remotes: &Remotes, policy: &Policy) {
        let missing = {
            let mut queue = lock(&self.shared.queue);
            queue.items.extend(more);
            WORKERS - std::mem::replace(&mut queue.workers, WORKERS)
        };
        while let Some(ended) = self.workers.try_join_next() {
            pass_on_panic(ended);
        }
        for _ in 0..missing {
            self.workers.spawn(Arc::clone(&self.shared).work(remotes.clone(), policy.clone()));
        }
    }

    /// Nothing more is begun.
    pub(super) fn stop(&self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether nothing more is begun: somebody stopped it, or the side cannot be written to.
    pub(super) fn is_stopped(&self) -> bool {
        self.shared.is_stopped.load(Ordering::Relaxed)
    }

    /// What is put from now on is sent again.
    pub(super) fn go_on(&self) {
        self.shared.is_stopped.store(false, Ordering::Relaxed);
    }

    /// How many wait for a worker.
    pub(super) fn untried(&self) -> usize {
        lock(&self.shared.queue).items.len()
    }

    /// Takes what has been tried since this was asked last.
    pub(super) fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *lock(&self.shared.done))
    }

    /// Takes what nobody has tried.
    pub(super) fn take_untried(&self) -> VecDeque<(u64, Ready)> {
        std::mem::take(&mut lock(&self.shared.queue).items)
    }

    /// Waits until something has been tried, or a worker has ended.
    pub(super) async fn progress(&mut self) {
        tokio::select! {
            () = self.shared.progress.notified() => {}
            Some(ended) = self.workers.join_next() => pass_on_panic(ended),
        }
    }

    /// Begins nothing more, and waits until what is in flight has ended.
    pub(super) async fn rest(&mut self) {
        self.stop();
        while let Some(ended) = self.workers.join_next().await {
            pass_on_panic(ended);
        }
    }
}

impl Shared {
    /// One worker: takes what is on record until there is nothing more, or until the side cannot be written to.
    async fn work(self: Arc<Self>, remotes: Remotes, policy: Policy) {
        while let Some((commit, mut ready)) = self.next() {
            let sent = send_one(&remotes, &policy, &mut ready.row, &mut ready.action).await;
            if let Sent::Outcome(Outcome::Failed(error)) = &sent
                && error.stops_side()
            {
                self.is_stopped.store(true, Ordering::Relaxed);
            }
            lock(&self.done).push((commit, ready, sent));
            self.progress.notify_one();
        }
    }

    fn next(&self) -> Option<(u64, Ready)> {
        let mut queue = lock(&self.queue);
        let next = match self.is_stopped.load(Ordering::Relaxed) {
            true => None,
            false => queue.items.pop_front(),
        };
        queue.workers -= usize::from(next.is_none());
        next
    }
}

/// A worker that panicked ends the pass the way a panic of its own would: what it held stays on record and is read first.
fn pass_on_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "the worker's own words")]
    async fn a_worker_that_panics_ends_the_pass_instead_of_letting_it_wait_for_ever() {
        let mut lane = Lane::default();
        lane.workers.spawn(async { panic!("the worker's own words") });
        lane.progress().await;
    }

    #[tokio::test]
    #[should_panic(expected = "the worker's own words")]
    async fn a_panic_is_not_lost_when_the_pass_ends() {
        let mut lane = Lane::default();
        lane.workers.spawn(async { panic!("the worker's own words") });
        lane.rest().await;
    }
}
