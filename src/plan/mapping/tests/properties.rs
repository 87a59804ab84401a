//! Laws that hold for every document.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;

use super::support::*;
use crate::plan::mapping::Mapping;
use crate::plan::mapping::text::units;

static MAPPING: LazyLock<Mapping> = LazyLock::new(|| mapping("[mapping.groups.notes]\nenabled = true"));

proptest! {
    #[test]
    fn any_document_derives_within_all_limits(document in any_document(), sticky in any::<Option<u32>>(), may_contact: bool) {
        let derived = MAPPING.derive(&referral(document), sticky, may_contact);
        let schema = schema();
        for value in &derived.groups {
            prop_assert_eq!(&value.blocked, &None);
            for (column, written) in &value.draft {
                let live = &schema.columns[column];
                if let (Some(text), Some(limit)) = (written.as_str(), live.length_max) {
                    prop_assert!(units(text) <= limit as usize, "{}", column);
                }
                if let (Some(options), Some(code)) = (&live.options, written.as_i64()) {
                    prop_assert!(options.iter().any(|option| i64::from(*option) == code));
                }
            }
        }
        let amount = of(&MAPPING, &derived.groups, "amount");
        let has = |column: &str| amount.draft.get(column).is_some_and(|value| !value.is_null());
        prop_assert_eq!(has("estimatedamount"), has("transactioncurrencyid"));
    }

    #[test]
    fn a_fingerprint_alone_is_the_one_of_the_values(
        document in any_document(),
        columns in prop::collection::btree_map(prop::sample::select(MAPPING.columns().iter().cloned().collect::<Vec<_>>()), any_json(), 0..20),
    ) {
        let mut lead = written(&MAPPING.derive(&referral(document), None, true));
        for changed in [BTreeMap::new(), columns] {
            lead.columns.extend(changed);
            for (group, value) in MAPPING.groups().iter().zip(MAPPING.observe(&lead, None)) {
                prop_assert_eq!(MAPPING.fingerprint(group, &lead), value.fingerprint, "{}", group.name);
            }
        }
    }

    #[test]
    fn a_lead_written_from_any_document_needs_no_second_write(document in any_document(), may_contact: bool) {
        let referral = referral(document);
        let derived = MAPPING.derive(&referral, None, may_contact);
        let seen = MAPPING.observe(&written(&derived), None);
        for ((group, wanted), got) in MAPPING.groups().iter().zip(&derived.groups).zip(&seen) {
            prop_assert_eq!(wanted.draft_fingerprint, got.fingerprint, "{}", group.name);
            prop_assert!(MAPPING.changes(group, wanted, got).is_empty(), "{}", group.name);
            if let Ok(operations) = MAPPING.write_back(group, got, Some(&referral)) {
                prop_assert!(operations.is_empty(), "{}: our own write came back", group.name);
            }
        }
    }

    #[test]
    fn deriving_again_gives_the_same_and_keeps_the_contact(document in any_document()) {
        let referral = referral(document);
        let once = MAPPING.derive(&referral, None, true);
        prop_assert_eq!(&MAPPING.derive(&referral, None, true), &once);
        prop_assert_eq!(&MAPPING.derive(&referral, once.primary_contact, true), &once);
    }

    #[test]
    fn equal_canonical_values_and_equal_fingerprints_are_one(left in any_document(), right in any_document()) {
        let left = MAPPING.derive(&referral(left), None, true);
        let right = MAPPING.derive(&referral(right), None, true);
        for (left, right) in left.groups.iter().zip(&right.groups) {
            prop_assert_eq!(left.columns == right.columns, left.fingerprint == right.fingerprint);
        }
    }

    #[test]
    fn any_lead_can_be_observed(columns in prop::collection::btree_map("(subject|estimatedamount|transactioncurrencyid|estimatedclosedate|leadsourcecode|numberofemployees)", any_json(), 0..6)) {
        let mut lead = lead(&[]);
        lead.columns = columns;
        let seen = MAPPING.observe(&lead, None);
        for (group, value) in MAPPING.groups().iter().zip(&seen) {
            prop_assert_eq!(value.is_empty, value.columns.is_empty());
            prop_assert!(value.columns.values().all(|value| !matches!(value, Value::Null)));
            let _ = MAPPING.write_back(group, value, None);
        }
    }
}
