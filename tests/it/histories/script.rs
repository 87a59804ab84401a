//! What a seed decides before a history begins.

use std::ops::Range;
use std::sync::LazyLock;

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use referrald::config::{HumanDuration, Settings};
use referrald::crm::dataverse::settings::{Identity, Observe};
use referrald::plan::settings::{FieldOwner, OnLeadDeleted, OnReferralClosed, Writes};
use referrald::sim::faults::{CLASSES, Class};
use referrald::sim::world::{ClosedLeads, Options, Paging};

use super::planted::Plant;

/// Rounds of edits, each followed by a cycle.
pub const ROUNDS: usize = 28;

/// The custom column with the referral id.
pub const COLUMN: &str = "new_referralid";

/// Everything a seed decides.
#[derive(Clone, Debug)]
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
    /// Changed leads are heard of by change tracking.
    pub tracks_changes: bool,
    pub is_sled: bool,
    pub has_tight_brakes: bool,
    /// A pass has room for a few rows at once.
    pub has_small_window: bool,
    pub may_recreate: bool,
    pub disqualifies: bool,
    pub takes_writes_to_closed_leads: bool,
    pub answers_writes: bool,
    pub paging: Paging,
    /// The flow this product replaces still makes leads now and then.
    pub has_old_flow: bool,
    /// Rounds in which the ledger's disk is full, from which write of the cycle on, and for how many.
    pub full_disks: Vec<(usize, u32, u32)>,
    /// Rounds before which the program is started with another configuration.
    pub changes: Vec<(usize, Change)>,
    /// Overnight, before this round, an administrator changes the lead table.
    pub schema_change: Option<(usize, SchemaChange)>,
    /// Nobody looks after the program: an operator does nothing but approve irreversible writes.
    pub is_unattended: bool,
    /// What happens is written down: for replays, and where somebody listens.
    pub is_told: bool,
    /// Edits that are left out: only when a failing history is made smaller.
    pub muted: Vec<Range<u64>>,
    /// A defect between the program and the world, to see whether it is found.
    pub plant: Option<Plant>,
}

/// A change of the configuration; it takes a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `writes` was "leads-only" from the beginning and becomes "both".
    WritesBoth,
    /// Only customers in two countries are linked.
    Filter,
    /// And no filter any more.
    NoFilter,
    /// The lead owns the closing date.
    DateOwnedByLead,
}

/// What an administrator does to the lead table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaChange {
    /// The option that says "Partner" goes.
    OptionRemoved,
    /// An optional column goes.
    ColumnRemoved,
    /// The company's name becomes shorter.
    TextShortened,
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
    /// In the middle of a cycle, and what was written since some rounds ago is gone.
    Torn(u32),
    /// Between two cycles, and one bit of the ledger is another one: it is moved aside, and nothing of it is left. What such
    /// bits do to real files is tried in `memory`: where they lie there is another place each time.
    Flip,
}

/// A cycle is killed before it has gone this many steps; few take more. A step ends wherever the cycle waits: before and after
/// each request that writes, each write to the ledger, and before each read.
const STEPS_MAX: u32 = 120;

