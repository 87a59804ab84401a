//! The operator's surface.
