//! Both services as one small deterministic world, for the demonstration and for tests.
//!
//! It keeps its own JSON shapes and shares no wire code with the adapters, so that a mistake cannot cancel itself out.

pub mod ceilings;
pub mod checker;
pub mod clock;
mod configuration;
mod customers;
pub mod direct;
pub mod dynamics;
pub mod entra;
pub mod exchange;
pub mod faults;
pub mod journal;
pub mod json_patch;
pub mod listing;
mod manners;
pub mod odata;
pub mod options;
pub mod people;
pub mod referrals;
pub mod serve;
pub mod webhooks;
pub mod wire;
pub mod world;

pub use ceilings::Ceilings;
pub use checker::Checker;
pub use clock::SimClock;
pub use direct::{DirectCrm, DirectCrmSettings, DirectPortal};
pub use exchange::{Answer, Delivery, Request, Service};
pub use serve::Simulator;
pub use wire::SimWire;
pub use world::{Options, World};

#[cfg(test)]
mod tests;