impl Script {
    pub fn new(seed: u64) -> Script {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let rounds = ROUNDS;
        let classes = rng.random_range(4..=9);
        // Rare ones besides, so that each is met.
        let common: Vec<Class> = CLASSES.into_iter().filter(|class| *class != Class::DeltaExpired).collect();
        let mut faults: Vec<Class> = common.sample(&mut rng, classes).copied().collect();
        let tracks_changes = seed % 5 == 3;
        if tracks_changes && seed.is_multiple_of(2) {
            faults.push(Class::DeltaExpired);
        }
        let mut restarts = Vec::new();
        if seed.is_multiple_of(2) {
            let ending = match seed % 12 {
                2 => Ending::Torn(rng.random_range(1..STEPS_MAX)),
                8 => Ending::Flip,
                _ => Ending::Loss(rng.random_range(1..STEPS_MAX)),
            };
            restarts.push((rng.random_range(10..rounds - 4), ending));
        }
        for _ in 0..rng.random_range(1..=2) {
            let ending = match rng.random_range(0..4) {
                0 => Ending::Stop,
                1 => Ending::Kill,
                _ => Ending::Crash(rng.random_range(1..STEPS_MAX)),
            };
            restarts.push((rng.random_range(4..rounds), ending));
        }
        let full_disks = match seed % 3 {
            0 => vec![(rng.random_range(2..rounds), rng.random_range(0..12), rng.random_range(1..8))],
            _ => Vec::new(),
        };
        let mut changes = Vec::new();
        if seed % 6 == 5 {
            changes.push((rng.random_range(3..rounds - 8), Change::WritesBoth));
        }
        if seed % 9 == 4 {
            let from = rng.random_range(2..rounds - 10);
            changes.extend([(from, Change::Filter), (rng.random_range(from + 2..rounds), Change::NoFilter)]);
        }
        if seed % 10 == 7 {
            changes.push((rng.random_range(3..rounds - 3), Change::DateOwnedByLead));
        }
        let schema_change = (seed % 8 == 6).then(|| {
            let kinds = [SchemaChange::OptionRemoved, SchemaChange::ColumnRemoved, SchemaChange::TextShortened];
            (rng.random_range(3..rounds - 4), kinds[rng.random_range(0..3)])
        });
        let is_keyed = seed % 4 == 1;
        // Some of those that lose their ledger among them.
        let is_sled = seed % 64 == 7 || seed % 192 == 4;
        Script {
            seed,
            referrals: rng.random_range(20..=26),
            rounds,
            faults,
            odds: [0.01, 0.03, 0.08][rng.random_range(0..3)],
            restarts,
            is_keyed,
            has_column: is_keyed || seed % 4 == 2,
            tracks_changes,
            is_sled,
            has_tight_brakes: seed.is_multiple_of(5),
            has_small_window: seed % 13 == 6,
            may_recreate: seed % 7 == 3,
            disqualifies: seed % 11 == 5,
            takes_writes_to_closed_leads: rng.random_bool(0.3),
            answers_writes: rng.random_bool(0.8),
            paging: [Paging::Snapshot, Paging::Offset, Paging::Key][rng.random_range(0..3)],
            has_old_flow: seed % 3 == 1,
            full_disks,
            changes,
            schema_change,
            // Half of all seeds, of every kind.
            is_unattended: seed.count_ones().is_multiple_of(2),
            is_told: false,
            muted: Vec::new(),
            plant: None,
        }
    }

    /// The same without trouble, restarts or changes: what is left is people and the program.
    pub fn undisturbed(self) -> Script {
        Script {
            faults: Vec::new(),
            restarts: Vec::new(),
            full_disks: Vec::new(),
            changes: Vec::new(),
            schema_change: None,
            ..self
        }
    }

    /// The round from which referrals may be written.
    pub fn writes_both_from(&self) -> usize {
        self.changes.iter().find(|(_, change)| *change == Change::WritesBoth).map_or(0, |(round, _)| *round)
    }

    /// Restarts that lose what was remembered, and changes of the configuration.
    pub fn upheavals(&self) -> usize {
        let forgets = |ending: &Ending| matches!(ending, Ending::Loss(_) | Ending::Torn(_) | Ending::Flip);
        self.restarts.iter().filter(|(_, ending)| forgets(ending)).count() + self.changes.len()
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

    /// How the daemon is configured in a round.
    pub fn settings(&self, round: usize) -> Settings {
        static DEFAULTS: LazyLock<Settings> = LazyLock::new(Settings::defaults);
        let mut settings = DEFAULTS.clone();
        settings.writes = match self.writes_both_from() {
            from if round >= from => Writes::Both,
            _ => Writes::LeadsOnly,
        };
        for (_, change) in self.changes.iter().filter(|(from, _)| round >= *from) {
            match change {
                Change::WritesBoth => {}
                Change::Filter => settings.scope.countries = vec!["US".to_owned(), "DE".to_owned()],
                Change::NoFilter => settings.scope.countries = Vec::new(),
                Change::DateOwnedByLead => {
                    let group = settings.mapping.groups.get_mut("closing_date").unwrap();
                    group.owner = FieldOwner::Crm;
                }
            }
        }
        settings.referral_id_column = self.has_column.then(|| COLUMN.to_owned());
        if self.tracks_changes {
            settings.dataverse.observe = Observe::Delta;
        }
        if self.is_keyed {
            settings.identity = Identity::AlternateKey;
        }
        if self.has_tight_brakes {
            settings.brakes.closings_per_hour = 1;
            settings.brakes.acceptances_per_hour = 2;
        }
        if self.has_small_window {
            settings.cycle.window = 4;
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
