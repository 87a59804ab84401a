//! The story: what people do, what the engine makes of it, and what is found in the end.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::stage::{Look, Stage, crowding, pass};
use crate::cli::words::{TITLE, count, number_text, span_ms};
use crate::cycle::Report;
use crate::daemon::{Detail, Engine, Reconciler};
use crate::ports::ActionKind;
use crate::sim::dynamics::Table;
use crate::sim::journal::Record;
use crate::sim::{Checker, Service};

/// The hold of referrals that name something else than their lead.
const FOREIGN_REFERENCE: &str = "foreign reference";
/// The silence that the throttled service asks for.
const SILENCE: Duration = Duration::from_secs(2);
/// Requests that were under way when the service asked for silence arrive within this time.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// How often the services are looked at while a pass runs.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// How often the progress display is drawn.
const DRAW_PAUSE: Duration = Duration::from_millis(80);

/// What was found in the end.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Referrals by status.
    pub(super) referrals: BTreeMap<String, u64>,
    /// Leads by state.
    pub(super) leads: BTreeMap<String, u64>,
    /// Referrals that want a lead: no spam, none that we sent, none that was closed before we came.
    pub(super) in_scope: u64,
    /// Those of them whose lead exists.
    pub(super) linked: u64,
    /// Those of them that name their lead.
    pub(super) written_back: u64,
    /// Those of them that are not closed and do not name their lead; each has to be a hold.
    pub(super) unnamed: u64,
    /// The most leads that speak for one referral.
    pub(super) leads_per_referral_max: u64,
    /// Leads of referrals that want none.
    pub(super) leads_without_reason: u64,
    /// Requests as the services counted them.
    pub(super) requests: Requests,
    /// Writes sent by a last pass that read everything again.
    pub(super) writes_second_pass: u64,
    /// Writes that a plan still wants to make, as sentences.
    pub(super) planned: Vec<String>,
    /// Differences that the plan leaves alone, by name.
    pub(super) holds: BTreeMap<String, u64>,
    /// Brakes and trouble, as sentences.
    pub(super) trouble: Vec<String>,
    /// Promises that were broken, as sentences.
    pub(super) violations: Vec<String>,
    /// Both sides agree: see [`Finding::judge`].
    pub(super) agree: bool,
    /// How long the story took.
    pub(super) seconds: f64,
}

/// Requests by operation.
#[derive(Debug, Default, Serialize)]
pub(super) struct Requests {
    /// To the referrals API.
    pub(super) portal: BTreeMap<String, u64>,
    /// To the Web API.
    pub(super) crm: BTreeMap<String, u64>,
    /// For tokens.
    pub(super) tokens: u64,
}

impl Finding {
    /// Nothing is left to write, every remaining difference is a named hold, and no promise was broken.
    fn judge(&self) -> bool {
        self.planned.is_empty()
            && self.trouble.is_empty()
            && self.violations.is_empty()
            && self.writes_second_pass == 0
            && self.linked == self.in_scope
            && self.unnamed == self.holds.get(FOREIGN_REFERENCE).copied().unwrap_or(0)
            && self.leads_per_referral_max <= 1
            && self.leads_without_reason == 0
    }
}

/// Plays everything and looks at what came of it.
pub(super) async fn play(stage: &mut Stage, teller: &mut Teller<'_>) -> io::Result<Finding> {
    arrival(stage, teller).await
}

async fn arrival(stage: &mut Stage, teller: &mut Teller<'_>) -> io::Result<Finding> {
    let engine = stage.start_engine().await?;
    let waiting: u64 = stage.look().referrals.values().sum();
    teller.title("New referrals")?;
    teller.say(format!("{} waiting in Partner Center, no lead in Dynamics yet.", are(waiting, "referral"))).await?;
    let report = teller.watch(stage, pass(&engine)).await?;
    let look = stage.look();
    let out_of_scope = waiting - stage.wanted.len() as u64;
    teller
        .say(format!(
            "{} created, {} written back; {} out of scope{}.",
            count(done(&report, ActionKind::Create), "lead"),
            count(look.written_back, "lead id"),
            were(out_of_scope, "referral"),
            if out_of_scope == 0 {
                ""
            } else {
                " (spam, sent or invited by us, copies of other organizations, closed)"
            },
        ))
        .await?;

    let contacted = work(stage, &engine, teller).await?;
    edits(stage, &engine, teller).await?;
    deals(stage, &engine, teller, &contacted).await?;
    throttle(stage, &engine, teller).await?;
    let engine = crash(stage, engine, teller).await?;
    ending(stage, &engine, teller).await
}

