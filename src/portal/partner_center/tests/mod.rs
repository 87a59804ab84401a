//! The adapter against a scripted service: every case of partner-center §5, and random damage.

mod decoding;
mod fake;
mod paging;
mod writes;

/// The list page of partner-center §5: two referrals and a defective link.
const PAGE: &str = include_str!("page.json");
