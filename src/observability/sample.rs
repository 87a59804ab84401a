//! Two days, for tests: one with everything that can be shown, one on which all is well.

use crate::daemon::Status;

/// Much to show.
pub(super) fn busy() -> Status {
    serde_json::from_str(include_str!("../../tests/it/fixtures/status_busy.json")).expect("a status")
}

/// All is well.
pub(super) fn quiet() -> Status {
    serde_json::from_str(include_str!("../../tests/it/fixtures/status_quiet.json")).expect("a status")
}
