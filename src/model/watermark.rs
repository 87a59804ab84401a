//! Up to when everything seen on one side is accounted for.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Server time up to which every change seen is applied, pending or held. It never goes back by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watermark(pub Timestamp);

impl Watermark {
    /// The later of the two.
    #[must_use]
    pub fn advanced_to(self, seen: Timestamp) -> Watermark {
        Watermark(self.0.max(seen))
    }
}
