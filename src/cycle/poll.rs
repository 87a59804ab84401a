//! What changed on the leads side since the last pass: leads, and opportunities that speak for them.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::background::is_alive;
use super::observe::linked_lead;
use super::rows::doubted;
use super::{CycleError, Pass, distinct};
use crate::model::{ETag, Lead, LeadId, Opportunity, ReferralId, RemoteError, Side, Standing, Timestamp, Watermark};
use crate::plan::{Action, Row, RowPlan, Seen, status};
use crate::ports::{ActionKind, Batch, Crm, Cursor, FirstPages, Memo, Page};

/// Linked leads with an empty referral id column that a poll asks for by id: what fits into its URL.
pub const UNNAMED_MAX: usize = 50;

/// Opportunities that changed, by the lead they came from.
type Spoken = BTreeMap<LeadId, Vec<Opportunity>>;

/// What changed on the leads side.
struct Heard {
    leads: Vec<Lead>,
    spoken: Spoken,
    /// Both polls were read as far as a poll goes.
    is_whole: bool,
}

/// What a poll gave.
struct Poll<T> {
    /// What is news, in the order of the service.
    items: Vec<T>,
    /// The latest change of all that was shown.
    newest: Option<Timestamp>,
    /// Server time of the first page.
    server_time: Option<Timestamp>,
    /// More changed than one poll reads; server time of the last page that was read.
    cut: Option<Option<Timestamp>>,
    /// Every page could be read, or as many as one poll reads.
    is_whole: bool,
}

/// A kind of row that is polled.
#[async_trait]
trait Polled: Sized {
    /// What a row is called.
    const WHAT: &'static str;

    /// One page of what changed.
    async fn ask(
        crm: &dyn Crm,
        since: Timestamp,
        also: &[LeadId],
        cursor: Option<&Cursor>,
    ) -> Result<Page<Self>, RemoteError>;

    /// When it was changed last.
    fn modified(&self) -> Option<Timestamp>;

    /// It says something that is not known; counted as seen.
    fn is_news(&self, pass: &mut Pass<'_>) -> Result<bool, CycleError>;
}

#[async_trait]
impl Polled for Lead {
    const WHAT: &'static str = "lead";

    async fn ask(
        crm: &dyn Crm,
        since: Timestamp,
        also: &[LeadId],
        cursor: Option<&Cursor>,
    ) -> Result<Page<Lead>, RemoteError> {
        crm.leads_changed_since(since, also, cursor).await
    }

    fn modified(&self) -> Option<Timestamp> {
        self.modified
    }

    /// A linked lead in another version than the one on record. Our own writes come back by the thousands after an import,
    /// so they are left out page by page.
    fn is_news(&self, pass: &mut Pass<'_>) -> Result<bool, CycleError> {
        pass.report.leads_seen += 1;
        pass.is_sighted = true;
        pass.is_another_version(self.id, self.etag.as_ref())
    }
}

#[async_trait]
impl Polled for Opportunity {
    const WHAT: &'static str = "opportunity";

    async fn ask(
        crm: &dyn Crm,
        since: Timestamp,
        _: &[LeadId],
        cursor: Option<&Cursor>,
    ) -> Result<Page<Opportunity>, RemoteError> {
        crm.opportunities_changed_since(since, cursor).await
    }

    fn modified(&self) -> Option<Timestamp> {
        self.modified
    }

    fn is_news(&self, _: &mut Pass<'_>) -> Result<bool, CycleError> {
        Ok(self.lead.is_some())
    }
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
        if !heard.is_whole {
            self.doubt(&mut rows, &spoken).await?;
            return self.restart_outcomes(rows).await; // It may say something else when it is polled again.
        }
        let has_begun = self.begin_watermarks().await?;
        let is_read = unread.is_empty() || self.read_leads(&mut rows, &distinct(unread)).await;
        let is_followed = self.follow(&mut rows).await;
        let is_heard = self.read_opportunities(&mut rows).await;
        let is_observed = is_read && is_followed && is_heard;
        if !is_observed {
            self.doubt(&mut rows, &spoken).await?;
        }
        self.is_incomplete |= !is_observed;
        self.is_crm_observed = is_observed && has_begun && !self.is_cut;
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

