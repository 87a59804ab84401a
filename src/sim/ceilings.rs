//! The scenario of the benchmarks: documented limits, distance and work as published parameters.

use std::time::Duration;

use super::options::{Options, Paging, ProtectionLimits};

/// What the services grant and how long they take. The default is dataverse §6.1 with one web server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Round trip to every service.
    pub round_trip: Duration,
    /// Execution time of one write in Dataverse, in a batch or not.
    pub write: Duration,
    /// Execution time of one read in Dataverse.
    pub read: Duration,
    /// Requests to Dataverse within a window.
    pub requests: usize,
    /// Execution time in Dataverse within a window.
    pub execution: Duration,
    /// The sliding window.
    pub window: Duration,
    /// Requests to Dataverse at once.
    pub concurrent: u32,
    /// Requests to Partner Center in a minute: a made-up number, the service publishes none.
    pub portal_requests_per_minute: usize,
    /// Operations of Dataverse in a day, every item of a batch included: the tenant's pool for application users without
    /// counting licences (dataverse §6.2). Its enforcement is soft: the simulator counts and refuses nothing.
    pub daily_pool: u64,
}

impl Default for Ceilings {
    fn default() -> Self {
        let limits = ProtectionLimits::default();
        Ceilings {
            round_trip: Duration::from_millis(200),
            write: Duration::from_millis(100),
            read: Duration::from_millis(20),
            requests: limits.requests,
            execution: limits.execution,
            window: limits.window,
            concurrent: limits.concurrent,
            portal_requests_per_minute: 180,
            daily_pool: 500_000,
        }
    }
}

impl Ceilings {
    /// A world under these ceilings.
    pub fn options(&self) -> Options {
        let mut options = Options::default();
        options.portal.paging = Paging::Key;
        options.portal.requests_per_minute = Some(self.portal_requests_per_minute);
        options.crm.limits = ProtectionLimits {
            window: self.window,
            requests: self.requests,
            execution: self.execution,
            concurrent: self.concurrent,
            read_cost: self.read,
            write_cost: self.write,
            takes_time: true,
        };
        options
    }

    /// How long so many writes take at least at a steady pace: the slower of execution time and, with `batch` writes in one
    /// request, the number of requests. What a window that nobody has used yet grants at once is left out.
    pub fn shortest(&self, writes: u64, batch: u64) -> Duration {
        let windows_of_work = self.write.as_secs_f64() * writes as f64 / self.execution.as_secs_f64();
        let windows_of_requests = writes.div_ceil(batch.max(1)) as f64 / self.requests.max(1) as f64;
        self.window.mul_f64(windows_of_work.max(windows_of_requests))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_work_and_requests_is_the_ceiling() {
        let ceilings = |millis| Ceilings { write: Duration::from_millis(millis), ..Ceilings::default() };
        assert_eq!(ceilings(500).shortest(8, 1), Duration::from_secs(1), "1200 s of work in 300 s");
        assert_eq!(ceilings(50).shortest(80, 20), Duration::from_secs(1));
        assert_eq!(ceilings(50).shortest(80, 1), Duration::from_secs(4), "6000 requests in 300 s");
    }
}
