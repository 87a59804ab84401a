//! From what was seen to planned rows: both sides joined, what is missing read, claims on one lead sorted out.

use std::collections::{BTreeMap, BTreeSet};

use super::observe::linked_lead;
use super::{CycleError, Mode, Pass};
use crate::model::{Entry, LeadId, Referral, ReferralId, RemoteError, Side, Standing, Timestamp};
use crate::plan::{Claim, Hold, Needs, Row, RowPlan, Seen, backoff, plan_row, status};
use crate::ports::Batch;

/// Rounds of "what is missing is read, then planned again" for one batch of rows.
const READ_ROUNDS_MAX: usize = 6;

/// Rows that are due and decided together.
const DUE_STEP: usize = 20;

/// So many new referrals are read one by one when they are due, at least …
const READ_SINGLY_MIN: usize = 100;

/// … and one for each page of a sweep over so many entries: more of them are listed.
const LISTED_AT_ONCE: u64 = 100;

/// Windows of due rows that a pass looks through, at most: a second or two for 100,000 rows.
const DUE_WINDOWS_MAX: usize = 20;

/// When a row that could not be read is tried again, at the earliest.
const LEFT_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);

impl Pass<'_> {
    /// Writes of a former process whose outcome is not known: exactly these rows are read first.
    pub(super) async fn resolve_intents(&mut self) -> Result<(), CycleError> {
        let intents = self.ports.store.intents()?;
        if intents.is_empty() {
            return Ok(());
        }
        let mut settled = Vec::new();
        let mut rows: BTreeMap<ReferralId, Row> = BTreeMap::new();
        for intent in intents {
            for action in intent.actions {
                settled.push((intent.commit, action.referral));
                let row = rows.entry(action.referral).or_insert_with(|| Row::new(action.referral));
                row.intent = Some(action);
            }
        }
        let mut open: Vec<Row> = rows.into_values().collect();
        for row in &mut open {
            row.entry = self.ports.store.get(row.id)?;
        }
        let waits = |row: &Row| self.waits_to_be_read(row) || self.waits_for_its_referral(row);
        let waiting: Vec<Row> = open.extract_if(.., |row| waits(row)).collect();
        let (read, mut unread) = self.read_for_intents(open).await;
        self.unresolved.extend(waiting.iter().chain(&unread).map(|row| row.id)); // Both sides are read when it can be resolved.
        self.put_off(&mut unread).await?;
        self.unreadable.clear();
        self.uncount_undone(&read).await?;
        self.process(read).await?;
        settled.retain(|(_, id)| !self.unresolved.contains(id));
        self.ports.store.record(Batch { settled, ..Batch::default() }).await?;
        Ok(())
    }

    /// The referral was looked for and not found, and it is not yet time to look again.
    fn waits_for_its_referral(&self, row: &Row) -> bool {
        let missing = Hold::ReferralMissing.bit();
        let Some(entry) = row.entry.as_ref().filter(|entry| entry.holds & missing != 0) else { return false };
        let is_held = self.setup.policy.decisions.held.contains(&row.id);
        is_held || (!self.is_unlimited() && entry.look_at.is_some_and(|at| at > self.ports.clock.now()))
    }

    /// Rows for listed referrals: those that changed, joined with what the leads side showed.
    pub(super) fn join(&mut self, referrals: Vec<Referral>) -> Result<Vec<Row>, CycleError> {
        let known: Result<Vec<_>, _> = referrals.iter().map(|referral| self.ports.store.get(referral.id)).collect();
        Ok(self.join_known(referrals, known?))
    }

    /// As [`Pass::join`], with the entries of these referrals as they were looked up just now.
    pub(super) fn join_known(&mut self, referrals: Vec<Referral>, known: Vec<Option<Entry>>) -> Vec<Row> {
        let mut rows = Vec::new();
        for (referral, known) in referrals.into_iter().zip(known) {
            let id = referral.id;
            if self.decisions.has_forgotten(&self.ports.store.fingerprint_key(), id) {
                continue;
            }
            if known.as_ref().is_some_and(|entry| is_older(entry, &referral)) {
                continue; // A listing that lags behind what we saw or wrote since.
            }
            if self.decided.contains(&id) && !known.as_ref().is_some_and(|entry| is_newer(entry, &referral)) {
                continue;
            }
            let lead_row = self.leads.remove(&id);
            let entry = match &lead_row {
                Some(row) => row.entry.clone(),
                None => known,
            };
            if lead_row.is_none() && entry.as_ref().is_some_and(|entry| self.is_settled(entry, &referral)) {
                continue;
            }
            let mut row = lead_row.unwrap_or_else(|| Row::new(id));
            row.entry = entry;
            row.referral = Seen::from(referral);
            rows.push(row);
        }
        rows
    }

    /// Nothing to decide about a listed referral: it is unchanged, and so is what was configured.
    pub(super) fn is_settled(&self, entry: &Entry, referral: &Referral) -> bool {
        // Of linked ones only the referral says whether a filter lets it in, and a text without the people in it.
        let is_linked = entry.standing == Standing::Linked && !entry.is_frozen && !entry.is_consent_withdrawn;
        let is_rescanned = self.memo.is_rescan && !is_linked;
        let is_awaited = self.awaits_write_back(entry) || self.awaits_listing(entry);
        is_unchanged(entry, referral) && !is_rescanned && !entry.has_recalled() && !is_awaited
    }

    /// Rows that are due although neither side changed: retries, settled closings, what the last pass left. Returns those
    /// that only miss their write-back: they come last, for they are many after an import.
    ///
    /// One window after the other: what is due first may wait long for its write-back and keeps nobody behind it, and a
    /// brake judges all of its kind, or what it holds would be another set in each pass.
    pub(super) async fn due(&mut self) -> Result<Vec<ReferralId>, CycleError> {
        let until = match self.mode {
            Mode::Write(super::Budget::Unlimited) => Timestamp::from_millis(i64::MAX),
            Mode::Write(super::Budget::Work(_)) | Mode::Forecast => self.began,
        };
        let window = self.setup.settings.window as usize;
        let windows_max = if self.is_unlimited() { usize::MAX } else { DUE_WINDOWS_MAX };
        let (mut later, mut seen) = (Vec::new(), BTreeSet::new());
        for _ in 0..windows_max {
            // What stays due is listed again, before the others.
            let mut ids = self.ports.store.due(until, window.saturating_add(seen.len()))?;
            ids.retain(|id| !seen.contains(id));
            let is_last = ids.len() < window || !self.has_time();
            self.look_at_due(&ids, &mut later).await?;
            if is_last {
                break;
            }
            seen.extend(ids);
        }
        Ok(later)
    }

    /// Decides rows that are due. Those that only miss their write-back are put into `later`.
    async fn look_at_due(&mut self, ids: &[ReferralId], later: &mut Vec<ReferralId>) -> Result<(), CycleError> {
        let (ids, awaiting) = self.most_urgent_first(ids)?;
        // Read singly they might take all the time there is, and nothing would ever be listed.
        let is_listed = awaiting > self.read_singly_max()?;
        if is_listed {
            self.list_what_is_due().await?;
        }
        let mut rows = Vec::new();
        for (place, id) in ids.iter().copied().enumerate() {
            if !self.has_time() {
                self.report.pending += (ids.len() - place) as u64;
                break;
            }
            if self.decided.contains(&id) {
                continue;
            }
            let entry = self.ports.store.get(id)?;
            let is_seen = self.leads.contains_key(&id);
            if !is_seen && entry.as_ref().is_some_and(|entry| self.awaits_write_back(entry)) {
                later.push(id);
                continue;
            }
            if is_listed && !is_seen && entry.as_ref().is_some_and(|entry| self.awaits_listing(entry)) {
                continue;
            }
            let mut row = self.leads.remove(&id).unwrap_or_else(|| Row::new(id));
            let is_unlinked = entry.as_ref().is_some_and(|entry| entry.standing == Standing::Pending);
            row.entry = entry;
            if is_unlinked && !self.is_up(Side::Crm) {
                continue; // Nothing can be linked now, so nothing is read for it.
            }
            rows.push(row);
            // Referrals are read one by one, which may take all the time there is: what is read is written before more is.
            if rows.len() >= DUE_STEP {
                self.finish(std::mem::take(&mut rows)).await?;
            }
        }
        self.finish(rows).await
    }

    /// Those about to expire first, by deadline; the others as they became due, so that none of them waits for ever. And
    /// how many of them a listing would serve.
    fn most_urgent_first(&self, ids: &[ReferralId]) -> Result<(Vec<ReferralId>, usize), CycleError> {
        let soon = self.began.plus(self.setup.policy.status.deadline_warning.get());
        let (mut ranked, mut awaiting) = (Vec::with_capacity(ids.len()), 0);
        for id in ids.iter().copied() {
            let Some(entry) = self.ports.store.get(id)? else { continue };
            let is_open = !self.decided.contains(&id) && !self.leads.contains_key(&id);
            awaiting += usize::from(is_open && !self.awaits_write_back(&entry) && self.awaits_listing(&entry));
            let deadline = entry.deadline.filter(|end| *end <= soon);
            ranked.push((deadline.unwrap_or(Timestamp::from_millis(i64::MAX)), id));
        }
        ranked.sort_by_key(|(deadline, _)| *deadline);
        Ok((ranked.into_iter().map(|(_, id)| id).collect(), awaiting))
    }

    /// So many referrals have no lead yet that they are listed: the New ones at once, the others by a sweep.
    async fn list_what_is_due(&mut self) -> Result<(), CycleError> {
        // Who waits for the end does not leave them to the next pass: another sweep follows the one that is under way.
        self.memo.is_sweep_due |= self.memo.sweep.is_none() || self.is_unlimited() || self.mode == Mode::Forecast;
        self.peek().await
    }

    fn read_singly_max(&self) -> Result<usize, CycleError> {
        let pages = self.ports.store.counters()?.entries / LISTED_AT_ONCE;
        Ok(usize::try_from(pages).unwrap_or(usize::MAX).max(READ_SINGLY_MIN))
    }

    /// Nothing stands in the way of a lead but time, and it is due: a listing of the referral is all it takes. Where the
    /// leads of a pass are counted as a whole, all that are due are decided together.
    fn awaits_listing(&self, entry: &Entry) -> bool {
        let is_due = entry.look_at.is_some_and(|at| at <= self.ports.clock.now());
        let held = Hold::TwoCandidates { leads: Vec::new() }.bit() | Hold::ReferralMissing.bit();
        let is_plain = entry.trouble.is_none() && entry.holds & held == 0;
        let is_counted = self.setup.brakes.creates_per_cycle > 0;
        entry.standing == Standing::Pending && is_plain && is_due && !is_counted
    }

    /// A process that ended while it forgot referrals has buried all of them first: what the ledger still knows of them goes now.
    pub(super) async fn forget_again(&mut self, rows: &mut Vec<Row>) -> Result<(), CycleError> {
        if self.decisions.forgotten.is_empty() || !self.may_write() {
            return Ok(());
        }
        let key = self.ports.store.fingerprint_key();
        for row in rows.extract_if(.., |row| self.decisions.has_forgotten(&key, row.id)) {
            self.ports.store.forget(row.id).await?;
        }
        Ok(())
    }

    /// Rows of the leads side that no referral joined.
    pub(super) async fn leftovers(&mut self) -> Result<(), CycleError> {
        let rows: Vec<Row> =
            std::mem::take(&mut self.leads).into_values().filter(|row| !self.decided.contains(&row.id)).collect();
        self.process(rows).await
    }

    /// Plans rows; what a plan misses is read and planned again, then claims on one lead are sorted out.
    pub(super) async fn plan_rows(&mut self, rows: Vec<Row>) -> Result<Vec<(Row, RowPlan)>, CycleError> {
        let now = self.ports.clock.now();
        let mut planned = Vec::with_capacity(rows.len());
        let (mut open, mut tomorrow) = (rows, Vec::new());
        for _ in 0..READ_ROUNDS_MAX {
            let mut needy = Vec::new();
            for mut row in open {
                self.renew_claims(&mut row)?;
                let plan = plan_row(&row, &self.setup.policy, now);
                match plan.needs.is_empty() {
                    true => {
                        self.unresolved.extend(plan.keeps_intent.then_some(row.id));
                        if !row.lead.is_unseen() {
                            self.heard.insert(row.id);
                        }
                        planned.push((row, plan));
                    }
                    false if self.may_look_up(&plan) => needy.push((row, plan.needs)),
                    false => tomorrow.push(row),
                }
            }
            if needy.is_empty() {
                self.leave(tomorrow).await?;
                return Ok(self.sort_out_claims(planned, now));
            }
            open = self.read(needy).await?;
        }
        open.append(&mut tomorrow);
        self.leave(open).await?;
        Ok(self.sort_out_claims(planned, now))
    }

    /// There is enough of today's requests for what this row misses.
    pub(super) fn may_look_up(&self, plan: &RowPlan) -> bool {
        let Needs { referral, lead, opportunities, adoption } = plan.needs;
        let asks_crm = lead || opportunities || adoption;
        let has_enough = (!referral || self.has_enough(Side::Portal)) && (!asks_crm || self.has_enough(Side::Crm));
        plan.urgency.is_urgent() || has_enough
    }

    /// Rows that could not be read are left for a later pass.
    pub(super) async fn leave(&mut self, rows: Vec<Row>) -> Result<(), CycleError> {
        // A row with an entry is pending there; one without is only safe while the watermark stands still.
        self.is_incomplete |= rows.iter().any(|row| row.entry.is_none());
        self.report.pending += rows.len() as u64;
        self.unresolved.extend(rows.iter().filter(|row| row.intent.is_some()).map(|row| row.id));
        self.forget_decisions(&rows);
        if !self.may_write() {
            return self.restart_outcomes(rows).await;
        }
        let look_at = Some(self.ports.clock.now().plus(LEFT_AGAIN));
        // While the watermarks stand still the next pass sees again what this one saw; else the entry has to ask for it.
        let is_seen_again = self.is_incomplete && !self.has_advanced;
        let left = |mut row: Row| {
            let entry = row.entry.take()?;
            let entry = restarted(if is_seen_again { entry } else { unweighed(entry, &row) }, &row);
            Some((row.id, Some(Entry { look_at, ..entry })))
        };
        self.remember(rows.into_iter().filter_map(left).collect()).await
    }

    /// Rows of which a part cannot be read for its own reason wait with patience, as one that cannot be written does.
    pub(super) async fn put_off(&mut self, rows: &mut Vec<Row>) -> Result<(), CycleError> {
        let out: Vec<Row> = rows.extract_if(.., |row| self.unreadable.contains_key(&row.id)).collect();
        if out.is_empty() {
            return Ok(());
        }
        self.unresolved.extend(out.iter().filter(|row| row.intent.is_some()).map(|row| row.id));
        let errors: Vec<Option<RemoteError>> = out.iter().map(|row| self.unreadable.remove(&row.id)).collect();
        self.forget_decisions(&out);
        if !self.may_write() {
            return self.restart_outcomes(out).await;
        }
        let (now, policy) = (self.ports.clock.now(), &self.setup.policy);
        let mut entries = Vec::new();
        for (mut row, error) in out.into_iter().zip(errors) {
            let Some(error) = error else { continue };
            let Some(entry) = row.entry.take().or_else(|| plan_row(&row, policy, now).entry) else {
                self.is_incomplete = true; // Nothing is known of it but its id: it has to be listed again.
                continue;
            };
            let mut entry = restarted(unweighed(entry, &row), &row);
            backoff::unread(&mut entry, &error, now, &row, policy);
            entries.push((row.id, Some(entry)));
        }
        self.remember(entries).await
    }

    /// What was decided before is not sent any more: it rests on an entry that knows nothing of what was seen since.
    fn forget_decisions(&mut self, rows: &[Row]) {
        let ids: BTreeSet<ReferralId> = rows.iter().map(|row| row.id).collect();
        self.write_backs.forget(|id| ids.contains(&id));
        self.deferred.retain(|(row, _)| !ids.contains(&row.id));
    }

    /// Rows that cannot be decided yet: an outcome that was seen to be another one does not settle meanwhile.
    pub(super) async fn restart_outcomes(&mut self, rows: Vec<Row>) -> Result<(), CycleError> {
        let restart = |mut row: Row| {
            let before = row.entry.take()?;
            let entry = restarted(before.clone(), &row);
            (entry != before).then_some((row.id, Some(entry)))
        };
        self.remember(rows.into_iter().filter_map(restart).collect()).await
    }

    /// While writing is stopped nothing that is planned is remembered, except that an outcome is another one by now: the
    /// lead may be changed back before writing goes on.
    pub(super) async fn restart_unwritten(&mut self, planned: &[(Row, RowPlan)]) -> Result<(), CycleError> {
        if self.may_write() {
            return Ok(());
        }
        let restart = |(row, plan): &(Row, RowPlan)| {
            let (before, after) = (row.entry.as_ref()?, plan.entry.as_ref()?);
            let since = before.outcome?.since;
            let is_same = after.outcome.is_some_and(|outcome| outcome.since == since);
            (!is_same).then(|| (row.id, Some(doubted(before.clone()))))
        };
        self.remember(planned.iter().filter_map(restart).collect()).await
    }

    /// Records what has to be known whether or not anything may be written.
    pub(super) async fn remember(&mut self, entries: Vec<(ReferralId, Option<Entry>)>) -> Result<(), CycleError> {
        if self.mode != Mode::Forecast && !entries.is_empty() {
            self.ports.store.record(Batch { entries, ..Batch::default() }).await?;
        }
        Ok(())
    }

    /// Who speaks for a lead that this row may link or create: another row may have got it since this one was read.
    fn renew_claims(&self, row: &mut Row) -> Result<(), CycleError> {
        let linked = linked_lead(row);
        let candidates = row.adoption.iter().flat_map(|adoption| &adoption.candidates);
        let seen = row.lead.present().into_iter().chain(candidates).map(|lead| lead.id);
        let policy = &self.setup.policy;
        let leads: Vec<LeadId> = seen.chain(policy.is_derived.then(|| policy.computed(row.id))).collect();
        for lead in leads.into_iter().filter(|lead| Some(*lead) != linked) {
            match self.claim_on(lead, row.id)? {
                Some(claim) => row.claims.insert(lead, claim),
                None => row.claims.remove(&lead),
            };
        }
        Ok(())
    }

    /// Two new links to one lead: the older referral gets it, then the smaller id; the others are planned again.
    pub(super) fn sort_out_claims(&self, mut planned: Vec<(Row, RowPlan)>, now: Timestamp) -> Vec<(Row, RowPlan)> {
        let mut winners: BTreeMap<LeadId, Claim> = BTreeMap::new();
        let mut links: Vec<(LeadId, Claim, bool)> = Vec::new();
        for (row, plan) in &planned {
            let Some(link) = plan
                .entry
                .as_ref()
                .filter(|entry| entry.standing == Standing::Linked)
                .and_then(|entry| entry.link.as_ref())
            else {
                continue;
            };
            let before = row.entry.as_ref().and_then(|entry| entry.link.as_ref()).map(|link| link.lead);
            let created = plan.entry.as_ref().and_then(|entry| entry.referral_created);
            links.push((link.lead, Claim { referral: plan.id, created }, before == Some(link.lead)));
        }
        links.sort_by_key(|(_, claim, is_old)| {
            (!is_old, claim.created.unwrap_or(Timestamp::from_millis(i64::MAX)), claim.referral)
        });
        for (lead, claim, _) in links {
            winners.entry(lead).or_insert(claim);
        }
        for (row, plan) in &mut planned {
            let lead = plan.entry.as_ref().and_then(|entry| entry.link.as_ref()).map(|link| link.lead);
            let Some((lead, winner)) = lead.and_then(|lead| winners.get(&lead).map(|winner| (lead, *winner))) else {
                continue;
            };
            if winner.referral != row.id {
                row.claims.insert(lead, winner);
                *plan = plan_row(row, &self.setup.policy, now);
            }
        }
        planned
    }
}

