//! Pages of a listing: what both services give of their tables, and how to go on.

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// One page and how to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows in the order of the service.
    pub items: Vec<T>,
    /// Rows that could not be decoded at all: position and reason, without values. An id where one could be read.
    pub defects: Vec<Defect>,
    /// How to read the next page; `None` at the end.
    pub next: Option<Cursor>,
    /// The `Date` header of the answer: server time.
    pub server_time: Option<Timestamp>,
}

/// A row that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The row's id text, if it had one.
    pub id: Option<String>,
    /// Why, without values.
    pub reason: String,
}

/// Opaque text that continues a scan; it survives a restart. Never a full URL of a foreign host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);
