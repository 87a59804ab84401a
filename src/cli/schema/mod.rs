//! `referrald schema`: the optional column with its key, and the privileges that the security role needs.

pub(super) mod role;

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::build::{SystemClock, crm_line, load};
use super::exit::Exit;
use super::layout::row;
use super::progress::watched;
use super::{Call, Failure, print_json};
use crate::config::Settings;
use crate::crm::dataverse::SWITCH_ON;
use crate::crm::dataverse::settings::{Identity, Observe};
use crate::crm::dataverse::setup::install::{LENGTH, LOOK_PAUSE, SETTLE_TIME_MAX};
use crate::crm::dataverse::setup::{FoundColumn, FoundKey, FoundTracking, Index, Setup};
use crate::model::RemoteError;
use crate::ports::Clock;

/// `schema`.
#[derive(Clone, Debug, Subcommand)]
pub enum SchemaCommand {
    /// Show the referral id column and its alternate key; 1 if what the configuration wants is not there
    Check,
    /// Create what is missing of them, and wait until the key's index works; safe to run twice
    Install(Install),
    /// Print the privileges that the application user's security role needs
    Role,
}

/// `schema install`.
#[derive(Clone, Debug, Args)]
pub struct Install {
    /// Do not ask before something is created
    #[arg(long)]
    yes: bool,
    /// Unmanaged solution that column and key become part of
    #[arg(long, value_name = "NAME")]
    solution: Option<String>,
}

/// Runs one of the commands.
pub(super) async fn schema(
    call: &Call<'_>,
    command: &SchemaCommand,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let settings = load(call.flags)?;
    call.quiet_log(&settings.log)?;
    if let SchemaCommand::Role = command {
        return role::role(&settings, call.is_json, out);
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let line = crm_line(&settings, &clock)?;
    let setup = Setup::open(&settings.dataverse, line.client).map_err(Failure::Other)?;
    let is_tracking = settings.dataverse.observe == Observe::Delta && matches!(command, SchemaCommand::Check);
    let tracking = if is_tracking { Some(setup.tracking().await.map_err(told)?) } else { None };
    let Some(column) = &settings.referral_id_column else {
        if let Some(found) = tracking {
            return without_column(found, call.is_json, out);
        }
        let text = "referral_id_column is not set, and identity = \"derived\" needs nothing installed";
        if call.is_json {
            print_json(out, &json!({"is_fine": true, "text": text}))?;
        } else {
            writeln!(out, "{text}")?;
        }
        return Ok(Exit::Fine);
    };
    let desk = Desk { setup, column, settings: &settings, clock, is_json: call.is_json, tracking };
    match command {
        SchemaCommand::Check => {
            let found = desk.look().await?;
            desk.print(&found, out)?;
            let is_tracked = tracking.is_none_or(|tracking| tracking.is_on);
            Ok(if desk.is_fine(&found) && is_tracked { Exit::Fine } else { Exit::Failed })
        }
        SchemaCommand::Install(install) => desk.install(install, out).await,
        SchemaCommand::Role => unreachable!("handled above"),
    }
}

/// What there is to say without a referral id column, where change tracking is wanted.
fn without_column(tracking: FoundTracking, is_json: bool, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    if is_json {
        print_json(out, &json!({"is_fine": tracking.is_on, "tracking": tracking_shape(tracking)}))?;
    } else {
        print_tracking(tracking, out)?;
    }
    Ok(if tracking.is_on { Exit::Fine } else { Exit::Failed })
}

fn print_tracking(tracking: FoundTracking, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    row(out, "Change tracking", &tracking.to_string())?;
    if !tracking.is_on {
        row(out, "Next", SWITCH_ON)?;
    }
    Ok(())
}

fn tracking_shape(tracking: FoundTracking) -> serde_json::Value {
    json!({"is_on": tracking.is_on, "days": tracking.days})
}

struct Desk<'a> {
    setup: Setup,
    column: &'a str,
    settings: &'a Settings,
    clock: Arc<dyn Clock>,
    is_json: bool,
    /// Looked at where it is wanted.
    tracking: Option<FoundTracking>,
}

/// What is there.
struct Found {
    column: Option<FoundColumn>,
    key: Option<FoundKey>,
}

