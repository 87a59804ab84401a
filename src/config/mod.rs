//! Settings in layers: compiled-in defaults, file, drop-ins, environment, flags.

mod duration;

pub use duration::HumanDuration;
