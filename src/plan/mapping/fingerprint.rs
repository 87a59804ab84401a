//! Keyed fingerprints: what the ledger remembers instead of values.
//!
//! SipHash-2-4 under a secret key: nobody who reads the ledger can try out names or amounts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::Hasher;

use serde_json::Value;
use siphasher::sip::SipHasher24;

use crate::model::Column;

/// Makes fingerprints under one key.
#[derive(Clone)]
pub(super) struct Fingerprints(SipHasher24);

impl Fingerprints {
    /// Under the ledger's key.
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Fingerprints(SipHasher24::new_with_key(key))
    }

    /// Of a group's canonical columns. Empty columns are not in the map, so a new empty column changes nothing.
    pub(super) fn value(&self, group: &str, columns: &BTreeMap<Column, Value>) -> u64 {
        self.values(group, columns.iter().map(|(column, value)| (column.as_str(), Cow::Borrowed(value))))
    }

    /// As [`Fingerprints::value`], of canonical columns in alphabetical order.
    pub(super) fn values<'a>(&self, group: &str, columns: impl Iterator<Item = (&'a str, Cow<'a, Value>)>) -> u64 {
        let mut hasher = self.0;
        write(&mut hasher, b'v', group);
        for (column, value) in columns {
            write(&mut hasher, b'c', column);
            match value.as_ref() {
                Value::String(text) => write(&mut hasher, b's', text),
                Value::Number(number) => write(&mut hasher, b'n', number.as_str()),
                Value::Bool(claim) => hasher.write(&[b'b', u8::from(*claim)]),
                Value::Null | Value::Array(_) | Value::Object(_) => write(&mut hasher, b'j', &value.to_string()),
            }
        }
        hasher.finish()
    }

    /// The ledger's key of a group: the first 4 bytes of the keyed hash of its name.
    pub(super) fn group(&self, name: &str) -> u32 {
        self.short(b'g', name)
    }

    /// Recognises a contact again without remembering who it is.
    pub(super) fn contact(&self, identity: &str) -> u32 {
        self.short(b'p', identity)
    }

    fn short(&self, domain: u8, text: &str) -> u32 {
        let mut hasher = self.0;
        write(&mut hasher, domain, text);
        let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

impl std::fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprints(secret)")
    }
}

/// A stable hash of settings; not keyed, because settings are no secret.
pub(super) struct SettingsHash(SipHasher24);

impl SettingsHash {
    /// Begins with nothing.
    pub(super) fn new() -> Self {
        SettingsHash(SipHasher24::new())
    }

    /// Adds one named fact.
    pub(super) fn add(&mut self, name: &str, fact: &str) {
        write(&mut self.0, b'k', name);
        write(&mut self.0, b'f', fact);
    }

    /// The first 4 bytes.
    pub(super) fn finish(self) -> u32 {
        let [a, b, c, d, ..] = self.0.finish().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

/// Lengths go in, so that no two lists of parts look alike.
fn write(hasher: &mut SipHasher24, domain: u8, text: &str) {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    hasher.write(&[domain, length[0], length[1], length[2], length[3]]);
    hasher.write(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn columns(of: &[(&str, Value)]) -> BTreeMap<Column, Value> {
        of.iter().map(|(column, value)| ((*column).to_owned(), value.clone())).collect()
    }

    #[test]
    fn fingerprints_are_stable_across_versions() {
        let key = [7; 16];
        let prints = Fingerprints::new(&key);
        assert_eq!(
            prints.value("amount", &columns(&[("a", json!("x")), ("b", json!(25))])),
            16_082_022_924_012_625_416
        );
        assert_eq!(prints.group("amount"), 577_951_335);
    }

    #[test]
    fn key_group_and_type_all_count() {
        let one = Fingerprints::new(&[1; 16]);
        let two = Fingerprints::new(&[2; 16]);
        let text = columns(&[("a", json!("25"))]);
        assert_ne!(one.value("g", &text), two.value("g", &text));
        assert_ne!(one.value("g", &text), one.value("h", &text));
        assert_ne!(one.value("g", &text), one.value("g", &columns(&[("a", json!(25))])));
        assert_ne!(one.value("g", &columns(&[("a", json!("bc"))])), one.value("g", &columns(&[("ab", json!("c"))])));
    }

    fn any_columns() -> impl Strategy<Value = BTreeMap<Column, Value>> {
        let value = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        prop::collection::btree_map("[a-c]{1,2}", value, 0..4)
    }

    proptest! {
        #[test]
        fn equal_canonical_columns_and_equal_fingerprints_are_one(left in any_columns(), right in any_columns()) {
            let prints = Fingerprints::new(&[9; 16]);
            prop_assert_eq!(left == right, prints.value("g", &left) == prints.value("g", &right));
        }
    }
}
