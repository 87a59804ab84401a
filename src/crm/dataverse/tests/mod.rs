//! The adapter against a scripted client stack.
