//! referrald keeps Partner Center referrals and Dynamics 365 leads in agreement.

pub mod config;
pub mod crm;
pub mod http;
pub mod model;
pub mod plan;
pub mod portal;
pub mod ports;
pub mod sim;
