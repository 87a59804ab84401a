//! Remote failures: a small closed set to branch on, and a full story to read.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// What kind of failure it was; code branches on this and on nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The service asked us to wait; nothing may be sent to it before `until`.
    Throttled {
        /// The end of the closed window, in our clock.
        until: Timestamp,
    },
    /// The service or the way to it is down; later it may work.
    Unavailable,
    /// The version changed, or the row exists already (412, 409): read and decide again.
    Conflict,
    /// No such row, or not visible (404, 410).
    Missing,
    /// The service understood and said no to this item (400, 403 on an item, validation): final for this data.
    Refused,
    /// The token was not accepted, also after a renewal, or a role or privilege is missing for the whole side.
    Unauthorized,
    /// Only a person can mend it: MFA, expired or revoked sign-in, wrong secret, missing consent.
    NeedsHuman,
    /// The answer could not be understood: HTML, truncated, wrong shape, too large.
    Malformed,
}

impl Fault {
    /// The kind in one word, without the instant: for counters and the history.
    pub fn word(&self) -> &'static str {
        match self {
            Fault::Throttled { .. } => "throttled",
            Fault::Unavailable => "unavailable",
            Fault::Conflict => "conflict",
            Fault::Missing => "missing",
            Fault::Refused => "refused",
            Fault::Unauthorized => "unauthorized",
            Fault::NeedsHuman => "needs a human",
            Fault::Malformed => "malformed",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Throttled { until } => write!(f, "throttled until {until}"),
            Fault::Unavailable => f.write_str("unavailable"),
            Fault::Conflict => f.write_str("conflict"),
            Fault::Missing => f.write_str("missing"),
            Fault::Refused => f.write_str("refused"),
            Fault::Unauthorized => f.write_str("unauthorized"),
            Fault::NeedsHuman => f.write_str("needs a human"),
            Fault::Malformed => f.write_str("malformed answer"),
        }
    }
}

/// Which of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where referrals come from.
    Portal,
    /// Where leads live.
    Crm,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Portal => "Partner Center",
            Side::Crm => "Dynamics",
        })
    }
}

/// The story of one failed call, for people. It holds no body, no token and no personal data.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{side}: {operation}: {fault}{}{}{}", detail(.code.as_deref(), "code"), detail(.message.as_deref(), ""), detail(.request_id.as_deref(), "request id"))]
pub struct RemoteError {
    /// Whom we called.
    pub side: Side,
    /// What we wanted, for example `get referral`; a fixed phrase.
    pub operation: &'static str,
    /// What kind of failure.
    pub fault: Fault,
    /// HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// The service's own code, for example `0x80044331`, `900421` or `AADSTS700082`.
    pub code: Option<String>,
    /// One clear sentence of ours, for example what to do. Never the service's text when that may quote data.
    pub message: Option<String>,
    /// The id to quote to support.
    pub request_id: Option<String>,
    /// The request may or may not have been carried out: read before anything else (a lost answer, a 5xx to a write).
    pub is_outcome_unknown: bool,
}

impl RemoteError {
    /// A failure with nothing but its kind; fill in the rest by hand.
    pub fn new(side: Side, operation: &'static str, fault: Fault) -> Self {
        RemoteError {
            side,
            operation,
            fault,
            status: None,
            code: None,
            message: None,
            request_id: None,
            is_outcome_unknown: false,
        }
    }

    /// The same failure with a sentence for people.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// True when only a person can mend it: sign in again, or grant a right.
    pub fn needs_human(&self) -> bool {
        matches!(self.fault, Fault::NeedsHuman | Fault::Unauthorized)
    }

    /// True when it concerns the whole side, not one item.
    pub fn stops_side(&self) -> bool {
        match self.fault {
            Fault::Throttled { .. } | Fault::Unavailable | Fault::Unauthorized | Fault::NeedsHuman => true,
            Fault::Conflict | Fault::Missing | Fault::Refused | Fault::Malformed => false,
        }
    }
}

fn detail(text: Option<&str>, label: &str) -> String {
    match text {
        Some(text) if label.is_empty() => format!(", {text}"),
        Some(text) => format!(", {label} {text}"),
        None => String::new(),
    }
}
