//! Decisions of operators: each is carried out durably, and answered in a sentence.

use super::Reconciler;
use crate::cycle::{self, CycleError};
use crate::daemon::{DecisionAnswer, Which};
use crate::model::{Entry, ReferralId, Standing};
use crate::plan::mapping::Mapping;
use crate::plan::settings::WriteWhen;
use crate::ports::{Backfill, Batch, Decisions, Groups, LeadSchema};

/// Entries read at once when a set is looked for.
const SCAN_STEP: usize = 500;

impl Reconciler {
    /// Changes entries that fit; returns how many, and the named ones that are not known.
    pub(super) async fn change(
        &self,
        which: &Which,
        mut change: impl FnMut(ReferralId, &mut Entry) -> bool + Send,
    ) -> Result<(u64, Vec<ReferralId>), CycleError> {
        let _ground = self.ground.lock().await; // Not while a pass holds rows.
        let mut entries = Vec::new();
        let mut unknown = Vec::new();
        match which {
            Which::Ids(ids) => {
                for id in ids {
                    match self.ports.store.get(*id)? {
                        Some(mut entry) => {
                            if change(*id, &mut entry) {
                                entries.push((*id, Some(entry)));
                            }
                        }
                        None => unknown.push(*id),
                    }
                }
            }
            Which::Cause(_) | Which::All => {
                let mut after = None;
                loop {
                    let page = self.ports.store.scan(after, SCAN_STEP)?;
                    let Some((last, _)) = page.last() else { break };
                    after = Some(*last);
                    for (id, mut entry) in page {
                        if change(id, &mut entry) {
                            entries.push((id, Some(entry)));
                        }
                    }
                }
            }
        }
        let changed = entries.len() as u64;
        for part in entries.chunks(SCAN_STEP) {
            self.ports.store.record(Batch { entries: part.to_vec(), ..Batch::default() }).await?;
        }
        Ok((changed, unknown))
    }

    pub(super) async fn retry(&self, which: Which) -> Result<DecisionAnswer, CycleError> {
        let now = self.ports.clock.now();
        let cause = match &which {
            Which::Cause(text) => Some(text.to_lowercase()),
            Which::Ids(_) | Which::All => None,
        };
        let (changed, unknown) = self
            .change(&which, |_, entry| {
                let Some(trouble) = &entry.trouble else { return false };
                let fits = cause.as_ref().is_none_or(|text| trouble.cause.to_string().to_lowercase().contains(text));
                if fits {
                    entry.trouble = None;
                    entry.look_at = Some(now);
                }
                fits
            })
            .await?;
        let text = match changed {
            0 => "no referral that failed fits; `referrald status` lists dead letters by cause".to_owned(),
            _ => format!("{} tried again by the next cycle", referrals(changed)),
        };
        Ok(DecisionAnswer { is_done: changed > 0, changed, text, unknown })
    }

