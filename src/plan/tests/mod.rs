//! The planner as tables: a row in, the printed plan out.

mod histories;
mod laws;
mod linking;
mod merging;
mod outcomes;
mod patience;
mod promises;
mod scoping;
mod support;
mod unknown;
