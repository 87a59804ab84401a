//! Family: where leads live.
pub mod dataverse;