    pub(super) async fn release(
        &self,
        which: Which,
        group: Option<String>,
        take: Option<crate::model::Take>,
    ) -> Result<DecisionAnswer, CycleError> {
        let now = self.ports.clock.now();
        let wanted = match &group {
            None => None,
            Some(name) => {
                let key = self.ports.store.fingerprint_key();
                let (mapping, _) = Mapping::compile(&self.settings().mapping, &LeadSchema::default(), key);
                let Some(known) = mapping.groups().iter().find(|known| known.name == *name) else {
                    let names: Vec<&str> = mapping.groups().iter().map(|known| known.name.as_str()).collect();
                    let text = format!("there is no mapping group {name:?}; there are {}", names.join(", "));
                    return Ok(DecisionAnswer { text, ..DecisionAnswer::default() });
                };
                Some(known.key)
            }
        };
        let both_changed = crate::plan::Hold::BothMoved { group: String::new(), owner: "" }.bit();
        let nobody = crate::model::LeadId::new(uuid::Uuid::nil());
        let id_taken = crate::plan::Hold::ReferralIdTaken { lead: nobody }.bit();
        let no_owner = crate::plan::Hold::NoOwner.bit();
        let freeing = which.clone();
        let is_whole = group.is_none() && take.is_none();
        let lift = move |decisions: &mut Decisions| {
            decisions.held.retain(|id| match &freeing {
                Which::Ids(ids) => !ids.contains(id),
                Which::Cause(_) | Which::All => !is_whole,
            });
        };
        let (before, after) = self.ports.store.decide(Box::new(lift)).await?;
        let freed: std::collections::BTreeSet<ReferralId> = before.held.difference(&after.held).copied().collect();
        let lifted = freed.len() as u64;
        let (changed, unknown) = self
            .change(&which, |id, entry| {
                let mut is_changed = group.is_none() && entry.standing == Standing::LeadTaken;
                if is_changed {
                    entry.standing = Standing::Pending; // It searches its lead again.
                }
                let is_id_taken = group.is_none() && entry.holds & id_taken != 0;
                if is_id_taken {
                    entry.holds &= !id_taken; // It is tried once more.
                    is_changed = true;
                }
                if group.is_none() && entry.holds & no_owner != 0 {
                    entry.holds &= !no_owner;
                    is_changed = true;
                }
                // A seller's edit that the owner rule keeps is no hold, and nobody's release touches it.
                let is_held = entry.holds & both_changed != 0 || matches!(which, Which::Ids(_));
                if freed.contains(&id) || is_id_taken {
                    // What was seen while it was held was not weighed: both sides are read again.
                    entry.forget_versions();
                    is_changed = true;
                }
                for memory in entry.groups.iter_mut().filter(|memory| wanted.is_none_or(|key| key == memory.group)) {
                    let is_disputed = matches!(memory.base, crate::model::Base::Apart { is_disputed: true, .. });
                    let both_moved = memory.lead_moved.is_some() && memory.referral_moved.is_some();
                    let is_flapping = memory.flips.as_ref().is_some_and(|flips| flips.is_held);
                    let waits = is_disputed || (both_moved && is_held) || is_flapping;
                    if take.is_some() && waits {
                        memory.released = take;
                        is_changed = true;
                    }
                    if is_flapping {
                        memory.flips = None; // Counted anew.
                        is_changed = true;
                    }
                }
                let is_named = matches!(which, Which::Ids(_));
                if is_changed || is_named {
                    entry.look_at = Some(now);
                }
                is_changed || is_named
            })
            .await?;
        let text = match (changed + lifted, take) {
            (0, _) => "nothing is held that this could release; `referrald status` lists holds".to_owned(),
            (_, Some(_)) => format!("{} decided by the next cycle", referrals(changed)),
            (_, None) => format!("{} looked at again by the next cycle", referrals(changed.max(lifted))),
        };
        Ok(DecisionAnswer { is_done: changed + lifted > 0, changed: changed.max(lifted), text, unknown })
    }

    /// Has leads rewritten after a change of mapping, from the next cycle on.
    pub(super) async fn backfill(&self, group: Option<String>) -> Result<DecisionAnswer, CycleError> {
        let refuse = |text: String| Ok(DecisionAnswer { text, ..DecisionAnswer::default() });
        let settings = self.settings();
        let (mapping, _) =
            Mapping::compile(&settings.mapping, &LeadSchema::default(), self.ports.store.fingerprint_key());
        let groups = match &group {
            None => Groups::All,
            Some(name) => match mapping.groups().iter().find(|known| known.name == *name) {
                Some(known) if known.write == WriteWhen::Create => {
                    return refuse(format!(
                        "the group {name} is written on create only (mapping.groups.{name}.write); with \"always\" it could be rewritten"
                    ));
                }
                Some(known) => Groups::One(known.key),
                None => {
                    let names: Vec<&str> = mapping.groups().iter().map(|known| known.name.as_str()).collect();
                    return refuse(format!("there is no mapping group {name:?}; there are {}", names.join(", ")));
                }
            },
        };
        let job = Backfill {
            asked: self.ports.clock.now(),
            groups,
            group,
            is_begun: false,
            rounds: 0,
            written: 0,
            left: 0,
            is_approved: false,
            finished: None,
        };
        let ours = job.asked;
        let ask = move |decisions: &mut Decisions| {
            if decisions.backfill.as_ref().is_none_or(|before| before.finished.is_some()) {
                decisions.backfill = Some(job);
            }
        };
        let (_, after) = self.ports.store.decide(Box::new(ask)).await?;
        if after.backfill.is_none_or(|job| job.asked != ours) {
            return refuse("a backfill is under way; `referrald backfill --stop` ends it".to_owned());
        }
        let text = match settings.brakes.backfill_sample {
            0 => "the next cycle begins to rewrite what only the mapping made different".to_owned(),
            sample => format!(
                "the next cycle begins to rewrite what only the mapping made different; after {sample} leads it waits for a look (brakes.backfill_sample)"
            ),
        };
        Ok(DecisionAnswer { is_done: true, changed: 0, text, unknown: Vec::new() })
    }

