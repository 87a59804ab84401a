//! Every read of a pass. Observing never writes to a service.

use std::collections::{BTreeMap, BTreeSet};

use super::{CLOCK_BRAKE, CycleError, MERGE_HOPS_MAX, Mode, ORGANIZATION_BRAKE, Pass, VISIBILITY_BRAKE, distinct};
use crate::model::{
    Entry, Fault, Lead, LeadId, LeadState, Opportunity, Referral, ReferralId, RemoteError, Side, Standing, Timestamp,
    Watermark,
};
use crate::plan::settings::Adopt;
use crate::plan::{Adoption, Claim, Needs, Row, RowPlan, Seen, brakes, plan_row};
use crate::ports::{ActionKind, Batch, Cursor, Defect, FindBy, LatchedBrake, Page, Scan};

/// Pages of an incremental scan; a longer one becomes a sweep, which goes on where it was interrupted.
pub(super) const INCREMENTAL_PAGES_MAX: u32 = 10;

/// Rounds of "what is missing is read, then planned again" for one batch of rows.
const READ_ROUNDS_MAX: usize = 6;

/// When a row that could not be read is tried again, at the earliest.
const LEFT_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);

/// Stamps further apart than this in the wrong order make a listing unordered.
const ORDER_TOLERANCE: std::time::Duration = std::time::Duration::from_secs(2);

