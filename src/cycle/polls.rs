//! Polls of the leads side: pages read to their end, and where a watermark goes after them.

use std::time::Duration;

use async_trait::async_trait;

use super::background::is_alive;
use super::lone::is_fault_of_server;
use super::{CycleError, Pass};
use crate::model::{Lead, LeadId, Opportunity, RemoteError, Side, Timestamp, Watermark};
use crate::plan::{Row, RowPlan};
use crate::ports::{Crm, Cursor, FirstPages, Page};

/// Linked leads with an empty referral id column that a poll asks for by id: what fits into its URL.
pub const UNNAMED_MAX: usize = 50;

/// What a poll gave.
pub(super) struct Poll<T> {
    /// What is news, in the order of the service.
    pub(super) items: Vec<T>,
    /// The latest change of all that was shown.
    newest: Option<Timestamp>,
    /// Server time of the first page.
    server_time: Option<Timestamp>,
    /// Not all that changed can be listed.
    cut: Option<Cut>,
    /// There was no room for more news: the next pass goes on where this one ended.
    is_full: bool,
    /// Every page could be read, or as many as one poll reads.
    pub(super) is_whole: bool,
}

/// Why a poll does not list all that changed, and the server time of its last answer.
#[derive(Clone, Copy)]
enum Cut {
    /// More changed than one poll reads.
    TooLong(Option<Timestamp>),
    /// The service cannot print one of the rows, and does not say which.
    Unprintable(Option<Timestamp>),
}

