//! Nouns: plain values that every other module speaks in. No input or output, no async, no clock.

pub mod document;
pub mod entry;
pub mod fault;
pub mod lead;
pub mod referral;
pub mod time;
pub mod watermark;

pub use document::Document;
pub use entry::{
    Base, Cause, Deal, Entry, ExternalReference, Flips, GroupMemory, Link, Moved, ObservedOutcome, Standing, Take,
    Trouble,
};
pub use fault::{Fault, RemoteError, Side};
pub use lead::{Column, Lead, LeadDraft, LeadId, LeadState, LeadStatus, Opportunity, OpportunityState, Owner};
pub use referral::{
    Closing, ETag, Operation, Patch, Qualification, Referral, ReferralId, ReferralStatus, ReferralType, Substatus,
};
pub use time::Timestamp;
pub use watermark::Watermark;
