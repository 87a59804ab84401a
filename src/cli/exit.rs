//! Exit codes: what a script may rely on. Each is a function of what came back and of nothing else.

use crate::cycle::{CycleError, Forecast, Report};
use crate::ports::StoreError;

use super::build::StartError;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Fine,
    /// The command failed.
    Failed,
    /// The command line made no sense.
    Usage,
    /// `plan`: there are changes to make. `once`: some referrals failed.
    Some,
    /// `plan`: nothing but holds or a brake. `once`: a brake, sign-in or a key that is not active stopped writing.
    Stopped,
    /// Another daemon holds the state.
    Locked,
    /// The configuration cannot be used.
    Configuration,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Some => 3,
            Exit::Stopped => 4,
            Exit::Locked => 75,
            Exit::Configuration => 78,
        }
    }

    /// After `once`. `was_interrupted`: somebody asked it to stop before its end.
    ///
    /// | brake, sign-in, or writing stopped by nobody's wish | a side did not answer, or interrupted | failures | code |
    /// |---|---|---|---|
    /// | yes | | | 4 |
    /// | | yes | | 1 |
    /// | | | yes | 3 |
    /// | | | | 0, also with rows pending |
    pub fn of_once(report: &Report, was_interrupted: bool) -> Exit {
        let is_stopped = report.writes_stopped.is_some() && !report.is_stop_wanted;
        if !report.brakes.is_empty() || report.needs_human || is_stopped {
            Exit::Stopped
        } else if !report.sides.is_empty() || was_interrupted {
            Exit::Failed
        } else if report.failures() > 0 {
            Exit::Some
        } else {
            Exit::Fine
        }
    }

    /// After `plan`. A forecast that could not see a side is none.
    pub fn of_plan(forecast: &Forecast) -> Exit {
        if forecast.needs_human || !forecast.sides.is_empty() {
            Exit::Failed
        } else if !forecast.actions.is_empty() && !forecast.is_held {
            Exit::Some
        } else if forecast.is_held || !forecast.holds.is_empty() || !forecast.brakes.is_empty() {
            Exit::Stopped
        } else {
            Exit::Fine
        }
    }

    /// After a start that failed.
    pub fn of_start(error: &StartError) -> Exit {
        match error {
            StartError::Store(error) => Exit::of_store(error),
            StartError::Configuration(_) => Exit::Configuration,
            StartError::Failed(_) => Exit::Failed,
        }
    }

    /// After a cycle that could not go on.
    pub fn of_cycle(error: &CycleError) -> Exit {
        match error {
            CycleError::Store(error) => Exit::of_store(error),
        }
    }

    fn of_store(error: &StoreError) -> Exit {
        match error {
            StoreError::Locked { .. } => Exit::Locked,
            StoreError::Newer { .. } | StoreError::Failed { .. } => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;
    use crate::cli::build::StartError;
    use crate::cycle::report::Sentence;
    use crate::cycle::{CycleError, Forecast, Report};
    use crate::model::Side;
    use crate::ports::{ActionKind, StoreError};

    fn once(change: impl FnOnce(&mut Report)) -> u8 {
        let mut report = Report { is_complete: true, ..Report::default() };
        change(&mut report);
        Exit::of_once(&report, false).code()
    }

    #[test]
    fn the_codes_of_once() {
        assert_eq!(once(|_| {}), 0);
        assert_eq!(once(|r| r.done = [(ActionKind::Create, 5)].into()), 0);
        assert_eq!(once(|r| (r.pending, r.settling) = (2, 2)), 0, "a closing that has not settled is no failure");
        assert_eq!(once(|r| r.holds = [("lead closed".into(), 1)].into()), 0, "a hold is a decision, not a failure");
        let wish = "writing is suspended by an operator".to_owned();
        assert_eq!(once(|r| (r.writes_stopped, r.is_stop_wanted) = (Some(wish), true)), 0, "that was wanted");
        let key = "the alternate key of new_referralid is not active yet".to_owned();
        assert_eq!(once(|r| r.writes_stopped = Some(key)), 4, "nobody wants that");
        assert_eq!(once(|r| r.failed = [(ActionKind::Update, 1)].into()), 3);
        assert_eq!(once(|r| r.brakes = [("closings".into(), "30 exceed 20".into())].into()), 4);
        assert_eq!(once(|r| r.needs_human = true), 4);
        assert_eq!(once(|r| r.sides = [(Side::Crm, "does not answer".into())].into()), 1);
    }

    #[test]
    fn the_gravest_code_of_once_wins() {
        let brake = |r: &mut Report| r.brakes = [("closings".into(), "30 exceed 20".into())].into();
        let failed = |r: &mut Report| r.failed = [(ActionKind::Update, 1)].into();
        let down = |r: &mut Report| r.sides = [(Side::Portal, "does not answer".into())].into();
        assert_eq!(once(|r| (brake(r), failed(r), down(r)).2), 4);
        assert_eq!(once(|r| (failed(r), down(r)).1), 1);
        let interrupted = Exit::of_once(&Report::default(), true);
        assert_eq!(interrupted, Exit::Failed);
    }

    #[test]
    fn the_codes_of_plan() {
        let plan = |change: &dyn Fn(&mut Forecast)| {
            let mut forecast = Forecast::default();
            change(&mut forecast);
            Exit::of_plan(&forecast).code()
        };
        assert_eq!(plan(&|_| {}), 0);
        assert_eq!(plan(&|f| f.actions.push(Sentence::default())), 3);
        assert_eq!(plan(&|f| f.holds.push(Sentence::default())), 4);
        assert_eq!(plan(&|f| f.brakes = [("closings".into(), "30 exceed 20".into())].into()), 4);
        assert_eq!(plan(&|f| (f.actions.push(Sentence::default()), f.holds.push(Sentence::default())).1), 3);
        assert_eq!(plan(&|f| (f.actions.push(Sentence::default()), f.is_held = true).1), 4);
        assert_eq!(plan(&|f| f.needs_human = true), 1);
        let blind = |f: &mut Forecast| {
            f.actions.push(Sentence::default());
            f.sides = [(Side::Crm, "does not answer".into())].into();
        };
        assert_eq!(plan(&blind), 1);
    }

    #[test]
    fn the_codes_of_a_start_that_failed() {
        let locked = StoreError::Locked { directory: "/state".into(), pid: None };
        assert_eq!(Exit::of_start(&StartError::Store(locked.clone())).code(), 75);
        assert_eq!(Exit::of_cycle(&CycleError::Store(locked)).code(), 75);
        assert_eq!(Exit::of_start(&StartError::Configuration("problems".into())).code(), 78);
        assert_eq!(Exit::of_start(&StartError::Failed("no socket".into())).code(), 1);
        let newer = StoreError::Newer { directory: "/state".into(), found: 9, known: 1 };
        assert_eq!(Exit::of_start(&StartError::Store(newer)).code(), 1);
    }
}
