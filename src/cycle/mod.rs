//! One pass: observe, plan, apply, record. The only place where the plan meets the ports.

pub mod report;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::plan::policy::Policy;
use crate::ports::{Ports, StoreError};

pub use report::{Forecast, Report};

/// How long a pass may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// What is left after this long is pending; the next pass goes on.
    Work(Duration),
    /// To the end: every scan that is due, and pending rows whether due or not.
    Unlimited,
}

/// What ended a pass before its end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CycleError {
    /// The ledger could not be read or written: nothing more is sent.
    #[error(transparent)]
    Store(#[from] StoreError),
}
