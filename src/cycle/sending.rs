//! One write on its way: sent over the ports, after a fresh read when it cannot be taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::model::{Entry, Fault, RemoteError, Side};
use crate::plan::{Action, Outcome, Policy, Row, Seen, Step, plan_row};
use crate::ports::{Clock, Crm, Portal, Ports};

/// Writes of one batch in a row that a service may leave unanswered or refuse as a whole, before the others of that batch
/// wait for the next pass: a silent service would otherwise cost its whole patience for each of them.
const UNANSWERED_MAX: u32 = 5;

/// What sending one action gave.
pub(super) enum Sent {
    /// An answer or a failure.
    Outcome(Outcome),
    /// A fresh read showed something else than the plan expected: nothing was sent, the row is decided again.
    Changed,
    /// The service has been silent for too long: nothing was sent, the row waits.
    NotTried,
}

/// How many writes in a row each side has left unanswered or refused as a whole.
#[derive(Default)]
pub(super) struct Silence {
    portal: AtomicU32,
    crm: AtomicU32,
}

impl Silence {
    fn of(&self, side: Side) -> &AtomicU32 {
        match side {
            Side::Portal => &self.portal,
            Side::Crm => &self.crm,
        }
    }

    /// Whether this side is given up for now.
    pub(super) fn is_long(&self, side: Side) -> bool {
        self.of(side).load(Ordering::Relaxed) >= UNANSWERED_MAX
    }

    /// Counts what came of a write.
    pub(super) fn note(&self, side: Side, sent: &Sent) {
        match sent {
            Sent::Outcome(Outcome::Failed(error)) if error.stops_side() => {
                self.of(error.side).fetch_add(1, Ordering::Relaxed);
            }
            Sent::Outcome(_) | Sent::Changed => self.of(side).store(0, Ordering::Relaxed),
            Sent::NotTried => {}
        }
    }
}

/// What sending needs of the outside world. Not the ledger: a write that is given up with its pass must not keep it open.
#[derive(Clone)]
pub(super) struct Remotes {
    portal: Arc<dyn Portal>,
    crm: Arc<dyn Crm>,
    clock: Arc<dyn Clock>,
}

impl Remotes {
    pub(super) fn of(ports: &Ports) -> Remotes {
        Remotes { portal: Arc::clone(&ports.portal), crm: Arc::clone(&ports.crm), clock: Arc::clone(&ports.clock) }
    }
}

/// Sends one action. An irreversible step is sent only when a fresh read still asks for the very same step.
pub(super) async fn send_one(remotes: &Remotes, policy: &Policy, row: &mut Row, action: &mut Action) -> Sent {
    // What was fresh when it was planned may have waited long for its brake to be judged.
    let is_fresh = |is_planned: bool| is_planned && row.is_referral_fresh(remotes.clock.now());
    let needs_fresh =
        matches!(action, Action::Patch { step, is_fresh: fresh, .. } if *step != Step::None && !is_fresh(*fresh));
    if needs_fresh {
        match fresh(remotes, policy, row, action).await {
            // What is settled afterwards is what was sent, not what was planned before the read.
            Ok(Some(again)) => *action = again,
            Ok(None) => return Sent::Changed,
            Err(error) => return Sent::Outcome(Outcome::Failed(error)),
        }
    }
    let request = request_id(action, row.entry.as_ref());
    Sent::Outcome(match action {
        Action::Create { referral, lead, draft, .. } => {
            lead_outcome(remotes.crm.create(*referral, *lead, draft, request).await)
        }
        Action::Update { lead, etag, draft, .. } => lead_outcome(remotes.crm.update(*lead, etag, draft, request).await),
        Action::Patch { referral, etag, patch, .. } => {
            patch_outcome(remotes.portal.patch(*referral, etag, patch, request).await)
        }
    })
}

/// Reads the referral and decides the row again; the action, if it is still the same irreversible step.
async fn fresh(
    remotes: &Remotes,
    policy: &Policy,
    row: &mut Row,
    action: &Action,
) -> Result<Option<Action>, RemoteError> {
    match remotes.portal.get(row.id).await {
        Ok(referral) => row.referral = Seen::from(referral),
        Err(error) if error.fault == Fault::Missing => row.referral = Seen::Absent,
        Err(error) => return Err(error),
    }
    row.referral_read = Some(remotes.clock.now());
    let plan = plan_row(row, policy, remotes.clock.now());
    if let Some(entry) = plan.entry {
        row.entry = Some(entry);
    }
    let is_same = |again: &Action| match (again, action) {
        (Action::Patch { step: again, .. }, Action::Patch { step, .. }) => again == step,
        (_, _) => false,
    };
    Ok(plan.action.filter(is_same))
}

fn lead_outcome(result: Result<crate::model::Lead, RemoteError>) -> Outcome {
    match result {
        Ok(lead) => Outcome::LeadWritten(Box::new(lead)),
        Err(error) => Outcome::Failed(error),
    }
}

fn patch_outcome(result: Result<Option<crate::model::Referral>, RemoteError>) -> Outcome {
    match result {
        Ok(referral) => Outcome::ReferralWritten(referral.map(Box::new)),
        Err(error) => Outcome::Failed(error),
    }
}

/// The idempotency key of one logical write: the same action gives the same key, also after a restart, until an attempt
/// has failed for good. A lost answer is no such failure (partner-center §1.5).
fn request_id(action: &Action, entry: Option<&Entry>) -> uuid::Uuid {
    let failures = entry.and_then(|entry| entry.trouble.as_ref()).map_or(0, |trouble| trouble.attempts);
    let what = match action {
        Action::Create { referral, draft, .. } => json!([referral, "create", draft.columns, draft.owner]),
        Action::Update { referral, etag, draft, .. } => json!([referral, "update", etag, draft.columns]),
        Action::Patch { referral, etag, patch, .. } => json!([referral, "patch", etag, patch.operations]),
    };
    let what = if failures == 0 { what } else { json!([what, failures]) };
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, what.to_string().as_bytes())
}

/// Which side an action writes to.
pub(super) fn side_of(action: &Action) -> Side {
    match action {
        Action::Create { .. } | Action::Update { .. } => Side::Crm,
        Action::Patch { .. } => Side::Portal,
    }
}
