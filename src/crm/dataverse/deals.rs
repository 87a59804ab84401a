//! Opportunities of leads: those that came from them, and the one that each names since its qualification.
//!
//! Users can clear where an opportunity came from (dataverse §2.4); the lead still names it then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use uuid::Uuid;

use super::{Dataverse, contract};
use crate::model::{Lead, LeadId, LeadState, Opportunity, RemoteError};

/// Leads whose named opportunity is remembered from the last time they were read; at least so many, at most twice so many.
pub const NAMED_MIN: usize = 10_000;

/// Which opportunity a qualified lead named when it was read last.
#[derive(Default)]
pub(super) struct Named {
    recent: BTreeMap<LeadId, Uuid>,
    /// Of the time before: dropped as a whole when `recent` is full.
    older: BTreeMap<LeadId, Uuid>,
}

impl Named {
    fn note(&mut self, lead: &Lead) {
        let named = lead.opportunity.filter(|_| lead.status.state == LeadState::Qualified);
        let Some(opportunity) = named else {
            self.recent.remove(&lead.id);
            self.older.remove(&lead.id);
            return;
        };
        if self.recent.len() >= NAMED_MIN {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(lead.id, opportunity);
    }

    fn of(&self, lead: LeadId) -> Option<Uuid> {
        self.recent.get(&lead).or_else(|| self.older.get(&lead)).copied()
    }
}

impl Dataverse {
    /// Remembers what leads that were just read name.
    pub(super) fn note_named<'a>(&self, leads: impl IntoIterator<Item = &'a Lead>) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        leads.into_iter().for_each(|lead| named.note(lead));
    }

    /// See [`crate::ports::Crm::opportunities_of`]. A second question only where a lead names an opportunity that the first
    /// did not find.
    pub(super) async fn deals_by_lead(&self, leads: &BTreeSet<LeadId>) -> Result<Vec<Opportunity>, RemoteError> {
        let literals = leads.iter().map(LeadId::to_string).collect();
        let mut deals = self.deals_where(contract::ORIGINATING_LEAD_VALUE, literals).await?;
        deals.retain(|deal| deal.lead.is_some_and(|lead| leads.contains(&lead)));
        let found: BTreeSet<Uuid> = deals.iter().map(|deal| deal.id).collect();
        let lost: Vec<(LeadId, Uuid)> = {
            let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            let named = leads.iter().filter_map(|lead| Some((*lead, named.of(*lead)?)));
            named.filter(|(_, opportunity)| !found.contains(opportunity)).collect()
        };
        if lost.is_empty() {
            return Ok(deals);
        }
        let ids: BTreeSet<Uuid> = lost.iter().map(|(_, opportunity)| *opportunity).collect();
        let literals = ids.iter().map(Uuid::to_string).collect();
        for deal in self.deals_where(contract::OPPORTUNITY_ID, literals).await? {
            // One that came from another lead speaks for that one.
            for (lead, _) in
                lost.iter().filter(|(lead, named)| *named == deal.id && deal.lead.is_none_or(|of| of == *lead))
            {
                deals.push(Opportunity { lead: Some(*lead), ..deal.clone() });
            }
        }
        Ok(deals)
    }

    async fn deals_where(&self, column: &str, literals: Vec<String>) -> Result<Vec<Opportunity>, RemoteError> {
        const OPERATION: &str = "read opportunities of leads";
        let live = self.live().await?;
        let select = contract::OPPORTUNITY_CORE.join(",");
        let options = [("$select", select.as_str()), ("$orderby", "createdon asc")];
        let rows = self.rows_where(OPERATION, contract::OPPORTUNITIES, &options, column, literals).await;
        Ok(self.deals_of(OPERATION, self.noticed(rows)?, &live).await?.items_only(OPERATION))
    }
}
