//! What the daemon, the control socket and the commands need of the reconcile core, and nothing else.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::beside::{Beside, Prepared};
use super::status::Status;
use crate::cycle::{Budget, CycleError, Explanation, Forecast, Report};
use crate::model::ReferralId;
use crate::ports::{Check, HistoryLine, Take};

/// The reconcile core with its adapters, ready to run.
///
/// Everything but `cycle` may be called at any time, also while a cycle runs; cycles are never started side by side.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Runs one cycle. When `stop` is cancelled it finishes the writes in flight, records them and returns.
    async fn cycle(&self, budget: Budget, stop: &CancellationToken) -> Result<Report, CycleError>;

    /// Says what the next cycle would do; writes nothing. With [`Detail::Values`] the sentences carry values, for a
    /// person at a terminal.
    async fn forecast(&self, detail: Detail, stop: &CancellationToken) -> Result<Forecast, CycleError>;

    /// Reads both sides of one referral, named by its own id or its lead's, and says what is decided and why; writes
    /// nothing.
    async fn explain(
        &self,
        id: uuid::Uuid,
        detail: Detail,
        stop: &CancellationToken,
    ) -> Result<Explanation, CycleError>;

    /// Tells how things stand. Must answer quickly while a cycle runs.
    async fn status(&self) -> Result<Status, CycleError>;

    /// Carries out an operator's decision durably. A decision about something that does not exist is an answer, not an
    /// error.
    async fn decide(&self, request: DecisionRequest) -> Result<DecisionAnswer, CycleError>;

    /// The sweep schedule fired: the next cycles read everything.
    fn ask_for_sweep(&self);

    /// Somebody waits for the next cycle: what the one under way reads in the background ends with its next page.
    fn hurry(&self);

    /// Reads a changed configuration and checks it; nothing changes before [`Prepared::take_over`].
    ///
    /// # Errors
    /// Every problem as a sentence.
    fn prepare(&self) -> Result<Prepared<'_>, Vec<String>>;

    /// What was done to a referral, oldest first.
    async fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, CycleError>;

    /// Reads the whole ledger and every export, and says what it found.
    async fn check(&self) -> Result<Check, CycleError>;

    /// Writes an export of the ledger into `out`; returns the number of entries.
    async fn export(&self, out: Box<dyn std::io::Write + Send>) -> Result<u64, CycleError>;

    /// Something runs beside the loop from now on: [`Engine::status`] asks it, too.
    fn set_beside(&self, _beside: std::sync::Arc<dyn Beside>) {}

    /// Stops in order: marks the stop as clean, flushes. Called after the last cycle has returned.
    async fn shutdown(&self);
}

/// How much a forecast tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Ids, columns, rules and configuration keys.
    #[default]
    Names,
    /// Values as well. Never logged.
    Values,
}

/// An operator's decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum DecisionRequest {
    /// Pause writing.
    Suspend,
    /// Go on writing.
    Resume,
    /// Let go what a brake holds back: the digest of the set, or `organization`.
    Approve {
        /// As `status` prints it.
        digest: String,
    },
    /// Leave these referrals alone until they are released.
    Hold {
        /// The referrals.
        ids: Vec<ReferralId>,
    },
    /// Lift holds.
    Release {
        /// Whose.
        which: Which,
        /// Only this mapping group.
        group: Option<String>,
        /// Whose value wins where there is no common base.
        take: Option<Take>,
    },
    /// Try dead letters again.
    Retry {
        /// Which.
        which: Which,
    },
    /// Rewrite leads after a change of mapping.
    Backfill {
        /// Only this mapping group.
        group: Option<String>,
        /// End the one under way instead.
        is_stop: bool,
    },
    /// Remove everything about these referrals and never import them again.
    Forget {
        /// The referrals.
        ids: Vec<ReferralId>,
    },
}

/// Which referrals a decision is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// These.
    Ids(Vec<ReferralId>),
    /// Dead letters whose cause contains this text; only for a retry.
    Cause(String),
    /// All it can be about.
    All,
}

/// What came of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecisionAnswer {
    /// It was carried out, as far as it named anything. False: nothing fits, for example an unknown digest.
    pub is_done: bool,
    /// How many referrals it concerned.
    pub changed: u64,
    /// One sentence: what happened, or why nothing did and what to do.
    pub text: String,
    /// Referrals that were named and are not known.
    pub unknown: Vec<ReferralId>,
}
