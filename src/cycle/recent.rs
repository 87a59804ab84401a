//! What changed on the referrals side since the last pass: the incremental scan, newest first.

use std::collections::BTreeSet;

use super::{CycleError, Pass, VISIBILITY_BRAKE};
use crate::model::{Fault, Referral, ReferralId, Side, Timestamp, Watermark};
use crate::plan::brakes;
use crate::ports::{Cursor, Page, Scan};

/// Pages of an incremental scan; a longer one becomes a sweep, which goes on where it was interrupted.
pub(super) const INCREMENTAL_PAGES_MAX: u32 = 10;

/// Stamps further apart than this in the wrong order make a listing unordered.
const ORDER_TOLERANCE: std::time::Duration = std::time::Duration::from_secs(2);

impl Pass<'_> {
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
        if self.setup.use_updated_filter {
            self.learn_organization().await?; // A filtered page is of nobody's organization.
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
            if !scan.is_filtered && newest.iter().any(|id| scan.met.contains(id)) {
                self.consume(&brakes::digest_unlisted(&newest)); // A later loss is another one.
            }
        }
        let is_whole = scan.is_finished && !scan.is_unordered;
        if scan.is_unordered || scan.is_too_long || scan.is_broken {
            self.ask_for_sweep_after(&scan);
        }
        if self.is_catching_up() {
            self.peek().await?; // What changed first is listed last, and a New referral does not wait.
        }
        let rows = self.join(scan.rows)?;
        self.process(rows).await?;
        if is_whole && self.may_write() && !self.is_incomplete {
            let quiet = scan.server_time.map(|at| at.minus(self.setup.settings.overlap.get()));
            // A stamp of the future would hide everything that changes before it.
            let high = scan.server_time.map_or(scan.high.0, |at| scan.high.0.min(at));
            self.memo.referrals_seen = Some(mark.advanced_to(high).advanced_to(quiet.unwrap_or_default()));
        }
        Ok(())
    }

    /// Both sides were last observed so long ago that much may have happened.
    pub(super) fn is_catching_up(&self) -> bool {
        self.memo.last_success.is_some_and(|at| self.began.since(at) > self.setup.sweep_after_pause)
    }

    /// Reads the pages of the incremental scan into `scan`.
    pub(super) async fn read_recent(&mut self, scan: &mut Recent) -> Result<(), CycleError> {
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
                Err(error) if cursor.is_some() && !error.stops_side() => {
                    // Only the way on is broken (partner-center §1.4): what is behind it is read by a sweep.
                    tracing::warn!(request_id = error.request_id.as_deref(), "{error}");
                    self.scan_trouble.get_or_insert(error);
                    scan.is_broken = true;
                    return Ok(());
                }
                Err(error) => {
                    self.note(&error);
                    return Ok(());
                }
            };
            if scan.pages == 0 {
                self.check_clock(Side::Portal, page.server_time);
                scan.server_time = page.server_time;
                // An empty page that names a next one shows nothing yet, and says nothing (partner-center §1.4).
                let is_empty = page.items.is_empty() && page.defects.is_empty() && page.next.is_none();
                scan.is_first_page_empty = is_empty && !scan.is_filtered;
                if !scan.is_filtered {
                    self.stamp_portal(&page.items);
                }
            }
            scan.pages += 1;
            self.count_referrals(&page.items);
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

    pub(super) fn ask_for_sweep_after(&mut self, scan: &Recent) {
        let interval = self.setup.settings.unordered_sweep_interval.get();
        let is_recent = self.memo.unordered_sweep.is_some_and(|at| self.began.since(at) < interval);
        if self.memo.is_sweep_due || self.memo.sweep.is_some() || (scan.is_unordered && is_recent) {
            return;
        }
        if scan.is_unordered {
            tracing::warn!("the referrals were not listed in the order asked for: everything is read once instead");
            self.memo.unordered_sweep = Some(self.began);
        } else if scan.is_broken {
            tracing::warn!(pages = scan.pages, "the list of changes cannot be read further: a sweep reads everything");
        } else {
            tracing::info!(pages = scan.pages, "many referrals changed: a sweep in the background reads them all");
        }
        self.memo.is_sweep_due = true;
    }
}

/// The incremental scan while it is read.
#[derive(Default)]
pub(super) struct Recent {
    floor: Timestamp,
    high: Watermark,
    met: BTreeSet<ReferralId>,
    rows: Vec<Referral>,
    pages: u32,
    is_finished: bool,
    is_filtered: bool,
    is_unordered: bool,
    is_too_long: bool,
    is_broken: bool,
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