impl Desk<'_> {
    async fn look(&self) -> Result<Found, Failure> {
        let looking = async {
            let column = self.setup.column(self.column).await.map_err(told)?;
            let key = match column {
                Some(_) => self.setup.key(self.column).await.map_err(told)?,
                None => None,
            };
            Ok(Found { column, key })
        };
        watched("column and key are looked at", None, looking).await
    }

    /// Looks until everything is there: straight after its creation a column may be missing for a moment (dataverse §3.5).
    async fn look_until_fine(&self) -> Result<Found, Failure> {
        let until = self.clock.now().plus(SETTLE_TIME_MAX);
        loop {
            let found = self.look().await?;
            if self.is_fine(&found) || self.clock.now() >= until {
                return Ok(found);
            }
            self.clock.sleep(LOOK_PAUSE).await;
        }
    }

    fn wants_key(&self) -> bool {
        self.settings.identity == Identity::AlternateKey
    }

    fn is_fine(&self, found: &Found) -> bool {
        let is_text = found.column.as_ref().is_some_and(|column| column.length_max >= Some(36));
        let is_active = found.key.as_ref().is_some_and(|key| key.index == Index::Active);
        is_text && (is_active || !self.wants_key())
    }

    async fn install(&self, install: &Install, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
        let found = self.look().await?;
        let mut steps = Vec::new();
        match &found.column {
            None => {
                steps.push(format!("create the text column {} ({LENGTH} characters) on the lead table", self.column))
            }
            Some(FoundColumn { length_max: Some(36..), .. }) => {}
            Some(other) => {
                return Err(Failure::Other(format!(
                    "the lead table has a column {} that cannot hold a referral id ({}, {}); name another in \
                     referral_id_column",
                    self.column,
                    other.kind,
                    other.length_max.map_or("no line of text".to_owned(), |max| format!("{max} characters"))
                )));
            }
        }
        match (&found.key, self.wants_key()) {
            (_, false) | (Some(FoundKey { index: Index::Active | Index::Pending | Index::Other(_), .. }), true) => {}
            (None, true) => steps.push(format!("create an alternate key over {}", self.column)),
            (Some(key), true) => steps.push(format!("have the index of {} built again", key.name)),
        }
        if steps.is_empty() && self.is_fine(&found) {
            match self.is_json {
                true => self.print(&found, out)?,
                false => self.say(out, "nothing to do: everything is there")?,
            }
            return Ok(Exit::Fine);
        }
        if !steps.is_empty() {
            let url = self.settings.dataverse.url.as_ref().map(ToString::to_string).unwrap_or_default();
            self.say(out, &format!("in {url}:"))?;
            for step in &steps {
                self.say(out, &format!("  {step}"))?;
            }
            self.agree(install)?;
        }
        let (solution, clock) = (install.solution.as_deref(), self.clock.as_ref());
        if found.column.is_none() {
            watched("the column is made", None, self.setup.create_column(self.column, solution, clock))
                .await
                .map_err(told_writing)?;
            self.say(out, &format!("column {} created", self.column))?;
        }
        if self.wants_key() {
            match &found.key {
                None => {
                    watched("the key is made", None, self.setup.create_key(self.column, solution, clock))
                        .await
                        .map_err(told_writing)?;
                    self.say(out, "alternate key created")?;
                }
                Some(key) if key.index == Index::Failed => {
                    watched("the index is built again", None, self.setup.reactivate_key(key, clock))
                        .await
                        .map_err(told_writing)?;
                }
                Some(_) => {}
            }
        }
        if found.column.is_none() {
            watched("the change is published", None, self.setup.publish(clock)).await.map_err(told_writing)?;
        }
        if self.wants_key() {
            self.say(out, "waiting until the key's index works …")?;
            out.flush()?;
            let is_built_again = found.key.as_ref().is_some_and(|key| key.index == Index::Failed);
            let building = self.setup.wait_for_key(self.column, is_built_again, clock, |_| {});
            watched("the index is built", None, building).await.map_err(told_writing)?;
        }
        let found = self.look_until_fine().await?;
        self.print(&found, out)?;
        Ok(if self.is_fine(&found) { Exit::Fine } else { Exit::Failed })
    }

    /// Asks the person, unless that was answered on the command line.
    fn agree(&self, install: &Install) -> Result<(), Failure> {
        if install.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::Other("nothing was written; to write without being asked: --yes".to_owned()));
        }
        let asked = dialoguer::Confirm::new().with_prompt("Write this?").default(false).interact();
        match asked.map_err(|error| Failure::Other(format!("nothing was written: {error}")))? {
            true => Ok(()),
            false => Err(Failure::Other("nothing was written".to_owned())),
        }
    }

    fn print(&self, found: &Found, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
        let column = match &found.column {
            None => format!("{}: not there", self.column),
            Some(FoundColumn { length_max: Some(max), .. }) => format!("{}: text, {max} characters", self.column),
            Some(other) => format!("{}: no line of text ({})", self.column, other.kind),
        };
        let key = match (&found.key, self.wants_key()) {
            (Some(key), _) => format!("{}: index {}", key.name, index_word(&key.index)),
            (None, true) => "not there".to_owned(),
            (None, false) => "not there, and not needed with identity = \"derived\"".to_owned(),
        };
        let is_fine = self.is_fine(found);
        let is_tracked = self.tracking.is_none_or(|tracking| tracking.is_on);
        if self.is_json {
            let shape = json!({
                "is_fine": is_fine && is_tracked,
                "tracking": self.tracking.map(tracking_shape),
                "column": {"name": self.column, "exists": found.column.is_some(),
                    "length_max": found.column.as_ref().and_then(|column| column.length_max)},
                "key": found.key.as_ref().map(|key| json!({"name": key.name, "index": index_word(&key.index)})),
                "needs_key": self.wants_key(),
            });
            return print_json(out, &shape);
        }
        row(out, "Column", &column)?;
        row(out, "Alternate key", &key)?;
        if !is_fine {
            row(out, "Next", "`referrald schema install` creates what is missing")?;
        }
        self.tracking.map_or(Ok(()), |tracking| print_tracking(tracking, out))
    }

    fn say(&self, out: &mut (dyn Write + Send), text: &str) -> Result<(), Failure> {
        if self.is_json { Ok(()) } else { Ok(writeln!(out, "{text}")?) }
    }
}

fn index_word(index: &Index) -> String {
    match index {
        Index::Active => "active".to_owned(),
        Index::Pending => "being built".to_owned(),
        Index::Failed => "failed".to_owned(),
        Index::Other(word) => word.clone(),
    }
}

fn told(error: RemoteError) -> Failure {
    Failure::Other(error.to_string())
}

/// Writing to the schema needs rights that the daemon's role does not have.
fn told_writing(error: RemoteError) -> Failure {
    match error.status {
        Some(401 | 403) => Failure::Other(format!(
            "{error}; give the application user the role System Customizer for this one run, and take it away afterwards"
        )),
        _ => told(error),
    }
}
