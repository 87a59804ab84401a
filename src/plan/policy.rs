//! Everything the plan decides by: settings, the compiled mapping and the operator's decisions.

/// What a plan decides by.
pub struct Policy {}
