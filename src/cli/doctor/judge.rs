//! The judgement: facts in, report out. Pure.
//!
//! Checks come from the ground up, and each names those it stands on: one that failed takes the others with it, so that
//! there is one cause to mend and no noise above it.

mod ground;
mod services;

use super::facts::{Facts, Trouble};
use super::report::{Check, Outcome, Report};
use crate::model::Side;

/// Judges everything.
pub fn diagnose(facts: &Facts) -> Report {
    let mut desk = Desk::default();
    ground::judge(facts, &mut desk);
    services::judge(facts, &mut desk);
    Report { checks: desk.checks }
}

/// Checks so far.
#[derive(Default)]
struct Desk {
    checks: Vec<Check>,
}

impl Desk {
    /// Judges, unless one of `needs` failed or was skipped. `judged` gives `None` for a check that does not apply.
    fn add(
        &mut self,
        id: impl Into<String>,
        title: impl Into<String>,
        needs: &[&str],
        judged: impl FnOnce() -> Option<Outcome>,
    ) {
        let failed = needs.iter().find_map(|need| {
            let check = self.checks.iter().find(|check| check.id == *need)?;
            match &check.outcome {
                Outcome::Failed(_) => Some(check.title.clone()),
                Outcome::Skipped { because } => Some(because.clone()),
                Outcome::Good { .. } | Outcome::Care(_) => None,
            }
        });
        let outcome = match failed {
            Some(because) => Some(Outcome::Skipped { because }),
            None => judged(),
        };
        if let Some(outcome) = outcome {
            self.checks.push(Check { id: id.into(), title: title.into(), outcome });
        }
    }
}

/// The outcome of a question that was not answered.
fn troubled(trouble: &Trouble, expected: &str) -> Outcome {
    match trouble.is_passing {
        true => Outcome::failed(format!("{}, for the moment", trouble.what), expected, trouble.remedy.as_str()),
        false => Outcome::failed(trouble.what.as_str(), expected, trouble.remedy.as_str()),
    }
}

/// The stable part of ids.
fn word(side: Side) -> &'static str {
    match side {
        Side::Portal => "partner-center",
        Side::Crm => "dynamics",
    }
}
