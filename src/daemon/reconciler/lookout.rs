//! While the ledger cannot be used: both services are read on, so that trouble there is seen and it is told how much waits.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::super::status::Status;
use super::{Reconciler, budgets};
use crate::model::{RemoteError, Side, Timestamp};
use crate::ports::{Memo, Scan};

/// What a look at both services showed that nothing could be remembered of.
#[derive(Clone, Debug)]
pub(super) struct Lookout {
    at: Timestamp,
    /// What changed in Partner Center; `None` when it did not tell.
    changed: Option<Changed>,
    /// Trouble of a side, in a sentence, and whether only a person can mend it.
    troubles: BTreeMap<Side, (String, bool)>,
}

/// Referrals on the newest page that changed since the watermark.
#[derive(Clone, Copy, Debug)]
struct Changed {
    since: Option<Timestamp>,
    referrals: usize,
    /// There may be more of them than one page lists.
    has_more: bool,
}

impl Reconciler {
    /// Remembers what the ledger knew last: where a look begins, and what may still be spent today.
    pub(super) fn ledger_answers(&self, memo: &Memo) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(memo.clone());
        *self.lookout.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads both services once, as a pass does when nothing is new, within the budget of the day and outside closed windows.
    /// Nothing is written and nothing is remembered: what is seen is read again once the ledger can be written.
    pub(super) async fn look_out(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(memo) = known else { return };
        self.meter.allow(&self.ports, &memo, budgets(&self.settings()));
        let at = self.ports.clock.now();
        let mut lookout = Lookout { at, changed: None, troubles: BTreeMap::new() };
        match self.changed_referrals(&memo).await {
            Ok(changed) => lookout.changed = changed,
            Err(error) => lookout.note(&error),
        }
        if let Err(error) = self.read_crm(&memo).await {
            lookout.note(&error);
        }
        *self.lookout.lock().unwrap_or_else(PoisonError::into_inner) = Some(lookout);
    }

    async fn changed_referrals(&self, memo: &Memo) -> Result<Option<Changed>, RemoteError> {
        if self.is_closed(Side::Portal) {
            return Ok(None);
        }
        let page = self.ports.portal.page(&Scan::Recent, None).await?;
        let since = memo.referrals_seen.map(|mark| mark.0);
        let referrals = page.items.iter().filter(|referral| referral.updated > since).count();
        let has_more = referrals == page.items.len() && page.next.is_some();
        Ok(Some(Changed { since, referrals, has_more }))
    }

    async fn read_crm(&self, memo: &Memo) -> Result<(), RemoteError> {
        if self.is_closed(Side::Crm) {
            return Ok(());
        }
        let overlap = self.settings().dataverse.poll_overlap.get();
        let since = memo.leads_seen.map_or(self.ports.clock.now(), |mark| mark.0).minus(overlap);
        match self.ports.crm.both_changed_since(since, &[], since).await.transpose()? {
            Some(_) => Ok(()),
            None => self.ports.crm.leads_changed_since(since, &[], None).await.map(drop),
        }
    }

    fn is_closed(&self, side: Side) -> bool {
        self.ports.line(side).closed_until().is_some_and(|until| until > self.ports.clock.now())
    }

    /// Adds what the last look showed to a status that is otherwise from before.
    pub(super) fn tell_lookout(&self, status: &mut Status) {
        let lookout = self.lookout.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lookout) = lookout.as_ref() else { return };
        if let (Some(trouble), Some(words)) = (&mut status.ledger_trouble, lookout.words()) {
            *trouble = format!("{trouble}; {words}");
        }
        for side in [Side::Portal, Side::Crm] {
            let standing = status.sides.entry(side).or_default();
            let trouble = lookout.troubles.get(&side);
            standing.trouble = trouble.map(|(words, _)| words.clone());
            standing.needs_human = trouble.is_some_and(|(_, needs_human)| *needs_human);
            standing.closed_until = self.ports.line(side).closed_until();
        }
    }
}

impl Lookout {
    fn note(&mut self, error: &RemoteError) {
        tracing::warn!(operation = error.operation, request_id = error.request_id.as_deref(), "{error}");
        self.troubles.insert(error.side, (error.to_string(), error.needs_human()));
    }

    fn words(&self) -> Option<String> {
        let Changed { since, referrals, has_more } = self.changed?;
        let at_least = if has_more { "at least " } else { "" };
        let noun = if referrals == 1 { "referral" } else { "referrals" };
        let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
        Some(format!("Partner Center was read at {}: {at_least}{referrals} {noun} changed{since}", self.at))
    }
}
