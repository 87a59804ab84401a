//! Family: where referrals come from.

pub mod partner_center;

use std::sync::Arc;

use crate::http::{Dialect, Exchange};
use crate::model::Referral;
use crate::ports::Portal;
use partner_center::settings::PartnerCenterSettings;
use partner_center::webhooks::WebhookApi;

/// Which portal, and how it is set up.
#[derive(Clone, Debug, PartialEq)]
pub enum PortalSettings {
    /// Microsoft Partner Center.
    PartnerCenter(PartnerCenterSettings),
}

/// Decodes one referral as the service sends it: for work on a mapping without the service at hand. The error is a
/// sentence without values.
pub fn sample(document: &serde_json::Value) -> Result<Referral, String> {
    partner_center::sample(document)
}

/// What the portal's refusals mean and which headers its calls carry: the client stack is built with it.
pub fn dialect() -> Arc<dyn Dialect> {
    Arc::new(partner_center::PartnerCenterDialect)
}

/// The registration of webhooks at the configured portal. Nothing is sent yet.
pub fn webhooks(settings: &PortalSettings, exchange: Arc<dyn Exchange>) -> WebhookApi {
    match settings {
        PortalSettings::PartnerCenter(settings) => WebhookApi::new(exchange, settings.webhook_api_url.clone()),
    }
}

/// Opens the configured portal over a client stack. Nothing is sent yet.
pub fn open(settings: &PortalSettings, exchange: Arc<dyn Exchange>) -> Arc<dyn Portal> {
    match settings {
        PortalSettings::PartnerCenter(settings) => Arc::new(partner_center::open(settings, exchange)),
    }
}
