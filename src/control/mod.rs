//! The control socket: how a command on the same machine talks to the running daemon.
//!
//! HTTP with JSON over a Unix socket. Whoever may open the file may give orders, so it is 0660 and nothing else guards
//! it: the owner is the daemon's user, the group its group.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /status` | | [`Status`](crate::daemon::Status) |
//! | `GET /plan`, `GET /plan?values=true` | | [`Forecast`](crate::cycle::Forecast) |
//! | `GET /explain?id=…`, also `&values=true` | | [`Explanation`](crate::cycle::Explanation) |
//! | `POST /reconcile` | | [`DecisionAnswer`](crate::daemon::DecisionAnswer) |
//! | `POST /suspend`, `/resume` | | `DecisionAnswer` |
//! | `POST /approve` | `{"digest": "…"}` | `DecisionAnswer` |
//! | `POST /hold` | `{"ids": ["…"]}` | `DecisionAnswer` |
//! | `POST /release` | `{"which": …, "group": "…", "take": "referral"}`; `which` is `{"ids": […]}` or `"all"` | `DecisionAnswer` |
//! | `POST /retry` | `{"which": …}`; also `{"cause": "…"}` | `DecisionAnswer` |
//! | `POST /backfill` | `{"group": "…"}` or `{"is_stop": true}` | `DecisionAnswer` |
//! | `POST /forget` | `{"ids": ["…"]}` | `DecisionAnswer` |
//! | `GET /history?id=…` | | a list of [`HistoryLine`](crate::ports::HistoryLine) |
//! | `GET /state/check` | | [`Check`](crate::ports::Check) |
//! | `GET /state/export` | | JSON lines, see [`crate::store::exports`] |
//!
//! Anything but 2xx carries `{"error": "sentence"}`.

pub mod client;
pub mod place;
pub mod server;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::daemon::{DecisionRequest, Which};
use crate::model::ReferralId;
use crate::ports::Take;

pub use client::{Client, ControlError};
pub use place::{Place, PlaceError};
pub use server::Server;

/// Largest request body accepted, in bytes: room for 10,000 ids.
pub const REQUEST_BYTES_MAX: usize = 512 * 1024;
/// Largest answer a client accepts, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections served at once; further ones wait in the socket's queue.
pub const CONNECTIONS_MAX: usize = 16;
/// How long a client may take to send its request head, and then its body.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take; a plan reads both services and has [`PLAN_TIMEOUT`].
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a plan may take.
pub const PLAN_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long work on the whole ledger and its exports may take: a check, an export, a referral to be forgotten.
pub const STATE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Pieces of an export on their way to a client that reads slowly.
pub const EXPORT_PIECES_MAX: usize = 16;

/// Body of `POST /approve`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    digest: String,
}

/// Body of `POST /hold` and `POST /forget`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    ids: Vec<ReferralId>,
}

/// Body of `POST /release`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    which: Which,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    take: Option<Take>,
}

/// Body of `POST /retry`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    which: Which,
}

/// Body of `POST /backfill`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backfill {
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    is_stop: bool,
}

/// Body of everything that is not 2xx.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Refusal {
    error: String,
}

/// The path and body of a decision: the client's half of the table above.
fn request_of(decision: &DecisionRequest) -> Result<(&'static str, Option<Vec<u8>>), serde_json::Error> {
    Ok(match decision.clone() {
        DecisionRequest::Suspend => ("/suspend", None),
        DecisionRequest::Resume => ("/resume", None),
        DecisionRequest::Approve { digest } => ("/approve", Some(serde_json::to_vec(&Approve { digest })?)),
        DecisionRequest::Hold { ids } => ("/hold", Some(serde_json::to_vec(&Hold { ids })?)),
        DecisionRequest::Forget { ids } => ("/forget", Some(serde_json::to_vec(&Hold { ids })?)),
        DecisionRequest::Release { which, group, take } => {
            ("/release", Some(serde_json::to_vec(&Release { which, group, take })?))
        }
        DecisionRequest::Retry { which } => ("/retry", Some(serde_json::to_vec(&Retry { which })?)),
        DecisionRequest::Backfill { group, is_stop } => {
            ("/backfill", Some(serde_json::to_vec(&Backfill { group, is_stop })?))
        }
    })
}

#[cfg(test)]
mod tests;
