//! What is seen from outside: the log and the numbers.
pub mod settings;
