//! One referral explained: both sides read now, planned as a pass would plan it, and told with every reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{CycleError, Mode, Pass, Setup, observe};
use crate::model::{Entry, Fault, Lead, LeadId, Link, Referral, ReferralId, Side, Standing, Timestamp};
use crate::plan::settings::Writes;
use crate::plan::{self, GroupAccount, Hold, Needs, Row, RowAccount, Seen, brakes, status};
use crate::ports::{HistoryLine, Ports, Scan};
use crate::telemetry::commands;

/// Everything there is to say about one referral. It carries values only where they were asked for; then it is never
/// logged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// When it was looked at.
    pub now: Timestamp,
    /// The id that was asked about, in lower case with hyphens.
    pub asked: String,
    /// The referral it leads to; `None`: nobody knows one.
    pub referral: Option<ReferralId>,
    /// How it stands with us, in words: `linked`, `pending`, `out of scope`, `closed when first seen`, `lead gone`,
    /// `lead taken`, `unknown to the ledger`, `forgotten`.
    pub standing: String,
    /// Why that is so, where one sentence can say it: the rule that keeps it out of scope, the command that changes it.
    pub note: Option<String>,
    /// What Partner Center says.
    pub portal: Option<PortalSide>,
    /// The engagement that it belongs to, and what else belongs there.
    pub engagement: Option<Engagement>,
    /// What Dynamics says.
    pub crm: Option<CrmSide>,
    /// How the lead was found, in words.
    pub link: Option<String>,
    /// Every group of fields.
    pub groups: Vec<GroupAccount>,
    /// What the lead's status means for the referral.
    pub status: Option<StatusStep>,
    /// Until when an unanswered referral has to be answered.
    pub deadline: Option<Timestamp>,
    /// The next write, as a sentence; what follows it is planned again from its answer.
    pub action: Option<String>,
    /// Its kind: `create`, `update`, `disqualify`, `write-back`, `acceptance`, `closing`.
    pub action_kind: Option<String>,
    /// The next write would be this one, were the referral not held by an operator.
    pub unheld_action: Option<String>,
    /// Differences that are left alone, as sentences, by name of the hold.
    pub holds: Vec<Held>,
    /// What else the next write waits for, as sentences: writing that is off, a brake, a closed window, a budget.
    pub waits: Vec<String>,
    /// What failed last, while that is not mended.
    pub trouble: Option<TroubleNote>,
    /// When it is looked at again although neither side changes.
    pub next_look: Option<Timestamp>,
    /// The last write to it.
    pub last: Option<HistoryLine>,
    /// Why a side could not be read.
    pub sides: BTreeMap<Side, String>,
    /// Requests spent on looking.
    pub requests: BTreeMap<Side, u64>,
}

/// What Partner Center says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortalSide {
    /// `read`, `not shown` (404) or `not read`: then as last seen.
    pub seen: String,
    /// Status and substatus.
    pub status: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// When it last changed.
    pub updated: Option<Timestamp>,
}

/// An engagement: referrals about one deal, of several organizations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Engagement {
    /// Its id.
    pub id: String,
    /// The other referrals that the first page shows.
    pub others: Vec<Counterpart>,
    /// There are more than these.
    pub has_more: bool,
    /// Why they could not be listed.
    pub trouble: Option<String>,
}

/// Another referral of the same engagement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counterpart {
    /// The referral.
    pub referral: ReferralId,
    /// Status and substatus.
    pub status: String,
    /// It is our own organization's; `None` where that is not known.
    pub is_ours: Option<bool>,
}

/// What Dynamics says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CrmSide {
    /// `read`, `not there` (404) or `not read`: then as last seen.
    pub seen: String,
    /// The lead.
    pub lead: String,
    /// State, status code, and what its opportunities add up to.
    pub status: String,
    /// When it last changed.
    pub modified: Option<Timestamp>,
    /// Opportunities that were read.
    pub opportunities: u64,
}

/// What a lead's status means for its referral.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusStep {
    /// What the lead says, in words.
    pub meaning: String,
    /// The configuration key that says so.
    pub key: String,
    /// The step it asks for, in words.
    pub step: String,
    /// The outcome was first observed then; the settle time counts from here.
    pub since: Option<Timestamp>,
}

