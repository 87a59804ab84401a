//! Family: where leads live.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::http::{Dialect, Exchange};
use crate::ports::{Clock, Crm, LeadSchema};

use dataverse::settings::{DataverseSettings, Identity};
use dataverse::{Dataverse, DataverseDialect};

pub mod dataverse;

/// Opens the CRM over a client stack that speaks its [`dialect`].
///
/// `mapped_columns` holds every lead column that a mapping reads or writes, the columns of decisions (consent, closing)
/// included. The error is a sentence for people.
pub fn open(
    settings: &DataverseSettings,
    identity: Identity,
    referral_id_column: Option<&str>,
    mapped_columns: BTreeSet<String>,
    exchange: Arc<dyn Exchange>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Crm>, String> {
    let exchange = dataverse::gather_writes(settings, dialect(mapped_columns.clone()), exchange, clock)?;
    Ok(Arc::new(Dataverse::open(settings, identity, referral_id_column, mapped_columns, exchange)?))
}

/// What the lead table is like as the product ships it: for work on a mapping without an organization at hand.
pub fn shipped_schema(columns: &BTreeSet<String>) -> LeadSchema {
    dataverse::shipped_schema(columns)
}

/// What the CRM's refusals mean and which headers its calls carry: the client stack is built with it.
///
/// Column names in refusals are only repeated when they are known ones, or among `mapped_columns`.
pub fn dialect(mapped_columns: BTreeSet<String>) -> Arc<dyn Dialect> {
    Arc::new(DataverseDialect::new(mapped_columns))
}
