//! What may be typed.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::config::Sources;
use crate::config::unit::{Unit, instance, options_for};
use crate::daemon::{DecisionRequest, Which};
use crate::model::ReferralId;
use crate::ports::Take;

/// Keeps Partner Center referrals and Dynamics 365 leads in agreement.
#[derive(Clone, Debug, Parser)]
#[command(name = "referrald", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    /// Configuration file [env: REFERRALD_CONFIG] [default: /etc/referrald/referrald.toml]
    // The environment is read below: an instance that was named goes before it, and against --config it is refused.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The instance of referrald@NAME.service, instead of --config: its file is /etc/referrald/NAME/referrald.toml
    #[arg(long, global = true, value_name = "NAME", value_parser = instance, conflicts_with = "config")]
    instance: Option<String>,
    /// One setting for this call, above file and environment; stands before the command. A secret belongs into a file
    // Not global: of options that stand on both sides of the command only the latter would count.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// What has to stand in every further command for it to mean the same configuration; nothing where the environment or
    /// the default names it.
    pub fn options(&self) -> String {
        match (&self.instance, &self.config) {
            (Some(name), _) => options_for(&Unit { instance: Some(name.clone()) }.config_file()),
            (None, Some(file)) => options_for(&std::path::absolute(file).unwrap_or_else(|_| file.clone())),
            (None, None) => String::new(),
        }
    }

    /// What was said about the configuration.
    pub fn flags(&self) -> Flags {
        let of_instance = self.instance.clone().map(|name| Unit { instance: Some(name) }.config_file());
        let of_environment = || std::env::var_os("REFERRALD_CONFIG").map(PathBuf::from);
        let named = of_instance.or_else(|| self.config.clone()).or_else(of_environment);
        let config = named.filter(|file| !file.as_os_str().is_empty());
        Flags { config, set: self.set.clone() }
    }
}

/// What the command line says about the configuration.
#[derive(Clone, Default)]
pub struct Flags {
    /// The configuration file that was named, by flag or environment.
    pub config: Option<PathBuf>,
    /// Dotted key and value of each `--set`, in order.
    pub set: Vec<(String, String)>,
}