/// No row has changed since so long after now: a list of what did prints none.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

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
    /// The first pages of both polls, where one request gives them; `None` when the side is down.
    pub(super) async fn poll_both(&mut self, unnamed: &[LeadId]) -> Option<Option<FirstPages>> {
        let (leads, deals) = (self.poll_since(self.memo.leads_seen), self.poll_since(self.memo.opportunities_seen));
        loop {
            match self.ports.crm.both_changed_since(leads, unnamed, deals).await.transpose() {
                Ok(first) => return Some(first),
                Err(error) if self.waits_out(&error).await => continue,
                Err(error) if is_fault_of_server(&error) => return Some(None), // One of the two may be answered.
                Err(error) => {
                    self.note(&error);
                    return None;
                }
            }
        }
    }

    /// Reads a poll from its first page on, to the end or as far as one poll goes; the page that brings the last news there is
    /// room for is the last one.
    async fn read_poll<T: Polled>(
        &mut self,
        since: Timestamp,
        also: &[LeadId],
        mut first: Option<Page<T>>,
        news_max: usize,
    ) -> Result<Poll<T>, CycleError> {
        let mut poll =
            Poll { items: Vec::new(), newest: None, server_time: None, cut: None, is_full: false, is_whole: true };
        let (mut cursor, mut pages) = (None, 0u32);
        loop {
            let asked = match first.take() {
                Some(page) => Ok(page),
                None => T::ask(self.ports.crm.as_ref(), since, also, cursor.as_ref()).await,
            };
            let page = match asked {
                Ok(page) => page,
                Err(error) if self.waits_out(&error).await => continue,
                Err(mut error) => {
                    // A list without a row tells whether one of the rows is at fault.
                    let never = self.began.plus(NEVER);
                    if is_fault_of_server(&error)
                        && let Ok(none) = T::ask(self.ports.crm.as_ref(), never, &[], None).await
                    {
                        // It answers; the list may have failed in the moment before that.
                        match T::ask(self.ports.crm.as_ref(), since, also, cursor.as_ref()).await {
                            Ok(page) => {
                                first = Some(page);
                                continue;
                            }
                            Err(again) if is_fault_of_server(&again) => {
                                return Ok(Poll { cut: Some(Cut::Unprintable(none.server_time)), ..poll });
                            }
                            Err(again) if self.waits_out(&again).await => continue,
                            Err(again) => error = again,
                        }
                    }
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
                Some(_) if poll.items.len() >= news_max => return Ok(Poll { is_full: true, ..poll }),
                Some(_) if pages >= self.setup.poll_pages_max => {
                    return Ok(Poll { cut: Some(Cut::TooLong(page.server_time)), ..poll });
                }
                Some(next) => cursor = Some(next),
            }
        }
    }

    /// Polls changed leads. Too many pages turn into a reading by id in the background.
    pub(super) async fn poll_leads(
        &mut self,
        unnamed: &[LeadId],
        first: Option<Page<Lead>>,
    ) -> Result<Poll<Lead>, CycleError> {
        let since = self.poll_since(self.memo.leads_seen);
        // What was news is none any more once it was decided, so the next pass gets further.
        let news_max = if self.is_unlimited() { usize::MAX } else { self.setup.settings.window as usize };
        let poll = self.read_poll(since, unnamed, first, news_max).await?;
        self.check_clock(Side::Crm, poll.server_time);
        self.is_poll_full = poll.is_full;
        self.leads_high = match poll.cut {
            None if !poll.is_whole => None,
            None if poll.is_full => {
                let mark = self.memo.leads_seen.unwrap_or_default();
                poll.newest.map(|newest| mark.advanced_to(newest))
            }
            None => self.after_poll(self.memo.leads_seen, poll.server_time, poll.newest),
            Some(cut) => self.read_by_id_instead::<Lead>(cut, self.memo.leads_seen),
        };
        Ok(poll)
    }

    /// What a poll does not list is found by reading linked leads by id, from now on. Where the watermark goes meanwhile.
    ///
    /// A row that cannot be printed fails each poll until it is older than the watermark and its overlap. Which one it is the
    /// reading finds out, where it is put off alone; the watermark follows from one reading to the next.
    fn read_by_id_instead<T: Polled>(&mut self, cut: Cut, mark: Option<Watermark>) -> Option<Watermark> {
        let seen = match cut {
            Cut::TooLong(server_time) => {
                tracing::warn!(
                    pages = self.setup.poll_pages_max,
                    "more {} rows changed than one poll reads: linked leads are read by id instead; a referral_id_column makes the poll small",
                    T::WHAT
                );
                server_time
            }
            Cut::Unprintable(server_time) => {
                self.is_poll_blind = true;
                let words = format!(
                    "changed {} rows cannot be listed, for the service fails on one of them: linked leads are read by id instead",
                    T::WHAT
                );
                let is_recent = self.memo.leads_read.is_some_and(|at| self.began.since(at) < self.setup.poll_overlap);
                if self.memo.lead_reading.is_some() || is_recent {
                    self.report.progress.push(words);
                    return None;
                }
                tracing::warn!("{words}");
                self.report.progress.push(words);
                server_time.or(Some(self.began.minus(self.setup.poll_overlap)))
            }
        };
        self.memo.lead_reading = Some(None);
        seen.map(|at| mark.unwrap_or_default().advanced_to(at))
    }

    /// Linked leads that a poll by the referral id column would not show. Those that nobody has to watch any more are
    /// forgotten.
    pub(super) fn unnamed(&mut self) -> Result<Vec<LeadId>, CycleError> {
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
    pub(super) async fn poll_opportunities(
        &mut self,
        first: Option<Page<Opportunity>>,
    ) -> Result<Poll<Opportunity>, CycleError> {
        let since = self.poll_since(self.memo.opportunities_seen);
        // They are news again as long as they are young: cut, a poll might never get past them.
        let poll = self.read_poll(since, &[], first, usize::MAX).await?;
        self.opportunities_high = match poll.cut {
            None if !poll.is_whole => None,
            None => self.after_poll(self.memo.opportunities_seen, poll.server_time, poll.newest),
            Some(cut) => self.read_by_id_instead::<Opportunity>(cut, self.memo.opportunities_seen),
        };
        Ok(poll)
    }

    /// Where a watermark goes after a poll, by the configured overlap.
    pub(super) fn after_poll(
        &self,
        mark: Option<Watermark>,
        server_time: Option<Timestamp>,
        newest: Option<Timestamp>,
    ) -> Option<Watermark> {
        mark_after(mark, server_time, newest, self.began, self.setup.poll_overlap)
    }

    pub(super) fn poll_since(&self, mark: Option<Watermark>) -> Timestamp {
        mark.map_or(self.began, |mark| mark.0).minus(self.setup.poll_overlap)
    }
}

/// Where a watermark goes after a poll that showed `newest` as the latest change.
///
/// What is older than the overlap has been seen, so a quiet night after a busy evening does not read the last minutes
/// of that evening again and again. But the latest change itself stays within the next poll: on a quiet day it is the
/// one row that shows that we still see rows. No row at all proves nothing: a user who has lost a role is shown
/// none, and no refusal either. The watermark stays then, and what changed meanwhile is read when the role is back.
///
/// A stamp of the future, as an import into the CRM may leave it, counts as now: it would hide what changes before it.
///
/// The first one begins at the latest that was shown, or at the time of the server. Where neither was told it begins where the
/// poll began: without a mark nothing that cannot be taken back would ever be sent.
fn mark_after(
    mark: Option<Watermark>,
    server_time: Option<Timestamp>,
    newest: Option<Timestamp>,
    began: Timestamp,
    overlap: Duration,
) -> Option<Watermark> {
    let newest = newest.map(|newest| server_time.map_or(newest, |now| newest.min(now)));
    let Some(mark) = mark else { return newest.max(server_time).or(Some(began.minus(overlap))).map(Watermark) };
    let Some(newest) = newest else { return Some(mark) };
    let seen = server_time.map_or(newest, |at| at.minus(overlap).min(newest.plus(overlap)));
    Some(mark.advanced_to(newest).advanced_to(seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_never_passes_the_time_of_the_server() {
        let at = |second: i64| Timestamp::from_seconds(1_000_000 + second);
        let after = |mark: Option<i64>, now: i64, newest: Option<i64>| {
            let mark = mark.map(|second| Watermark(at(second)));
            mark_after(mark, Some(at(now)), newest.map(at), at(7), Duration::from_secs(60)).map(|mark| mark.0)
        };
        assert_eq!(after(Some(0), 100, Some(90)), Some(at(90)));
        assert_eq!(after(Some(0), 1000, Some(90)), Some(at(150)), "the latest change stays within the next poll");
        assert_eq!(after(Some(0), 100, None), Some(at(0)), "no row proves nothing");
        assert_eq!(after(Some(0), 100, Some(4_000_000)), Some(at(100)));
        assert_eq!(after(None, 100, Some(4_000_000)), Some(at(100)));
    }

    #[test]
    fn a_first_poll_that_shows_no_row_and_no_time_leaves_a_watermark_all_the_same() {
        let (began, overlap) = (Timestamp::from_seconds(1_000_000), Duration::from_secs(300));
        let after = |mark: Option<Watermark>| mark_after(mark, None, None, began, overlap);
        let first = Some(Watermark(began.minus(overlap)));
        assert_eq!(after(None), first);
        assert_eq!(after(first), first);
    }
}
