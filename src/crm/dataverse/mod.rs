//! The Web API of Dataverse.
pub mod settings;