/// A difference that is left alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Name of the hold, as in `status`.
    pub kind: String,
    /// The sentence.
    pub text: String,
}

/// What failed last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TroubleNote {
    /// Cause, as `status` groups dead letters by.
    pub cause: String,
    /// Attempts so far.
    pub attempts: u16,
    /// When the last one failed.
    pub since: Timestamp,
    /// No more attempts are made by themselves.
    pub is_dead_letter: bool,
}

/// Explains one referral, named by its own id or by its lead's: both sides are read, nothing is written.
pub async fn explain(
    ports: &Ports,
    setup: Setup,
    id: uuid::Uuid,
    stop: &CancellationToken,
) -> Result<Explanation, CycleError> {
    let mut pass = Pass::begin(ports, setup, Mode::Forecast, stop)?;
    pass.allow();
    pass.stamp_crm();
    let mut told = pass.explained(id).await?;
    pass.finish_report(ports.clock.now());
    told.sides = pass.report.sides;
    told.requests = pass.report.requests;
    Ok(told)
}

/// Where an id leads to.
enum Subject {
    /// A referral.
    Referral,
    /// A lead that speaks for no referral we know.
    StrangeLead(Box<Lead>),
    /// Nothing that either side or the ledger knows.
    Nothing,
}

impl Pass<'_> {
    async fn explained(&mut self, id: uuid::Uuid) -> Result<Explanation, CycleError> {
        let mut told = Explanation { now: self.began, asked: id.as_hyphenated().to_string(), ..Explanation::default() };
        if self.decisions.has_forgotten(&self.ports.store.fingerprint_key(), ReferralId::new(id)) {
            told.referral = Some(ReferralId::new(id));
            told.standing = "forgotten".to_owned();
            let note =
                "somebody had it forgotten: no entry, no history, and it is not imported again; nothing was read";
            told.note = Some(note.to_owned());
            return Ok(told);
        }
        let (subject, mut row) = self.subject(id).await?;
        match subject {
            Subject::Referral => {}
            Subject::StrangeLead(lead) => {
                told.standing = "unknown to the ledger".to_owned();
                let note = "it is a lead in Dynamics that names no referral: nothing is written to it";
                told.note = Some(note.to_owned());
                told.crm = Some(crm_side(&Seen::Present(lead), None, 0, None).unwrap_or_default());
                return Ok(told);
            }
            Subject::Nothing => {
                told.standing = "unknown to the ledger".to_owned();
                told.note = Some(match self.down.is_empty() {
                    true => "neither side shows a referral or a lead with this id".to_owned(),
                    false => "the ledger does not know this id, and not every side could be read".to_owned(),
                });
                return Ok(told);
            }
        }
        self.read_both(&mut row).await;
        told.engagement = self.engagement(&row).await;
        let known = row.entry.clone();
        let row = match self.plan_rows(vec![row.clone()]).await?.pop() {
            Some((planned, _)) => planned,
            None => row, // A side does not answer: as far as it was read.
        };
        let account = plan::account(&row, &self.setup.policy, self.began, self.setup.with_values);
        self.tell(&mut told, &row, known.as_ref(), account)?;
        Ok(told)
    }

    /// Finds out what an id names: by the ledger, then by asking both sides.
    async fn subject(&mut self, id: uuid::Uuid) -> Result<(Subject, Row), CycleError> {
        let (referral, lead) = (ReferralId::new(id), LeadId::new(id));
        let store = &self.ports.store;
        let by_lead = store.by_lead(lead)?;
        if let Some(known) = store.get(referral)?.map(|_| referral).or(by_lead) {
            return Ok((Subject::Referral, self.row_of(known)?));
        }
        let mut row = self.row_of(referral)?;
        if self.read_referral(&mut row).await && row.referral.present().is_some() {
            return Ok((Subject::Referral, row));
        }
        if !self.may_ask(Side::Crm) {
            return Ok((Subject::Nothing, row));
        }
        match self.ports.crm.get(lead).await {
            Ok(lead) => match self.named_by(&lead) {
                Some(referral) => Ok((Subject::Referral, self.row_of(referral)?)),
                None => Ok((Subject::StrangeLead(Box::new(lead)), row)),
            },
            Err(error) if error.fault == Fault::Missing => Ok((Subject::Nothing, row)),
            Err(error) => {
                self.note(&error);
                Ok((Subject::Nothing, row))
            }
        }
    }

    /// The referral that a lead names by its column or, as the flow before us wrote it, by its subject.
    fn named_by(&self, lead: &Lead) -> Option<ReferralId> {
        let subject = lead.columns.get("subject").and_then(|value| value.as_str()).and_then(ReferralId::parse);
        lead.referral.or(subject)
    }

    fn row_of(&self, id: ReferralId) -> Result<Row, CycleError> {
        let intents = self.ports.store.intents()?;
        let intent = intents.into_iter().flat_map(|intent| intent.actions).rfind(|action| action.referral == id);
        Ok(Row { entry: self.ports.store.get(id)?, intent, ..Row::new(id) })
    }

    /// Reads both sides, whatever the plan would ask for.
    async fn read_both(&mut self, row: &mut Row) {
        if row.referral.is_unseen() {
            self.read_referral(row).await;
        }
        let Some(lead) = observe::linked_lead(row) else { return };
        let rows = std::slice::from_mut(row);
        if self.read_leads(rows, &[lead]).await && self.follow(rows).await {
            self.read_opportunities(rows).await;
        }
    }

    /// What else belongs to the engagement, by one request. That it fails says nothing about the referral itself.
    async fn engagement(&mut self, row: &Row) -> Option<Engagement> {
        let id = uuid::Uuid::try_parse(row.referral.present()?.engagement.as_deref()?).ok()?;
        if !self.may_ask(Side::Portal) {
            return None;
        }
        let mut told = Engagement { id: id.as_hyphenated().to_string(), ..Engagement::default() };
        match self.ports.portal.page(&Scan::Engagement(id), None).await {
            Ok(page) => {
                let own = self.setup.policy.organization.as_deref();
                let is_ours = |it: &Referral| Some(it.organization.as_deref()?.eq_ignore_ascii_case(own?));
                let others =
                    page.items.iter().filter(|it| it.id != row.id && it.engagement.as_deref() == Some(&told.id));
                told.others = others
                    .map(|it| Counterpart {
                        referral: it.id,
                        status: format!("{} / {}", it.status, it.substatus),
                        is_ours: is_ours(it),
                    })
                    .collect();
                told.has_more = page.next.is_some();
            }
            Err(error) => told.trouble = Some(error.to_string()),
        }
        Some(told)
    }

    fn tell(
        &self,
        told: &mut Explanation,
        row: &Row,
        known: Option<&Entry>,
        account: RowAccount,
    ) -> Result<(), CycleError> {
        let RowAccount { plan, unheld, groups } = account;
        let is_held = self.decisions.held.contains(&row.id);
        let entry = unheld.entry.as_ref();
        told.referral = Some(row.id);
        told.standing = match (known, entry) {
            (None, None) => "unknown to the ledger".to_owned(),
            (None, Some(entry)) => format!("unknown to the ledger; it would be {}", words(entry.standing)),
            (Some(_), entry) => entry.map_or("unknown to the ledger", |entry| words(entry.standing)).to_owned(),
        };
        told.note = match (&unheld.out_of_scope, entry.map(|entry| entry.standing)) {
            (Some(rule), _) => Some(format!("it gets no lead: {rule}")),
            (None, Some(Standing::ClosedUnlinked)) => {
                Some("it was closed when first seen and has no lead (scope.import_closed)".to_owned())
            }
            (None, _) => None,
        };
        told.portal = portal_side(&row.referral, entry);
        let seen = match (&row.lead, entry.and_then(|entry| entry.link.as_ref())) {
            (Seen::Present(lead), Some(link)) if lead.id != link.lead => &Seen::Unseen,
            (seen, _) => seen,
        };
        let opportunities = row.opportunities.as_ref().map_or(0, |all| all.len() as u64);
        let link = entry.and_then(|entry| entry.link.as_ref());
        told.crm = crm_side(seen, link, opportunities, known.and_then(|entry| entry.link.as_ref()));
        told.link = link.map(|link| self.how_linked(row, link));
        told.groups = groups;
        told.status = entry.zip(link).map(|(entry, link)| self.status_step(entry, link));
        told.deadline = entry.and_then(|entry| entry.deadline);
        told.action = plan.action.as_ref().map(|action| action.to_string());
        told.action_kind = plan.action.as_ref().map(|action| action.kind().to_string());
        told.unheld_action = unheld.action.as_ref().filter(|_| is_held).map(|action| action.to_string());
        let holds = plan.holds.iter().chain(unheld.holds.iter().filter(|_| is_held));
        let text = |hold: &Hold| commands::about(&hold.to_string(), plan.id);
        told.holds = holds.map(|hold| Held { kind: hold.name().to_owned(), text: text(hold) }).collect();
        told.trouble = entry.and_then(|entry| entry.trouble.as_ref()).map(|trouble| TroubleNote {
            cause: trouble.cause.to_string(),
            attempts: trouble.attempts,
            since: trouble.since,
            is_dead_letter: trouble.is_dead_letter,
        });
        told.next_look = plan.entry.as_ref().and_then(|entry| entry.look_at).filter(|_| plan.action.is_none());
        told.last = self.ports.store.history(row.id)?.pop();
        told.waits = self.waits(row, &plan);
        Ok(())
    }

    /// What the next write waits for besides its holds.
    fn waits(&self, row: &Row, plan: &plan::RowPlan) -> Vec<String> {
        let mut waits = Vec::new();
        if row.intent.is_some() {
            waits.push(
                "a write was sent whose outcome is not known: both sides are read before anything else".to_owned(),
            );
        }
        let Needs { referral, lead, opportunities, adoption } = plan.needs;
        for (is_missing, what) in [
            (referral, "the referral could not be read"),
            (lead, "the lead could not be read"),
            (opportunities, "the opportunities could not be read"),
            (adoption, "existing leads could not be searched"),
        ] {
            if is_missing {
                waits.push(format!("{what}, and without it nothing is decided"));
            }
        }
        let Some(action) = &plan.action else { return waits };
        waits.extend(self.stopped.clone());
        waits.extend(self.stopping_brake().map(|brake| brake.reason.clone()));
        let brake = brakes::brakes(&self.setup.brakes).into_iter().find(|brake| brake.kind == action.kind());
        if let Some((brake, latch)) = brake.and_then(|brake| Some((brake, self.decisions.brakes.get(brake.name)?))) {
            waits.push(format!("the brake {} holds its kind since {}: {}", brake.name, latch.since, latch.reason));
        }
        let side = match action {
            plan::Action::Create { .. } | plan::Action::Update { .. } => Side::Crm,
            plan::Action::Patch { .. } => Side::Portal,
        };
        if let Some(until) = self.ports.line(side).closed_until().filter(|until| *until > self.began) {
            waits.push(format!("{side} asked for silence until {until}"));
        }
        let today = self.setup.meter.today(self.ports, &self.memo);
        if self.left(side) != super::Left::Enough && !plan.urgency.is_urgent()
            || self.left(side) == super::Left::Nothing
        {
            waits.extend(self.setup.budgets.note(side, today));
        }
        waits
    }

    /// How we know that this lead speaks for this referral.
    fn how_linked(&self, row: &Row, link: &Link) -> String {
        let is_computed = link.lead == self.setup.policy.computed(row.id);
        let reference = row.referral.present().and_then(|it| it.external_reference.as_deref()).and_then(LeadId::parse);
        let lead = row.lead.present().filter(|lead| lead.id == link.lead);
        let mut ways = Vec::new();
        if is_computed {
            ways.push("its id is the one computed from the referral's (identity, link.namespace)");
        }
        if reference == Some(link.lead) {
            ways.push("externalReferenceId of the referral names it");
        }
        if lead.is_some_and(|lead| lead.referral == Some(row.id)) {
            ways.push("its referral id column names the referral (referral_id_column)");
        }
        if lead.and_then(|lead| lead.columns.get("subject")?.as_str().and_then(ReferralId::parse)) == Some(row.id) {
            ways.push("its subject is the referral's id (link.adopt)");
        }
        if ways.is_empty() {
            ways.push("on record: it was adopted, or the lead before was merged into it");
        }
        let maker = if link.is_ours { "made by this daemon" } else { "not made by this daemon" };
        format!("{}; {maker}", ways.join("; "))
    }

    /// What the lead's status asks for.
    fn status_step(&self, entry: &Entry, link: &Link) -> StatusStep {
        let settings = &self.setup.policy.status;
        let outcome = status::outcome(link.status, link.deal, settings);
        let code = link.status.code.to_string();
        let key = match settings.codes.contains_key(&code) {
            true => format!("status.codes.{code}"),
            false => format!("status.codes ({code} is not in it: default of {})", link.status.state),
        };
        let meaning = match outcome {
            status::Outcome::Nothing => "nothing yet".to_owned(),
            status::Outcome::Working => "somebody works on it".to_owned(),
            status::Outcome::Deal(closing) => format!("the deal is {closing}"),
            status::Outcome::GivenUp => "given up".to_owned(),
        };
        let step = match status::target(entry.referral_status, outcome) {
            status::Target::Nothing => "none: the referral is where it should be".to_owned(),
            _ if self.setup.policy.writes == Writes::LeadsOnly => {
                "none: referrals are not written (writes = \"leads-only\")".to_owned()
            }
            status::Target::Accept => "accept it (Active / Accepted)".to_owned(),
            status::Target::Close(closing) => format!("close it ({closing})"),
            status::Target::AcceptThenClose(closing) => format!("accept it, then close it ({closing})"),
            status::Target::TooLate => format!("none: the referral is {}", entry.referral_status),
        };
        StatusStep { meaning, key, step, since: entry.outcome.map(|outcome| outcome.since) }
    }
}