/// The listing shows a version from before the one we know, or from before a write of ours that told us no version: what
/// such a listing says is what we have just replaced.
pub(super) fn is_older(entry: &Entry, referral: &Referral) -> bool {
    let is_missed = entry.holds & Hold::ReferralMissing.bit() != 0;
    let is_unknown = entry.referral_etag.is_none() && entry.standing == Standing::Linked && !is_missed;
    match (referral.updated, entry.referral_updated) {
        (Some(listed), Some(known)) => listed < known || (is_unknown && listed == known),
        (None, _) | (_, None) => false,
    }
}

/// The listing shows a version from after the one this pass decided on.
fn is_newer(entry: &Entry, referral: &Referral) -> bool {
    let is_later = matches!((referral.updated, entry.referral_updated), (Some(listed), Some(known)) if listed > known);
    is_later && entry.referral_etag != referral.etag
}

/// Nothing new: the same version of a referral whose fate is settled.
pub(super) fn is_unchanged(entry: &Entry, referral: &Referral) -> bool {
    let is_same = match &referral.etag {
        Some(etag) => entry.referral_etag.as_ref() == Some(etag),
        None => referral.updated.is_some() && entry.referral_updated == referral.updated,
    };
    let is_missed = entry.holds & Hold::ReferralMissing.bit() != 0;
    // A filter that was widened lets a referral in that did not change.
    let is_out = entry.standing == Standing::OutOfScope;
    // A pending row comes back when it is due.
    is_same && !is_missed && !is_out && (entry.standing != Standing::Pending || entry.look_at.is_some())
}