impl Pass<'_> {
    /// Checks who we are in the CRM against the stamp in the ledger; the first answer becomes the stamp.
    pub(super) fn stamp_crm(&mut self) {
        let Some(identity) = self.setup.identity.clone() else { return };
        match self.memo.crm_organization {
            Some(known) if known != identity.organization => {
                let reason = format!(
                    "the Dynamics organization is {}, but this ledger belongs to {known}: nothing is written; if the move is meant, `referrald approve organization` accepts it",
                    identity.organization
                );
                self.latch(ORGANIZATION_BRAKE, stopping(self.began, reason));
            }
            Some(_) | None => {
                self.memo.crm_organization = Some(identity.organization);
                self.memo.crm_user = Some(identity.user);
                self.setup.policy.crm_user = Some(identity.user);
                if self.decisions.brakes.get(ORGANIZATION_BRAKE).is_some_and(|brake| brake.reason.contains("Dynamics"))
                {
                    self.unlatch(ORGANIZATION_BRAKE);
                }
            }
        }
    }

    /// Checks the partner organization of listed referrals against the stamp; the majority becomes the first stamp.
    pub(super) fn stamp_portal(&mut self, referrals: &[Referral]) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for referral in referrals {
            // Copies of the inviting side may be listed beside ours; they are not ours.
            if let Some(organization) = referral.organization.as_deref().filter(|id| !id.eq_ignore_ascii_case("msft")) {
                *counts.entry(organization).or_default() += 1;
            }
        }
        let Some((most, _)) = counts.iter().max_by_key(|(_, count)| **count) else { return };
        match &self.memo.partner_organization {
            None => {
                self.memo.partner_organization = Some((*most).to_owned());
                self.setup.policy.organization = Some((*most).to_owned());
            }
            Some(known) if counts.keys().any(|id| id.eq_ignore_ascii_case(known)) => {
                if self.decisions.brakes.get(ORGANIZATION_BRAKE).is_some_and(|brake| brake.reason.contains("partner")) {
                    self.unlatch(ORGANIZATION_BRAKE);
                }
            }
            Some(known) => {
                let reason = format!(
                    "all listed referrals belong to the partner organization {most}, but this ledger belongs to {known}: nothing is written; if the move is meant, `referrald approve organization` accepts it"
                );
                self.latch(ORGANIZATION_BRAKE, stopping(self.began, reason));
            }
        }
    }

    /// Compares our clock with a service's: settle times and windows depend on it.
    fn check_clock(&mut self, side: Side, server_time: Option<Timestamp>) {
        let Some(server) = server_time else { return };
        let local = self.ports.clock.now();
        let skew = local.since(server).max(server.since(local));
        if skew > self.setup.settings.clock_skew_max.get() {
            let reason = format!(
                "our clock ({local}) and that of {side} ({server}) are {} seconds apart: nothing is written until they agree; check the time service of this host (cycle.clock_skew_max)",
                skew.as_secs()
            );
            self.is_skewed = true;
            self.latch(CLOCK_BRAKE, stopping(self.began, reason));
        }
    }

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
        let mut read = Vec::new();
        for mut row in rows.into_values() {
            row.entry = self.ports.store.get(row.id)?;
            if self.read_for_intent(&mut row).await {
                read.push(row);
            } else {
                self.unresolved.insert(row.id); // Both sides are read when it can be resolved.
            }
        }
        self.process(read).await?;
        settled.retain(|(_, id)| !self.unresolved.contains(id));
        self.ports.store.record(Batch { settled, ..Batch::default() }).await?;
        Ok(())
    }

    /// Reads both sides of a row with an intent; false when a side is down.
    async fn read_for_intent(&mut self, row: &mut Row) -> bool {
        if !self.read_referral(row).await {
            return false;
        }
        let linked = row.entry.as_ref().and_then(|entry| entry.link.as_ref()).map(|link| link.lead);
        let is_create = row.intent.as_ref().is_some_and(|intent| intent.kind == ActionKind::Create);
        if let Some(lead) = linked {
            let rows = std::slice::from_mut(row);
            return self.read_leads(rows, &[lead]).await && self.follow(rows).await;
        }
        !is_create || self.read_created(row).await
    }

    /// Looks whether the lead of a create whose outcome is unknown exists.
    pub(super) async fn read_created(&mut self, row: &mut Row) -> bool {
        if !self.may_ask(Side::Crm) {
            return false;
        }
        match self.ports.crm.get_by_referral(row.id, self.setup.policy.computed(row.id)).await {
            Ok(lead) => self.offer(row, vec![lead]).await.unwrap_or(false),
            Err(error) if error.fault == Fault::Missing => {
                row.adoption = Some(Adoption::default());
                true
            }
            Err(error) => {
                self.note(&error);
                false
            }
        }
    }

    /// Leads and opportunities that changed since the watermarks, joined by referral.
    pub(super) async fn observe_crm(&mut self) -> Result<(), CycleError> {
        if !self.is_up(Side::Crm) {
            return Ok(());
        }
        let Some(leads) = self.poll_leads().await? else { return Ok(()) };
        let Some(spoken) = self.poll_opportunities().await? else { return Ok(()) };
        let mut rows: BTreeMap<ReferralId, Row> = BTreeMap::new();
        for lead in leads {
            let Some(id) = self.ports.store.by_lead(lead.id)? else { continue };
            let Some(entry) = self.ports.store.get(id)? else { continue };
            let is_known = entry.link.as_ref().is_some_and(|link| link.etag.is_some() && link.etag == lead.etag);
            if !is_known || entry.standing == Standing::LeadGone {
                let mut row = Row::new(id);
                row.entry = Some(entry);
                row.lead = Seen::from(lead);
                rows.insert(id, row);
            }
        }
        let mut unread = Vec::new();
        for lead in spoken {
            let Some(id) = self.ports.store.by_lead(lead)? else { continue };
            let Some(entry) = self.ports.store.get(id)? else { continue };
            let row = rows.entry(id).or_insert_with(|| Row::new(id));
            row.entry = Some(entry);
            if row.lead.present().is_none() {
                unread.push(lead);
            }
        }
        let mut rows: Vec<Row> = rows.into_values().collect();
        let is_read = unread.is_empty() || self.read_leads(&mut rows, &distinct(unread)).await;
        let is_followed = self.follow(&mut rows).await;
        let is_heard = self.read_opportunities(&mut rows).await;
        self.is_incomplete |= !(is_read && is_followed && is_heard);
        self.is_crm_observed = is_read && is_followed && is_heard;
        self.leads = rows.into_iter().map(|row| (row.id, row)).collect();
        Ok(())
    }

    /// Polls changed leads; `None` when the side is down. Too many pages turn into a reading by id in the background.
    async fn poll_leads(&mut self) -> Result<Option<Vec<Lead>>, CycleError> {
        let since = self.poll_since(self.memo.leads_seen);
        let (mut leads, mut cursor, mut pages, mut high) = (Vec::new(), None, 0u32, self.memo.leads_seen);
        loop {
            let page = match self.ports.crm.leads_changed_since(since, cursor.as_ref()).await {
                Ok(page) => page,
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note(&error);
                    return Ok(None);
                }
            };
            if pages == 0 {
                self.check_clock(Side::Crm, page.server_time);
                high = self.floor_of(high, page.server_time);
            }
            pages += 1;
            self.report.leads_seen += page.items.len() as u64;
            self.note_defects("lead", &page.defects);
            for lead in page.items {
                high = lead.modified.map(|at| high.unwrap_or_default().advanced_to(at)).or(high);
                leads.push(lead);
            }
            match page.next {
                None => break,
                Some(_) if pages >= self.setup.poll_pages_max => {
                    tracing::warn!(
                        pages,
                        "too many leads changed for one poll: linked leads are read by id instead; a referral_id_column makes the poll small"
                    );
                    self.memo.lead_reading = Some(None);
                    high = page.server_time.map(Watermark).or(high);
                    break;
                }
                Some(next) => cursor = Some(next),
            }
        }
        self.leads_high = high;
        Ok(Some(leads))
    }

    /// Polls changed opportunities: the leads they came from.
    async fn poll_opportunities(&mut self) -> Result<Option<BTreeSet<LeadId>>, CycleError> {
        let since = self.poll_since(self.memo.opportunities_seen);
        let (mut leads, mut cursor, mut pages, mut high) = (BTreeSet::new(), None, 0u32, self.memo.opportunities_seen);
        loop {
            let page = match self.ports.crm.opportunities_changed_since(since, cursor.as_ref()).await {
                Ok(page) => page,
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note(&error);
                    return Ok(None);
                }
            };
            if pages == 0 {
                high = self.floor_of(high, page.server_time);
            }
            pages += 1;
            for opportunity in page.items {
                high = opportunity.modified.map(|at| high.unwrap_or_default().advanced_to(at)).or(high);
                leads.extend(opportunity.lead);
            }
            match page.next {
                None => break,
                Some(_) if pages >= self.setup.poll_pages_max => {
                    self.memo.lead_reading = Some(None);
                    high = page.server_time.map(Watermark).or(high);
                    break;
                }
                Some(next) => cursor = Some(next),
            }
        }
        self.opportunities_high = high;
        Ok(Some(leads))
    }

    /// Where a poll's watermark is at least: what is older than the overlap has been seen. Otherwise a quiet night after a
    /// busy evening would read the last minutes of that evening again and again.
    fn floor_of(&self, mark: Option<Watermark>, server_time: Option<Timestamp>) -> Option<Watermark> {
        let Some(at) = server_time else { return mark };
        Some(mark.map_or(Watermark(at), |mark| mark.advanced_to(at.minus(self.setup.poll_overlap))))
    }

    fn poll_since(&self, mark: Option<Watermark>) -> Timestamp {
        mark.map_or(self.began, |mark| mark.0).minus(self.setup.poll_overlap)
    }

    /// The watermarks of the leads side move last, past rows whose fate is written down.
    pub(super) fn advance(&mut self) {
        self.has_advanced = true;
        if self.may_write() && !self.is_incomplete && self.is_crm_observed {
            self.memo.leads_seen = self.leads_high.or(self.memo.leads_seen);
            self.memo.opportunities_seen = self.opportunities_high.or(self.memo.opportunities_seen);
        }
    }

    /// The incremental scan: newest changes first, down to the watermark.
    pub(super) async fn observe_portal(&mut self) -> Result<(), CycleError> {
        let Some(mark) = self.memo.referrals_seen else {
            // Nothing is remembered that could be missing: the ledger is new, or was lost while the brake held. Only what
            // is listed is linked from here on, and no scan would ever judge the brake again.
            self.unlatch(VISIBILITY_BRAKE);
            return Ok(());
        };
        if !self.both_up() {
            return Ok(()); // While the leads side is down this watermark stands still.
        }
        let every = u64::from(self.setup.settings.overlap_every.max(1));
        let reaches_back = self.memo.cycles.is_multiple_of(every);
        let overlap = if reaches_back { self.setup.settings.overlap.get() } else { std::time::Duration::ZERO };
        let floor = mark.0.minus(overlap);
        let newest =
            self.ports.store.newest(usize::try_from(self.setup.brakes.visibility_newest).unwrap_or(20).min(100))?;
        let known = self.ports.store.counters()?.entries;
        let mut scan = Recent { floor, high: mark, met: BTreeSet::new(), rows: Vec::new(), ..Recent::default() };
        self.read_recent(&mut scan).await?;
        if scan.is_finished || scan.is_first_page_empty {
            let approved = self.decisions.approved.clone();
            match brakes::judge_visibility(
                &newest,
                known,
                |id| scan.met.contains(&id),
                scan.is_first_page_empty,
                &self.setup.brakes,
                |digest| approved.contains(digest),
                self.began,
            ) {
                Some(latch) if scan.is_filtered => drop(latch),
                Some(latch) => self.latch(VISIBILITY_BRAKE, latch),
                None => self.unlatch(VISIBILITY_BRAKE),
            }
        }
        let is_whole = scan.is_finished && !scan.is_unordered;
        if scan.is_unordered || scan.is_too_long {
            self.ask_for_sweep_after(&scan);
        }
        if self.is_catching_up() {
            self.peek().await?; // What changed first is listed last, and a New referral does not wait.
        }
        let rows = self.join(scan.rows)?;
        self.process(rows).await?;
        if is_whole && self.may_write() && !self.is_incomplete {
            let quiet = scan.server_time.map(|at| at.minus(self.setup.settings.overlap.get()));
            self.memo.referrals_seen = Some(mark.advanced_to(scan.high.0).advanced_to(quiet.unwrap_or_default()));
        }
        Ok(())
    }

    /// Both sides were last observed so long ago that much may have happened.
    fn is_catching_up(&self) -> bool {
        self.memo.last_success.is_some_and(|at| self.began.since(at) > self.setup.sweep_after_pause)
    }

    /// Reads the pages of the incremental scan into `scan`.
    async fn read_recent(&mut self, scan: &mut Recent) -> Result<(), CycleError> {
        let mut cursor: Option<Cursor> = None;
        let mut previous: Option<Timestamp> = None;
        scan.is_filtered = self.setup.use_updated_filter;
        loop {
            let kind = if scan.is_filtered { Scan::ChangedSince(scan.floor) } else { Scan::Recent };
            let page = match self.ports.portal.page(&kind, cursor.as_ref()).await {
                Ok(page) => page,
                Err(error) if scan.is_filtered && error.fault == Fault::Refused => {
                    tracing::warn!("the service does not filter by updatedDateTime; listing by order instead");
                    self.setup.use_updated_filter = false;
                    scan.is_filtered = false;
                    cursor = None;
                    continue;
                }
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note(&error);
                    return Ok(());
                }
            };
            if scan.pages == 0 {
                self.check_clock(Side::Portal, page.server_time);
                scan.server_time = page.server_time;
                scan.is_first_page_empty = page.items.is_empty() && page.defects.is_empty() && !scan.is_filtered;
                if !scan.is_filtered {
                    self.stamp_portal(&page.items);
                }
            }
            scan.pages += 1;
            self.report.referrals_seen += page.items.len() as u64;
            self.note_defects("referral", &page.defects);
            let next = page.next.clone();
            let is_at_mark = scan.take(page, &mut previous);
            match next {
                None => scan.is_finished = true,
                Some(_) if is_at_mark && !scan.is_unordered => scan.is_finished = true,
                Some(_) if scan.pages >= INCREMENTAL_PAGES_MAX => scan.is_too_long = true,
                Some(next) => {
                    cursor = Some(next);
                    continue;
                }
            }
            return Ok(());
        }
    }

    fn ask_for_sweep_after(&mut self, scan: &Recent) {
        let interval = self.setup.settings.unordered_sweep_interval.get();
        let is_recent = self.memo.unordered_sweep.is_some_and(|at| self.began.since(at) < interval);
        if self.memo.is_sweep_due || self.memo.sweep.is_some() || (scan.is_unordered && is_recent) {
            return;
        }
        if scan.is_unordered {
            tracing::warn!("the referrals were not listed in the order asked for: everything is read once instead");
            self.memo.unordered_sweep = Some(self.began);
        } else {
            tracing::info!(pages = scan.pages, "many referrals changed: a sweep in the background reads them all");
        }
        self.memo.is_sweep_due = true;
    }

    /// Rows for listed referrals: those that changed, joined with what the leads side showed.
    pub(super) fn join(&mut self, referrals: Vec<Referral>) -> Result<Vec<Row>, CycleError> {
        let mut rows = Vec::new();
        for referral in referrals {
            let id = referral.id;
            if self.decisions.has_forgotten(&self.ports.store.fingerprint_key(), id) {
                continue;
            }
            let known = self.ports.store.get(id)?;
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
        Ok(rows)
    }

    /// Nothing to decide about a listed referral: it is unchanged, and so is what was configured.
    fn is_settled(&self, entry: &Entry, referral: &Referral) -> bool {
        let is_rescanned = self.memo.is_rescan && entry.standing != Standing::Linked;
        is_unchanged(entry, referral) && !is_rescanned && !entry.has_recalled()
    }

    /// Rows that are due although neither side changed: retries, settled closings, what the last pass left.
    pub(super) async fn due(&mut self) -> Result<(), CycleError> {
        let until = match self.mode {
            Mode::Write(super::Budget::Unlimited) => Timestamp::from_millis(i64::MAX),
            Mode::Write(super::Budget::Work(_)) | Mode::Forecast => self.began,
        };
        let ids = self.ports.store.due(until, self.setup.settings.window as usize)?;
        let mut rows = Vec::new();
        for id in ids {
            if self.decided.contains(&id) {
                continue;
            }
            let mut row = self.leads.remove(&id).unwrap_or_else(|| Row::new(id));
            row.entry = self.ports.store.get(id)?;
            let is_unlinked = row.entry.as_ref().is_some_and(|entry| entry.standing == Standing::Pending);
            if is_unlinked && !self.is_up(Side::Crm) {
                continue; // Nothing can be linked now, so nothing is read for it.
            }
            rows.push(row);
        }
        self.process(rows).await
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
            for row in open {
                let plan = plan_row(&row, &self.setup.policy, now);
                match plan.needs.is_empty() {
                    true => planned.push((row, plan)),
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
    fn may_look_up(&self, plan: &RowPlan) -> bool {
        let Needs { referral, lead, opportunities, adoption } = plan.needs;
        let asks_crm = lead || opportunities || adoption;
        let has_enough = (!referral || self.has_enough(Side::Portal)) && (!asks_crm || self.has_enough(Side::Crm));
        plan.urgency.is_urgent() || has_enough
    }

    /// Rows that could not be read are left for a later pass.
    async fn leave(&mut self, rows: Vec<Row>) -> Result<(), CycleError> {
        // A row with an entry is pending there; one without is only safe while the watermark stands still.
        self.is_incomplete |= rows.iter().any(|row| row.entry.is_none());
        self.report.pending += rows.len() as u64;
        self.unresolved.extend(rows.iter().filter(|row| row.intent.is_some()).map(|row| row.id));
        let look_at = Some(self.ports.clock.now().plus(LEFT_AGAIN));
        // While the watermarks stand still the next pass sees again what this one saw; else the entry has to ask for it.
        let is_seen_again = self.is_incomplete && !self.has_advanced;
        let left = |mut row: Row| {
            let entry = row.entry.take()?;
            let entry = if is_seen_again { entry } else { unweighed(entry, &row) };
            Some((row.id, Some(Entry { look_at, ..entry })))
        };
        let entries: Vec<_> = rows.into_iter().filter_map(left).collect();
        if self.may_write() && !entries.is_empty() {
            self.ports.store.record(Batch { entries, ..Batch::default() }).await?;
        }
        Ok(())
    }

    /// Two new links to one lead: the older referral gets it, then the smaller id; the others are planned again.
    fn sort_out_claims(&self, mut planned: Vec<(Row, RowPlan)>, now: Timestamp) -> Vec<(Row, RowPlan)> {
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

    /// Reads what rows miss, batched by kind. Rows that cannot be read because a side is down are left.
    async fn read(&mut self, needy: Vec<(Row, Needs)>) -> Result<Vec<Row>, CycleError> {
        let mut ready = Vec::new();
        let mut failed = Vec::new();
        let (mut leads, mut spoken, mut adopted) = (Vec::new(), Vec::new(), Vec::new());
        for (mut row, needs) in needy {
            let is_tried = row.is_referral_fresh || matches!(row.referral, Seen::Absent);
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
        self.leave(failed).await?;
        Ok(ready)
    }

    /// Reads one referral; false when the side is down.
    pub(super) async fn read_referral(&mut self, row: &mut Row) -> bool {
        if !self.may_ask(Side::Portal) {
            return false;
        }
        loop {
            match self.ports.portal.get(row.id).await {
                Ok(referral) => {
                    row.referral = Seen::from(referral);
                    row.is_referral_fresh = true;
                }
                Err(error) if error.fault == Fault::Missing => row.referral = Seen::Absent,
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note_row(row.id, &error);
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
        let found = loop {
            match self.ports.crm.leads(ids).await {
                Ok(leads) => break leads,
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note(&error);
                    return false;
                }
            }
        };
        self.report.leads_seen += found.len() as u64;
        let mut found: BTreeMap<LeadId, Option<Lead>> = found.into_iter().map(|lead| (lead.id, Some(lead))).collect();
        for id in ids {
            if found.contains_key(id) {
                continue;
            }
            match self.ports.crm.get(*id).await {
                Ok(lead) => found.insert(*id, Some(lead)),
                Err(error) if error.fault == Fault::Missing => found.insert(*id, None),
                Err(error) => {
                    self.note(&error);
                    return false;
                }
            };
        }
        for row in rows {
            let Some(lead) = linked_lead(row) else { continue };
            match found.get(&lead) {
                Some(Some(lead)) => row.lead = Seen::from(lead.clone()),
                Some(None) => row.lead = Seen::Absent,
                None => {}
            }
        }
        true
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
            let read = match self.ports.crm.leads(&masters).await {
                Ok(leads) => leads,
                Err(error) => {
                    self.note(&error);
                    return false;
                }
            };
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
        let read = loop {
            match self.ports.crm.opportunities_of(&leads).await {
                Ok(read) => break read,
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note(&error);
                    return false;
                }
            }
        };
        let mut by_lead: BTreeMap<LeadId, Vec<Opportunity>> = BTreeMap::new();
        for opportunity in read {
            if let Some(lead) = opportunity.lead {
                by_lead.entry(lead).or_default().push(opportunity);
            }
        }
        for row in rows.iter_mut().filter(|row| is_qualified(row)) {
            let lead = row.lead.present().map(|lead| lead.id);
            row.opportunities = Some(lead.and_then(|lead| by_lead.get(&lead).cloned()).unwrap_or_default());
        }
        true
    }

    /// Searches existing leads for rows without one, in the configured order, batched (spec 2, "Adoption").
    async fn search(&mut self, rows: &mut [Row]) -> Result<bool, CycleError> {
        if rows.is_empty() {
            return Ok(true);
        }
        if !self.may_ask(Side::Crm) {
            return Ok(false);
        }
        let by_reference = match self.find_by_reference(rows).await {
            Ok(found) => found,
            Err(error) => {
                self.note(&error);
                return Ok(false);
            }
        };
        let mut found: BTreeMap<ReferralId, Vec<Lead>> = BTreeMap::new();
        let mut gone: BTreeSet<ReferralId> = BTreeSet::new();
        let adopts_reference = self.setup.adopt.contains(&Adopt::ExternalReference);
        for row in rows.iter() {
            let Some(reference) = reference(row) else { continue };
            match by_reference.get(&reference) {
                Some(lead) if adopts_reference || reference == self.setup.policy.computed(row.id) => {
                    found.insert(row.id, vec![lead.clone()]);
                }
                Some(_) => {}
                None => {
                    gone.insert(row.id);
                }
            }
        }
        for way in self.setup.adopt.clone() {
            let by = match way {
                Adopt::ExternalReference => continue,
                Adopt::ReferralIdColumn
                    if self.setup.policy.referral_column.is_none() && self.setup.policy.is_derived =>
                {
                    continue;
                }
                Adopt::ReferralIdColumn => FindBy::ReferralColumn,
                Adopt::Subject => FindBy::Subject,
            };
            let ids: Vec<ReferralId> = rows.iter().map(|row| row.id).filter(|id| !found.contains_key(id)).collect();
            if ids.is_empty() {
                break;
            }
            let leads = match self.ports.crm.find(by, &ids).await {
                Ok(leads) => leads,
                Err(error) => {
                    self.note(&error);
                    return Ok(false);
                }
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
        for row in rows.iter_mut() {
            let leads = found.remove(&row.id).unwrap_or_default();
            if !self.offer(row, leads).await? {
                return Ok(false);
            }
            if let Some(adoption) = &mut row.adoption {
                adoption.is_reference_gone = gone.contains(&row.id);
            }
        }
        Ok(true)
    }

    /// The leads that external references name; each one that is not found is asked for by itself.
    async fn find_by_reference(&self, rows: &[Row]) -> Result<BTreeMap<LeadId, Lead>, RemoteError> {
        let ids = distinct(rows.iter().filter_map(reference));
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut found: BTreeMap<LeadId, Lead> =
            self.ports.crm.leads(&ids).await?.into_iter().map(|lead| (lead.id, lead)).collect();
        for id in ids {
            if found.contains_key(&id) {
                continue;
            }
            match self.ports.crm.get(id).await {
                Ok(lead) => {
                    found.insert(id, lead);
                }
                Err(error) if error.fault == Fault::Missing => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
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
    fn claim_on(&self, lead: LeadId, id: ReferralId) -> Result<Option<Claim>, CycleError> {
        let Some(referral) = self.ports.store.by_lead(lead)?.filter(|referral| *referral != id) else {
            return Ok(None);
        };
        let entry = self.ports.store.get(referral)?;
        let speaks =
            entry.as_ref().is_some_and(|entry| matches!(entry.standing, Standing::Linked | Standing::LeadGone));
        Ok(speaks.then(|| Claim { referral, created: entry.and_then(|entry| entry.referral_created) }))
    }

    /// A side that is down is left alone for the rest of the pass: what is silent would cost its whole patience each time.
    fn may_ask(&mut self, side: Side) -> bool {
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

    /// Notes a failed read of one row: only trouble of the whole side takes it down, else that row waits alone.
    fn note_row(&mut self, row: ReferralId, error: &RemoteError) {
        if error.stops_side() {
            self.note(error);
        } else {
            tracing::warn!(referral.id = %row, request_id = error.request_id.as_deref(), "{error}; it is read again later");
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

/// The incremental scan while it is read.
#[derive(Default)]
struct Recent {
    floor: Timestamp,
    high: Watermark,
    met: BTreeSet<ReferralId>,
    rows: Vec<Referral>,
    pages: u32,
    is_finished: bool,
    is_filtered: bool,
    is_unordered: bool,
    is_too_long: bool,
    is_first_page_empty: bool,
    server_time: Option<Timestamp>,
}

impl Recent {
    /// Takes a page; true when it reached the watermark.
    fn take(&mut self, page: Page<Referral>, previous: &mut Option<Timestamp>) -> bool {
        let mut is_at_mark = false;
        for referral in page.items {
            let is_first = self.met.insert(referral.id);
            if let Some(updated) = referral.updated {
                let is_later = previous.is_some_and(|before| updated > before.plus(ORDER_TOLERANCE));
                self.is_unordered |= is_later && !self.is_filtered;
                *previous = Some(updated);
                self.high = self.high.advanced_to(updated);
                is_at_mark |= updated < self.floor;
            }
            if is_first {
                self.rows.push(referral);
            }
        }
        is_at_mark
    }
}

/// The lead a row asks about.
fn linked_lead(row: &Row) -> Option<LeadId> {
    row.entry.as_ref().and_then(|entry| entry.link.as_ref()).map(|link| link.lead)
}

/// The lead that the referral names.
fn reference(row: &Row) -> Option<LeadId> {
    row.referral.present()?.external_reference.as_deref().and_then(LeadId::parse)
}

/// The master of a merged lead.
fn master(lead: &Lead) -> Option<LeadId> {
    lead.master.filter(|master| lead.is_merged && *master != lead.id)
}

/// The listing shows a version from before the one we know, or from before a write of ours that told us no version: what
/// such a listing says is what we have just replaced.
fn is_older(entry: &Entry, referral: &Referral) -> bool {
    let is_missed = entry.holds & crate::plan::Hold::ReferralMissing.bit() != 0;
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
    let is_missed = entry.holds & crate::plan::Hold::ReferralMissing.bit() != 0;
    // A filter that was widened lets a referral in that did not change.
    let is_out = entry.standing == Standing::OutOfScope;
    // A pending row comes back when it is due.
    is_same && !is_missed && !is_out && (entry.standing != Standing::Pending || entry.look_at.is_some())
}

/// An entry whose row was seen but not decided: no version counts as known, so both sides are read when it is due.
fn unweighed(mut entry: Entry, row: &Row) -> Entry {
    let is_news = row.referral.present().is_some() || !matches!(row.lead, Seen::Unseen);
    if !is_news {
        return entry;
    }
    entry.referral_etag = None;
    entry.link.iter_mut().for_each(|link| link.etag = None);
    if matches!(entry.standing, Standing::OutOfScope | Standing::ClosedUnlinked) {
        entry.standing = Standing::Pending;
    }
    entry
}

fn stopping(since: Timestamp, reason: String) -> LatchedBrake {
    LatchedBrake { since, count: 0, limit: 0, digest: String::new(), reason }
}
