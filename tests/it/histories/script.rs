//! What a seed decides before a history begins.

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use referrald::config::{HumanDuration, Settings};
use referrald::crm::dataverse::settings::Identity;
use referrald::plan::settings::{OnLeadDeleted, OnReferralClosed, Writes};
use referrald::sim::faults::{CLASSES, Class};
use referrald::sim::world::{ClosedLeads, Options, Paging};

const COLUMN: &str = "new_referralid";

/// Everything a seed decides.
#[derive(Debug)]
pub struct Script {
    pub seed: u64,
    /// Referrals there are at the beginning.
    pub referrals: usize,
    /// Rounds of people's edits, each followed by a cycle.
    pub rounds: usize,
    /// Trouble, and its odds per request.
    pub faults: Vec<Class>,
    pub odds: f64,
    /// Rounds after which the process ends, and how.
    pub restarts: Vec<(usize, Ending)>,
    pub is_keyed: bool,
    pub has_column: bool,
    pub is_sled: bool,
    pub has_tight_brakes: bool,
    pub may_recreate: bool,
    pub disqualifies: bool,
    pub takes_writes_to_closed_leads: bool,
    pub answers_writes: bool,
    pub paging: Paging,
    /// The flow this product replaces still makes leads now and then.
    pub has_old_flow: bool,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Stop,
    /// Between two cycles.
    Kill,
    /// In the middle of a cycle, after so many steps.
    Crash(u32),
    /// In the middle of a cycle, and the ledger is gone.
    Loss(u32),
}

impl Script {
    pub fn new(seed: u64) -> Script {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let rounds = 34;
        let classes = rng.random_range(4..=9);
        // Rare ones besides, so that each is met.
        let faults = CLASSES.sample(&mut rng, classes).copied().collect();
        let mut restarts = Vec::new();
        if seed.is_multiple_of(2) {
            restarts.push((rng.random_range(10..rounds - 4), Ending::Loss(rng.random_range(1..60))));
        }
        for _ in 0..rng.random_range(1..=2) {
            let ending = match rng.random_range(0..4) {
                0 => Ending::Stop,
                1 => Ending::Kill,
                _ => Ending::Crash(rng.random_range(1..60)),
            };
            restarts.push((rng.random_range(4..rounds), ending));
        }
        let is_keyed = seed % 4 == 1;
        Script {
            seed,
            referrals: rng.random_range(20..=26),
            rounds,
            faults,
            odds: [0.01, 0.03, 0.08][rng.random_range(0..3)],
            restarts,
            is_keyed,
            has_column: is_keyed || seed % 4 == 2,
            is_sled: seed % 64 == 7,
            has_tight_brakes: seed.is_multiple_of(5),
            may_recreate: seed % 7 == 3,
            disqualifies: seed % 11 == 5,
            takes_writes_to_closed_leads: rng.random_bool(0.3),
            answers_writes: rng.random_bool(0.8),
            paging: [Paging::Snapshot, Paging::Offset, Paging::Key][rng.random_range(0..3)],
            has_old_flow: seed % 3 == 1,
        }
    }

    /// How the world behaves.
    pub fn options(&self) -> Options {
        let mut options = Options::default();
        options.portal.page_size = 9;
        options.portal.paging = self.paging;
        options.portal.honours_prefer = self.answers_writes;
        if !self.has_column {
            options.crm.referral_column = None;
        }
        if self.takes_writes_to_closed_leads {
            options.crm.closed_leads = ClosedLeads::Accept;
        }
        options
    }

    /// How the daemon is configured.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::defaults();
        settings.writes = Writes::Both;
        settings.referral_id_column = self.has_column.then(|| COLUMN.to_owned());
        if self.is_keyed {
            settings.identity = Identity::AlternateKey;
        }
        if self.has_tight_brakes {
            settings.brakes.closings_per_hour = 1;
            settings.brakes.acceptances_per_hour = 2;
        }
        if self.may_recreate {
            settings.link.on_lead_deleted = OnLeadDeleted::Recreate;
        }
        if self.disqualifies {
            settings.status.on_referral_closed = OnReferralClosed::Disqualify;
        }
        settings.status.settle_time_lost = HumanDuration::parse("2h").unwrap();
        settings.status.won_hold = HumanDuration::parse("3h").unwrap();
        settings
    }
}
