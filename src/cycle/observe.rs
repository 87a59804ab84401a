//! The reads that rows ask for: by id, in chunks, merged leads followed.

use std::collections::BTreeMap;

use super::halves::{Failure, Halves};
use super::{CycleError, MERGE_HOPS_MAX, Pass, distinct};
use crate::model::{Fault, Lead, LeadId, LeadState, Opportunity, ReferralId, RemoteError, Side};
use crate::plan::{Needs, Row, Seen};
use crate::ports::{ActionKind, Defect};

/// Leads that may all be out of reach by chance, in a pass in which others are shown.
const FEW: usize = 5;

/// What came of asking for leads by id.
type Found = BTreeMap<LeadId, Result<Option<Lead>, RemoteError>>;

impl Pass<'_> {
    /// Reads what rows miss, batched by kind. Rows that cannot be read because a side is down are left.
    pub(super) async fn read(&mut self, needy: Vec<(Row, Needs)>) -> Result<Vec<Row>, CycleError> {
        let mut ready = Vec::new();
        let mut failed = Vec::new();
        let (mut leads, mut spoken, mut adopted) = (Vec::new(), Vec::new(), Vec::new());
        for (mut row, needs) in needy {
            let is_tried = row.referral_read.is_some() || matches!(row.referral, Seen::Absent);
            if needs.referral
                && (is_tried || !self.is_up(Side::Portal) || !self.has_time() || !self.read_referral(&mut row).await)
            {
                failed.push(row);
            } else if needs.adoption {
                adopted.push(row);
            } else if needs.lead {
                leads.push(row);
            } else if needs.opportunities {
                spoken.push(row);
            } else {
                ready.push(row);
            }
        }
        let ids = distinct(leads.iter().filter_map(linked_lead));
        let is_read = self.read_leads(&mut leads, &ids).await && self.follow(&mut leads).await;
        if is_read {
            ready.extend(leads)
        } else {
            failed.extend(leads)
        }
        let is_heard = self.read_opportunities(&mut spoken).await;
        if is_heard {
            ready.extend(spoken)
        } else {
            failed.extend(spoken)
        }
        let is_searched = self.search(&mut adopted).await?;
        if is_searched {
            ready.extend(adopted)
        } else {
            failed.extend(adopted)
        }
        self.put_off(&mut ready).await?;
        self.put_off(&mut failed).await?;
        self.leave(failed).await?;
        Ok(ready)
    }

    /// Reads both sides of rows with an intent, leads many at once; returns the rows, and those that could not be read. Single
    /// rows that cannot be read do not take a side down here: lists come first, and the pass goes on with them.
    pub(super) async fn read_for_intents(&mut self, rows: Vec<Row>) -> (Vec<Row>, Vec<Row>) {
        let (mut read, mut unread, mut linked) = (Vec::new(), Vec::new(), Vec::new());
        for mut row in rows {
            let is_create = row.intent.as_ref().is_some_and(|intent| intent.kind == ActionKind::Create);
            if self.is_worn(Side::Portal) || !self.read_referral(&mut row).await {
                unread.push(row);
            } else if linked_lead(&row).is_some() {
                linked.push(row);
            } else if !is_create || (!self.is_worn(Side::Crm) && self.read_created(&mut row).await) {
                read.push(row);
            } else {
                unread.push(row);
            }
        }
        let leads = distinct(linked.iter().filter_map(linked_lead));
        if self.read_leads(&mut linked, &leads).await && self.follow(&mut linked).await {
            read.extend(linked);
        } else {
            unread.append(&mut linked);
        }
        unread.extend(read.extract_if(.., |row| self.unreadable.contains_key(&row.id)));
        (read, unread)
    }

    /// Reads one referral; false when it cannot be read or the side is down.
    pub(super) async fn read_referral(&mut self, row: &mut Row) -> bool {
        if !self.may_ask(Side::Portal) {
            return false;
        }
        loop {
            match self.ports.portal.get(row.id).await {
                Ok(referral) => {
                    row.referral = Seen::from(referral);
                    row.referral_read = Some(self.ports.clock.now());
                }
                Err(error) if error.fault == Fault::Missing => row.referral = Seen::Absent,
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    if error.stops_side() && !self.is_of_one_id(row.id.uuid(), &error) {
                        self.note(&error)
                    } else {
                        self.note_unreadable(row.id, &error)
                    }
                    return false;
                }
            }
            return true;
        }
    }

    /// Reads leads by id into their rows; a lead that is not found is asked for by itself before it counts as gone.
    pub(super) async fn read_leads(&mut self, rows: &mut [Row], ids: &[LeadId]) -> bool {
        if ids.is_empty() {
            return true;
        }
        if !self.may_ask(Side::Crm) {
            return false;
        }
        let found = match self.list_leads(ids).await {
            Ok(found) => found,
            Err(error) => {
                self.note(&error);
                return false;
            }
        };
        self.report.leads_seen += found.len() as u64;
        let shown = found.len();
        let mut found: Found = found.into_iter().map(|lead| (lead.id, Ok(Some(lead)))).collect();
        for id in ids {
            if found.contains_key(id) {
                continue;
            }
            match self.ports.crm.get(*id).await {
                Ok(lead) => found.insert(*id, Ok(Some(lead))),
                Err(error) if error.fault == Fault::Missing => found.insert(*id, Ok(None)),
                Err(error) if self.is_of_one(*id, &error, ids.len(), shown) => found.insert(*id, Err(error)),
                Err(error) => {
                    self.note(&error);
                    self.note_out_of_reach(rows, &found);
                    return false;
                }
            };
        }
        self.note_out_of_reach(rows, &found);
        for row in rows {
            let Some(lead) = linked_lead(row) else { continue };
            match found.get(&lead) {
                Some(Ok(Some(lead))) => row.lead = Seen::from(lead.clone()),
                Some(Ok(None)) => row.lead = Seen::Absent,
                Some(Err(_)) | None => {}
            }
        }
        true
    }

    /// Lists leads by id. A list that is answered with a fault of the server is read in halves, for one of them may be at
    /// fault; those that fail alone are left out. When nothing of it is answered, it is no fault of one of them.
    pub(super) async fn list_leads(&mut self, ids: &[LeadId]) -> Result<Vec<Lead>, RemoteError> {
        let (mut found, mut halves) = (Vec::new(), Halves::of(ids));
        while let Some(part) = halves.next() {
            match self.ports.crm.leads(part).await {
                Ok(leads) => {
                    halves.answered();
                    found.extend(leads);
                }
                Err(error) if self.waits_out(&error).await => halves.again(part),
                Err(error) => match halves.failed(part, &error) {
                    Failure::Divided | Failure::Alone => {}
                    Failure::OfSide => return Err(error),
                },
            }
        }
        Ok(found)
    }

    /// Notes the rows whose lead could not be read for its own reason.
    fn note_out_of_reach(&mut self, rows: &[Row], found: &Found) {
        for row in rows {
            if let Some(Err(error)) = linked_lead(row).and_then(|lead| found.get(&lead)) {
                self.note_unreadable(row.id, error);
            }
        }
    }

    /// True for trouble with one lead that was asked for by itself, after a list of `asked` of which `shown` came. A refusal
    /// is that as long as other leads are shown (dataverse §7, row-level access): whoever has lost the role is shown none.
    pub(super) fn is_of_one(&mut self, lead: LeadId, error: &RemoteError, asked: usize, shown: usize) -> bool {
        let is_refused = error.fault == Fault::Unauthorized && error.status == Some(403);
        let sees_others = shown > 0 || (self.is_sighted && asked <= FEW);
        !error.stops_side() || (is_refused && sees_others) || self.is_of_one_id(lead.uuid(), error)
    }

    /// Follows merged leads to their masters.
    pub(super) async fn follow(&mut self, rows: &mut [Row]) -> bool {
        for _ in 0..MERGE_HOPS_MAX {
            let masters = distinct(rows.iter().filter_map(|row| row.lead.present().and_then(master)));
            if masters.is_empty() {
                return true;
            }
            if !self.may_ask(Side::Crm) {
                return false;
            }
            let read = match self.list_leads(&masters).await {
                Ok(leads) => leads,
                Err(error) => {
                    self.note(&error);
                    return false;
                }
            };
            let shown = read.len();
            let read: BTreeMap<LeadId, Lead> = read.into_iter().map(|lead| (lead.id, lead)).collect();
            for row in rows.iter_mut() {
                let Some(next) = row.lead.present().and_then(master) else { continue };
                let lead = match read.get(&next) {
                    Some(lead) => lead.clone(),
                    // A list may lack a row that exists.
                    None => match self.ports.crm.get(next).await {
                        Ok(lead) => lead,
                        Err(error) if error.fault == Fault::Missing => {
                            row.lead = Seen::Absent;
                            continue;
                        }
                        Err(error) if self.is_of_one(next, &error, masters.len(), shown) => {
                            row.lead = Seen::Unseen;
                            self.note_unreadable(row.id, &error);
                            continue;
                        }
                        Err(error) => {
                            self.note(&error);
                            return false;
                        }
                    },
                };
                match self.claim_on(lead.id, row.id) {
                    Ok(claim) => row.claims.extend(claim.map(|claim| (lead.id, claim))),
                    Err(error) => {
                        tracing::error!("{error}");
                        return false; // The ledger does not answer: nothing may be linked now.
                    }
                }
                row.lead = Seen::from(lead);
            }
        }
        for row in rows.iter_mut().filter(|row| row.lead.present().and_then(master).is_some()) {
            tracing::warn!(referral.id = %row.id, "the lead was merged in a circle; it is left alone");
            row.lead = Seen::Unseen;
        }
        true
    }

    /// Reads all opportunities of the qualified leads in rows.
    pub(super) async fn read_opportunities(&mut self, rows: &mut [Row]) -> bool {
        let is_qualified = |row: &Row| row.lead.present().is_some_and(|lead| lead.status.state == LeadState::Qualified);
        let leads = distinct(
            rows.iter().filter(|row| is_qualified(row)).filter_map(|row| row.lead.present()).map(|lead| lead.id),
        );
        if leads.is_empty() {
            return true;
        }
        if !self.may_ask(Side::Crm) {
            return false;
        }
        let mut by_lead: BTreeMap<LeadId, Vec<Opportunity>> = BTreeMap::new();
        let mut refused: BTreeMap<LeadId, RemoteError> = BTreeMap::new();
        let mut halves = Halves::of(&leads);
        while let Some(part) = halves.next() {
            match self.ports.crm.opportunities_of(part).await {
                Ok(read) => {
                    halves.answered();
                    for opportunity in read {
                        if let Some(lead) = opportunity.lead {
                            by_lead.entry(lead).or_default().push(opportunity);
                        }
                    }
                }
                Err(error) if self.waits_out(&error).await => halves.again(part),
                Err(error) => match halves.failed(part, &error) {
                    Failure::Divided => {}
                    Failure::Alone if self.is_of_one_id(part[0].uuid(), &error) => {
                        refused.insert(part[0], error);
                    }
                    Failure::Alone | Failure::OfSide => {
                        self.note(&error);
                        return false;
                    }
                },
            }
        }
        for row in rows.iter_mut().filter(|row| is_qualified(row)) {
            let Some(lead) = row.lead.present().map(|lead| lead.id) else { continue };
            match refused.get(&lead) {
                Some(error) => self.note_unreadable(row.id, error),
                None => row.opportunities = Some(by_lead.get(&lead).cloned().unwrap_or_default()),
            }
        }
        true
    }

    /// A side that is down is left alone for the rest of the pass: what is silent would cost its whole patience each time.
    pub(super) fn may_ask(&mut self, side: Side) -> bool {
        let is_up = self.is_up(side);
        self.is_incomplete |= !is_up;
        is_up
    }

    /// Notes a failed read: what concerns the whole side takes it down for this pass.
    pub(super) fn note(&mut self, error: &RemoteError) {
        self.is_incomplete = true;
        tracing::warn!(operation = error.operation, request_id = error.request_id.as_deref(), "{error}");
        self.note_down(error);
    }

    /// Notes that a part of one row cannot be read for its own reason: that row is put off, and the others go on.
    pub(super) fn note_unreadable(&mut self, row: ReferralId, error: &RemoteError) {
        tracing::warn!(referral.id = %row, request_id = error.request_id.as_deref(), "{error}; it is read again later");
        if self.unreadable.insert(row, error.clone()).is_none() {
            *self.report.holds.entry("unreadable".to_owned()).or_default() += 1;
        }
    }

    /// Rows that could not be decoded: said and counted, the others go on.
    pub(super) fn note_defects(&mut self, what: &'static str, defects: &[Defect]) {
        for defect in defects {
            let id = defect.id.as_deref().and_then(ReferralId::parse).map(|id| id.to_string());
            tracing::warn!(id = id.as_deref(), "a {what} could not be read and is left out: {}", defect.reason);
            *self.report.holds.entry(format!("unreadable {what}")).or_default() += 1;
        }
    }
}

/// The lead a row asks about.
pub(super) fn linked_lead(row: &Row) -> Option<LeadId> {
    row.entry.as_ref().and_then(|entry| entry.link.as_ref()).map(|link| link.lead)
}

/// The master of a merged lead.
pub(super) fn master(lead: &Lead) -> Option<LeadId> {
    lead.master.filter(|master| lead.is_merged && *master != lead.id)
}
