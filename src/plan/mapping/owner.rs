//! Who shall own a new lead: the first rule that fits, else the fallback.

use serde_json::Value;

use super::country::alpha2;
use crate::model::{Owner, Referral};
use crate::plan::settings::OwnerRule;

/// The rules of owner assignment, ready for use.
#[derive(Clone, Debug)]
pub(super) struct Owners {
    rules: Vec<OwnerRule>,
    fallback: Option<Owner>,
}

impl Owners {
    /// Prepares the rules.
    pub(super) fn new(rules: &[OwnerRule], fallback: Option<Owner>) -> Self {
        let rules = rules
            .iter()
            .map(|rule| OwnerRule { country: rule.country.as_deref().map(alpha2), ..rule.clone() })
            .collect();
        Owners { rules, fallback }
    }

    /// The owner of leads that no rule fits.
    pub(super) fn fallback(&self) -> Option<Owner> {
        self.fallback
    }

    /// Decides; all given conditions of a rule must fit. Countries are compared as two letters, all else without case.
    pub(super) fn of(&self, referral: &Referral) -> Option<Owner> {
        let document = &referral.document;
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
        let country = text("/customerProfile/address/country").map(alpha2);
        let fits = |rule: &OwnerRule| {
            rule.country.as_ref().is_none_or(|wanted| country.as_ref() == Some(wanted))
                && rule.kind.as_ref().is_none_or(|wanted| text("/type").is_some_and(|kind| is_same(kind, wanted)))
                && rule.product.as_ref().is_none_or(|wanted| asks_for(document, wanted))
        };
        self.rules.iter().find(|rule| fits(rule)).map(|rule| rule.owner).or(self.fallback)
    }
}

fn asks_for(document: &Value, wanted: &str) -> bool {
    let products = document.pointer("/details/requirements/products").and_then(Value::as_array);
    products
        .into_iter()
        .flatten()
        .any(|product| product.get("id").unwrap_or(product).as_str().is_some_and(|id| is_same(id, wanted)))
}

fn is_same(left: &str, right: &str) -> bool {
    left.trim().eq_ignore_ascii_case(right.trim())
}