/// Sellers contact customers: the referral is accepted.
async fn work(stage: &Stage, engine: &Reconciler, teller: &mut Teller<'_>) -> io::Result<Vec<Uuid>> {
    teller.title("Sellers go to work")?;
    let wish = share(stage, 4, 60);
    let mut contacted = Vec::new();
    stage.simulator.with(|world| {
        for referral in fresh(stage, world) {
            if contacted.len() < wish
                && world.edit_row(Table::Lead, stage.lead_of(referral), json!({"statuscode": 2})).is_ok()
            {
                contacted.push(referral);
            }
        }
    });
    let before = stage.look().status("Active");
    let report = teller.watch(stage, pass(engine)).await?;
    let accepted = stage.look().status("Active") - before;
    teller
        .say(format!(
            "Sellers contacted {}; {} accepted in Partner Center ({}).",
            count(contacted.len() as u64, "lead"),
            were(accepted, "referral"),
            took(&report),
        ))
        .await?;
    Ok(contacted)
}

/// Both sides are edited; each edit crosses once.
async fn edits(stage: &Stage, engine: &Reconciler, teller: &mut Teller<'_>) -> io::Result<()> {
    teller.title("Both sides are edited")?;
    let wish = share(stage, 6, 50);
    let (mut by_customers, mut by_sellers) = (0u64, 0u64);
    stage.simulator.with(|world| {
        let open = open(stage, world);
        for (number, referral) in open.iter().take(wish).enumerate() {
            let amount = 10_000 + 500 * number as i64;
            by_customers += u64::from(world.edit_referral(*referral, |document| {
                document["details"]["dealValue"] = amount.into();
                document["details"]["currency"] = "EUR".into();
            }));
        }
        for referral in open.iter().skip(wish).take(wish) {
            let columns = json!({"estimatedclosedate": "2028-02-29"});
            by_sellers += u64::from(world.edit_row(Table::Lead, stage.lead_of(*referral), columns).is_ok());
        }
    });
    let report = teller.watch(stage, pass(engine)).await?;
    teller
        .say(format!(
            "Customers changed {}, sellers changed {}; {} updated, {} written back to.",
            count(by_customers, "amount"),
            count(by_sellers, "closing date"),
            were(done(&report, ActionKind::Update), "lead"),
            were(done(&report, ActionKind::WriteBack), "referral"),
        ))
        .await
}

/// Leads are qualified, deals are won and lost: referrals are closed.
async fn deals(stage: &Stage, engine: &Reconciler, teller: &mut Teller<'_>, contacted: &[Uuid]) -> io::Result<()> {
    teller.title("Deals")?;
    let (won_wish, lost_wish, dropped_wish) = (share(stage, 10, 10), share(stage, 30, 3), share(stage, 30, 3));
    let mut opportunities = Vec::new();
    stage.simulator.with(|world| {
        for referral in contacted.iter().take(2 * (won_wish + lost_wish)) {
            if let Ok(Some(opportunity)) = world.qualify_lead(stage.lead_of(*referral), true) {
                opportunities.push(opportunity);
            }
        }
    });
    let before = stage.look().status("Closed");
    teller.watch(stage, pass(engine)).await?;
    let early = stage.look().status("Closed") - before;
    teller
        .say(format!(
            "Sellers qualified {} into opportunities; that closed {}.",
            count(opportunities.len() as u64, "lead"),
            if early == 0 { "nothing yet".to_owned() } else { count(early, "referral") }
        ))
        .await?;
    let (mut won, mut lost, mut dropped) = (0u64, 0u64, 0u64);
    stage.simulator.with(|world| {
        for (number, opportunity) in opportunities.iter().enumerate().take(won_wish + lost_wish) {
            let is_won = number < won_wish;
            if world.close_opportunity(*opportunity, is_won).is_ok() {
                *(if is_won { &mut won } else { &mut lost }) += 1;
            }
        }
        for referral in fresh(stage, world).into_iter().rev().take(dropped_wish) {
            let columns = json!({"statecode": 2, "statuscode": 5});
            dropped += u64::from(world.edit_row(Table::Lead, stage.lead_of(referral), columns).is_ok());
        }
    });
    let substatus = |word: &str| {
        stage.simulator.with(|world| {
            let closed = world.portal.all().filter(|(_, document)| document["status"] == "Closed");
            closed.filter(|(_, document)| document["substatus"] == word).count() as u64
        })
    };
    let words = ["Won", "Lost", "Declined"];
    let before = words.map(substatus);
    let report = teller.watch(stage, pass(engine)).await?;
    let after = words.map(substatus);
    teller
        .say(format!(
            "{} won, {lost} lost, {} disqualified; closed as Won {}, Lost {}, Declined {} ({}).",
            count(won, "deal"),
            count(dropped, "lead"),
            after[0] - before[0],
            after[1] - before[1],
            after[2] - before[2],
            took(&report),
        ))
        .await
}

