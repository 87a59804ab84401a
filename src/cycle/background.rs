//! Scans that read everything: resumable, between other work, page by page.

use super::adoption::Found;
use super::{Budget, CycleError, Mode, OLD_OUTCOMES, Pass, SWEEP_BRAKE, distinct};
use crate::model::{LeadState, Referral, ReferralId, ReferralStatus, RemoteError, Side, Standing};
use crate::plan::{Row, brakes};
use crate::ports::{ActionKind, Batch, Cursor, FindBy, Opening, Page, Ports, Scan, SweepCursor};

/// Entries of one step of the reading by id.
const READING_STEP: usize = 200;

/// While the brake of a sweep holds, another sweep looks after as long again as it has held: one stale answer stops
/// writing for a minute, a lost role costs a sweep an hour.
const SWEEP_AGAIN_MIN: std::time::Duration = std::time::Duration::from_secs(60);

/// The longest wait between two sweeps while the brake of a sweep holds.
const SWEEP_AGAIN_MAX: std::time::Duration = std::time::Duration::from_secs(3600);

/// Pages of the peek at New referrals that begins a catch-up.
const PEEK_PAGES_MAX: u32 = 5;

impl Pass<'_> {
    /// Goes on with the scans that are due, while there is time.
    pub(super) async fn background(&mut self) -> Result<(), CycleError> {
        self.note_what_is_due()?;
        // While a person has stopped writing nothing may be remembered, so there is nothing to scan for.
        let is_stopped = !self.may_write() && self.mode != Mode::Forecast;
        let may_judge = self.stopped.is_none() && self.decisions.brakes.contains_key(SWEEP_BRAKE);
        if is_stopped && !may_judge {
            return Ok(());
        }
        self.prepare_backfill().await?;
        self.was_stopped = is_stopped;
        // Asked for while one was under way: what that one had read by then may be another by now.
        let has_second = self.memo.is_sweep_due && self.memo.sweep.is_some();
        for _ in 0..=usize::from(has_second) {
            self.begin_sweep().await?;
            while self.memo.sweep.is_some() && self.has_time() && self.may_scan() {
                self.allow();
                if !self.sweep_page().await? || self.gives_way() {
                    break;
                }
            }
            if self.memo.sweep.is_some() {
                break; // The next pass goes on there.
            }
        }
        let may_read = self.may_write() || self.mode == Mode::Forecast;
        while may_read && self.memo.lead_reading.is_some() && self.has_time() && self.may_scan() {
            self.allow();
            if !self.reading_step().await? || self.gives_way() {
                break;
            }
        }
        self.read_whole_table().await?;
        self.list_old_outcomes()
    }

    /// Somebody waits for the next pass. What is read in the background ends with the page under way, and goes on there:
    /// one page in each pass, however often somebody rings.
    pub(super) fn gives_way(&self) -> bool {
        // A forecast is shown as a whole, and remembers nothing that another could go on with.
        self.mode != Mode::Forecast && self.setup.is_hurried.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Begins the sweep that is due, when none is under way.
    async fn begin_sweep(&mut self) -> Result<(), CycleError> {
        if !self.memo.is_sweep_due || self.memo.sweep.is_some() || !self.has_time() || !self.may_scan() {
            return Ok(());
        }
        self.learn_organization().await?;
        self.peek().await?;
        self.memo.sweep = Some(SweepCursor { began: self.began, ..SweepCursor::default() });
        self.memo.entries_at_sweep = Some(self.ports.store.counters()?.entries);
        (self.memo.sweep_met, self.memo.sweep_page) = (0, Vec::new());
        self.memo.is_sweep_due = false;
        Ok(())
    }

    pub(super) fn both_up(&self) -> bool {
        self.is_up(Side::Portal) && self.is_up(Side::Crm)
    }

    /// Scans can wait for another day.
    pub(super) fn may_scan(&self) -> bool {
        self.both_up() && self.has_enough(Side::Portal) && self.has_enough(Side::Crm)
    }

    /// What starts a sweep besides its schedule: the first start, damage, an unclean stop, a long pause.
    fn note_what_is_due(&mut self) -> Result<(), CycleError> {
        if self.memo.configuration != self.setup.policy.configuration {
            if self.memo.configuration != 0 {
                self.memo.lead_reading = Some(None);
                self.memo.is_sweep_due = true;
                self.memo.sweep = None;
                self.memo.is_rescan = true; // What was out of scope may be in it now.
            }
            self.memo.configuration = self.setup.policy.configuration;
        }
        if self.memo.swept.is_none() && self.memo.sweep.is_none() {
            self.memo.is_sweep_due = true;
        }
        if self.setup.is_sweep_asked {
            self.memo.is_sweep_due = true; // While one is under way: one more after it.
            self.memo.lead_reading.get_or_insert(None);
        }
        // Only a sweep can say that all is well again.
        self.memo.is_sweep_due |= self.is_look_again_due() && self.memo.sweep.is_none();
        if !self.setup.is_first {
            return Ok(());
        }
        let opening = self.ports.store.opening();
        let pause = self.memo.last_success.map(|at| self.began.since(at));
        let is_long = pause.is_some_and(|pause| pause > self.setup.sweep_after_pause);
        let is_rebuilt = matches!(opening, Opening::TailLost { .. } | Opening::MovedAside { .. });
        if is_long || is_rebuilt || opening == Opening::Unclean {
            self.memo.is_sweep_due |= self.memo.sweep.is_none();
        }
        if is_long || is_rebuilt {
            self.memo.lead_reading.get_or_insert(None);
        }
        Ok(())
    }

    /// The brake of a sweep holds, and it is time to look again.
    fn is_look_again_due(&self) -> bool {
        let Some(latch) = self.decisions.brakes.get(SWEEP_BRAKE) else { return false };
        self.memo.swept.is_none_or(|swept| {
            let wait = swept.since(latch.since).clamp(SWEEP_AGAIN_MIN, SWEEP_AGAIN_MAX);
            self.setup.policy.ignores_delays || self.began.since(swept) >= wait
        })
    }

    /// Which organization is ours decides what is in scope: one page tells, before anything is linked.
    pub(super) async fn learn_organization(&mut self) -> Result<(), CycleError> {
        if self.memo.partner_organization.is_some() {
            return Ok(());
        }
        match self.ports.portal.page(&Scan::Recent, None).await {
            Ok(page) => self.stamp_portal(&page.items),
            Err(error) => self.note(&error),
        }
        Ok(())
    }

    /// The urgent first: New referrals, oldest first, before everything else is read.
    pub(super) async fn peek(&mut self) -> Result<(), CycleError> {
        if std::mem::replace(&mut self.has_peeked, true) {
            return Ok(());
        }
        let mut cursor = None;
        for _ in 0..PEEK_PAGES_MAX {
            if !self.both_up() || !self.has_time() {
                return Ok(());
            }
            let page = match self.ports.portal.page(&Scan::New, cursor.as_ref()).await {
                Ok(page) => page,
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) if cursor.is_some() && !error.stops_side() => {
                    tracing::warn!(request_id = error.request_id.as_deref(), "{error}");
                    self.scan_trouble.get_or_insert(error);
                    return Ok(()); // The sweep meets the others.
                }
                Err(error) => {
                    self.note(&error);
                    return Ok(());
                }
            };
            self.count_referrals(&page.items);
            let rows = self.join(page.items)?;
            self.finish(rows).await?;
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Counts referrals as read: each once, however many lists have shown it in this pass.
    pub(super) fn count_referrals(&mut self, items: &[Referral]) {
        let fresh = items.iter().filter(|referral| !self.decided.contains(&referral.id));
        self.report.referrals_seen += fresh.count() as u64;
    }

    /// Reads one page of the sweep; false when it cannot go on now.
    async fn sweep_page(&mut self) -> Result<bool, CycleError> {
        let Some(mut sweep) = self.memo.sweep.clone() else { return Ok(false) };
        let ahead = self.ahead.take().filter(|ahead| Some(&ahead.cursor) == sweep.cursor.as_ref());
        let read = match ahead {
            Some(ahead) => {
                self.found = ahead.found;
                ahead.page
            }
            None => self.ports.portal.page(&Scan::Sweep, sweep.cursor.as_ref()).await,
        };
        let page = match read {
            Ok(page) => page,
            Err(error) if self.waits_out(&error).await => return Ok(true),
            Err(error) => {
                let is_lost = sweep.cursor.is_some() && !error.stops_side();
                if is_lost {
                    self.sweep_is_lost(&error)
                } else {
                    self.note(&error)
                }
                return Ok(false);
            }
        };
        if sweep.pages == 0 {
            sweep.began = page.server_time.unwrap_or(self.began);
            self.stamp_portal(&page.items);
        }
        self.count_referrals(&page.items);
        self.note_defects("referral", &page.defects);
        let written = self.leads_attempted();
        let (mut gone, mut unknown, mut known) = (Vec::new(), Vec::new(), Vec::with_capacity(page.items.len()));
        let mut page_ids = Vec::with_capacity(page.items.len());
        let before = std::mem::take(&mut self.memo.sweep_page);
        let mut met = self.memo.sweep_met;
        for referral in &page.items {
            let entry = self.ports.store.get(referral.id)?;
            if !page_ids.contains(&referral.id) {
                page_ids.push(referral.id);
                let is_again = before.contains(&referral.id);
                match &entry {
                    Some(entry) => {
                        if !is_again {
                            sweep.met += 1;
                            met = met.wrapping_add(brakes::weight(referral.id));
                        }
                        if entry.standing == Standing::LeadGone {
                            gone.push(referral.id);
                        }
                    }
                    None if !is_again => unknown.push(referral.id),
                    None => {}
                }
            }
            known.push(entry);
        }
        self.memo.sweep_page = before; // Until this page is done.
        let items = page.items;
        let mut gone_rows = self.rows_of_gone(&items, &gone)?;
        let listed = if self.backfill.is_some() { items.clone() } else { Vec::new() };
        let mut rows = self.join_known(items, known);
        rows.retain(|row| !gone_rows.iter().any(|gone| gone.id == row.id));
        rows.append(&mut gone_rows);
        let began = self.ports.clock.now();
        let next = page.next.clone().filter(|_| self.has_time_for_another_page() && !self.gives_way());
        let ways = if self.has_enough(Side::Crm) && self.is_up(Side::Crm) { self.ways() } else { Vec::new() };
        let ahead = look_ahead(self.ports.clone(), next, ways);
        let (worked, ahead) = tokio::join!(self.work_on_page(rows, listed), ahead);
        worked?;
        self.found = Found::default();
        (self.ahead, self.page_time) = (ahead, self.ports.clock.now().since(began));
        let again = self.serve_write_backs().await?;
        self.send(again).await?;
        if self.leads_attempted() == written {
            self.make_room_for_write_backs().await?;
        }
        if self.is_incomplete && !self.both_up() {
            return Ok(false); // This page is read again by the next pass.
        }
        for id in unknown {
            if self.ports.store.get(id)?.is_some() {
                met = met.wrapping_add(brakes::weight(id));
            }
        }
        (self.memo.sweep_met, self.memo.sweep_page) = (met, page_ids);
        sweep.pages += 1;
        sweep.cursor = page.next;
        let is_over = sweep.cursor.is_none();
        if is_over {
            self.finish_sweep(&sweep).await?;
        } else {
            self.memo.sweep = Some(sweep);
        }
        if self.may_write() {
            self.setup.meter.count(self.ports, &mut self.memo);
            self.ports.store.record(Batch { memo: Some(self.memo.clone()), ..Batch::default() }).await?;
        }
        Ok(!is_over)
    }

    /// Leads that this pass has tried to write.
    fn leads_attempted(&self) -> usize {
        [ActionKind::Create, ActionKind::Update].iter().filter_map(|kind| self.attempted.get(kind)).sum()
    }

    /// The place where the sweep goes on is of no use any more, or the page there cannot be read: the beginning may help,
    /// once in a while, for all pages before it are read again. Until then the place is tried once in each pass.
    fn sweep_is_lost(&mut self, error: &RemoteError) {
        self.scan_trouble.get_or_insert_with(|| error.clone());
        let interval = self.setup.settings.unordered_sweep_interval.get();
        if self.memo.unordered_sweep.is_some_and(|at| self.began.since(at) < interval) {
            tracing::warn!("the sweep cannot go on where it was ({error}); it is tried again");
            return;
        }
        tracing::warn!("the sweep cannot go on where it was ({error}); it begins again");
        self.memo.unordered_sweep = Some(self.began);
        self.memo.sweep = None;
        self.memo.is_sweep_due = true;
    }

    /// Decides and sends what one page of a sweep asks for.
    async fn work_on_page(&mut self, mut rows: Vec<Row>, mut listed: Vec<Referral>) -> Result<(), CycleError> {
        loop {
            listed = self.mark_for_backfill(&mut rows, listed)?;
            self.finish(std::mem::take(&mut rows)).await?;
            self.after_backfill_page().await?;
            if listed.is_empty() {
                return Ok(());
            }
        }
    }

    /// There will be time for the page after this one, if it takes as long as the last one did: what is read ahead and not
    /// used is read again by the next pass.
    fn has_time_for_another_page(&self) -> bool {
        let later = self.ports.clock.now().plus(self.page_time);
        match self.mode {
            Mode::Write(Budget::Work(limit)) => self.has_time() && later.since(self.began) < limit,
            Mode::Write(Budget::Unlimited) | Mode::Forecast => self.has_time(),
        }
    }

    /// Referrals whose lead was gone: a sweep looks whether it is back (recycle bin, restored backup).
    fn rows_of_gone(&self, items: &[crate::model::Referral], gone: &[ReferralId]) -> Result<Vec<Row>, CycleError> {
        let mut rows = Vec::new();
        for referral in items.iter().filter(|referral| gone.contains(&referral.id)) {
            if self.decided.contains(&referral.id) {
                continue;
            }
            let mut row = Row::new(referral.id);
            row.entry = self.ports.store.get(referral.id)?;
            row.referral = crate::plan::Seen::from(referral.clone());
            rows.push(row);
        }
        Ok(rows)
    }

    /// The sum over all known referrals that the sweep under way has not met.
    fn not_met(&self) -> Result<u128, CycleError> {
        let (mut sum, mut after) = (0u128, None);
        loop {
            let entries = self.ports.store.scan(after, READING_STEP)?;
            let Some((last, _)) = entries.last() else { return Ok(sum.wrapping_sub(self.memo.sweep_met)) };
            after = Some(*last);
            sum = entries.iter().fold(sum, |sum, (id, _)| sum.wrapping_add(brakes::weight(*id)));
        }
    }

    async fn finish_sweep(&mut self, sweep: &SweepCursor) -> Result<(), CycleError> {
        let known = self.ports.store.counters()?.entries;
        let now = self.ports.clock.now();
        let known_before = known.min(self.memo.entries_at_sweep.unwrap_or(0));
        let approved = self.decisions.approved.clone();
        let missing = known_before.saturating_sub(sweep.met);
        let latch = match brakes::misses_many(missing, known_before, &self.setup.brakes) {
            true => {
                let (set, settings) = (self.not_met()?, &self.setup.brakes);
                brakes::judge_sweep(missing, known_before, set, settings, |digest| approved.contains(digest), now)
            }
            false => {
                self.consume_losses();
                None
            }
        };
        match latch {
            Some(latch) => self.latch(SWEEP_BRAKE, latch),
            None => self.unlatch(SWEEP_BRAKE),
        }
        tracing::info!(pages = sweep.pages, "sweep finished");
        self.finish_backfill().await?;
        if self.was_stopped {
            self.memo.is_sweep_due |= !self.decisions.brakes.contains_key(SWEEP_BRAKE); // Nothing of it was recorded.
        } else {
            self.memo.is_rescan = false;
        }
        self.memo.sweep = None;
        self.memo.swept = Some(now);
        if self.may_write() && !self.is_incomplete && !self.was_stopped {
            let mark = self.memo.referrals_seen.unwrap_or_default();
            self.memo.referrals_seen = Some(mark.advanced_to(sweep.began));
        } else if self.memo.referrals_seen.is_none() {
            self.memo.is_sweep_due = true;
        }
        Ok(())
    }

    /// Everything is listed again: a loss of visibility that was approved is over, and a later one is another one.
    fn consume_losses(&mut self) {
        let waits = |digest: &&String| self.decisions.brakes.values().any(|brake| brake.digest == **digest);
        let over: Vec<String> = self.decisions.approved.iter().filter(|digest| !waits(digest)).cloned().collect();
        over.iter().for_each(|digest| self.consume(digest));
    }

    /// Reads the leads (and opportunities) of one step of entries by id; false when it cannot go on now.
    async fn reading_step(&mut self) -> Result<bool, CycleError> {
        let after = self.memo.lead_reading.flatten();
        let entries = self.ports.store.scan(after, READING_STEP)?;
        let Some(last) = entries.last().map(|(id, _)| *id) else {
            self.memo.lead_reading = None;
            self.memo.leads_read = Some(self.ports.clock.now());
            return Ok(false);
        };
        let mut rows = Vec::new();
        for (id, entry) in entries {
            let is_watched = match entry.standing {
                Standing::Linked => is_alive(&entry),
                Standing::LeadGone => entry.link.is_some(),
                Standing::Pending | Standing::OutOfScope | Standing::ClosedUnlinked | Standing::LeadTaken => false,
            };
            // A row that was decided by its referral alone says nothing about its lead.
            if is_watched && !self.heard.contains(&id) {
                let mut row = Row::new(id);
                row.entry = Some(entry);
                if !self.waits_for_its_lead(&row) {
                    rows.push(row);
                }
            }
        }
        let ids = distinct(rows.iter().filter_map(|row| row.entry.as_ref()?.link.as_ref()).map(|link| link.lead));
        let is_read = self.read_leads(&mut rows, &ids).await;
        let is_observed = is_read && self.follow(&mut rows).await && self.read_opportunities(&mut rows).await;
        self.put_off(&mut rows).await?; // Also when others keep this step from its end: it must not fail for these again.
        if !is_observed {
            return Ok(false);
        }
        // A lead that is still gone is no news.
        rows.retain(|row| {
            let was_gone = row.entry.as_ref().is_some_and(|entry| entry.standing == Standing::LeadGone);
            !(was_gone && row.lead.present().is_none())
        });
        self.process(rows).await?;
        if self.may_write() {
            self.memo.lead_reading = Some(Some(last));
            self.setup.meter.count(self.ports, &mut self.memo);
            self.ports.store.record(Batch { memo: Some(self.memo.clone()), ..Batch::default() }).await?;
            Ok(true)
        } else {
            self.memo.lead_reading = Some(Some(last));
            Ok(self.mode == Mode::Forecast)
        }
    }

    /// Lists outcomes that are older than their link as one set for one approval.
    fn list_old_outcomes(&mut self) -> Result<(), CycleError> {
        let bit = self.old_outcome_bit();
        let count = self.ports.store.counters()?.holds.get(&bit).copied().unwrap_or(0);
        let listed = self.decisions.brakes.get(OLD_OUTCOMES).map_or(0, |latch| latch.count);
        if count == listed {
            return Ok(());
        }
        let ids = self.with_hold(1 << bit, |id, _| id)?;
        self.unlatch(OLD_OUTCOMES);
        self.note_old_outcomes(&ids);
        Ok(())
    }
}

/// The next page of a sweep, read while the one before is worked on.
pub(super) struct Ahead {
    cursor: Cursor,
    page: Result<Page<Referral>, RemoteError>,
    found: Found,
}

/// Reads the page, and searches leads for those of its referrals that are not known yet.
async fn look_ahead(ports: Ports, cursor: Option<Cursor>, ways: Vec<FindBy>) -> Option<Ahead> {
    let cursor = cursor?;
    let page = ports.portal.page(&Scan::Sweep, Some(&cursor)).await;
    let items = page.iter().flat_map(|page| &page.items).map(|referral| referral.id);
    let unknown: Vec<ReferralId> = items.filter(|id| matches!(ports.store.get(*id), Ok(None))).collect();
    let found = Found::search(ports.crm.as_ref(), ways, unknown).await;
    Some(Ahead { cursor, page, found })
}

/// Entries whose lead can still have news: the referral is open, or the lead is.
pub(super) fn is_alive(entry: &crate::model::Entry) -> bool {
    let is_open = matches!(entry.referral_status, ReferralStatus::New | ReferralStatus::Active);
    is_open || entry.link.as_ref().is_some_and(|link| link.status.state == LeadState::Open)
}
