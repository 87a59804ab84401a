//! The operator's surface: one file for each command that has something to it.

pub mod arguments;
pub mod build;
pub mod bundle;
pub mod config;
mod credential;
pub mod decide;
pub mod demo;
pub mod doctor;
pub mod exit;
pub mod explain;
pub mod history;
pub mod init;
mod layout;
pub mod login;
pub mod manual;
pub mod once;
pub mod plan;
mod progress;
pub mod run;
pub mod samples;
pub mod schema;
pub mod state;
pub mod status;
pub mod webhook;
mod words;

use std::io::{self, Write};

use clap::Parser;

use crate::config::unit::Unit;
use crate::control::{Client, ControlError, Place};
use crate::cycle::CycleError;
use crate::telemetry::{self, LogFormat, LogSettings, commands};

use arguments::{Arguments, Command, ConfigCommand, Flags};
use build::{Build, Ground, StartError};
use exit::Exit;

/// Threads that run the daemon: the work is waiting for two services.
const WORKER_THREADS: usize = 2;

/// Arguments in, exit code out.
pub fn main(build: &dyn Build) -> u8 {
    // Without a chosen provider the first TLS client would panic. An error means that one was chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code());
        }
    };
    if let Some(file) = arguments.flags().sources().file {
        Unit::set_for_this_process(&file);
    }
    commands::set_for_this_process(&arguments.options(), std::env::var_os("SUDO_USER").is_some());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build();
    let (mut out, mut trouble) = (anstream::stdout(), anstream::stderr());
    let code = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments, build, &mut out, &mut trouble)),
        Err(error) => {
            let _ = writeln!(trouble, "error: the runtime did not start: {error}");
            Exit::Failed.code()
        }
    };
    let _ = out.flush();
    code
}

/// Runs one command; `out` is for what was asked, `trouble` for what went wrong.
pub async fn run(
    arguments: &Arguments,
    build: &dyn Build,
    out: &mut (dyn Write + Send),
    trouble: &mut (dyn Write + Send),
) -> u8 {
    match dispatch(arguments, build, out, trouble).await {
        Ok(code) => code,
        Err(Failure::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Fine.code(),
        Err(failure) => {
            let (text, exit) = (failure.to_string(), failure.exit());
            // Problems of the configuration are drawn, each with its own heading.
            let text = match text.starts_with("error: ") {
                true => text,
                false => format!("{}error:{} {text}", words::ALARM.render(), words::ALARM.render_reset()),
            };
            let _ = write!(trouble, "{}", layout::fitted(&text));
            if exit == Exit::Locked {
                let unit = Unit::of_this_process();
                let hint = format!(
                    "  a running daemon answers `referrald status`, works on `referrald reconcile`, and ends by \
                     `systemctl stop {unit}`"
                );
                let _ = write!(trouble, "{}", layout::fitted(&hint));
            }
            exit.code()
        }
    }
}

async fn dispatch(
    arguments: &Arguments,
    build: &dyn Build,
    out: &mut (dyn Write + Send),
    trouble: &mut (dyn Write + Send),
) -> Result<u8, Failure> {
    let (flags, is_json) = (arguments.flags(), arguments.json);
    let call = Call { build, flags: &flags, is_json };
    if let Some(decision) = arguments.command.decision() {
        return Ok(decide::decide(&call, &decision, out).await?.code());
    }
    let exit = match &arguments.command {
        Command::Run => run::run(&call).await?,
        Command::Once => once::once(&call, out).await?,
        Command::Plan { values } => plan::plan(&call, *values, out).await?,
        Command::Explain { id, values } => explain::explain(&call, *id, *values, out).await?,
        Command::Status => status::status(&call, out).await?,
        Command::Reconcile => decide::reconcile(&call, out).await?,
        Command::Config { command: ConfigCommand::Check } => return Ok(build.config_check(&flags, is_json, out)?),
        Command::Config { command: ConfigCommand::Test } => samples::test(&flags.sources(), is_json, out)?,
        Command::Config { command: ConfigCommand::Schema } => {
            print_json(out, &crate::config::schema::schema())?;
            Exit::Fine
        }
        Command::Config { command: ConfigCommand::Show { defaults: true, .. } } => {
            return Ok(config::show_defaults(is_json, out)?);
        }
        Command::Config { command: ConfigCommand::Show { origin, .. } } => {
            return Ok(build.config_show(&flags, is_json, *origin, out, trouble)?);
        }
        Command::Demo(demo) => return Ok(build.demo(*demo, is_json, out).await?),
        Command::SupportBundle { to } => bundle::bundle(&call, to.as_deref(), out).await?,
        Command::Completions { shell } => manual::completions(*shell, out)?,
        Command::Man { to } => manual::manual(to.as_deref(), out)?,
        Command::History { id } => history::history(&call, *id, out).await?,
        Command::State { command } => state::state(&call, command, out).await?,
        Command::Doctor => doctor::doctor(&call, out).await?,
        Command::Init(init) => init::init(&call, init, out).await?,
        Command::Schema { command } => schema::schema(&call, command, out).await?,
        Command::Login(login) => login::login(&call, login, out).await?,
        Command::Webhook { command } => webhook::webhook(&call, command, out).await?,
        Command::Suspend
        | Command::Resume
        | Command::Forget { .. }
        | Command::Approve { .. }
        | Command::Hold { .. }
        | Command::Release(_)
        | Command::Backfill { .. }
        | Command::Retry(_) => unreachable!("decisions were handled above"),
    };
    Ok(exit.code())
}

/// One command's surroundings.
pub struct Call<'a> {
    build: &'a dyn Build,
    flags: &'a Flags,
    is_json: bool,
}

impl Call<'_> {
    fn ground(&self) -> Result<Ground, Failure> {
        Ok(self.build.ground(self.flags)?)
    }

    /// Reads the configuration, sets the log up for a command a person typed, and looks for a running daemon.
    async fn daemon(&self) -> Result<Option<Client>, Failure> {
        let ground = self.ground()?;
        self.quiet_log(&ground.log)?;
        Ok(Client::find(&place(&ground)).await?)
    }

    /// For commands other than `run` the answer is on standard output, and the log only tells trouble.
    fn quiet_log(&self, log: &LogSettings) -> Result<(), Failure> {
        let format = match log.format {
            LogFormat::Json => LogFormat::Json,
            LogFormat::Auto | LogFormat::Human | LogFormat::Journald => LogFormat::Human,
        };
        Ok(self.build.start_log(&LogSettings { level: "warn".to_owned(), format })?)
    }
}

fn place(ground: &Ground) -> Place {
    Place::of_this_process(ground.daemon.runtime_directory.as_deref(), &ground.state_directory)
}

fn print_json(out: &mut (dyn Write + Send), value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    Ok(writeln!(out, "{}", commands::worded_json(&text))?)
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing could be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A cycle could not go on.
    #[error(transparent)]
    Cycle(#[from] CycleError),
    /// The running daemon could not be asked, or said no.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The log could not be set up.
    #[error(transparent)]
    Log(#[from] telemetry::TelemetryError),
    /// Anything else that keeps the command from doing what was asked.
    #[error("{0}")]
    Other(String),
    /// The answer could not be printed.
    #[error("the answer could not be printed: {0}")]
    Print(#[from] io::Error),
}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Failure::Start(error) => Exit::of_start(error),
            Failure::Cycle(error) => Exit::of_cycle(error),
            Failure::Log(_) => Exit::Configuration,
            Failure::Control(_) | Failure::Other(_) | Failure::Print(_) => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests;