    /// Deals that were heard of and could not be read: an outcome that is not theirs any more does not settle meanwhile.
    async fn doubt(&mut self, rows: &mut [Row], spoken: &Spoken) -> Result<(), CycleError> {
        let mut entries = Vec::new();
        for row in rows.iter_mut() {
            let Some(entry) = &mut row.entry else { continue };
            let Some(link) = entry.link.as_ref().filter(|_| entry.outcome.is_some()) else { continue };
            if spoken.get(&link.lead).is_some_and(|heard| status::deal(heard) != link.deal) {
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

    /// The first pages of both polls, where one request gives them; `None` when the side is down.
    async fn poll_both(&mut self, unnamed: &[LeadId]) -> Option<Option<FirstPages>> {
        let (leads, deals) = (self.poll_since(self.memo.leads_seen), self.poll_since(self.memo.opportunities_seen));
        loop {
            match self.ports.crm.both_changed_since(leads, unnamed, deals).await.transpose() {
                Ok(first) => return Some(first),
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note(&error);
                    return None;
                }
            }
        }
    }

    /// Reads a poll from its first page on, to the end or as far as one poll goes.
    async fn read_poll<T: Polled>(
        &mut self,
        since: Timestamp,
        also: &[LeadId],
        mut first: Option<Page<T>>,
    ) -> Result<Poll<T>, CycleError> {
        let mut poll = Poll { items: Vec::new(), newest: None, server_time: None, cut: None, is_whole: true };
        let (mut cursor, mut pages) = (None, 0u32);
        loop {
            let asked = match first.take() {
                Some(page) => Ok(page),
                None => T::ask(self.ports.crm.as_ref(), since, also, cursor.as_ref()).await,
            };
            let page = match asked {
                Ok(page) => page,
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note(&error);
                    return Ok(Poll { is_whole: false, ..poll });
                }
            };
            if pages == 0 {
                poll.server_time = page.server_time;
            }
            pages += 1;
            self.note_defects(T::WHAT, &page.defects);
            poll.newest = page.items.iter().filter_map(T::modified).chain(poll.newest).max();
            for item in page.items {
                if item.is_news(self)? {
                    poll.items.push(item);
                }
            }
            match page.next {
                None => return Ok(poll),
                Some(_) if pages >= self.setup.poll_pages_max => {
                    return Ok(Poll { cut: Some(page.server_time), ..poll });
                }
                Some(next) => cursor = Some(next),
            }
        }
    }

    /// Polls changed leads. Too many pages turn into a reading by id in the background.
    async fn poll_leads(&mut self, unnamed: &[LeadId], first: Option<Page<Lead>>) -> Result<Poll<Lead>, CycleError> {
        let since = self.poll_since(self.memo.leads_seen);
        let poll = self.read_poll(since, unnamed, first).await?;
        self.check_clock(Side::Crm, poll.server_time);
        self.leads_high = match poll.cut {
            None if !poll.is_whole => None,
            None => self.after_poll(self.memo.leads_seen, poll.server_time, poll.newest),
            Some(server_time) => {
                tracing::warn!(
                    pages = self.setup.poll_pages_max,
                    "too many leads changed for one poll: linked leads are read by id instead; a referral_id_column makes the poll small"
                );
                self.memo.lead_reading = Some(None);
                server_time.map(|at| self.memo.leads_seen.unwrap_or_default().advanced_to(at))
            }
        };
        Ok(poll)
    }

    /// Linked leads that a poll by the referral id column would not show. Those that nobody has to watch any more are
    /// forgotten.
    fn unnamed(&mut self) -> Result<Vec<LeadId>, CycleError> {
        if self.setup.policy.referral_column.is_none() {
            return Ok(Vec::new());
        }
        let mut watched = Vec::new();
        for lead in std::mem::take(&mut self.memo.unnamed) {
            let Some(id) = self.ports.store.by_lead(lead)? else { continue };
            if self.ports.store.get(id)?.is_some_and(|entry| is_alive(&entry)) {
                watched.push(lead);
            }
        }
        self.memo.unnamed.clone_from(&watched);
        Ok(watched)
    }

    /// Notes which linked leads have an empty referral id column, so that the next poll shows them all the same.
    pub(super) fn note_unnamed(&mut self, planned: &[(Row, RowPlan)]) {
        if self.setup.policy.referral_column.is_none() {
            return;
        }
        for (row, plan) in planned {
            let Some(lead) = row.lead.present() else { continue };
            let link = plan.entry.as_ref().and_then(|entry| entry.link.as_ref());
            let is_linked = link.is_some_and(|link| link.lead == lead.id);
            let unnamed = &mut self.memo.unnamed;
            let known = unnamed.iter().position(|one| *one == lead.id);
            match (known, is_linked && lead.referral.is_none()) {
                (None, true) => unnamed.push(lead.id),
                (Some(at), false) => drop(unnamed.remove(at)),
                (None, false) | (Some(_), true) => {}
            }
        }
        let surplus = self.memo.unnamed.len().saturating_sub(UNNAMED_MAX);
        self.memo.unnamed.drain(..surplus); // They are read every night, as without a column.
    }

    /// Polls changed opportunities.
    async fn poll_opportunities(&mut self, first: Option<Page<Opportunity>>) -> Result<Poll<Opportunity>, CycleError> {
        let since = self.poll_since(self.memo.opportunities_seen);
        let poll = self.read_poll(since, &[], first).await?;
        self.opportunities_high = match poll.cut {
            None if !poll.is_whole => None,
            None => self.after_poll(self.memo.opportunities_seen, poll.server_time, poll.newest),
            Some(server_time) => {
                self.memo.lead_reading = Some(None);
                server_time.map(|at| self.memo.opportunities_seen.unwrap_or_default().advanced_to(at))
            }
        };
        Ok(poll)
    }

    /// Where a watermark goes after a poll that showed `newest` as the latest change.
    ///
    /// What is older than the overlap has been seen, so a quiet night after a busy evening does not read the last minutes
    /// of that evening again and again. But the latest change itself stays within the next poll: on a quiet day it is the
    /// one row that shows that we still see rows. No row at all proves nothing: a user who has lost a role is shown
    /// none, and no refusal either. The watermark stays then, and what changed meanwhile is read when the role is back.
    pub(super) fn after_poll(
        &self,
        mark: Option<Watermark>,
        server_time: Option<Timestamp>,
        newest: Option<Timestamp>,
    ) -> Option<Watermark> {
        let overlap = self.setup.poll_overlap;
        let Some(mark) = mark else { return newest.max(server_time).map(Watermark) };
        let Some(newest) = newest else { return Some(mark) };
        let seen = server_time.map_or(newest, |at| at.minus(overlap).min(newest.plus(overlap)));
        Some(mark.advanced_to(newest).advanced_to(seen))
    }

    /// Before irreversible steps their leads are read by id and decided again: all of them in a pass whose poll showed no
    /// lead at all (whoever has lost the role gets no further than this), and those that a poll may not show: with a column
    /// for the referral id it asks for leads that have a value there, and the master of a merged lead has none. After a
    /// pause, and until linked leads have been read by id where that is due, so may be what no poll shows: a deletion, an
    /// opportunity that speaks for another lead by now.
    pub(super) async fn prove_sight(&mut self) -> Result<(), CycleError> {
        if !self.is_crm_observed || !self.may_write() {
            return Ok(());
        }
        let is_blind = !self.is_sighted;
        let is_behind = self.is_catching_up() || self.memo.lead_reading.is_some();
        let is_partial = self.setup.policy.referral_column.is_some() || is_behind;
        let is_unproven = |row: &Row| is_blind || (is_partial && matches!(row.lead, Seen::Unseen));
        let is_irreversible = |plan: &RowPlan| {
            let kind = plan.action.as_ref().map(Action::kind);
            matches!(kind, Some(ActionKind::Accept | ActionKind::Close))
        };
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deferred)
            .into_iter()
            .partition(|(row, plan)| is_irreversible(plan) && is_unproven(row));
        self.deferred = others;
        if mine.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<Row> = mine.iter().map(|(row, _)| row.clone()).collect();
        let leads = distinct(rows.iter().filter_map(linked_lead));
        let is_read = self.read_leads(&mut rows, &leads).await
            && self.follow(&mut rows).await
            && self.read_opportunities(&mut rows).await;
        if !is_read {
            self.is_crm_observed = false; // What they say is not known.
            self.deferred.extend(mine);
            return Ok(());
        }
        self.is_sighted = true;
        self.process(rows).await
    }

    pub(super) fn poll_since(&self, mark: Option<Watermark>) -> Timestamp {
        mark.map_or(self.began, |mark| mark.0).minus(self.setup.poll_overlap)
    }

    /// The watermarks of the leads side move last, past rows whose fate is written down.
    pub(super) fn advance(&mut self) {
        self.has_advanced = true;
        if let Some(next) = self.tracking_next.take().filter(|_| self.may_write() && !self.is_incomplete) {
            self.memo.tracking = Some(next);
        }
        if self.may_write() && !self.is_incomplete && self.is_crm_observed {
            self.memo.leads_seen = self.leads_high.or(self.memo.leads_seen);
            self.memo.opportunities_seen = self.opportunities_high.or(self.memo.opportunities_seen);
        }
    }
}