/// An outcome that waits to settle is not the one that was seen now: it begins anew, although the row is not decided.
fn restarted(entry: Entry, row: &Row) -> Entry {
    let known = entry.link.as_ref().map(|link| (link.lead, link.status));
    let is_other = row.lead.present().is_some_and(|lead| known != Some((lead.id, lead.status)));
    let deal = row.opportunities.as_deref().map(status::deal);
    let is_other_deal = deal.is_some_and(|deal| entry.link.as_ref().is_none_or(|link| link.deal != deal));
    let is_doubtful = is_other || is_other_deal || matches!(row.lead, Seen::Absent);
    if entry.outcome.is_some() && is_doubtful { doubted(entry) } else { entry }
}

/// An entry whose outcome is not what it was, and nothing more is known: both sides are read before it is weighed again.
pub(super) fn doubted(mut entry: Entry) -> Entry {
    entry.outcome = None;
    entry.forget_versions();
    entry
}

/// An entry whose row was seen but not decided: no version counts as known, so both sides are read when it is due.
fn unweighed(mut entry: Entry, row: &Row) -> Entry {
    let is_news = row.referral.present().is_some() || !row.lead.is_unseen();
    if !is_news {
        return entry;
    }
    entry.forget_versions();
    if matches!(entry.standing, Standing::OutOfScope | Standing::ClosedUnlinked) {
        entry.standing = Standing::Pending;
    }
    entry
}
