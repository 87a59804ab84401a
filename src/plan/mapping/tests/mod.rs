//! Tests of the whole mapping, by topic.

mod built_in;
mod compiling;
mod contacts;
mod fitting;
mod lead_side;
mod properties;
pub(super) mod support;
mod way_back;
