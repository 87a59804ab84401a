//! What a service said, whole: kept as text until somebody looks into it.
//!
//! A sweep compares versions and looks into almost no referral, so most trees would be built to be thrown away.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

/// A JSON document. Cheap to clone; read as the [`Value`] it derefs to.
#[derive(Clone)]
pub struct Document(Kind);

#[derive(Clone)]
enum Kind {
    Tree(Arc<Value>),
    Text(Arc<Text>),
}

struct Text {
    text: Box<str>,
    read: fn(&str) -> Value,
    tree: OnceLock<Value>,
}

impl Document {
    /// A document that is read by `read` when it is first looked into, once. `read` must be able to read this text.
    pub fn later(text: Box<str>, read: fn(&str) -> Value) -> Self {
        Document(Kind::Text(Arc::new(Text { text, read, tree: OnceLock::new() })))
    }
}

impl Deref for Document {
    type Target = Value;

    fn deref(&self) -> &Value {
        match &self.0 {
            Kind::Tree(tree) => tree,
            Kind::Text(text) => text.tree.get_or_init(|| (text.read)(&text.text)),
        }
    }
}

impl From<Value> for Document {
    fn from(tree: Value) -> Self {
        Document::from(Arc::new(tree))
    }
}

impl From<Arc<Value>> for Document {
    fn from(tree: Arc<Value>) -> Self {
        Document(Kind::Tree(tree))
    }
}

/// Null.
impl Default for Document {
    fn default() -> Self {
        Document::from(Value::Null)
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;

    static READ: AtomicU32 = AtomicU32::new(0);

    fn read(text: &str) -> Value {
        READ.fetch_add(1, Ordering::Relaxed);
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_text_is_read_when_it_is_looked_into_and_only_once() {
        let document = Document::later("{\"a\": 1}".into(), read);
        let copy = document.clone();
        assert_eq!(READ.load(Ordering::Relaxed), 0);
        assert_eq!(document["a"], 1);
        assert_eq!(copy, Document::from(json!({"a": 1})));
        assert_eq!(READ.load(Ordering::Relaxed), 1);
    }
}
