//! Whose services these are, and whether our clock agrees with theirs: reasons to write nothing at all.

use std::collections::BTreeMap;

use super::{CLOCK_BRAKE, ORGANIZATION_BRAKE, Pass};
use crate::model::{Referral, Side, Timestamp};
use crate::ports::LatchedBrake;

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
                self.latch(ORGANIZATION_BRAKE, stopping(self.began, Side::Crm, reason));
            }
            Some(_) | None => {
                self.memo.crm_organization = Some(identity.organization);
                self.memo.crm_user = Some(identity.user);
                self.setup.policy.crm_user = Some(identity.user);
                self.recognised(Side::Crm);
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
                self.recognised(Side::Portal);
            }
            Some(known) => {
                let reason = format!(
                    "all listed referrals belong to the partner organization {most}, but this ledger belongs to {known}: nothing is written; if the move is meant, `referrald approve organization` accepts it"
                );
                self.latch(ORGANIZATION_BRAKE, stopping(self.began, Side::Portal, reason));
            }
        }
    }

    /// A side shows the organization that the ledger belongs to: what its answers had latched is over.
    fn recognised(&mut self, side: Side) {
        if self
            .decisions
            .brakes
            .get(ORGANIZATION_BRAKE)
            .is_some_and(|brake| brake.side.is_none_or(|latched| latched == side))
        {
            self.unlatch(ORGANIZATION_BRAKE);
        }
    }

    /// Compares our clock with a service's: settle times and windows depend on it.
    pub(super) fn check_clock(&mut self, side: Side, server_time: Option<Timestamp>) {
        let Some(server) = server_time else { return };
        let local = self.ports.clock.now();
        let skew = local.since(server).max(server.since(local));
        if skew > self.setup.settings.clock_skew_max.get() {
            let reason = format!(
                "our clock ({local}) and that of {side} ({server}) are {} seconds apart: nothing is written until they agree; check the time service of this host (cycle.clock_skew_max)",
                skew.as_secs()
            );
            self.is_skewed = true;
            self.latch(CLOCK_BRAKE, stopping(self.began, side, reason));
        }
    }
}

pub(super) fn stopping(since: Timestamp, side: Side, reason: String) -> LatchedBrake {
    LatchedBrake { since, count: 0, limit: 0, digest: String::new(), reason, side: Some(side) }
}