impl Flags {
    /// The sources of this process with these flags.
    pub fn sources(&self) -> Sources {
        Sources { flags: self.set.clone(), ..Sources::from_process(self.config.clone()) }
    }
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Run,
    /// Run one cycle and every scan that is due, then exit
    Once,
    /// Show what the next cycle would do; write nothing
    Plan {
        /// Show values as well
        #[arg(long)]
        values: bool,
    },
    /// Show one referral, live from both sides: what is decided about it, why, and what it waits for
    #[command(after_long_help = EXPLAIN_HELP)]
    Explain {
        /// Id of the referral, or of its lead
        #[arg(value_name = "ID", value_parser = any_id)]
        id: uuid::Uuid,
        /// Show values even where standard output is no terminal
        #[arg(long)]
        values: bool,
    },
    /// Show how things stand
    Status,
    /// Ask the running daemon for a cycle now
    Reconcile,
    /// Pause writing
    Suspend,
    /// Go on writing
    Resume,
    /// Let go what a brake holds back
    Approve {
        /// As `status` prints it: the digest of the set, or `organization`
        digest: String,
    },
    /// Leave referrals alone until they are released
    Hold {
        /// Referral ids
        #[arg(value_name = "ID", required = true, value_parser = referral_id)]
        ids: Vec<ReferralId>,
    },
    /// Lift holds
    Release(Release),
    /// Try dead letters again
    Retry(Retry),
    /// Rewrite leads after a change of mapping, a sample first
    Backfill {
        /// Only this mapping group
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// End the one under way
        #[arg(long, conflicts_with = "group")]
        stop: bool,
    },
    /// Remove entry, history and exports of referrals, and never import them again
    Forget {
        /// Referral ids
        #[arg(value_name = "ID", required = true, value_parser = referral_id)]
        ids: Vec<ReferralId>,
    },
    /// Show what was done to a referral
    History {
        /// Referral id
        #[arg(value_name = "ID", value_parser = referral_id)]
        id: ReferralId,
    },
    /// Look after the ledger
    State {
        /// What to do with it.
        #[command(subcommand)]
        command: StateCommand,
    },
    /// The webhook: its registration at Partner Center, and why a delivery is not believed
    Webhook {
        /// What to do.
        #[command(subcommand)]
        command: WebhookCommand,
    },
    /// Ask for what a first configuration needs, check each answer, and write it
    Init(Box<super::init::Init>),
    /// The optional column with its key in Dynamics, and the privileges that the security role needs
    Schema {
        /// What to do.
        #[command(subcommand)]
        command: super::schema::SchemaCommand,
    },
    /// Sign in as a person, and prove it by calling both services
    Login(super::login::Login),
    /// Check everything from the ground up, and say what to do about what is wrong; 1 if a check failed
    Doctor,
    /// Look at the configuration
    Config {
        /// What to look at.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Write an archive for somebody who helps: configuration without secrets, versions, status, log, history; no personal
    /// data
    SupportBundle {
        /// The archive [default: referrald-support-TIME.tar.gz in this directory]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Print completions for a shell
    #[command(after_long_help = COMPLETIONS_HELP)]
    Completions {
        /// For which shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write a page for each command
    Man {
        /// Directory for the pages
        #[arg(long, value_name = "DIRECTORY")]
        to: Option<PathBuf>,
    },
    /// Show the whole thing against built-in simulated services; no account needed
    #[command(long_about = DEMO_HELP, after_long_help = DEMO_EXAMPLES)]
    Demo(Demo),
}

const COMPLETIONS_HELP: &str = "\
Examples:
  referrald completions bash > /etc/bash_completion.d/referrald
  referrald completions zsh > \"${fpath[1]}/_referrald\"
  referrald completions fish > ~/.config/fish/completions/referrald.fish";

const EXPLAIN_HELP: &str = "\
Both sides are read now, and nothing is written. Values are shown on a terminal; in a pipe or a file only with --values, \
since they are personal data.

Exit code: 0; 1 when nobody knows the id, or a side could not be read.";

const DEMO_HELP: &str = "\
Show the whole thing against built-in simulated services; no account needed.

Starts Partner Center, Dynamics 365 and their sign-in as simulated services on this machine's loopback address, and \
lets the real adapters and the real engine work between them: referrals become leads, a seller's contact accepts a \
referral, deals that are won or lost close it, Dynamics asks for silence (429), and the engine is dropped in the middle \
of its work and started again. In the end everything is read once more, and an independent checker judges every request.

No configuration is read, no other host is asked, and nothing is written outside a temporary directory that is removed \
at the end. Outcomes settle at once; every other setting is the default. With --json, or when standard output is not a \
terminal, there are no pauses.";

const DEMO_EXAMPLES: &str = "\
Exit code: 0 when both sides agree in the end, that is when a further pass writes nothing, the plan is empty but for \
named holds, every referral in scope has exactly one lead and no promise was broken; else 1.

Examples:
  referrald demo
  referrald demo --referrals 300 --seed 7 --json | tail -n 1
  REFERRALD_LOG=info referrald demo 2>demo.log";

/// `release`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true))]
pub struct Release {
    /// Referral ids
    #[arg(value_name = "ID", group = "which", value_parser = referral_id)]
    ids: Vec<ReferralId>,
    /// Everything that is held
    #[arg(long, group = "which", conflicts_with = "ids")]
    all: bool,
    /// Only this mapping group; alone: wherever it is held
    #[arg(long, group = "which", value_name = "GROUP")]
    group: Option<String>,
    /// Whose value wins where there is no common base
    #[arg(long, value_name = "SIDE")]
    take: Option<TakeWord>,
}

/// `retry`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(false))]
pub struct Retry {
    /// Referral ids
    #[arg(value_name = "ID", group = "which", value_parser = referral_id)]
    ids: Vec<ReferralId>,
    /// Dead letters whose cause contains this text
    #[arg(long, value_name = "TEXT", group = "which", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    cause: Option<String>,
    /// Every dead letter
    #[arg(long, group = "which")]
    all: bool,
}

/// `demo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct Demo {
    /// How many referrals the simulated services begin with
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub referrals: u32,
    /// The same seed plays the same story
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
}

/// `webhook`.
#[derive(Clone, Debug, Subcommand)]
pub enum WebhookCommand {
    /// Show what is registered at Partner Center, and how it differs from the configuration
    Show,
    /// List the events that Partner Center knows
    Events,
    /// Register webhook.url for webhook.events; prints what was registered before
    Register {
        /// Replace the URL of another consumer: it gets no events any more
        #[arg(long)]
        take_over: bool,
    },
    /// Put the registration back that `register --take-over` replaced, or leave only the test event registered
    Unregister,
    /// Have a test event sent, and show how its delivery went
    Test,
    /// Judge one captured delivery as the listener would, and name the rule that fails
    Verify(Evidence),
}

/// `webhook verify`.
#[derive(Clone, Debug, Args)]
pub struct Evidence {
    /// File with the request's headers, one `Name: value` a line
    #[arg(long, value_name = "FILE")]
    pub headers: PathBuf,
    /// File with the request's body, byte for byte
    #[arg(long, value_name = "FILE")]
    pub body: PathBuf,
    /// File with the signing certificate; without it the certificate is fetched as the listener would
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
}

/// `config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and list every problem
    Check,
    /// Run the mapping tests of the configuration: sample referrals and the leads they should become; 1 on a difference
    Test,
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    /// Print the effective values, secrets hidden
    Show {
        /// Say where each value comes from
        #[arg(long, conflicts_with = "defaults")]
        origin: bool,
        /// Print every key with its default and a comment instead
        #[arg(long)]
        defaults: bool,
    },
}

/// `state`.
#[derive(Clone, Debug, Subcommand)]
pub enum StateCommand {
    /// Read everything and say what is found; 1 on damage
    Check,
    /// Move the ledger aside; the next cycle rebuilds it from both services and the newest export
    Rebuild,
    /// Write the ledger as JSON lines
    Export {
        /// Where to; standard output without
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Fill the ledger from an export: every referral it does not know itself
    Import {
        /// What `state export` wrote
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TakeWord {
    Referral,
    Lead,
}

impl Command {
    /// The decision a command asks for; `None` for commands that are no decision.
    pub fn decision(&self) -> Option<DecisionRequest> {
        Some(match self {
            Command::Suspend => DecisionRequest::Suspend,
            Command::Resume => DecisionRequest::Resume,
            Command::Approve { digest } => DecisionRequest::Approve { digest: digest.clone() },
            Command::Hold { ids } => DecisionRequest::Hold { ids: ids.clone() },
            Command::Release(Release { ids, all, group, take }) => DecisionRequest::Release {
                which: if *all || ids.is_empty() { Which::All } else { Which::Ids(ids.clone()) },
                group: group.clone(),
                take: take.map(|word| match word {
                    TakeWord::Referral => Take::Referral,
                    TakeWord::Lead => Take::Lead,
                }),
            },
            Command::Backfill { group, stop } => DecisionRequest::Backfill { group: group.clone(), is_stop: *stop },
            Command::Retry(Retry { ids, cause, all }) => DecisionRequest::Retry {
                which: match (all, cause) {
                    (true, _) => Which::All,
                    (false, Some(text)) => Which::Cause(text.clone()),
                    (false, None) => Which::Ids(ids.clone()),
                },
            },
            Command::Forget { ids } => DecisionRequest::Forget { ids: ids.clone() },
            Command::History { .. }
            | Command::State { .. }
            | Command::Run
            | Command::Once
            | Command::Plan { .. }
            | Command::Explain { .. }
            | Command::Status
            | Command::Reconcile
            | Command::Webhook { .. }
            | Command::Login(_)
            | Command::Doctor
            | Command::Init(_)
            | Command::Schema { .. }
            | Command::Config { .. }
            | Command::SupportBundle { .. }
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::Demo(_) => return None,
        })
    }
}

/// The two halves of `--set KEY=VALUE`.
fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, for example cycle.work_budget=10s")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn referral_id(text: &str) -> Result<ReferralId, String> {
    ReferralId::parse(text).ok_or_else(|| "this is no referral id; expected a GUID".to_owned())
}

fn any_id(text: &str) -> Result<uuid::Uuid, &'static str> {
    uuid::Uuid::try_parse(text.trim()).map_err(|_| "expected the GUID of a referral or of a lead")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Arguments;
    use crate::daemon::{DecisionRequest, Which};
    use crate::ports::Take;

    const ID: &str = "00000000-0000-0000-0000-00000000000A";

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("referrald").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_configuration_file_may_stand_before_or_after_the_command() {
        for line in
            ["--config a.toml status --json", "status --json --config a.toml", "--json config check --config a.toml"]
        {
            let arguments = parse(line).expect(line);
            assert_eq!(arguments.flags().config.as_deref(), Some(std::path::Path::new("a.toml")), "{line}");
            assert!(arguments.json, "{line}");
        }
    }

    #[test]
    fn an_instance_names_its_configuration_file() {
        let file = |line: &str| parse(line).expect(line).flags().config;
        let expected = Some(std::path::PathBuf::from("/etc/referrald/contoso/referrald.toml"));
        assert_eq!(file("--instance contoso status"), expected);
        assert_eq!(file("status --instance contoso"), expected);
        for bad in ["--instance a/b status", "--instance .. status", "--config a --instance b status"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_for_one_call_are_taken_in_order_and_need_a_value() {
        let flags =
            parse("--set writes=off --set brakes.closings_per_hour=3 --set a=b=c plan").expect("a line").flags();
        let set: Vec<(&str, &str)> = flags.set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(set, [("writes", "off"), ("brakes.closings_per_hour", "3"), ("a", "b=c")]);
        assert!(parse("--set writes plan").is_err() && parse("plan --set writes=off").is_err());
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        for line in [
            "",
            "fly",
            "hold",
            "hold seven",
            "release",
            "release --take lead",
            "retry",
            "approve",
            "config",
            "demo --referrals 0",
            "demo --seed x",
            "release --all --take nobody",
            "retry --cause",
            "status extra",
            "forget",
            "history",
            "history seven",
            "state",
            "state import",
            "state export a b",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [format!("release {ID} --all"), format!("retry {ID} --cause x"), "retry --all --cause x".to_owned()]
        {
            assert!(parse(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn decisions_are_read_as_they_are_meant() {
        let id = super::referral_id(ID).expect("an id");
        let decision = |line: &str| parse(line).expect(line).command.decision();
        assert_eq!(decision(&format!("hold {ID} {ID}")), Some(DecisionRequest::Hold { ids: vec![id, id] }));
        assert_eq!(
            decision(&format!("release {ID} --group amount --take lead")),
            Some(DecisionRequest::Release {
                which: Which::Ids(vec![id]),
                group: Some("amount".into()),
                take: Some(Take::Lead)
            })
        );
        for line in ["release --group amount --take lead", "release --all --group amount --take lead"] {
            let (which, group) = (Which::All, Some("amount".into()));
            assert_eq!(
                decision(line),
                Some(DecisionRequest::Release { which, group, take: Some(Take::Lead) }),
                "{line}"
            );
        }
        assert_eq!(
            decision("retry --cause refused"),
            Some(DecisionRequest::Retry { which: Which::Cause("refused".into()) })
        );
        assert_eq!(decision(&format!("forget {ID}")), Some(DecisionRequest::Forget { ids: vec![id] }));
        assert_eq!(decision("status"), None);
    }
}
