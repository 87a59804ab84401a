//! What changed on the leads side since the last pass: leads, and opportunities that speak for them.

use std::collections::{BTreeMap, BTreeSet};

use super::observe::linked_lead;
use super::rows::doubted;
use super::{CycleError, Pass, distinct};
use crate::model::{ETag, Lead, LeadId, Opportunity, ReferralId, Side, Standing};
use crate::plan::{Row, RowPlan, Seen, status};
use crate::ports::{ActionKind, Batch, Memo};

/// Opportunities that changed, by the lead they came from.
type Spoken = BTreeMap<LeadId, Vec<Opportunity>>;

/// What changed on the leads side.
struct Heard {
    leads: Vec<Lead>,
    spoken: Spoken,
    /// Both polls were read as far as a poll goes.
    is_whole: bool,
}

impl Pass<'_> {
    /// Leads and opportunities that changed since the watermarks, joined by referral.
    pub(super) async fn observe_crm(&mut self) -> Result<(), CycleError> {
        if !self.is_up(Side::Crm) {
            return Ok(());
        }
        let Some(followed) = self.follow_changes().await? else { return Ok(()) };
        let Some(heard) = self.poll_crm(!followed.is_all).await? else { return Ok(()) };
        let spoken = heard.spoken;
        let mut rows: BTreeMap<ReferralId, Row> = BTreeMap::new();
        for lead in heard.leads {
            let Some(id) = self.ports.store.by_lead(lead.id)? else { continue };
            let mut row = Row::new(id);
            row.entry = self.ports.store.get(id)?;
            row.lead = Seen::from(lead);
            rows.insert(id, row);
        }
        self.add_rows(&mut rows, &followed.news)?;
        let unseen = |(_, row): (&ReferralId, &Row)| row.lead.present().is_none().then(|| linked_lead(row)).flatten();
        let mut unread: Vec<LeadId> = rows.iter().filter_map(unseen).collect();
        for lead in spoken.keys().copied() {
            let Some(id) = self.ports.store.by_lead(lead)? else { continue };
            let Some(entry) = self.ports.store.get(id)? else { continue };
            let row = rows.entry(id).or_insert_with(|| Row::new(id));
            row.entry = Some(entry);
            if row.lead.present().is_none() {
                unread.push(lead);
            }
        }
        let mut rows: Vec<Row> = rows.into_values().collect();
        // A lead that could not be read just now is not asked for in each pass because an opportunity names it.
        let is_waiting = |row: &mut Row| row.lead.is_unseen() && self.waits_for_its_lead(row);
        let mut waiting: Vec<Row> = rows.extract_if(.., is_waiting).collect();
        unread.retain(|lead| !waiting.iter().any(|row| linked_lead(row) == Some(*lead)));
        self.doubt(&mut waiting, &spoken, &followed.news).await?;
        if !heard.is_whole {
            self.doubt(&mut rows, &spoken, &followed.news).await?;
            return self.restart_outcomes(rows).await; // It may say something else when it is polled again.
        }
        let has_begun = self.begin_watermarks().await?;
        let is_read = unread.is_empty() || self.read_leads(&mut rows, &distinct(unread)).await;
        let is_followed = self.follow(&mut rows).await;
        let is_heard = self.read_opportunities(&mut rows).await;
        let is_observed = is_read && is_followed && is_heard;
        if !is_observed {
            self.doubt(&mut rows, &spoken, &followed.news).await?;
        }
        self.put_off(&mut rows).await?;
        self.is_incomplete |= !is_observed;
        self.is_crm_decided = is_observed && has_begun && !self.is_cut;
        self.is_crm_observed = self.is_crm_decided && !self.is_poll_full;
        self.leads = rows.into_iter().map(|row| (row.id, row)).collect();
        Ok(())
    }

    /// Polls what changed; `None` when nothing could be asked for.
    async fn poll_crm(&mut self, polls_leads: bool) -> Result<Option<Heard>, CycleError> {
        let (mut leads, mut first_deals) = (Vec::new(), None);
        if polls_leads {
            let unnamed = self.unnamed()?;
            let Some(first) = self.poll_both(&unnamed).await else { return Ok(None) };
            let (first_leads, deals) = first.map(|first| (first.leads, first.opportunities)).unzip();
            let poll = self.poll_leads(&unnamed, first_leads).await?;
            if !poll.is_whole {
                return Ok(Some(Heard { leads: poll.items, spoken: Spoken::new(), is_whole: false }));
            }
            (leads, first_deals) = (poll.items, deals);
        }
        let poll = self.poll_opportunities(first_deals).await?;
        let mut spoken = Spoken::new();
        for opportunity in poll.items {
            if let Some(lead) = opportunity.lead {
                spoken.entry(lead).or_default().push(opportunity);
            }
        }
        Ok(Some(Heard { leads, spoken, is_whole: poll.is_whole }))
    }

    /// The first watermarks are on record before the first row is: a later pass begins where this one began, whatever
    /// becomes of this one. False when rows are on record that no poll has watched: they are read by id first.
    async fn begin_watermarks(&mut self) -> Result<bool, CycleError> {
        if self.memo.leads_seen.is_some() && self.memo.opportunities_seen.is_some() {
            return Ok(true);
        }
        self.memo.leads_seen = self.memo.leads_seen.or(self.leads_high);
        self.memo.opportunities_seen = self.memo.opportunities_seen.or(self.opportunities_high);
        let is_watched = self.ports.store.counters()?.entries == 0;
        if !is_watched {
            self.memo.lead_reading.get_or_insert(None);
        }
        if self.may_write() {
            let Memo { leads_seen, opportunities_seen, lead_reading, .. } = self.memo;
            let memo = Memo { leads_seen, opportunities_seen, lead_reading, ..self.counted()? };
            self.ports.store.record(Batch { memo: Some(memo), ..Batch::default() }).await?;
        }
        Ok(is_watched)
    }

    /// Deals and leads that were heard of and could not be read: an outcome that may not be theirs any more does not settle
    /// meanwhile. Of a lead that is only told to have changed nobody knows what it says.
    async fn doubt(&mut self, rows: &mut [Row], spoken: &Spoken, news: &BTreeSet<LeadId>) -> Result<(), CycleError> {
        let mut entries = Vec::new();
        for row in rows.iter_mut() {
            let Some(entry) = &mut row.entry else { continue };
            let Some(link) = entry.link.as_ref().filter(|_| entry.outcome.is_some()) else { continue };
            let is_other_deal = spoken.get(&link.lead).is_some_and(|heard| status::deal(heard) != link.deal);
            if is_other_deal || (row.lead.is_unseen() && news.contains(&link.lead)) {
                *entry = doubted(entry.clone());
                entries.push((row.id, Some(entry.clone())));
            }
        }
        self.remember(entries).await
    }

    /// A linked lead in another version than the one on record.
    pub(super) fn is_another_version(&self, lead: LeadId, etag: Option<&ETag>) -> Result<bool, CycleError> {
        let Some(id) = self.ports.store.by_lead(lead)? else { return Ok(false) };
        let Some(entry) = self.ports.store.get(id)? else { return Ok(false) };
        let is_known = entry.link.as_ref().is_some_and(|link| link.etag.is_some() && link.etag.as_ref() == etag);
        Ok(!is_known || entry.standing == Standing::LeadGone)
    }

    /// Before irreversible steps their leads are read by id and decided again: all of them in a pass whose poll showed no
    /// lead at all (whoever has lost the role gets no further than this), and those that a poll may not show: with a column
    /// for the referral id it asks for leads that have a value there, and the master of a merged lead has none. After a
    /// pause, and until linked leads have been read by id where that is due, so may be what no poll shows: a deletion, an
    /// opportunity that speaks for another lead by now.
    ///
    /// Returns the kinds of which a brake holds exactly the same set already: nothing is read for what is not sent before
    /// somebody approves.
    pub(super) async fn prove_sight(&mut self) -> Result<BTreeSet<ActionKind>, CycleError> {
        if !self.is_crm_observed || !self.may_write() {
            return Ok(BTreeSet::new());
        }
        let is_blind = !self.is_sighted;
        let is_behind = self.is_catching_up() || self.memo.lead_reading.is_some() || self.is_poll_blind;
        let is_partial = self.setup.policy.referral_column.is_some() || is_behind;
        let is_unproven = |row: &Row| is_blind || (is_partial && row.lead.is_unseen());
        let held = if is_blind { BTreeSet::new() } else { self.held_already() };
        let is_irreversible = |plan: &RowPlan| {
            plan.action.as_ref().is_some_and(|action| action.kind().is_irreversible() && !held.contains(&action.kind()))
        };
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deferred)
            .into_iter()
            .partition(|(row, plan)| is_irreversible(plan) && is_unproven(row));
        self.deferred = others;
        if mine.is_empty() {
            return Ok(held);
        }
        let mut rows: Vec<Row> = mine.iter().map(|(row, _)| row.clone()).collect();
        let leads = distinct(rows.iter().filter_map(linked_lead));
        let is_read = self.read_leads(&mut rows, &leads).await
            && self.follow(&mut rows).await
            && self.read_opportunities(&mut rows).await;
        if !is_read {
            self.is_crm_observed = false; // What they say is not known.
            self.deferred.extend(mine);
            return Ok(held);
        }
        self.is_sighted = true;
        self.put_off(&mut rows).await?;
        self.process(rows).await?;
        Ok(held)
    }

    /// The watermarks of the leads side move last, past rows whose fate is written down.
    pub(super) fn advance(&mut self) {
        self.has_advanced = true;
        if let Some(next) = self.tracking_next.take().filter(|_| self.may_write() && !self.is_incomplete) {
            self.memo.tracking = Some(next);
        }
        if self.may_write() && !self.is_incomplete && self.is_crm_decided {
            self.memo.leads_seen = self.leads_high.or(self.memo.leads_seen);
            self.memo.opportunities_seen = self.opportunities_high.or(self.memo.opportunities_seen);
        }
    }
}
