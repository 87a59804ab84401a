//! How things stand, put together from the ledger, the last report and the services; nothing is asked for it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Reconciler, budgets};
use crate::cycle::{self, CycleError, Report};
use crate::daemon::status::{
    BrakeStatus, DEADLINES_LISTED_MAX, Deadline, DealClock, LastCycle, LedgerStatus, SideStatus, Status, Writing,
};
use crate::model::{Side, Standing, Timestamp};
use crate::plan::HOLD_NAMES;
use crate::ports::Opening;
use crate::telemetry::commands;

/// Deadlines looked at for the deal clock, so that a status stays quick; there are rarely hundreds.
const DEADLINES_MAX: usize = 10_000;

/// A deal clock over more deadlines than this is counted anew only every [`DEALS_AGE_MAX`].
const DEADLINES_QUICK: usize = 200;

/// See [`DEADLINES_QUICK`].
const DEALS_AGE_MAX: Duration = Duration::from_secs(10);

impl Reconciler {
    pub(super) fn sides(
        &self,
        report: &Report,
        now: Timestamp,
    ) -> Result<std::collections::BTreeMap<Side, SideStatus>, CycleError> {
        let settings = self.settings();
        let memo = self.ports.store.memo()?;
        let closed = self.ports.store.decisions()?.closed_until;
        let today = self.meter.today(&self.ports, &memo);
        let budgets = budgets(&settings);
        let mut sides = std::collections::BTreeMap::new();
        for (side, requests, budget, closed) in [
            (Side::Portal, today.portal, settings.partner_center.requests_per_day, closed.get(&Side::Portal)),
            (Side::Crm, today.crm, settings.dataverse.requests_per_day, closed.get(&Side::Crm)),
        ] {
            let credential =
                self.credentials.iter().find(|(of, _)| *of == side).map(|(_, credential)| credential(&settings));
            let ends = credential.as_ref().and_then(|(_, ends)| *ends);
            let days = |end: Timestamp| (end.millis() - now.millis()).div_euclid(86_400_000);
            let trouble = report.sides.get(&side).cloned();
            let status = SideStatus {
                needs_human: report.needs_human && trouble.is_some(),
                trouble,
                closed_until: closed.copied().filter(|until| *until > now),
                requests_today: requests,
                requests_per_day: budget,
                budget: budgets.note(side, today),
                credential: credential.map(|(text, _)| text),
                credential_days_left: ends.map(days),
                credential_until: ends,
                traffic: self.ports.line(side).traffic(),
            };
            sides.insert(side, status);
        }
        Ok(sides)
    }

