//! What changed on the leads side by change tracking, the optional way besides the poll (dataverse §4.1).
//!
//! What is heard here is a hint and no proof: whatever is ours is read by id before anything is decided, a lead that is
//! said to be deleted as well. Until a link has proven itself, and whenever it is lost, leads are polled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{CycleError, Mode, Pass, distinct};
use crate::model::{LeadId, ReferralId, Side, Standing};
use crate::plan::Row;
use crate::ports::{Batch, ChangeLink, Changes, Tracked, Tracking};

/// How long after a refusal the service is asked again whether it tracks changes.
pub const TRACKING_AGAIN: Duration = Duration::from_secs(3600);

/// What following a link gave.
pub(super) struct Followed {
    /// Leads of ours that are to be read.
    pub(super) news: BTreeSet<LeadId>,
    /// Nothing else has to be asked: the link has proven itself and was followed to its end.
    pub(super) is_all: bool,
}

impl Pass<'_> {
    /// Follows the link of change tracking, where there is one; `None` when the side is down.
    pub(super) async fn follow_changes(&mut self) -> Result<Option<Followed>, CycleError> {
        let mut followed = Followed { news: BTreeSet::new(), is_all: false };
        let (mut link, is_proven) = match self.memo.tracking.clone().filter(|_| self.setup.tracks_changes) {
            Some(Tracking::Proven(link)) => (link, true),
            Some(Tracking::Fresh(link)) => (link, false),
            Some(Tracking::Whole { .. } | Tracking::Off { .. }) | None => return Ok(Some(followed)),
        };
        let (mut pages, mut newest, mut server_time) = (0, None, None);
        loop {
            let page = match self.ports.crm.lead_changes(Some(&link)).await {
                Ok(Tracked::Page(page)) => page,
                Ok(Tracked::Expired) => {
                    self.lose_link();
                    return Ok(Some(followed));
                }
                Ok(Tracked::Off(why)) => {
                    self.give_up_tracking(why);
                    return Ok(Some(followed));
                }
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) => {
                    self.note(&error);
                    return Ok(None);
                }
            };
            if pages == 0 {
                self.check_clock(Side::Crm, page.server_time);
                server_time = page.server_time;
            }
            pages += 1;
            newest = page.changed.iter().filter_map(|lead| lead.modified).chain(newest).max();
            followed.news.extend(self.news_of(&page)?);
            match page.next {
                ChangeLink::Later(later) => {
                    self.tracking_next = Some(Tracking::Proven(later));
                    break;
                }
                // The rest is the next pass's, and until then nobody knows what every lead says.
                ChangeLink::More(more) if pages >= self.setup.poll_pages_max && !self.is_unlimited() => {
                    self.tracking_next = Some(if is_proven { Tracking::Proven(more) } else { Tracking::Fresh(more) });
                    self.is_cut = true;
                    break;
                }
                ChangeLink::More(more) => link = more,
            }
        }
        followed.is_all = is_proven;
        if is_proven && !self.is_cut {
            self.leads_high = self.after_poll(self.memo.leads_seen, server_time, newest);
        }
        Ok(Some(followed))
    }

    /// Begins change tracking, or goes on with it, where it is wanted: the whole table once, page by page.
    pub(super) async fn read_whole_table(&mut self) -> Result<(), CycleError> {
        if !self.setup.tracks_changes {
            self.memo.tracking = None;
            return Ok(());
        }
        let is_asked_again = match &self.memo.tracking {
            None => true,
            Some(Tracking::Off { again, .. }) => self.began >= *again,
            Some(Tracking::Whole { .. } | Tracking::Fresh(_) | Tracking::Proven(_)) => false,
        };
        if self.mode == Mode::Forecast || !self.may_write() {
            return Ok(());
        }
        if is_asked_again {
            self.memo.tracking = Some(Tracking::Whole { next: None, pages: 0 });
        }
        while self.has_time() && self.may_scan() && self.may_write() {
            self.allow();
            if !self.whole_table_page().await? || self.gives_way() {
                break;
            }
        }
        Ok(())
    }

    /// Reads one page of the whole table; false when there is none, or when it cannot be read now.
    async fn whole_table_page(&mut self) -> Result<bool, CycleError> {
        let Some(Tracking::Whole { next, pages }) = self.memo.tracking.clone() else { return Ok(false) };
        let page = match self.ports.crm.lead_changes(next.as_ref()).await {
            Ok(Tracked::Page(page)) => page,
            Ok(Tracked::Expired) => {
                self.lose_link();
                return Ok(false);
            }
            Ok(Tracked::Off(why)) => {
                self.give_up_tracking(why);
                return Ok(false);
            }
            Err(error) if self.waits_out(&error).await => return Ok(true),
            Err(error) => {
                self.note(&error);
                return Ok(false);
            }
        };
        let news = self.news_of(&page)?;
        let mut rows: BTreeMap<ReferralId, Row> = BTreeMap::new();
        self.add_rows(&mut rows, &news)?;
        let is_open = |row: &Row| !self.heard.contains(&row.id) && !self.waits_for_its_lead(row);
        let mut rows: Vec<Row> = rows.into_values().filter(is_open).collect();
        let leads = distinct(rows.iter().filter_map(super::observe::linked_lead));
        let is_read = self.read_leads(&mut rows, &leads).await
            && self.follow(&mut rows).await
            && self.read_opportunities(&mut rows).await;
        self.put_off(&mut rows).await?;
        if !is_read {
            return Ok(false); // This page is read again.
        }
        self.process(rows).await?;
        if !self.may_write() {
            return Ok(false);
        }
        let is_over = matches!(page.next, ChangeLink::Later(_));
        self.memo.tracking = Some(match page.next {
            ChangeLink::More(more) => Tracking::Whole { next: Some(more), pages: pages.saturating_add(1) },
            ChangeLink::Later(later) => Tracking::Fresh(later),
        });
        if is_over {
            tracing::info!(pages = pages.saturating_add(1), "change tracking begins: the lead table was read once");
        }
        self.setup.meter.count(self.ports, &mut self.memo);
        self.ports.store.record(Batch { memo: Some(self.memo.clone()), ..Batch::default() }).await?;
        Ok(!is_over)
    }

    /// Rows for linked leads, in none of which the lead has been read.
    pub(super) fn add_rows(
        &self,
        rows: &mut BTreeMap<ReferralId, Row>,
        leads: &BTreeSet<LeadId>,
    ) -> Result<(), CycleError> {
        for lead in leads {
            let Some(id) = self.ports.store.by_lead(*lead)? else { continue };
            let Some(entry) = self.ports.store.get(id)? else { continue };
            rows.entry(id).or_insert_with(|| Row::new(id)).entry = Some(entry);
        }
        Ok(())
    }

    /// Which leads of a page are ours and another version than the one on record, or said to be gone.
    fn news_of(&mut self, page: &Changes) -> Result<BTreeSet<LeadId>, CycleError> {
        self.report.leads_seen += page.changed.len() as u64;
        self.is_sighted |= !page.changed.is_empty();
        self.note_defects("lead", &page.defects);
        if !page.defects.is_empty() {
            self.memo.lead_reading.get_or_insert(None); // One of them may be ours.
        }
        let mut news = BTreeSet::new();
        for lead in &page.changed {
            if self.is_another_version(lead.id, lead.etag.as_ref())? {
                news.insert(lead.id);
            }
        }
        for lead in &page.gone {
            let Some(id) = self.ports.store.by_lead(*lead)? else { continue };
            let entry = self.ports.store.get(id)?;
            if entry.is_some_and(|entry| entry.standing == Standing::Linked) {
                news.insert(*lead);
            }
        }
        Ok(news)
    }

    /// The link is not taken any more: leads are polled from where they were last seen, and read by id for what a poll
    /// does not show.
    fn lose_link(&mut self) {
        tracing::warn!(
            "change tracking begins anew: its link is too old or not valid any more; changed leads are polled meanwhile, and every linked lead is read by id"
        );
        self.memo.tracking = Some(Tracking::Whole { next: None, pages: 0 });
        self.memo.lead_reading = Some(None);
    }

    fn give_up_tracking(&mut self, why: String) {
        let was_off = match &self.memo.tracking {
            Some(Tracking::Off { why: before, .. }) => *before == why,
            _ => false,
        };
        if !was_off {
            tracing::warn!("changed leads are polled (dataverse.observe = \"delta\" does not work): {why}");
        }
        if !matches!(self.memo.tracking, Some(Tracking::Off { .. } | Tracking::Whole { pages: 0, .. }) | None) {
            self.memo.lead_reading = Some(None); // What has happened since the link was given is not known.
        }
        self.memo.tracking = Some(Tracking::Off { why, again: self.began.plus(TRACKING_AGAIN) });
    }

    /// What is said of change tracking while leads are polled for want of it.
    pub(super) fn tracking_words(&self) -> Option<String> {
        match self.memo.tracking.as_ref().filter(|_| self.setup.tracks_changes)? {
            Tracking::Whole { pages, .. } => Some(format!(
                "change tracking: {pages} pages of the lead table read, changed leads are polled until it was read once"
            )),
            Tracking::Off { why, .. } => Some(format!("changed leads are polled instead of tracked: {why}")),
            Tracking::Fresh(_) | Tracking::Proven(_) => None,
        }
    }
}
