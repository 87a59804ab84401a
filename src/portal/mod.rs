//! Family: where referrals come from.

pub mod partner_center;

use std::sync::Arc;

use crate::http::Exchange;
use crate::ports::Portal;
use partner_center::settings::PartnerCenterSettings;

/// Which portal, and how it is set up.
#[derive(Clone, Debug, PartialEq)]
pub enum PortalSettings {
    /// Microsoft Partner Center.
    PartnerCenter(PartnerCenterSettings),
}

/// Opens the configured portal over a client stack. Nothing is sent yet.
pub fn open(settings: &PortalSettings, exchange: Arc<dyn Exchange>) -> Arc<dyn Portal> {
    match settings {
        PortalSettings::PartnerCenter(settings) => Arc::new(partner_center::open(settings, exchange)),
    }
}
