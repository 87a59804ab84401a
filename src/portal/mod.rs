//! Family: where referrals come from.
pub mod partner_center;
