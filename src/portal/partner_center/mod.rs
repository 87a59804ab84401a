//! The referrals API of Partner Center.
pub mod settings;
