//! Service protection: three counters and the 429 of each (dataverse §6.1). Beside them the count of the daily pool, which
//! refuses nothing: its enforcement is soft (§6.2).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::Timestamp;

use super::super::exchange::{Answer, Request};
use super::super::options::ProtectionLimits;

const DAY_MILLIS: i64 = 24 * 3600 * 1000;

/// What the last window held.
#[derive(Clone, Debug, Default)]
pub(super) struct Protection {
    requests: VecDeque<(Timestamp, Duration)>,
    execution: Duration,
    operations: BTreeMap<i64, u64>,
}

impl Protection {
    /// Counts a request, or refuses it.
    pub(super) fn admit(&mut self, limits: &ProtectionLimits, request: &Request, now: Timestamp) -> Option<Answer> {
        while let Some((at, cost)) = self.requests.front().copied() {
            if now.since(at) < limits.window {
                break;
            }
            self.requests.pop_front();
            self.execution = self.execution.saturating_sub(cost);
        }
        let until_room = self.requests.front().map_or(limits.window, |(at, _)| at.plus(limits.window).since(now));
        if request.in_flight > limits.concurrent {
            let message = format!("Number of concurrent requests exceeded the limit of {}.", limits.concurrent);
            return Some(refusal("0x80072326", &message, Duration::from_secs(5)));
        }
        if self.requests.len() >= limits.requests {
            let message = format!(
                "Number of requests exceeded the limit of {} over time window of {} seconds.",
                limits.requests,
                limits.window.as_secs()
            );
            return Some(refusal("0x80072322", &message, until_room));
        }
        if self.execution >= limits.execution {
            let message = format!(
                "Combined execution time of incoming requests exceeded limit of {} milliseconds over time window of {} seconds.",
                limits.execution.as_millis(),
                limits.window.as_secs()
            );
            return Some(refusal("0x80072321", &message, until_room));
        }
        let cost = if request.is_write() { limits.write_cost } else { limits.read_cost };
        self.requests.push_back((now, cost));
        self.execution += cost;
        if !request.path.contains("EntityDefinitions") {
            self.count(1, now); // Metadata is free of charge.
        }
        None
    }

    fn count(&mut self, operations: u32, now: Timestamp) {
        *self.operations.entry(now.millis().div_euclid(DAY_MILLIS)).or_default() += u64::from(operations);
    }

    /// What the daily pool was charged with on each day, oldest first: one for each request, and for each item of a batch.
    pub(super) fn operations_by_day(&self) -> Vec<u64> {
        self.operations.values().copied().collect()
    }
}

impl Protection {
    /// What the last request that was let in is charged with.
    pub(super) fn last_charge(&self) -> Duration {
        self.requests.back().map_or(Duration::ZERO, |(_, cost)| *cost)
    }

    /// Tells what is left of the window, as every answer does (dataverse §6.1). Seconds have a comma at the thousands.
    pub(super) fn tell(&self, limits: &ProtectionLimits, answer: Answer) -> Answer {
        let requests = limits.requests.saturating_sub(self.requests.len());
        let millis = limits.execution.saturating_sub(self.execution).as_millis();
        let (seconds, hundredths) = (millis / 1000, millis % 1000 / 10);
        let seconds = match seconds {
            1000.. => format!("{},{:03}.{hundredths:02}", seconds / 1000, seconds % 1000),
            _ => format!("{seconds}.{hundredths:02}"),
        };
        answer
            .with("x-ms-ratelimit-burst-remaining-xrm-requests", &requests.to_string())
            .with("x-ms-ratelimit-time-remaining-xrm-requests", &seconds)
    }

    /// Charges the execution time of further operations of one request: a batch counts as one request but for all its
    /// work (dataverse §5.3).
    pub(super) fn charge(&mut self, limits: &ProtectionLimits, further: u32, now: Timestamp) {
        let cost = limits.write_cost * further;
        self.count(further, now);
        match self.requests.back_mut() {
            Some((_, charged)) => *charged += cost,
            None => self.requests.push_back((now, cost)),
        }
        self.execution += cost;
    }
}

fn refusal(code: &str, message: &str, wait: Duration) -> Answer {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    Answer::crm_error(429, code, message).with("retry-after", &seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_three_counters_refuses_with_its_own_code() {
        let limits = ProtectionLimits { requests: 2, concurrent: 3, ..ProtectionLimits::default() };
        let request = Request::new("GET", "/");
        let mut protection = Protection::default();
        let now = Timestamp::from_seconds(1000);
        assert_eq!(protection.admit(&limits, &request, now), None);
        assert_eq!(protection.admit(&limits, &request, now), None);
        let refused = protection.admit(&limits, &request, now).expect("over the limit");
        assert_eq!(refused.value()["error"]["code"], "0x80072322");
        assert_eq!(refused.header("retry-after"), Some("300"));
        let later = now.plus(Duration::from_secs(300));
        assert_eq!(protection.admit(&limits, &request, later), None, "the window slides");

        let crowd = Request { in_flight: 4, ..request.clone() };
        let refused = protection.admit(&limits, &crowd, later).expect("too many at once");
        assert_eq!(refused.value()["error"]["code"], "0x80072326");

        let limits = ProtectionLimits { execution: Duration::from_millis(10), ..limits };
        let refused = protection.admit(&limits, &request, later).expect("too much work");
        assert_eq!(refused.value()["error"]["code"], "0x80072321");
    }

    #[test]
    fn the_daily_pool_counts_every_item_of_a_batch_and_no_metadata() {
        let (limits, now) = (ProtectionLimits::default(), Timestamp::from_seconds(1000));
        let mut protection = Protection::default();
        assert_eq!(protection.admit(&limits, &Request::new("POST", "/api/data/v9.2/$batch"), now), None);
        protection.charge(&limits, 9, now);
        let metadata = Request::new("GET", "/api/data/v9.2/EntityDefinitions(LogicalName='lead')");
        assert_eq!(protection.admit(&limits, &metadata, now), None);
        let tomorrow = now.plus(Duration::from_secs(24 * 3600));
        assert_eq!(protection.admit(&limits, &Request::new("GET", "/"), tomorrow), None);
        assert_eq!(protection.operations_by_day(), [10, 1]);
    }

    #[test]
    fn every_answer_tells_what_is_left_with_a_comma_at_the_thousands() {
        let (limits, now) = (ProtectionLimits::default(), Timestamp::from_seconds(1000));
        let mut protection = Protection::default();
        let told = |protection: &Protection| {
            let answer = protection.tell(&limits, Answer::empty(204));
            ["burst", "time"].map(|what| {
                answer.header(&format!("x-ms-ratelimit-{what}-remaining-xrm-requests")).unwrap_or_default().to_owned()
            })
        };
        assert_eq!(told(&protection), ["6000", "1,200.00"]);
        assert_eq!(protection.admit(&limits, &Request::new("PATCH", "/"), now), None);
        assert_eq!(told(&protection), ["5999", "1,199.90"]);
        protection.charge(&limits, 4000, now);
        assert_eq!(told(&protection), ["5999", "799.90"]);
    }
}
