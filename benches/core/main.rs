//! How long the pieces take: planner, mapping, decoding, ledger. `cargo bench --bench core`, or with a name:
//! `cargo bench --bench core -- plan`.
//!
//! divan rather than criterion: it counts rows per second and allocations per row by itself, and ends in seconds; on a
//! shared machine the careful statistics of the other measure the neighbours. What regresses is found by counting
//! instructions (`benches/instructions/run`), not by time.

mod decode;
mod ledger;
mod plan;
#[path = "../town/mod.rs"]
mod town;

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}
