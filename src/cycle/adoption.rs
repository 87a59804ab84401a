//! The search for a lead that exists already, and who else speaks for it (spec 2, "Adoption").

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::halves::{Failure, Halves};
use super::{CycleError, Pass, distinct};
use crate::model::{Fault, Lead, LeadId, ReferralId, RemoteError, Side, Standing};
use crate::plan::settings::Adopt;
use crate::plan::{Adoption, Claim, Row, Seen};
use crate::ports::{Crm, FindBy};

impl Pass<'_> {
    /// Searches existing leads for rows without one, in the configured order, batched (spec 2, "Adoption").
    pub(super) async fn search(&mut self, rows: &mut [Row]) -> Result<bool, CycleError> {
        if rows.is_empty() {
            return Ok(true);
        }
        if !self.may_ask(Side::Crm) {
            return Ok(false);
        }
        let before = self.leads_before(rows).await?;
        let named = |row: &Row| reference(row).into_iter().chain(before.get(&row.id).copied());
        let (by_id, refused) = match self.find_by_id(rows, &before).await {
            Ok(found) => found,
            Err(error) => {
                self.note(&error);
                return Ok(false);
            }
        };
        for row in rows.iter() {
            if let Some(error) = named(row).find_map(|lead| refused.get(&lead)) {
                self.note_unreadable(row.id, error);
            }
        }
        let mut found: BTreeMap<ReferralId, Vec<Lead>> = BTreeMap::new();
        let mut gone: BTreeSet<ReferralId> = BTreeSet::new();
        let adopts_reference = self.setup.adopt.contains(&Adopt::ExternalReference);
        for (id, lead) in before.iter().filter_map(|(id, lead)| Some((*id, by_id.get(lead)?))) {
            // Another referral may have got it since.
            let is_free = lead.referral.is_none_or(|referral| referral == id) && self.claim_on(lead.id, id)?.is_none();
            if is_free {
                found.insert(id, vec![lead.clone()]);
            }
        }
        for row in rows.iter() {
            let Some(reference) = reference(row).filter(|_| !found.contains_key(&row.id)) else { continue };
            match by_id.get(&reference) {
                Some(lead) if adopts_reference || reference == self.setup.policy.computed(row.id) => {
                    found.insert(row.id, vec![lead.clone()]);
                }
                Some(_) => {}
                None => {
                    gone.insert(row.id);
                }
            }
        }
        for by in self.ways() {
            let ids: Vec<ReferralId> = rows.iter().map(|row| row.id).filter(|id| !found.contains_key(id)).collect();
            if ids.is_empty() {
                break;
            }
            let leads = match self.found.of(by, &ids) {
                Some(leads) => leads,
                None => match self.find_leads(by, &ids).await {
                    Some(leads) => leads,
                    None => return Ok(false),
                },
            };
            for lead in leads {
                let subject = lead.columns.get("subject").and_then(|value| value.as_str()).and_then(ReferralId::parse);
                let id = match by {
                    FindBy::ReferralColumn => lead.referral,
                    FindBy::Subject => subject,
                };
                let Some(id) = id.filter(|id| ids.contains(id)) else { continue };
                let leads = found.entry(id).or_default();
                if leads.iter().all(|known| known.id != lead.id) {
                    leads.push(lead);
                }
            }
        }
        for row in rows.iter() {
            if let Some(lead) = by_id.get(&self.setup.policy.computed(row.id)) {
                found.entry(row.id).or_insert_with(|| vec![lead.clone()]);
            }
        }
        for row in rows.iter_mut() {
            if self.unreadable.contains_key(&row.id) {
                continue; // It may have a lead that nobody was shown.
            }
            let leads = found.remove(&row.id).unwrap_or_default();
            if !self.offer(row, leads).await? {
                return Ok(false);
            }
            if let Some(adoption) = &mut row.adoption {
                adoption.is_reference_gone = gone.contains(&row.id);
                adoption.lost = before.get(&row.id).copied().filter(|lead| !by_id.contains_key(lead));
            }
        }
        Ok(true)
    }

    /// The leads that rows without one had by the newest export. A seller renames leads, and not every lead can be found by
    /// what it says: after the ledger is lost the way to it is what was remembered.
    async fn leads_before(&self, rows: &[Row]) -> Result<BTreeMap<ReferralId, LeadId>, CycleError> {
        let mut before = BTreeMap::new();
        for row in rows.iter().filter(|row| row.entry.as_ref().is_none_or(|entry| entry.link.is_none())) {
            let recalled = self.ports.store.recall(row.id, self.memo.crm_organization).await?;
            before.extend(recalled.and_then(|entry| entry.link).map(|link| (row.id, link.lead)));
        }
        Ok(before)
    }

    /// How leads are searched for besides by reference, in the configured order.
    pub(super) fn ways(&self) -> Vec<FindBy> {
        let has_column = self.setup.policy.referral_column.is_some() || !self.setup.policy.is_derived;
        let way = |adopt: &Adopt| match adopt {
            Adopt::ExternalReference => None,
            Adopt::ReferralIdColumn => has_column.then_some(FindBy::ReferralColumn),
            Adopt::Subject => Some(FindBy::Subject),
        };
        self.setup.adopt.iter().filter_map(way).collect()
    }

    /// The leads that external references name, and those of `before`; each one that is not found is asked for by itself.
    /// Besides, the computed leads of referrals whose lead is gone: such a place may be taken by a lead that was merged away,
    /// and every attempt to create there would be refused. Beside them: which ones cannot be read, alone among others that can.
    async fn find_by_id(
        &mut self,
        rows: &[Row],
        before: &BTreeMap<ReferralId, LeadId>,
    ) -> Result<(BTreeMap<LeadId, Lead>, BTreeMap<LeadId, RemoteError>), RemoteError> {
        let ids = distinct(rows.iter().filter_map(reference).chain(before.values().copied()));
        let is_gone = |row: &&Row| row.entry.as_ref().is_some_and(|entry| entry.standing == Standing::LeadGone);
        let policy = &self.setup.policy;
        let places = rows.iter().filter(is_gone).filter(|_| policy.is_derived).map(|row| policy.computed(row.id));
        let asked = distinct(ids.iter().copied().chain(places));
        if asked.is_empty() {
            return Ok(Default::default());
        }
        let listed = self.list_leads(&asked).await?;
        let mut found: BTreeMap<LeadId, Lead> = listed.into_iter().map(|lead| (lead.id, lead)).collect();
        let (shown, mut refused) = (found.len(), BTreeMap::new());
        for id in ids {
            if found.contains_key(&id) {
                continue;
            }
            match self.ports.crm.get(id).await {
                Ok(lead) => {
                    found.insert(id, lead);
                }
                Err(error) if error.fault == Fault::Missing => {}
                Err(error) if self.is_of_one(id, &error, asked.len(), shown) => {
                    refused.insert(id, error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((found, refused))
    }

    /// Searches leads by what they say of their referral. Where a search cannot be answered, one of the leads that fit may be at
    /// fault: the referrals are searched for in halves, and those whose search fails alone are put off as long as a search for
    /// something else is answered. None: the side is down.
    async fn find_leads(&mut self, by: FindBy, ids: &[ReferralId]) -> Option<Vec<Lead>> {
        let (mut leads, mut alone, mut halves) = (Vec::new(), Vec::new(), Halves::of(ids));
        while let Some(part) = halves.next() {
            match self.ports.crm.find(by, part).await {
                Ok(found) => {
                    halves.answered();
                    leads.extend(found);
                }
                Err(error) => match halves.failed(part, &error) {
                    Failure::Divided => {}
                    Failure::Alone => alone.push((part[0], error)),
                    Failure::OfSide => {
                        self.note(&error);
                        return None;
                    }
                },
            }
        }
        if !halves.has_answer() && !alone.is_empty() {
            // Nobody has this id: whether searches are answered at all.
            if let Err(error) = self.ports.crm.find(by, &[ReferralId::new(uuid::Uuid::max())]).await {
                self.note(&error);
                return None;
            }
        }
        for (id, error) in alone {
            if !self.is_of_one_id(id.uuid(), &error) {
                self.note(&error);
                return None;
            }
            self.note_unreadable(id, &error);
        }
        Some(leads)
    }

    /// Looks whether the lead of a create whose outcome is unknown exists. If it does not, the row is searched for anew: what
    /// an earlier search did not find may have been out of sight.
    pub(super) async fn read_created(&mut self, row: &mut Row) -> bool {
        if !self.may_ask(Side::Crm) {
            return false;
        }
        let computed = self.setup.policy.computed(row.id);
        match self.ports.crm.get_by_referral(row.id, computed).await {
            Ok(lead) => {
                let is_offered = self.offer(row, vec![lead]).await.unwrap_or(false);
                let is_out_of_reach = self.unreadable.remove(&row.id).is_some();
                is_offered && !is_out_of_reach
            }
            Err(error) if error.fault == Fault::Missing => {
                row.adoption = None;
                true
            }
            Err(error) if self.is_of_one_id(computed.uuid(), &error) => {
                self.note_unreadable(row.id, &error);
                false
            }
            Err(error) => {
                self.note(&error);
                false
            }
        }
    }

    /// Puts candidates into a row: merged ones followed, each once, with the claims on them. False: a side is down.
    pub(super) async fn offer(&mut self, row: &mut Row, leads: Vec<Lead>) -> Result<bool, CycleError> {
        let mut adoption = Adoption::default();
        for lead in leads {
            let mut probe = Row::new(row.id);
            let from = lead.id;
            probe.lead = Seen::from(lead);
            if !self.follow(std::slice::from_mut(&mut probe)).await {
                return Ok(false);
            }
            if self.unreadable.contains_key(&row.id) {
                return Ok(true); // A lead is there, and nobody knows which: nothing may be linked or created.
            }
            adoption.is_master_gone |= matches!(probe.lead, Seen::Absent);
            let Some(lead) = probe.lead.present() else { continue };
            if lead.id != from {
                adoption.followed.push(from);
            }
            if adoption.candidates.iter().any(|known| known.id == lead.id) {
                continue;
            }
            if let Some(claim) = self.claim_on(lead.id, row.id)? {
                row.claims.insert(lead.id, claim);
            }
            adoption.candidates.push(lead.clone());
        }
        if let [lead] = adoption.candidates.as_slice() {
            row.lead = Seen::from(lead.clone());
            if row.entry.as_ref().is_none_or(|entry| entry.link.is_none()) {
                row.recalled = self.ports.store.recall(row.id, self.memo.crm_organization).await?.map(Box::new);
            }
        }
        row.adoption = Some(adoption);
        Ok(true)
    }

    /// Who else speaks for a lead already.
    pub(super) fn claim_on(&self, lead: LeadId, id: ReferralId) -> Result<Option<Claim>, CycleError> {
        let Some(referral) = self.ports.store.by_lead(lead)?.filter(|referral| *referral != id) else {
            return Ok(None);
        };
        let entry = self.ports.store.get(referral)?;
        let speaks =
            entry.as_ref().is_some_and(|entry| matches!(entry.standing, Standing::Linked | Standing::LeadGone));
        Ok(speaks.then(|| Claim { referral, created: entry.and_then(|entry| entry.referral_created) }))
    }
}

/// What was searched for before it was asked for: the leads of a page's referrals, while the page before is written.
#[derive(Debug, Default)]
pub(super) struct Found {
    asked: BTreeSet<ReferralId>,
    by: Vec<(FindBy, Vec<Lead>)>,
}

impl Found {
    /// Searches in every way at once. What fails is searched again when it is asked for.
    pub(super) async fn search(crm: &dyn Crm, ways: Vec<FindBy>, referrals: Vec<ReferralId>) -> Found {
        if referrals.is_empty() {
            return Found::default();
        }
        let find = |by| {
            let referrals = &referrals;
            async move { Some((by, crm.find(by, referrals).await.ok()?)) }
        };
        let by = join_all(ways.into_iter().map(find)).await.into_iter().flatten().collect();
        Found { asked: referrals.into_iter().collect(), by }
    }

    /// The leads of these referrals, if all of them were searched for in this way.
    fn of(&self, by: FindBy, referrals: &[ReferralId]) -> Option<Vec<Lead>> {
        let is_known = referrals.iter().all(|id| self.asked.contains(id));
        let (_, leads) = self.by.iter().find(|(known, _)| *known == by).filter(|_| is_known)?;
        Some(leads.clone())
    }
}

/// The lead that the referral names.
pub(super) fn reference(row: &Row) -> Option<LeadId> {
    row.referral.present()?.external_reference.as_deref().and_then(LeadId::parse)
}
