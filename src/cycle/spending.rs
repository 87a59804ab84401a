//! Daily request budgets: what each side has been sent today, and what it may still be sent (spec 6).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::model::{Side, Timestamp};
use crate::ports::{Allowance, Memo, Ports, RequestsToday};

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// What both sides may be sent in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Requests to the portal a day; 0 is no limit.
    pub portal: u64,
    /// Requests to the CRM a day; 0 is no limit.
    pub crm: u64,
    /// The last so many percent of each are for urgent work alone.
    pub urgent_percent: u64,
}

/// How much of a day's budget is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Enough for everything.
    Enough,
    /// Enough for urgent work only.
    UrgentOnly,
    /// Nothing.
    Nothing,
}

impl Budgets {
    /// What is left for a side that has been sent this much today.
    pub fn left(&self, side: Side, today: RequestsToday) -> Left {
        let (budget, spent) = (self.of(side), spent(side, today));
        if budget == 0 {
            return Left::Enough;
        }
        let reserve = budget.saturating_mul(self.urgent_percent.min(100)) / 100;
        match spent {
            spent if spent >= budget => Left::Nothing,
            spent if spent >= budget - reserve => Left::UrgentOnly,
            _ => Left::Enough,
        }
    }

    /// What is said about it; `None` while there is enough.
    pub fn note(&self, side: Side, today: RequestsToday) -> Option<String> {
        let key = match side {
            Side::Portal => "partner_center.requests_per_day",
            Side::Crm => "dataverse.requests_per_day",
        };
        let (budget, until) = (self.of(side), midnight_after(today.day));
        match self.left(side, today) {
            Left::Enough => None,
            Left::UrgentOnly => Some(format!(
                "the last {} % of today's {budget} requests to {side} are kept for urgent work; the rest goes on at {until} ({key}, cycle.urgent_requests_percent)",
                self.urgent_percent
            )),
            Left::Nothing => Some(format!(
                "today's {budget} requests to {side} are used up; nothing is sent there before {until} ({key})"
            )),
        }
    }

    /// As [`Budgets::note`], for both sides.
    pub fn notes(&self, today: RequestsToday) -> BTreeMap<Side, String> {
        let note = |side| Some((side, self.note(side, today)?));
        [Side::Portal, Side::Crm].into_iter().filter_map(note).collect()
    }

    fn of(&self, side: Side) -> u64 {
        match side {
            Side::Portal => self.portal,
            Side::Crm => self.crm,
        }
    }
}

/// Counts every request of this process into the ledger's count of the day, whoever sent it.
#[derive(Debug, Default)]
pub struct Meter {
    /// Requests of this process that are in the ledger's count already.
    counted: Mutex<(u64, u64)>,
}

impl Meter {
    /// What was sent today, what this process has not counted yet included.
    pub fn today(&self, ports: &Ports, memo: &Memo) -> RequestsToday {
        let day = ports.clock.now().millis().div_euclid(DAY);
        let counted = *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let known = if memo.requests_today.day == day { memo.requests_today } else { RequestsToday::default() };
        RequestsToday {
            day,
            portal: known.portal + ports.portal.line().requests_sent().saturating_sub(counted.0),
            crm: known.crm + ports.crm.line().requests_sent().saturating_sub(counted.1),
        }
    }

    /// Counts what was sent since the last time into a memo that is recorded right after.
    pub fn count(&self, ports: &Ports, memo: &mut Memo) {
        memo.requests_today = self.today(ports, memo);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted = (ports.portal.line().requests_sent(), ports.crm.line().requests_sent());
    }

    /// Tells both ports how much more they may send today, so that no retry and no chunk exceeds it.
    pub fn allow(&self, ports: &Ports, memo: &Memo, budgets: Budgets) {
        let today = self.today(ports, memo);
        let until = midnight_after(today.day);
        let allowance = |side| match budgets.of(side) {
            0 => None,
            budget => Some(Allowance { requests: budget.saturating_sub(spent(side, today)), until }),
        };
        for side in [Side::Portal, Side::Crm] {
            ports.line(side).allow(allowance(side));
        }
    }
}

fn spent(side: Side, today: RequestsToday) -> u64 {
    match side {
        Side::Portal => today.portal,
        Side::Crm => today.crm,
    }
}

/// When the day after this one begins, in UTC.
pub(super) fn midnight_after(day: i64) -> Timestamp {
    Timestamp::from_millis((day + 1).saturating_mul(DAY))
}

#[cfg(test)]
mod tests {
    use super::{Budgets, Left};
    use crate::model::Side;
    use crate::ports::RequestsToday;

    #[test]
    fn the_last_share_of_a_budget_is_for_urgent_work() {
        let budgets = Budgets { portal: 200, crm: 0, urgent_percent: 5 };
        let left = |portal| budgets.left(Side::Portal, RequestsToday { day: 20_000, portal, crm: 9_999 });
        let expected = [(189, Left::Enough), (190, Left::UrgentOnly), (199, Left::UrgentOnly), (200, Left::Nothing)];
        for (spent, expected) in expected {
            assert_eq!(left(spent), expected, "{spent}");
        }
        let today = RequestsToday { day: 20_000, portal: 200, crm: 9_999 };
        assert_eq!(budgets.left(Side::Crm, today), Left::Enough, "0 is no limit");
        assert_eq!(
            budgets.note(Side::Portal, today).as_deref(),
            Some(
                "today's 200 requests to Partner Center are used up; nothing is sent there before 2024-10-05T00:00:00Z (partner_center.requests_per_day)"
            )
        );
    }
}
