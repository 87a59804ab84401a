//! referrald keeps Partner Center referrals and Dynamics 365 leads in agreement.

pub mod cli;
pub mod config;
pub mod control;
pub mod crm;
pub mod cycle;
pub mod daemon;
pub mod http;
pub mod lifecycle;
pub mod model;
pub mod plan;
pub mod portal;
pub mod ports;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod trigger;
