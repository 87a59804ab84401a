//! The live schema: how long it is believed, and when it is read again.

use std::sync::Arc;
use std::time::Duration;

use super::{Ground, Reconciler};
use crate::config::Settings;
use crate::model::{RemoteError, Timestamp};
use crate::ports::LeadSchema;

/// How long the live schema is believed.
const SCHEMA_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long the schema is believed once something has contradicted it, and while it lacks what the configuration counts
/// on: an administrator may have mended it since.
pub const SCHEMA_AGE_DOUBTFUL: Duration = Duration::from_secs(5 * 60);

/// The same while nothing is written for want of the alternate key.
const SCHEMA_AGE_STOPPED: Duration = Duration::from_secs(60);

/// The longest pause between two readings of a schema that lacks something and stays the same: each one in a row doubles
/// the pause up to this. A reading is about ten requests.
const SCHEMA_PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// The schema as it was read last.
#[derive(Default)]
pub(super) struct LiveSchema {
    known: Option<(Arc<LeadSchema>, Timestamp)>,
    /// Not before this is it read again.
    again: Option<Timestamp>,
    /// Readings in a row that brought the same one.
    unchanged: u32,
}

impl LiveSchema {
    pub(super) fn known(&self) -> Option<&Arc<LeadSchema>> {
        self.known.as_ref().map(|(schema, _)| schema)
    }

    /// True when it is so old and may be read again.
    fn is_due(&self, age_max: Duration, now: Timestamp) -> bool {
        let is_paused = self.again.is_some_and(|at| now < at);
        self.known.as_ref().is_none_or(|(_, at)| !is_paused && now.since(*at) >= age_max)
    }

    /// Takes what was read; true when it is the one that was known. While it stays as it is, it is read ever more seldom.
    fn take(&mut self, schema: Arc<LeadSchema>, age_max: Duration, now: Timestamp) -> bool {
        let is_same = self.known().is_some_and(|known| *known == schema);
        self.known = Some((schema, now));
        self.unchanged = if is_same { self.unchanged + 1 } else { 0 };
        let doublings = self.unchanged.saturating_sub(1).min(10);
        let pause = age_max.saturating_mul(1 << doublings).min(SCHEMA_PAUSE_MAX);
        self.again = is_same.then(|| now.plus(pause));
        is_same
    }
}

impl Reconciler {
    /// Reads what the live organization allows, when that is old: sooner where it lacks something or was contradicted, and
    /// ever more seldom while it stays as it is.
    pub(super) async fn renew_schema(
        &self,
        ground: &mut Ground,
        settings: &Settings,
        may_ask: bool,
    ) -> Result<(), RemoteError> {
        let now = self.ports.clock.now();
        let age_max = age_max(settings, ground.schema.known(), self.ports.crm.is_schema_doubtful());
        let is_known = ground.schema.known().is_some();
        if is_known && !(may_ask && ground.schema.is_due(age_max, now)) {
            return Ok(());
        }
        match self.ports.crm.schema().await {
            Ok(schema) => {
                let is_same = ground.schema.take(schema, age_max, now);
                ground.mapping.take_if(|_| !is_same);
            }
            Err(error) if !is_known => {
                ground.identity_at = None;
                return Err(error);
            }
            Err(error) => {
                ground.schema.again = Some(now.plus(SCHEMA_AGE_DOUBTFUL));
                tracing::warn!("the schema could not be read again, the one read before stays: {error}");
            }
        }
        Ok(())
    }
}

/// How long this schema is believed.
fn age_max(settings: &Settings, schema: Option<&Arc<LeadSchema>>, is_doubtful: bool) -> Duration {
    match schema {
        Some(schema) if key_trouble(settings, schema).is_some() => SCHEMA_AGE_STOPPED,
        Some(schema) if lacks_column(settings, schema) || is_doubtful => SCHEMA_AGE_DOUBTFUL,
        Some(_) | None => SCHEMA_AGE_MAX,
    }
}

