//! Tests of the whole mapping.
use proptest::prelude::*;
use serde_json::Value;
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[0-9]{1,4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?".prop_map(Value::from),
        "-?[0-9]{0,30}\\.?[0-9]{0,30}([eE]-?[0-9]{1,3})?".prop_map(Value::from),
        Just(Value::from("eur"))
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("(id|name|email|team|[a-z]{1,4})", inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect()))
        ]
    })
}
