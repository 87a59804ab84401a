//! Settings in layers: compiled-in defaults, file, drop-ins, environment, flags.
//!
//! Each module owns its settings type, `Settings` only gathers them. All problems are found in one run.

mod check;
mod document;
mod duration;
mod extract;
mod key;
mod layer;
mod problem;
mod restart;
pub mod schema;
pub mod secret;
pub mod show;
mod source;
#[cfg(test)]
mod tests;
pub mod unit;

pub use duration::HumanDuration;
pub use key::{KeyPath, is_secret_name};
pub use problem::{Origin, Problem, Problems, Severity, Snippet};
pub use restart::Restart;
pub use source::Sources;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::alarm::AlarmSettings;
use crate::crm::dataverse::settings::{DataverseSettings, Identity};
use crate::cycle::settings::CycleSettings;
use crate::daemon::settings::DaemonSettings;
use crate::http::settings::HttpSettings;
use crate::observability::ObservabilitySettings;
use crate::plan::settings::{
    BrakeSettings, LinkSettings, MappingSettings, RetrySettings, ScopeSettings, StatusSettings, Writes,
};
use crate::portal::partner_center::settings::PartnerCenterSettings;
use crate::store::settings::StateSettings;
use crate::telemetry::settings::LogSettings;
use crate::trigger::settings::{ScheduleSettings, WebhookSettings};

/// Everything that can be configured. The defaults, with a comment on each key, are in `config/default.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How far writing goes.
    pub writes: Writes,
    /// What identifies a lead.
    pub identity: Identity,
    /// Logical name of the lead column that receives the referral id.
    pub referral_id_column: Option<String>,
    /// The referrals side.
    pub partner_center: PartnerCenterSettings,
    /// The leads side.
    pub dataverse: DataverseSettings,
    /// How requests travel.
    pub http: HttpSettings,
    /// Which referral and which lead belong together.
    pub link: LinkSettings,
    /// Which referrals get a lead.
    pub scope: ScopeSettings,
    /// How a referral becomes a lead, and back.
    pub mapping: MappingSettings,
    /// What a lead's status means for the referral.
    pub status: StatusSettings,
    /// Limits that stop writing of one kind.
    pub brakes: BrakeSettings,
    /// Patience across cycles.
    pub retry: RetrySettings,
    /// Where the daemon keeps its memory.
    pub state: StateSettings,
    /// When the clock rings.
    pub schedule: ScheduleSettings,
    /// The loop.
    pub daemon: DaemonSettings,
    /// One pass.
    pub cycle: CycleSettings,
    /// The webhook listener.
    pub webhook: WebhookSettings,
    /// The observability listener.
    pub observability: ObservabilitySettings,
    /// Alarms.
    pub alarm: AlarmSettings,
    /// The log.
    pub log: LogSettings,
}

/// The text of the lowest layer: every key, commented.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Settings that can be used, and what is worth saying about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective settings.
    pub settings: Settings,
    /// Findings that do not stand in the way; all of severity warning.
    pub warnings: Problems,
    layers: layer::Layers,
}

impl Settings {
    /// Reads all layers and checks them. The error holds every problem found, warnings included.
    pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
        let (mut layers, mut drafts) = sources.read();
        layers.replace_whole_tables();
        let has_broken_file = !drafts.is_empty();
        let mut extracted = extract::extract(&mut layers);
        drafts.append(&mut extracted.drafts);
        // With a file or half the values missing the rules would mostly complain about what stands there.
        if !has_broken_file && !extracted.is_cut {
            let settings = &extracted.settings;
            drafts.extend(check::check(settings, &layers, &sources.environment, &extracted.reported));
        }
        let found = finish(drafts, &layers, extracted.is_cut);
        match found.error_count() {
            0 => Ok(Loaded { settings: extracted.settings, warnings: found, layers }),
            _ => Err(found),
        }
    }

    /// Every lead column that the configuration names.
    pub fn columns(&self) -> BTreeSet<String> {
        let groups = self.mapping.groups.values().filter(|group| group.enabled);
        let columns = groups.flat_map(|group| group.columns.keys().cloned());
        columns.chain(self.mapping.consent_mark_column.clone()).collect()
    }

    /// The compiled-in defaults alone: nothing is written, no service is named.
    pub fn defaults() -> Settings {
        let mut layers = layer::Layers::default();
        layers.push(layer::Layer::built_in());
        layers.figment().extract().expect("config/default.toml fits the settings, a test reads it")
    }
}

impl Loaded {
    /// Where the effective value of a key comes from.
    pub fn origin(&self, key: &KeyPath) -> Origin {
        self.layers.place(key, layer::Part::Value).origin
    }
}

/// Puts findings in the order of their places and draws the lines.
fn finish(mut drafts: Vec<problem::Draft>, layers: &layer::Layers, is_cut: bool) -> Problems {
    drafts.sort_by_key(|draft| (draft.place.layer, draft.place.range.as_ref().map(|range| range.start)));
    let problems = drafts
        .into_iter()
        .map(|draft| {
            let snippet = match (layers.document(draft.place.layer), &draft.place.range, &draft.place.snippet) {
                (_, _, Some(snippet)) => Some(snippet.clone()),
                (Some(document), Some(range), None) => Snippet::of(document, range),
                _ => None,
            };
            Problem {
                severity: draft.severity,
                key: draft.key.to_string(),
                message: draft.message,
                remedy: draft.remedy,
                origin: draft.place.origin,
                snippet,
            }
        })
        .collect();
    Problems { problems, is_cut }
}