    /// How things stand, by the ledger.
    pub(super) fn read_status(&self) -> Result<Status, CycleError> {
        let now = self.ports.clock.now();
        let store = &self.ports.store;
        let (memo, counters, decisions) = (store.memo()?, store.counters()?, store.decisions()?);
        let report: Option<Report> = memo.last_report.as_ref().and_then(|(_, text)| serde_json::from_str(text).ok());
        let last_cycle = report.as_ref().map(|report| LastCycle {
            started: report.started,
            duration_ms: report.duration_ms,
            done: report.done.clone(),
            failed: report.failures(),
            pending: report.pending,
            settling: report.settling,
        });
        let report = report.unwrap_or_default();
        let holds = counters
            .holds
            .iter()
            .filter_map(|(bit, count)| HOLD_NAMES.get(usize::from(*bit)).map(|name| ((*name).to_owned(), *count)));
        let pending = counters.by_standing.get(&Standing::Pending).copied().unwrap_or(0);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now,
            last_cycle,
            is_cycle_running: self.is_running.load(Ordering::Relaxed),
            last_success: memo.last_success,
            writing: Writing {
                mode: self.mode(),
                is_suspended: decisions.is_suspended,
                stopped: report.writes_stopped.clone().filter(|_| !decisions.is_suspended),
            },
            referrals: counters.entries,
            linked: counters.by_standing.get(&Standing::Linked).copied().unwrap_or(0),
            backlog: pending.max(report.pending),
            holds: holds.collect(),
            left_out: report.left_out.clone(),
            dead_letters: counters.dead_letters.iter().map(|(cause, count)| (cause.to_string(), *count)).collect(),
            retrying: counters.retrying,
            brakes: decisions.brakes.iter().map(|(name, brake)| brake_status(name, brake)).collect(),
            sides: self.sides(&report, now)?,
            progress: report.progress.clone(),
            swept: memo.swept,
            deals: self.deals(now)?,
            opening: opening_note(&store.opening()),
            ledger_trouble: None,
            exports: self.nightly.status(store.as_ref()),
            forgotten: decisions.forgotten.len() as u64,
            webhook: None,
            dead_letter_classes: counters.dead_letters.iter().fold(
                Default::default(),
                |mut classes, (cause, count)| {
                    *classes.entry(cause.class().to_owned()).or_default() += count;
                    classes
                },
            ),
            ledger: LedgerStatus { bytes_on_disk: self.size.of(&self.settings().state.directory.join("ledger")) },
            ..Status::default()
        })
    }

    /// How things stand while the ledger cannot be read: as it was known last, and why that is all.
    pub(super) fn status_without_ledger(&self, last: Option<Status>, error: &CycleError) -> Status {
        let known = match &last {
            Some(last) => format!("what is shown is from {}", last.now),
            None => "nothing is known yet".to_owned(),
        };
        let last = last.unwrap_or_else(|| Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            writing: Writing { mode: self.mode(), ..Writing::default() },
            ..Status::default()
        });
        Status {
            now: self.ports.clock.now(),
            is_cycle_running: self.is_running.load(Ordering::Relaxed),
            writing: Writing { stopped: Some("the ledger cannot be used".to_owned()), ..last.writing },
            ledger_trouble: Some(format!("{error}; nothing is written meanwhile, and {known}")),
            ..last
        }
    }

    /// The key `writes` of the configuration.
    pub(super) fn mode(&self) -> String {
        let mode = serde_json::to_value(self.settings().writes).ok();
        mode.and_then(|mode| mode.as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub(super) fn deals(&self, now: Timestamp) -> Result<DealClock, CycleError> {
        let counters = self.ports.store.counters()?;
        let mut clock = DealClock { new: counters.unanswered, ..DealClock::default() };
        if counters.unanswered == 0 {
            return Ok(clock);
        }
        let mut known = self.deals.lock().unwrap_or_else(PoisonError::into_inner);
        // Not counted anew for each referral that comes or is answered: in a first import that would be every time.
        if let Some((_, known)) = known.as_ref().filter(|(at, _)| now.since(*at) < DEALS_AGE_MAX && *at <= now) {
            return Ok(DealClock { new: counters.unanswered, ..known.clone() });
        }
        let soon = now.plus(self.settings().status.deadline_warning.get());
        let deadlines = self.ports.store.deadlines(soon, DEADLINES_MAX)?;
        let is_quick = deadlines.len() <= DEADLINES_QUICK;
        for (id, deadline) in deadlines {
            if deadline <= now {
                clock.expired += 1;
            } else {
                clock.expiring += 1;
            }
            if deadline > now && clock.next.len() < DEADLINES_LISTED_MAX {
                clock.next.push(Deadline { referral: id, at: deadline });
            }
            if clock.next_deadline.is_none() && deadline > now {
                clock.next_deadline = Some(deadline);
                clock.next_referral = Some(id);
            }
        }
        *known = (!is_quick).then(|| (now, clock.clone()));
        Ok(clock)
    }
}

fn brake_status(name: &str, brake: &crate::ports::LatchedBrake) -> BrakeStatus {
    let command = match (name, brake.digest.as_str()) {
        (cycle::ORGANIZATION_BRAKE, _) => commands::command("approve organization"),
        (_, "") => String::new(),
        (_, digest) => commands::command(&format!("approve {digest}")),
    };
    BrakeStatus {
        name: name.to_owned(),
        since: brake.since,
        reason: brake.reason.clone(),
        held: brake.count,
        limit: brake.limit,
        digest: brake.digest.clone(),
        command,
    }
}

fn opening_note(opening: &Opening) -> Option<String> {
    match opening {
        Opening::Fresh | Opening::Clean => None,
        Opening::Unclean => Some("the last stop was not in order; everything is read once".to_owned()),
        Opening::TailLost { found: 0, .. } => {
            Some("the ledger was gone; it is rebuilt from both services and the newest export".to_owned())
        }
        Opening::TailLost { expected, found } => Some(format!(
            "the newest records of the ledger are missing (commit {found}, {expected} expected); everything is read once"
        )),
        Opening::MovedAside { to, reason } => Some(format!(
            "the ledger could not be read ({reason}) and was moved to {}; it is rebuilt from both services",
            to.display()
        )),
    }
}
