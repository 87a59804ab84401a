//! The metrics of a status as text, in the OpenMetrics format that Prometheus reads.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::catalogue::{CATALOGUE, Kind, Metric, Sample, Value, View};

/// The type of the answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics that have a figure now.
pub fn text(view: &View<'_>) -> String {
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
    use super::text;
    use crate::config::Settings;

    const LAG_MAX: Duration = Duration::from_secs(900);

    #[test]
    fn metrics_of_a_busy_day_look_like_this() {
        let status = sample::busy();
        insta::assert_snapshot!("metrics", text(&View { status: &status, lag_max: LAG_MAX }));
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
