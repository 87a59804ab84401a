//! Which referrals get a lead (spec 3, "Scope"). Decides about linking only.

use std::fmt;

use crate::model::{Qualification, Referral, ReferralType, Timestamp};
use crate::plan::mapping::alpha2;
use crate::plan::settings::ScopeSettings;

/// Why a referral gets no lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfScope {
    /// The service calls it spam.
    Spam,
    /// We sent it.
    Outgoing,
    /// Our own organization invited.
    OwnInvitation,
    /// It belongs to another organization of the same engagement.
    Counterpart,
    /// A configured filter.
    Filter(&'static str),
}

impl fmt::Display for OutOfScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OutOfScope::Spam => "spam (scope.import_spam)",
            OutOfScope::Outgoing => "outgoing (scope.import_outgoing)",
            OutOfScope::OwnInvitation => "invited by our own organization (scope.import_own_invitations)",
            OutOfScope::Counterpart => "the copy of another organization in the same engagement",
            OutOfScope::Filter(key) => key,
        })
    }
}

/// Decides whether a referral is in scope; `None` means that it is. `organization` is our own, once known.
pub fn out_of_scope(referral: &Referral, organization: Option<&str>, settings: &ScopeSettings) -> Option<OutOfScope> {
    if referral.is_spam && !settings.import_spam {
        return Some(OutOfScope::Spam);
    }
    if referral.is_outgoing && !settings.import_outgoing {
        return Some(OutOfScope::Outgoing);
    }
    let is_own = |id: Option<&str>| matches!((id, organization), (Some(id), Some(own)) if id.eq_ignore_ascii_case(own));
    if is_own(referral.invited_by.as_deref()) && !settings.import_own_invitations {
        return Some(OutOfScope::OwnInvitation);
    }
    let is_foreign =
        referral.organization.is_some() && organization.is_some() && !is_own(referral.organization.as_deref());
    if is_foreign && referral.engagement.is_some() {
        return Some(OutOfScope::Counterpart);
    }
    filter(referral, settings)
}

/// Applies the configured filters.
fn filter(referral: &Referral, settings: &ScopeSettings) -> Option<OutOfScope> {
    let word = |pointer| referral.document.pointer(pointer).and_then(|value| value.as_str()).unwrap_or("");
    let passes =
        |list: &[String], value: &str| list.is_empty() || list.iter().any(|one| one.eq_ignore_ascii_case(value));
    if !passes(&settings.types, word("/type")) {
        return Some(OutOfScope::Filter("filtered out (scope.types)"));
    }
    if !passes(&settings.qualifications, word("/qualification")) {
        return Some(OutOfScope::Filter("filtered out (scope.qualifications)"));
    }
    // Both sides may have two letters or three (partner-center §5, trap 13).
    let is_wanted = |country: &str| settings.countries.iter().any(|one| alpha2(one) == country);
    if !settings.countries.is_empty() && !is_wanted(&alpha2(word("/customerProfile/address/country"))) {
        return Some(OutOfScope::Filter("filtered out (scope.countries)"));
    }
    let after = settings.created_after.as_deref().and_then(Timestamp::parse);
    if matches!((after, referral.created), (Some(after), Some(created)) if created < after) {
        return Some(OutOfScope::Filter("filtered out (scope.created_after)"));
    }
    None
}

/// True for the kinds that make a Won wait (spec 5): shared, with a registration.
pub fn is_registered_co_sell(referral: &Referral) -> bool {
    referral.kind == ReferralType::Shared && referral.has_registration
}

/// True for leads a person at Microsoft qualified: they come before the rest in the order of urgency.
pub fn is_high_value(referral: &Referral) -> bool {
    referral.qualification == Qualification::SalesQualified
}
