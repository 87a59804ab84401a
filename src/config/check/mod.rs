//! Rules that types cannot say: what goes with what. Every rule is asked, whatever the others found.

mod connection;
mod limits;
mod mapping;
mod sign_in;

use std::collections::{BTreeMap, BTreeSet};

use super::key::KeyPath;
use super::layer::{Layers, Part};
use super::problem::{Draft, Severity};
use super::{Origin, Settings};
use crate::crm::dataverse::settings::Identity;
use crate::plan::settings::Writes;
use crate::trigger::settings::parse_cron;

/// Asks every rule. Keys in `reported` have been complained about and are passed over.
pub(super) fn check(
    settings: &Settings,
    layers: &Layers,
    environment: &BTreeMap<String, String>,
    reported: &BTreeSet<KeyPath>,
) -> Vec<Draft> {
    let mut rules = Rules { settings, layers, environment, reported, drafts: Vec::new() };
    rules.identity();
    rules.connections();
    rules.schedule();
    rules.scope();
    rules.status();
    rules.limits();
    rules.listeners();
    rules.log();
    rules.mapping();
    rules.drafts
}

struct Rules<'a> {
    settings: &'a Settings,
    layers: &'a Layers,
    environment: &'a BTreeMap<String, String>,
    reported: &'a BTreeSet<KeyPath>,
    drafts: Vec<Draft>,
}

impl Rules<'_> {
    fn error(&mut self, key: impl Into<KeyPath>, message: impl Into<String>, remedy: impl Into<String>) {
        self.find(Severity::Error, key.into(), message.into(), remedy.into());
    }

    fn warning(&mut self, key: impl Into<KeyPath>, message: impl Into<String>, remedy: impl Into<String>) {
        self.find(Severity::Warning, key.into(), message.into(), remedy.into());
    }

    fn find(&mut self, severity: Severity, key: KeyPath, message: String, remedy: String) {
        let mut place = self.layers.place(&key, Part::Value);
        let key = self.layers.as_written(place.layer, &key);
        if self.reported.iter().any(|said| key.is_within(said) || said.is_within(&key)) {
            return;
        }
        if place.origin == Origin::BuiltIn && severity == Severity::Error {
            // A default is never wrong by itself: something that was set asks for more.
            place = self.layers.place(&KeyPath::from("writes"), Part::Value);
        }
        self.drafts.push(Draft { severity, key, message, remedy, place });
    }

    /// An error once something is written; before that, only a reminder.
    fn needed_for_writing(&self) -> Severity {
        match self.settings.writes {
            Writes::Off => Severity::Warning,
            Writes::LeadsOnly | Writes::Both => Severity::Error,
        }
    }

    fn identity(&mut self) {
        let column = self.settings.referral_id_column.as_deref();
        match (self.settings.identity, column) {
            (Identity::AlternateKey, None) => self.error(
                "identity",
                "\"alternate_key\" needs a column that carries the referral's id",
                "set referral_id_column, for example \"new_referralid\"",
            ),
            (_, Some(column)) if !mapping::is_column_name(column) => self.error(
                "referral_id_column",
                "this is no logical column name",
                "write it in lower case with its prefix, as in \"new_referralid\"",
            ),
            _ => {}
        }
    }

    fn schedule(&mut self) {
        let schedule = &self.settings.schedule;
        for (key, expression) in [("reconcile", &schedule.reconcile), ("sweep", &schedule.sweep)] {
            if let Err(reason) = parse_cron(expression) {
                self.error(
                    KeyPath::from("schedule").child(key),
                    format!("this is no cron expression: {}", reason.escape_debug()),
                    "write five fields, or six with seconds first, as in \"0 30 3 * * *\"",
                );
            }
        }
        self.time_zone("schedule.time_zone", &schedule.time_zone);
        self.time_zone("mapping.closing_date_zone", &self.settings.mapping.closing_date_zone);
    }

    fn time_zone(&mut self, key: &str, name: &str) {
        if jiff::tz::TimeZone::get(name).is_err() {
            self.error(
                key,
                "this time zone is not known here",
                "write an IANA name such as \"Europe/Berlin\" or \"UTC\"; names other than UTC need the package tzdata",
            );
        }
    }

    fn scope(&mut self) {
        let scope = &self.settings.scope;
        if let Some(instant) = &scope.created_after
            && crate::model::Timestamp::parse(instant).is_none()
        {
            self.error("scope.created_after", "this is no instant", "write it as in \"2026-01-01T00:00:00Z\"");
        }
        for (index, country) in scope.countries.iter().enumerate() {
            self.country(KeyPath::from("scope.countries").child(index.to_string()), country);
        }
        let known: [(&str, &[String], &[&str]); 2] = [
            ("scope.types", &scope.types, &["Independent", "Shared"]),
            (
                "scope.qualifications",
                &scope.qualifications,
                &["None", "Direct", "MarketingQualified", "SalesQualified"],
            ),
        ];
        for (key, words, known) in known {
            for (index, word) in words.iter().enumerate() {
                if !known.contains(&word.as_str()) {
                    self.warning(
                        KeyPath::from(key).child(index.to_string()),
                        "the service is not known to use this word, so it matches nothing",
                        format!("known words: {}", known.join(", ")),
                    );
                }
            }
        }
    }

    fn country(&mut self, key: KeyPath, country: &str) {
        if country.len() != 2 || !country.chars().all(|c| c.is_ascii_uppercase()) {
            self.error(key, "this is no country code", "write two capital letters (ISO 3166), as in \"DE\"");
        }
    }

    fn status(&mut self) {
        let status = &self.settings.status;
        for (table, codes) in [
            ("status.labels", status.labels.keys().collect::<Vec<_>>()),
            ("status.codes", status.codes.keys().collect()),
        ] {
            for code in codes {
                if code.parse::<i32>().is_err() {
                    self.error(
                        KeyPath::from(table).child(code),
                        "a status code is a whole number",
                        "write the number of the status reason, as in 7 = \"lost\"",
                    );
                }
            }
        }
        let mut templates = minijinja::Environment::new();
        templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let sample = minijinja::context! { label => "Lost", code => 4 };
        if let Err(error) = templates.render_str(&status.reason, sample) {
            self.error(
                "status.reason",
                format!("the template does not work: {}", template_error(&error)),
                "`label` and `code` are at hand, as in \"{{ label }}\"",
            );
        }
        if status.settle_time_lost < status.settle_time {
            self.warning(
                "status.settle_time_lost",
                "Lost would be sent sooner than Won",
                "make it at least as long as status.settle_time",
            );
        }
    }

    fn log(&mut self) {
        if tracing_subscriber::EnvFilter::try_new(&self.settings.log.level).is_err() {
            self.error(
                "log.level",
                "this is no log level",
                "write \"error\", \"warn\", \"info\", \"debug\", \"trace\", or directives such as \"info,referrald=debug\"",
            );
        }
    }
}

/// The template engine's words on one line.
fn template_error(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {}", error.kind(), detail.escape_debug()),
        None => error.kind().to_string(),
    }
}