fn portal_side(seen: &Seen<Referral>, entry: Option<&Entry>) -> Option<PortalSide> {
    let known = entry.map(|entry| PortalSide {
        seen: "not read".to_owned(),
        status: format!("{} / {}", entry.referral_status, entry.referral_substatus),
        created: entry.referral_created,
        updated: entry.referral_updated,
    });
    match seen {
        Seen::Present(referral) => Some(PortalSide {
            seen: "read".to_owned(),
            status: format!("{} / {}", referral.status, referral.substatus),
            created: referral.created,
            updated: referral.updated,
        }),
        Seen::Absent => Some(PortalSide { seen: "not shown".to_owned(), ..known.unwrap_or_default() }),
        Seen::Unseen => known,
    }
}

/// `before` is the link on record, which is all there is to say of a lead that is gone.
fn crm_side(seen: &Seen<Lead>, link: Option<&Link>, opportunities: u64, before: Option<&Link>) -> Option<CrmSide> {
    let known = link.or(before).map(|link| CrmSide {
        seen: "not read".to_owned(),
        lead: link.lead.to_string(),
        status: status::words(link.status, link.deal),
        modified: link.modified,
        opportunities,
    });
    match seen {
        Seen::Present(lead) => Some(CrmSide {
            seen: "read".to_owned(),
            lead: lead.id.to_string(),
            status: status::words(lead.status, link.map(|link| link.deal).unwrap_or_default()),
            modified: lead.modified,
            opportunities,
        }),
        Seen::Absent => known.map(|known| CrmSide { seen: "not there".to_owned(), ..known }),
        Seen::Unseen => known,
    }
}

/// Where a referral stands, in words.
fn words(standing: Standing) -> &'static str {
    match standing {
        Standing::Pending => "pending",
        Standing::Linked => "linked",
        Standing::OutOfScope => "out of scope",
        Standing::ClosedUnlinked => "closed when first seen",
        Standing::LeadGone => "lead gone",
        Standing::LeadTaken => "lead taken",
    }
}