    pub(super) async fn stop_backfill(&self) -> Result<DecisionAnswer, CycleError> {
        let now = self.ports.clock.now();
        let stop = move |decisions: &mut Decisions| {
            if let Some(job) = decisions.backfill.as_mut().filter(|job| job.finished.is_none()) {
                job.finished = Some(now);
            }
        };
        let (before, after) = self.ports.store.decide(Box::new(stop)).await?;
        let is_done = before.backfill != after.backfill;
        let written = after.backfill.map_or(0, |job| job.written);
        let text = match is_done {
            true => format!("the backfill is over; {written} leads were rewritten"),
            false => "no backfill is under way".to_owned(),
        };
        Ok(DecisionAnswer { is_done, changed: if is_done { written } else { 0 }, text, unknown: Vec::new() })
    }

    pub(super) async fn approve(&self, digest: String) -> Result<DecisionAnswer, CycleError> {
        if digest == "organization" {
            return self.approve_organization().await;
        }
        let named = digest.clone();
        let approve = move |decisions: &mut Decisions| {
            if !named.is_empty() && decisions.brakes.values().any(|brake| brake.digest == named) {
                decisions.approved.insert(named);
            }
        };
        let (_, after) = self.ports.store.decide(Box::new(approve)).await?;
        let held = after.brakes.iter().find(|(_, brake)| brake.digest == digest && !digest.is_empty());
        let Some((name, brake)) = held else {
            let text = format!("no brake holds a set named {digest}; `referrald status` prints the names of today");
            return Ok(DecisionAnswer { text, ..DecisionAnswer::default() });
        };
        let (name, count) = (name.clone(), brake.count);
        let text =
            format!("approved: exactly the {count} that the brake {name} holds back are sent from the next cycle on");
        Ok(DecisionAnswer { is_done: true, changed: count, text, unknown: Vec::new() })
    }

    /// Accepts a move to another organization; every id is kept.
    pub(super) async fn approve_organization(&self) -> Result<DecisionAnswer, CycleError> {
        let mut ground = self.ground.lock().await;
        if !self.ports.store.decisions()?.brakes.contains_key(cycle::ORGANIZATION_BRAKE) {
            let text = "no change of organization is waiting for an approval".to_owned();
            return Ok(DecisionAnswer { text, ..DecisionAnswer::default() });
        }
        let mut memo = self.ports.store.memo()?;
        memo.crm_organization = None;
        memo.partner_organization = None;
        memo.is_sweep_due = true;
        memo.lead_reading = Some(None);
        memo.tracking = None; // A link belongs to its organization.
        self.ports.store.record(Batch { memo: Some(memo), ..Batch::default() }).await?;
        self.ports.store.decide(Box::new(|decisions| drop(decisions.brakes.remove(cycle::ORGANIZATION_BRAKE)))).await?;
        ground.identity_at = None;
        let text = "approved: the organizations found next become the ledger's, and everything is read once".to_owned();
        Ok(DecisionAnswer { is_done: true, changed: 1, text, unknown: Vec::new() })
    }