/// In alternate-key mode nothing is written while the key is not active.
pub(super) fn key_trouble(settings: &Settings, schema: &LeadSchema) -> Option<String> {
    let is_ready = settings.identity.is_derived() || schema.is_key_active;
    (!is_ready).then(|| {
        "the alternate key on the referral id column is missing or not Active: nothing is written; run `referrald schema install`, which creates it and waits until it is Active (identity, referral_id_column)".to_owned()
    })
}

/// A referral id column is configured, and the organization does not have it.
fn lacks_column(settings: &Settings, schema: &LeadSchema) -> bool {
    settings.referral_id_column.is_some() && !schema.has_referral_column
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crm::dataverse::settings::Identity;

    /// Seconds from one reading to the next, each of which brings the same schema.
    fn pauses(age_max: Duration, count: usize) -> Vec<u64> {
        let mut live = LiveSchema::default();
        let mut now = Timestamp::from_seconds(1_795_000_000);
        let mut pauses = Vec::new();
        live.take(Arc::default(), age_max, now);
        for _ in 0..count {
            let is_due = |seconds: &u64| live.is_due(age_max, now.plus(Duration::from_secs(*seconds)));
            let pause = (0..=2 * SCHEMA_AGE_MAX.as_secs()).find(is_due).expect("it is read again");
            now = now.plus(Duration::from_secs(pause));
            assert!(live.take(Arc::default(), age_max, now), "it is the same");
            pauses.push(pause);
        }
        pauses
    }

    #[test]
    fn a_schema_that_lacks_something_is_read_ever_more_seldom_up_to_the_longest_pause() {
        let longest = SCHEMA_PAUSE_MAX.as_secs();
        assert_eq!(pauses(SCHEMA_AGE_STOPPED, 7), [60, 60, 120, 240, 480, longest, longest]);
        assert_eq!(pauses(SCHEMA_AGE_DOUBTFUL, 4), [300, 300, longest, longest]);
        assert_eq!(pauses(SCHEMA_AGE_STOPPED, 40).last(), Some(&longest), "however long it takes");
    }

    #[test]
    fn a_schema_that_lacks_nothing_is_read_once_a_day() {
        assert_eq!(pauses(SCHEMA_AGE_MAX, 3), [SCHEMA_AGE_MAX.as_secs(); 3]);
    }

    #[test]
    fn a_schema_that_changed_is_read_again_as_soon_as_at_first() {
        let (age_max, mut now) = (SCHEMA_AGE_STOPPED, Timestamp::from_seconds(1_795_000_000));
        let mut live = LiveSchema::default();
        for _ in 0..9 {
            live.take(Arc::default(), age_max, now);
            now = now.plus(SCHEMA_PAUSE_MAX);
        }
        let changed = LeadSchema { is_key_active: true, ..LeadSchema::default() };
        assert!(!live.take(Arc::new(changed), age_max, now), "it is another one");
        assert!(live.is_due(age_max, now.plus(age_max)));
    }

    #[test]
    fn what_the_configuration_counts_on_decides_how_long_a_schema_is_believed() {
        let mut settings = Settings::defaults();
        let (whole, lacking) =
            (LeadSchema { has_referral_column: true, ..LeadSchema::default() }, LeadSchema::default());
        let age = |settings: &Settings, schema: &LeadSchema, is_doubtful| {
            age_max(settings, Some(&Arc::new(schema.clone())), is_doubtful)
        };
        assert_eq!(age(&settings, &lacking, false), SCHEMA_AGE_MAX);
        assert_eq!(age(&settings, &lacking, true), SCHEMA_AGE_DOUBTFUL);
        settings.referral_id_column = Some("new_referralid".to_owned());
        assert_eq!(age(&settings, &whole, false), SCHEMA_AGE_MAX);
        assert_eq!(age(&settings, &lacking, false), SCHEMA_AGE_DOUBTFUL);
        settings.identity = Identity::AlternateKey;
        assert_eq!(age(&settings, &whole, false), SCHEMA_AGE_STOPPED);
    }
}