/// Dynamics asks for silence and gets it.
async fn throttle(stage: &Stage, engine: &Reconciler, teller: &mut Teller<'_>) -> io::Result<()> {
    teller.title("Dynamics is throttled")?;
    let wish = share(stage, 8, 30);
    let edited = stage.simulator.with(|world| {
        let open = open(stage, world);
        let edits = open.iter().rev().take(wish).map(|referral| {
            world.edit_referral(*referral, |document| {
                document["details"]["dealValue"] = 77_000.into();
                document["details"]["currency"] = "USD".into();
            })
        });
        edits.filter(|is_edited| *is_edited).count() as u64
    });
    let mark = stage.simulator.with(|world| world.journal.records().len());
    stage.throttle(SILENCE);
    let refused = |record: &&Record| record.service == Service::Crm && record.status == 429;
    let relief = async {
        while stage.simulator.with(|world| !world.journal.records()[mark..].iter().any(|record| refused(&record))) {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        stage.calm();
        std::future::pending::<()>().await;
    };
    let report = tokio::select! {
        report = teller.watch(stage, pass(engine)) => report?,
        () = relief => unreachable!("it never ends by itself"),
    };
    stage.calm();
    let (refusals, early, silence) = stage.simulator.with(|world| {
        let new = world.journal.records()[mark..].iter().filter(|record| record.service == Service::Crm);
        let new: Vec<&Record> = new.collect();
        let early = new.iter().filter(|record| record.inside_window.is_some()).count() as u64;
        let last = new.iter().rposition(|record| record.status == 429);
        let next = last.and_then(|last| Some((new[last].at, new.get(last + 1)?.at)));
        (new.iter().filter(|record| refused(record)).count() as u64, early, next.map(|(from, to)| to.since(from)))
    });
    teller
        .say(format!(
            "Customers changed {}; Dynamics answered 429 with Retry-After {}.",
            count(edited, "amount"),
            times(refusals),
        ))
        .await?;
    let silence = silence.map_or("No request came after it".to_owned(), |silence| {
        let millis = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        format!("The next request came {} later", span_ms(millis))
    });
    let early = if early == 0 { "none".to_owned() } else { number_text(early) };
    teller
        .say(format!(
            "{silence}, {early} while it wanted silence; {} updated.",
            were(done(&report, ActionKind::Update), "lead")
        ))
        .await
}

/// The engine is dropped in the middle of its work and opened again: nothing is doubled.
async fn crash(
    stage: &mut Stage,
    engine: std::sync::Arc<Reconciler>,
    teller: &mut Teller<'_>,
) -> io::Result<std::sync::Arc<Reconciler>> {
    teller.title("A crash")?;
    let before = stage.look();
    let news = share(stage, 5, 1000);
    stage.send(stage.seed.wrapping_add(1), news);
    let halfway_there = stage.lead_count() + (stage.wanted.len() as u64 - before.linked).div_ceil(2);
    let task = tokio::spawn({
        let engine = engine.clone();
        async move { engine.cycle(crate::cycle::Budget::Unlimited, &CancellationToken::new()).await.is_ok() }
    });
    let halfway = async {
        while !task.is_finished() && stage.lead_count() < halfway_there {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(())
    };
    teller.watch(stage, halfway).await?;
    task.abort();
    let was_cut = task.await.is_err();
    drop(engine);
    let look = stage.look();
    let moment = if was_cut { "in the middle of a pass" } else { "right after a pass, without a goodbye" };
    teller
        .say(format!(
            "{} arrived; the engine was dropped {moment}: {} created, {} written back.",
            count(news as u64, "more referral"),
            count(look.linked - before.linked, "lead"),
            count(look.written_back - before.written_back, "lead id"),
        ))
        .await?;
    let engine = stage.start_engine().await?;
    let note = engine.status().await.map_err(io::Error::other)?.opening;
    let report = teller.watch(stage, pass(&engine)).await?;
    let (look, (most, _)) = (stage.look(), crowding(stage));
    if let Some(note) = note {
        teller.say(format!("Started again: {note}.")).await?;
    }
    teller
        .say(format!(
            "{} created now; {} of {} in scope have their lead, {} at most per referral.",
            were(done(&report, ActionKind::Create), "lead"),
            look.linked,
            count(stage.wanted.len() as u64, "referral"),
            count(most, "lead"),
        ))
        .await?;
    Ok(engine)
}

/// Everything is read again; what is found is the end of the story.
async fn ending(stage: &Stage, engine: &Reconciler, teller: &mut Teller<'_>) -> io::Result<Finding> {
    teller.title("Everything once more")?;
    let mark = stage.simulator.with(|world| world.journal.records().len());
    engine.ask_for_sweep();
    let report = teller.watch(stage, pass(engine)).await?;
    let writes_second_pass = stage.simulator.with(|world| {
        let writes = world.journal.records()[mark..].iter().filter(|record| is_write(record));
        writes.count() as u64
    });
    let known: u64 = stage.look().referrals.values().sum();
    let seen = if report.referrals_seen >= known && report.is_complete { "all" } else { "not all of" };
    let wrote = if writes_second_pass == 0 { "nothing".to_owned() } else { times(writes_second_pass) };
    teller.say(format!("A further pass read {seen} {} again and wrote {wrote}.", count(known, "referral"))).await?;
    let stop = CancellationToken::new();
    let forecast = engine.forecast(Detail::Names, &stop).await.map_err(io::Error::other)?;
    // The forecast looks at what moved; the ledger knows what is held or waits from before.
    let status = engine.status().await.map_err(io::Error::other)?;
    engine.shutdown().await;
    let Look { referrals, leads, linked, written_back, unnamed } = stage.look();
    let (leads_per_referral_max, leads_without_reason) = crowding(stage);
    let mut planned_holds: BTreeMap<String, u64> = BTreeMap::new();
    for hold in &forecast.holds {
        *planned_holds.entry(hold.kind.clone()).or_default() += 1;
    }
    let mut holds = status.holds;
    for (name, count) in planned_holds {
        let known = holds.entry(name).or_default();
        *known = count.max(*known);
    }
    let mut trouble: Vec<String> = forecast.brakes.values().chain(forecast.sides.values()).cloned().collect();
    if status.backlog > 0 {
        trouble.push(format!("{} still pending", are(status.backlog, "referral")));
    }
    let checker = Checker { namespace: stage.namespace(), window_grace: UNDER_WAY, ..Checker::default() };
    let mut finding = Finding {
        referrals,
        leads,
        in_scope: stage.wanted.len() as u64,
        linked,
        written_back,
        unnamed,
        leads_per_referral_max,
        leads_without_reason,
        requests: requests(stage),
        writes_second_pass,
        planned: forecast.actions.iter().map(|action| action.text.clone()).collect(),
        holds,
        trouble,
        violations: stage.simulator.with(|world| checker.check(world)),
        agree: false,
        seconds: (stage.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    };
    finding.agree = finding.judge();
    Ok(finding)
}

fn requests(stage: &Stage) -> Requests {
    stage.simulator.with(|world| {
        let mut requests = Requests::default();
        for ((service, operation), count) in world.journal.counts() {
            match service {
                Service::Portal => *requests.portal.entry((*operation).to_owned()).or_default() += count,
                Service::Crm => *requests.crm.entry((*operation).to_owned()).or_default() += count,
                Service::Authority => requests.tokens += count,
            }
        }
        requests
    })
}

/// A batch is a POST whatever is in it; its items are told one by one.
fn is_write(record: &Record) -> bool {
    let is_reading = matches!(record.method.as_str(), "GET" | "HEAD");
    record.service != Service::Authority && !is_reading && !record.path.contains("$batch")
}

/// A part of the referrals, at least one, at most `most`: the brakes stay as they are by default, and the story stays
/// below them.
fn share(stage: &Stage, part: usize, most: usize) -> usize {
    (stage.wanted.len() / part).clamp(1, most)
}

/// Referrals that nobody answered yet, with an untouched lead.
fn fresh(stage: &Stage, world: &crate::sim::World) -> Vec<Uuid> {
    let is_fresh = |id: &Uuid| {
        world.portal.get(*id).is_some_and(|document| document["status"] == "New")
            && *world.crm.value(Table::Lead, stage.lead_of(*id), "statuscode") == 1
    };
    stage.wanted.iter().copied().filter(is_fresh).collect()
}

/// Referrals that are not closed, with an open lead.
fn open(stage: &Stage, world: &crate::sim::World) -> Vec<Uuid> {
    let is_open = |id: &Uuid| {
        world.portal.get(*id).is_some_and(|document| document["status"] != "Closed")
            && *world.crm.value(Table::Lead, stage.lead_of(*id), "statecode") == 0
    };
    stage.wanted.iter().copied().filter(is_open).collect()
}

fn done(report: &Report, kind: ActionKind) -> u64 {
    report.done.get(&kind).copied().unwrap_or(0)
}

fn took(report: &Report) -> String {
    format!("one pass, {}", span_ms(report.duration_ms))
}

fn are(number: u64, noun: &str) -> String {
    format!("{} {}", count(number, noun), if number == 1 { "is" } else { "are" })
}

fn were(number: u64, noun: &str) -> String {
    format!("{} {}", count(number, noun), if number == 1 { "was" } else { "were" })
}

fn times(number: u64) -> String {
    count(number, "time")
}

/// Tells the story: lines on the output, a progress display on a terminal, silence for JSON.
pub(super) struct Teller<'a> {
    out: &'a mut (dyn Write + Send),
    is_silent: bool,
    reading_time: Option<Duration>,
}

impl<'a> Teller<'a> {
    /// `reading_time` is the pause after each line, for a person who reads along.
    pub(super) fn new(out: &'a mut (dyn Write + Send), is_silent: bool, reading_time: Option<Duration>) -> Self {
        Teller { out, is_silent, reading_time }
    }

    fn title(&mut self, text: &str) -> io::Result<()> {
        if self.is_silent {
            return Ok(());
        }
        writeln!(self.out, "{}{text}{}", TITLE.render(), TITLE.render_reset())
    }

    async fn say(&mut self, text: String) -> io::Result<()> {
        if self.is_silent {
            return Ok(());
        }
        writeln!(self.out, "  {text}")?;
        self.out.flush()?;
        if let Some(pause) = self.reading_time {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Waits for some work and shows meanwhile how far both services are.
    async fn watch<T>(&mut self, stage: &Stage, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        if self.reading_time.is_none() {
            return work.await;
        }
        let style = ProgressStyle::with_template("  {spinner} {bar:24} {pos}/{len} linked, {msg}");
        let bar = ProgressBar::with_draw_target(Some(stage.wanted.len() as u64), ProgressDrawTarget::stderr())
            .with_style(style.map_err(io::Error::other)?);
        let show = async {
            loop {
                let look = stage.look();
                let (active, closed) = (look.status("Active"), look.status("Closed"));
                bar.set_message(format!("{active} accepted, {closed} closed"));
                bar.set_position(look.written_back);
                bar.tick();
                tokio::time::sleep(DRAW_PAUSE).await;
            }
        };
        let result = tokio::select! {
            result = work => result,
            () = show => unreachable!("it never ends by itself"),
        };
        bar.finish_and_clear();
        result
    }
}
