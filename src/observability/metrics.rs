//! The metrics of a status as text: OpenMetrics for those who ask for it, else the plain format of Prometheus.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::catalogue::{CATALOGUE, Kind, Metric, Sample, Value, View};

/// A format of metrics as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, which browsers show and older scrapers read.
    Plain,
}

impl Format {
    /// What a reader asks for with its `Accept` header; OpenMetrics only by name.
    pub fn asked(accept: Option<&str>) -> Format {
        let is_named = |part: &str| {
            let mut words = part.split(';').map(str::trim);
            let is_it = words.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            let is_refused =
                |word: &str| word.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok()) == Some(0.0);
            is_it && !words.any(is_refused)
        };
        match accept.is_some_and(|accept| accept.split(',').any(is_named)) {
            true => Format::OpenMetrics,
            false => Format::Plain,
        }
    }

    /// The type of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// All metrics that have a figure now.
    pub fn text(self, view: &View<'_>) -> String {
        match self {
            Format::OpenMetrics => text(view),
            Format::Plain => plain(&text(view)),
        }
    }
}

/// In the plain format counters are described by the name of their samples, and nothing marks the end.
fn plain(open: &str) -> String {
    let is_counter = |name: &str| {
        CATALOGUE.iter().any(|metric| metric.kind == Kind::Counter && metric.name.strip_suffix("_total") == Some(name))
    };
    let line = |line: &str| {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF"), None, _) => String::new(),
            (Some("#"), Some(what), Some(name), Some(rest)) if is_counter(name) => {
                format!("# {what} {name}_total {rest}\n")
            }
            _ => format!("{line}\n"),
        }
    };
    open.lines().map(line).collect()
}

fn text(view: &View<'_>) -> String {
    let families: Vec<Family> = CATALOGUE
        .iter()
        .map(|metric| Family { metric, samples: (metric.read)(view) })
        .filter(|family| !family.samples.is_empty())
        .collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(families)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text takes whatever is written into it");
    text
}

/// Figures of one moment.
#[derive(Debug)]
struct Snapshot(Vec<Family>);

struct Family {
    metric: &'static Metric,
    samples: Vec<Sample>,
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Family").field("name", &self.metric.name).field("samples", &self.samples).finish()
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Family { metric, samples } in &self.0 {
            let (name, kind) = match metric.kind {
                // The format appends it.
                Kind::Counter => (metric.name.trim_end_matches("_total"), MetricType::Counter),
                Kind::Gauge => (metric.name, MetricType::Gauge),
                Kind::Histogram => (metric.name, MetricType::Histogram),
            };
            let mut family = encoder.encode_descriptor(name, metric.help, None, kind)?;
            for sample in samples {
                let values = sample.labels.iter().cloned();
                let labels: Vec<(&str, String)> = metric.labels.iter().copied().zip(values).collect();
                match labels.is_empty() {
                    true => figure(&mut family, metric.kind, &sample.value)?,
                    false => figure(&mut family.encode_family(&labels)?, metric.kind, &sample.value)?,
                }
            }
        }
        Ok(())
    }
}

fn figure(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> Result<(), std::fmt::Error> {
    match (kind, value) {
        (Kind::Counter, Value::Count(count)) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
        (Kind::Counter, Value::Real(number)) => encoder.encode_counter::<NoLabelSet, _, f64>(number, None),
        (Kind::Gauge, Value::Count(count)) => encoder.encode_gauge(count),
        (Kind::Gauge, Value::Real(number)) => encoder.encode_gauge(number),
        (Kind::Histogram, Value::Buckets(sum, buckets)) => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
        (Kind::Histogram, Value::Count(_) | Value::Real(_)) | (Kind::Counter | Kind::Gauge, Value::Buckets(..)) => {
            Err(std::fmt::Error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::super::catalogue::{BRAKES, CATALOGUE, Kind, View};
    use super::super::sample;
    use super::{Format, text};
    use crate::config::Settings;

    const LAG_MAX: Duration = Duration::from_secs(900);

    #[test]
    fn metrics_of_a_busy_day_look_like_this() {
        let status = sample::busy();
        insta::assert_snapshot!("metrics", text(&View { status: &status, lag_max: LAG_MAX }));
    }

    #[test]
    fn the_plain_format_describes_counters_by_the_name_of_their_samples() {
        let status = sample::busy();
        let view = View { status: &status, lag_max: LAG_MAX };
        let plain = Format::Plain.text(&view);
        let samples =
            |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(samples(&plain), samples(&text(&view)), "the same figures");
        assert!(plain.contains("# TYPE referrald_cycles_total counter\n") && !plain.contains("# EOF"), "{plain}");
        for line in plain.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("a name and a kind");
            let is_sampled = |sample: &String| match kind {
                "histogram" => sample.starts_with(&format!("{name}_bucket")),
                _ => sample.starts_with(&format!("{name} ")) || sample.starts_with(&format!("{name}{{")),
            };
            assert!(samples(&plain).iter().any(is_sampled), "{line}");
        }
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (None, Format::Plain),
            (Some("*/*"), Format::Plain),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Format::Plain),
            (Some("text/plain;version=0.0.4"), Format::Plain),
            (Some("application/openmetrics-text;q=0, text/plain"), Format::Plain),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some(prometheus), Format::OpenMetrics),
        ] {
            assert_eq!(Format::asked(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn names_are_nouns_in_base_units_and_each_is_listed_once() {
        let names: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        for metric in CATALOGUE {
            assert!(metric.name.starts_with("referrald_") || metric.name.starts_with("process_"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(
                !["_ms", "_minutes", "_days", "_kb"].iter().any(|unit| metric.name.contains(unit)),
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn every_brake_has_its_label() {
        for brake in crate::plan::brakes::brakes(&Settings::defaults().brakes) {
            assert!(BRAKES.contains(&brake.name), "{}", brake.name);
        }
    }

    #[test]
    fn no_label_carries_an_id_or_a_sentence() {
        let status = sample::busy();
        let view = View { status: &status, lag_max: LAG_MAX };
        for metric in CATALOGUE {
            for sample in (metric.read)(&view) {
                assert_eq!(sample.labels.len(), metric.labels.len(), "{}", metric.name);
                for label in sample.labels {
                    let is_word =
                        label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c));
                    assert!(is_word && label.len() <= 40, "{}: {label}", metric.name);
                }
            }
        }
    }
}
