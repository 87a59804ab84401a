//! What the whole costs, and how that grows: `cargo bench --bench whole`, a few minutes.
//!
//! `cargo bench --bench whole -- sweep 1000 1000000` runs one part at these sizes; the parts are `sweep`, `rest`,
//! `swept` and `churn`. Times are processor time of the process that is measured, so that a neighbour disturbs less. Nothing here
//! fails because something is slow.

mod churn;
mod listing;
mod process;
mod rest;
mod seed;
mod sweep;
mod swept;
#[path = "../town/mod.rs"]
mod town;

/// Entries, unless others are asked for. A million is asked for: filling it takes minutes.
const SIZES: [u64; 3] = [1_000, 10_000, 100_000];

fn main() {
    let mut parts = Vec::new();
    let mut sizes = Vec::new();
    for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        match argument.replace('_', "").parse() {
            Ok(size) => sizes.push(size),
            Err(_) => parts.push(argument),
        }
    }
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let churned = sizes.first().copied().unwrap_or(churn::ENTRIES);
    let sizes = if sizes.is_empty() { SIZES.to_vec() } else { sizes };
    if is_wanted("sweep") {
        sweep::measure(&sizes);
    }
    if is_wanted("rest") {
        rest::measure(&sizes);
    }
    if is_wanted("swept") {
        swept::measure(&sizes);
    }
    if is_wanted("churn") {
        churn::measure(churned);
    }
}