    pub(super) async fn suspend(&self, is_suspended: bool) -> Result<DecisionAnswer, CycleError> {
        let suspend = move |decisions: &mut Decisions| decisions.is_suspended = is_suspended;
        let (before, after) = self.ports.store.decide(Box::new(suspend)).await?;
        let is_changed = before.is_suspended != after.is_suspended;
        let text = match (is_suspended, is_changed) {
            (true, true) => "writing is suspended; reading goes on, `referrald resume` goes on writing",
            (true, false) => "writing was suspended already",
            (false, true) => "writing goes on with the next cycle",
            (false, false) => "writing was not suspended",
        };
        Ok(DecisionAnswer { is_done: true, changed: u64::from(is_changed), text: text.to_owned(), unknown: Vec::new() })
    }

    pub(super) async fn hold(&self, ids: Vec<ReferralId>) -> Result<DecisionAnswer, CycleError> {
        let added = ids.clone();
        let release = match ids.as_slice() {
            [only] => format!("referrald release {only}"),
            _ => "referrald release ID".to_owned(),
        };
        let (before, after) = self.ports.store.decide(Box::new(move |decisions| decisions.held.extend(added))).await?;
        let changed = (after.held.len() - before.held.len()) as u64;
        let mut unknown = Vec::new();
        for id in ids {
            if self.ports.store.get(id)?.is_none() {
                unknown.push(id);
            }
        }
        let mut text = format!("{} left alone until `{release}`", referrals(changed));
        if !unknown.is_empty() {
            text += "; what the ledger does not know is left alone as soon as it comes";
        }
        Ok(DecisionAnswer { is_done: true, changed, text, unknown })
    }

    /// Removes everything about referrals; a tombstone keeps each from being imported again.
    pub(super) async fn forget(&self, ids: Vec<ReferralId>) -> Result<DecisionAnswer, CycleError> {
        let _ground = self.ground.lock().await; // Not while a pass holds rows.
        let store = &self.ports.store;
        let key = store.fingerprint_key();
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for id in ids {
            let is_known =
                store.get(id)?.is_some() || store.recall(id, None).await?.is_some() || !store.history(id)?.is_empty();
            if is_known { known.push(id) } else { unknown.push(id) }
        }
        // The tombstones first: whatever happens next, none of them comes back.
        let named = known.clone();
        let bury = move |decisions: &mut Decisions| {
            decisions.forgotten.extend(named.iter().map(|id| Decisions::tombstone(&key, *id)));
            decisions.held.retain(|id| !named.contains(id));
            let is_named = |line: &String| named.iter().any(|id| line.contains(&id.to_string()));
            decisions.let_go.values_mut().for_each(|lines| lines.retain(|line| !is_named(line)));
        };
        store.decide(Box::new(bury)).await?;
        for id in &known {
            store.forget(*id).await?;
        }
        let changed = known.len() as u64;
        let mut text = match changed {
            0 => "none of them is known, so there is nothing to forget".to_owned(),
            _ => format!(
                "{changed} forgotten: entry, history and exports are gone, it is not imported again; leads and referrals \
                 stay as they are"
            ),
        };
        let aside = aside(&self.settings().state.directory);
        if changed > 0 && aside > 0 {
            text.push_str(&format!("; {aside} ledgers that were moved aside may still name it: delete them"));
        }
        Ok(DecisionAnswer { is_done: changed > 0, changed, text, unknown })
    }
}

/// `1 referral is`, `3 referrals are`.
fn referrals(count: u64) -> String {
    match count {
        1 => "1 referral is".to_owned(),
        _ => format!("{count} referrals are"),
    }
}

/// How many ledgers that were moved aside lie in a state directory.
fn aside(directory: &std::path::Path) -> usize {
    let Ok(items) = std::fs::read_dir(directory) else { return 0 };
    let is_aside = |name: &str| ["ledger.damaged-", "ledger.aside-"].iter().any(|start| name.starts_with(start));
    items.flatten().filter(|item| is_aside(&item.file_name().to_string_lossy())).count()
}
