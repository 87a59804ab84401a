//! Settings in layers: compiled-in defaults, file, drop-ins, environment, flags.

mod duration;
pub mod secret;

pub use duration::HumanDuration;
