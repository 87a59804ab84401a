//! Lists that one row at fault fails: they are asked for in halves until it is alone.

use std::collections::VecDeque;

use super::lone::is_fault_of_server;
use crate::model::RemoteError;

/// Lists that may fail before one is answered: the whole, its halves and three of its quarters. With three rows at fault one
/// of the quarters has none.
const UNANSWERED_MAX: usize = 6;

/// Lists that may fail on the way to the few rows at fault, besides others that are answered.
const FAILED_MAX: usize = 32;

/// A list that is asked for as a whole, and in parts where it fails.
pub(super) struct Halves<'a, T> {
    parts: VecDeque<&'a [T]>,
    answered: usize,
    failed: usize,
}

/// What a failure of a part means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// One of several may be at fault: its halves are asked for.
    Divided,
    /// The part is this one row.
    Alone,
    /// It is no trouble of a few rows.
    OfSide,
}

impl<'a, T> Halves<'a, T> {
    pub(super) fn of(list: &'a [T]) -> Self {
        Halves { parts: VecDeque::from([list]), answered: 0, failed: 0 }
    }

    /// The part to ask for next.
    pub(super) fn next(&mut self) -> Option<&'a [T]> {
        self.parts.pop_front()
    }

    /// The part was not asked for after all.
    pub(super) fn again(&mut self, part: &'a [T]) {
        self.parts.push_front(part);
    }

    pub(super) fn answered(&mut self) {
        self.answered += 1;
    }

    pub(super) fn has_answer(&self) -> bool {
        self.answered > 0
    }

    pub(super) fn failed(&mut self, part: &'a [T], error: &RemoteError) -> Failure {
        let failed_max = if self.answered == 0 { UNANSWERED_MAX } else { FAILED_MAX };
        if !is_fault_of_server(error) || self.failed >= failed_max {
            return Failure::OfSide;
        }
        self.failed += 1;
        if part.len() < 2 {
            return Failure::Alone;
        }
        let (one, other) = part.split_at(part.len() / 2);
        self.parts.extend([one, other]);
        Failure::Divided
    }
}
