//! Rules about numbers and durations.

use super::super::HumanDuration;
use super::super::key::KeyPath;
use super::Rules;

impl Rules<'_> {
    pub(super) fn limits(&mut self) {
        let settings = self.settings;
        let (portal, crm, http) = (&settings.partner_center, &settings.dataverse, &settings.http);
        let whole: [(&str, u64, std::ops::RangeInclusive<u64>); 21] = [
            ("partner_center.pages_max", portal.pages_max.into(), 1..=u64::MAX),
            ("partner_center.empty_pages_max", portal.empty_pages_max.into(), 1..=u64::MAX),
            ("partner_center.requests_per_minute", portal.requests_per_minute.into(), 1..=u64::MAX),
            ("partner_center.in_flight_max", portal.in_flight_max.into(), 1..=100),
            ("partner_center.requests_per_day", portal.requests_per_day, 1..=u64::MAX),
            ("dataverse.page_size", crm.page_size.into(), 1..=5000),
            ("dataverse.poll_pages_max", crm.poll_pages_max.into(), 1..=u64::MAX),
            ("dataverse.ids_per_request", crm.ids_per_request.into(), 1..=50),
            ("dataverse.batch_size", crm.batch_size.into(), 1..=crate::crm::dataverse::BATCH_SIZE_MAX.into()),
            ("dataverse.requests_per_minute", crm.requests_per_minute.into(), 1..=u64::MAX),
            ("dataverse.budget_share_percent", crm.budget_share_percent.into(), 1..=100),
            ("dataverse.in_flight_max", crm.in_flight_max.into(), 1..=100),
            ("dataverse.requests_per_day", crm.requests_per_day, 1..=u64::MAX),
            ("http.response_bytes_max", http.response_bytes_max, 65_536..=u64::MAX),
            ("http.attempts_max", http.attempts_max.into(), 1..=100),
            ("retry.attempts_max", settings.retry.attempts_max.into(), 1..=u64::MAX),
            ("state.cache_bytes", settings.state.cache_bytes, 1_048_576..=u64::MAX),
            ("cycle.window", settings.cycle.window.into(), 1..=1_000_000),
            ("cycle.batch_max", settings.cycle.batch_max.into(), 1..=1000),
            ("cycle.urgent_requests_percent", settings.cycle.urgent_requests_percent.into(), 0..=90),
            ("cycle.overlap_every", settings.cycle.overlap_every.into(), 1..=u64::MAX),
        ];
        for (key, value, allowed) in whole {
            if !allowed.contains(&value) {
                let wanted = match *allowed.end() {
                    u64::MAX => format!("write {} or more", allowed.start()),
                    end => format!("write a number from {} to {end}", allowed.start()),
                };
                self.error(key, format!("{value} is out of range"), wanted);
            }
        }
        if portal.in_flight_max > 2 {
            self.warning(
                "partner_center.in_flight_max",
                "the service throttles parallel requests, writes first",
                "write 2 or less",
            );
        }
        let positive: [(&str, HumanDuration); 14] = [
            ("alarm.clear_after", settings.alarm.clear_after),
            ("observability.request_timeout", settings.observability.request_timeout),
            ("observability.lag_max", settings.observability.lag_max),
            ("http.connect_timeout", http.connect_timeout),
            ("http.read_timeout", http.read_timeout),
            ("http.write_timeout", http.write_timeout),
            ("http.retry_delay", http.retry_delay),
            ("http.retry_delay_max", http.retry_delay_max),
            ("retry.delay", settings.retry.delay),
            ("retry.delay_max", settings.retry.delay_max),
            ("daemon.work_budget", settings.daemon.work_budget),
            ("daemon.grace_period", settings.daemon.grace_period),
            ("cycle.clock_skew_max", settings.cycle.clock_skew_max),
            ("cycle.unordered_sweep_interval", settings.cycle.unordered_sweep_interval),
        ];
        for (key, duration) in positive {
            if duration.get().is_zero() {
                self.error(key, "must be longer than nothing", "write a duration such as \"30s\"");
            }
        }
        self.order("http.retry_delay", http.retry_delay, "http.retry_delay_max", http.retry_delay_max);
        self.order("retry.delay", settings.retry.delay, "retry.delay_max", settings.retry.delay_max);
        self.order("http.connect_timeout", http.connect_timeout, "http.read_timeout", http.read_timeout);
        self.too_long();
        self.brakes();
        self.directories();
    }

    fn order(&mut self, low: &str, low_value: HumanDuration, high: &str, high_value: HumanDuration) {
        if low_value > high_value {
            // Complain about the one that was set: a default is not to blame.
            let places = [low, high].map(|key| self.layers.owner(&key.into()).0);
            let key = if self.layers.is_built_in(places[0]) { high } else { low };
            self.error(key, format!("{low} ({low_value}) is longer than {high} ({high_value})"), "swap or align them");
        }
    }

    /// Instants are computed from durations: a century more or less must not overflow one.
    fn too_long(&mut self) {
        let settings = self.settings;
        let longest = HumanDuration::from_seconds(10 * 365 * 86_400);
        let durations: [(&str, HumanDuration); 19] = [
            ("dataverse.poll_overlap", settings.dataverse.poll_overlap),
            ("http.connect_timeout", settings.http.connect_timeout),
            ("http.read_timeout", settings.http.read_timeout),
            ("http.write_timeout", settings.http.write_timeout),
            ("http.retry_delay", settings.http.retry_delay),
            ("http.retry_delay_max", settings.http.retry_delay_max),
            ("http.retry_after_wait_max", settings.http.retry_after_wait_max),
            ("status.settle_time", settings.status.settle_time),
            ("status.settle_time_lost", settings.status.settle_time_lost),
            ("status.won_hold", settings.status.won_hold),
            ("status.deadline_warning", settings.status.deadline_warning),
            ("retry.delay", settings.retry.delay),
            ("retry.delay_max", settings.retry.delay_max),
            ("schedule.sweep_on_start_after", settings.schedule.sweep_on_start_after),
            ("daemon.work_budget", settings.daemon.work_budget),
            ("daemon.grace_period", settings.daemon.grace_period),
            ("cycle.overlap", settings.cycle.overlap),
            ("cycle.unordered_sweep_interval", settings.cycle.unordered_sweep_interval),
            ("cycle.clock_skew_max", settings.cycle.clock_skew_max),
        ];
        for (key, duration) in durations {
            if duration > longest {
                self.error(key, "longer than ten years", "write a shorter duration");
            }
        }
    }

    fn brakes(&mut self) {
        let brakes = &self.settings.brakes;
        for (key, percent) in [
            ("leads_vanished_percent", brakes.leads_vanished_percent),
            ("visibility_missing_percent", brakes.visibility_missing_percent),
        ] {
            if percent > 100 {
                self.error(KeyPath::from("brakes").child(key), "more than 100 percent", "write a number from 0 to 100");
            }
        }
        for (key, limit) in
            [("closings_per_hour", brakes.closings_per_hour), ("acceptances_per_hour", brakes.acceptances_per_hour)]
        {
            if limit == 0 {
                self.warning(
                    KeyPath::from("brakes").child(key),
                    "the brake is off: a mistake in Dynamics is sent on without limit, and cannot be taken back",
                    "write the largest number of an ordinary hour",
                );
            }
        }
        if brakes.visibility_newest > 100 {
            self.error("brakes.visibility_newest", "more than 100 are not remembered", "write a number up to 100");
        }
    }

    fn directories(&mut self) {
        let settings = self.settings;
        let directories = [
            ("state.directory", Some(&settings.state.directory)),
            ("daemon.runtime_directory", settings.daemon.runtime_directory.as_ref()),
        ];
        for (key, directory) in directories {
            let Some(directory) = directory else { continue };
            if directory.as_os_str().is_empty() || (directory.exists() && !directory.is_dir()) {
                self.error(key, "this is no directory", "name a directory that belongs to the daemon's user");
            } else if directory.is_relative() {
                self.warning(key, "a relative path depends on where the daemon is started", "write an absolute path");
            }
        }
    }
}
