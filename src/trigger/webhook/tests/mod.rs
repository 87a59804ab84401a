//! Tests of the webhook: an authority of our own, and everything that somebody may send.

mod authority;
mod delivery;
mod fetching;
mod hostile;
mod mutation;
mod rules;
mod tls;
