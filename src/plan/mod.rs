//! Verbs: pure functions from values to values. No async, no logging, no clock, no randomness.

pub mod account;
pub mod action;
pub mod backoff;
pub mod brakes;
pub mod diff;
pub mod fields;
pub mod mapping;
pub mod policy;
pub mod scope;
pub mod settings;
pub mod settle;
pub mod snapshot;
pub mod status;

#[cfg(test)]
mod tests;

pub use crate::ports::Groups;
pub use account::{ColumnAccount, GroupAccount, RowAccount, account};
pub use action::{Action, GroupWrite, HOLD_NAMES, Hold, Needs, Rule, Step};
pub use diff::{GroupTrace, RowPlan, Urgency, plan_row, trace_row};
pub use policy::Policy;
pub use settle::{Next, Outcome, settle};
pub use snapshot::{Adoption, Claim, Row, Seen};
