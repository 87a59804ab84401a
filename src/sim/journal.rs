//! What was asked of the world and what became of it, so that tests can count requests and judge behaviour.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::model::Timestamp;

use super::dynamics::Table;
use super::exchange::Service;

/// Every request and every event, in order.
#[derive(Debug, Default)]
pub struct Journal {
    records: Vec<Record>,
    events: Vec<Event>,
    /// For each event, how many requests had been noted before it.
    places: Vec<usize>,
    counts: BTreeMap<(Service, &'static str), u64>,
    batch_items: u64,
    is_quiet: bool,
}

impl Journal {
    /// Every request in the order of arrival; empty once [`Journal::keep_counts_only`] was called.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What happened inside the world.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Requests and events as they came; what a request brought about comes just before it.
    pub fn moments(&self) -> impl Iterator<Item = Moment<'_>> {
        let mut events = self.events.iter().zip(&self.places).peekable();
        let mut records = self.records.iter().enumerate().peekable();
        std::iter::from_fn(move || {
            let place = records.peek().map_or(usize::MAX, |(place, _)| *place);
            match events.next_if(|(_, at)| **at <= place) {
                Some((event, _)) => Some(Moment::Happened(event)),
                None => records.next().map(|(_, record)| Moment::Asked(record)),
            }
        })
    }

    /// Requests of one service, tokens apart.
    pub fn count(&self, service: Service) -> u64 {
        self.counts.iter().filter(|((of, _), _)| *of == service).map(|(_, count)| count).sum()
    }

    /// Requests of one operation, for example `patch referral`.
    pub fn count_of(&self, operation: &str) -> u64 {
        self.counts.iter().filter(|((_, of), _)| *of == operation).map(|(_, count)| count).sum()
    }

    /// Operations inside batches, which entitlements count singly (dataverse §5.3).
    pub fn batch_items(&self) -> u64 {
        self.batch_items
    }

    /// All counters.
    pub fn counts(&self) -> &BTreeMap<(Service, &'static str), u64> {
        &self.counts
    }

    /// Writes that changed something.
    pub fn writes(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.is_committed)
    }

    /// Forgets everything so far.
    pub fn clear(&mut self) {
        *self = Journal { is_quiet: self.is_quiet, ..Journal::default() };
    }

    /// From now on only counts, so that benchmarks stay flat.
    pub fn keep_counts_only(&mut self) {
        self.is_quiet = true;
        self.records = Vec::new();
        self.events = Vec::new();
        self.places = Vec::new();
    }

    pub(crate) fn add(&mut self, record: Record) {
        if record.is_batch_item {
            self.batch_items += 1;
        } else {
            *self.counts.entry((record.service, record.operation)).or_default() += 1;
        }
        if !self.is_quiet {
            self.records.push(record);
        }
    }

    pub(crate) fn tell(&mut self, events: Vec<Event>) {
        if !self.is_quiet {
            self.places.resize(self.places.len() + events.len(), self.records.len());
            self.events.extend(events);
        }
    }
}

/// One line of the journal.
#[derive(Clone, Copy, Debug)]
pub enum Moment<'a> {
    /// A request and its answer.
    Asked(&'a Record),
    /// Something that happened.
    Happened(&'a Event),
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it arrived.
    pub at: Timestamp,
    /// Whom it was for.
    pub service: Service,
    /// What it wanted, for example `list referrals`.
    pub operation: &'static str,
    /// The method.
    pub method: String,
    /// Path and query as they arrived.
    pub path: String,
    /// The status the world decided on, whether or not the client got it.
    pub status: u16,
    /// The row it was about.
    pub subject: Option<Uuid>,
    /// Columns or paths the body names.
    pub written: Vec<String>,
    /// `If-Match` as it was sent.
    pub if_match: Option<String>,
    /// `If-None-Match` as it was sent.
    pub if_none_match: Option<String>,
    /// Something changed.
    pub is_committed: bool,
    /// The answer reached the client whole.
    pub is_delivered: bool,
    /// It arrived this long after the service had asked for silence that was still in force.
    pub inside_window: Option<Duration>,
    /// A refusal worth judging.
    pub refusal: Option<Refusal>,
    /// The list that was answered goes on on another page.
    pub goes_on: bool,
    /// It was an operation inside the batch that the record before it tells of; it is no request of its own.
    pub is_batch_item: bool,
    /// The fault that was played on it.
    pub fault: Option<&'static str>,
}

/// Refusals that a careful client never earns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A write to a closed referral whose current version the client knew.
    ClosedReferral,
    /// A step that the transition table does not have.
    IllegalTransition,
    /// A JSON Patch path or operation that is not allowed.
    ForbiddenPath,
    /// A write to columns of a closed lead whose current version the client knew.
    ClosedLead,
}

/// Who changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The program under test.
    Client,
    /// A customer, a seller or a person at Microsoft.
    Person,
    /// The service itself.
    Service,
}

/// Something that happened inside the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A referral changed its status.
    ReferralMoved {
        /// When.
        at: Timestamp,
        /// Which.
        referral: Uuid,
        /// Status and substatus before.
        from: (String, String),
        /// Status and substatus after.
        to: (String, String),
        /// By whom.
        by: Actor,
    },
    /// A lead came to be.
    LeadCreated {
        /// When.
        at: Timestamp,
        /// Which.
        lead: Uuid,
        /// By whom.
        by: Actor,
        /// A lead of this id, or with this referral id, had been deleted.
        is_revival: bool,
        /// The deleted lead had this very id.
        is_same_id: bool,
        /// At that time some referral named the deleted lead as its own.
        was_referenced: bool,
    },
    /// A lead was deleted.
    LeadDeleted {
        /// When.
        at: Timestamp,
        /// Which.
        lead: Uuid,
    },
    /// A referral came to be or changed.
    ReferralSaved {
        /// When.
        at: Timestamp,
        /// Which.
        referral: Uuid,
        /// By whom.
        by: Actor,
        /// What is different now, by JSON pointer; null for what went.
        changed: BTreeMap<String, Value>,
    },
    /// A lead or an opportunity came to be, changed or came back.
    RowSaved {
        /// When.
        at: Timestamp,
        /// Of which table.
        table: Table,
        /// Which.
        row: Uuid,
        /// By whom.
        by: Actor,
        /// What is different now, by property; null for what went.
        changed: BTreeMap<String, Value>,
    },
    /// A row, or all rows of a service, cannot be seen until then.
    Hidden {
        /// When.
        at: Timestamp,
        /// Where.
        service: Service,
        /// Which; `None` for all.
        row: Option<Uuid>,
        /// Until when.
        until: Timestamp,
    },
    /// A person took a lead out of the recycle bin.
    LeadRestored {
        /// When.
        at: Timestamp,
        /// Which.
        lead: Uuid,
    },
}

/// What a handler notes about the request in hand.
#[derive(Debug, Default)]
pub(crate) struct Note {
    pub(crate) operation: Option<&'static str>,
    pub(crate) subject: Option<Uuid>,
    pub(crate) written: Vec<String>,
    pub(crate) is_committed: bool,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) goes_on: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) items: Vec<Item>,
    /// Referrals that came to be (true) or changed.
    pub(crate) touched: Vec<(Uuid, bool)>,
}

/// One operation inside a batch.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) operation: &'static str,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) subject: Option<Uuid>,
    pub(crate) written: Vec<String>,
    pub(crate) if_match: Option<String>,
    pub(crate) if_none_match: Option<String>,
    pub(crate) is_committed: bool,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) goes_on: bool,
}
