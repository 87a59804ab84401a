//! `referrald init`: asks, checks while asking, and writes a first configuration with its secrets.

mod answers;
mod ask;
mod check;
mod draft;
mod files;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::layout::row;
use super::{Call, Failure, print_json};
use crate::config::unit::{Unit, options_for};
use crate::config::{Settings, Sources};
use crate::telemetry::{LogFormat, LogSettings};
use answers::{Answers, Application};
use ask::{Ask, Script, Terminal};
use draft::Naming;

/// The configuration as the package installs it: nobody has written anything into it yet.
const PACKAGED: &str = include_str!("../../../config/package.toml");
/// Where the package puts the JSON Schema of the configuration, for editors.
const SCHEMA: &str = "/usr/share/referrald/referrald.schema.json";

/// `init`.
#[derive(Clone, Debug, Args)]
#[command(long_about = HELP, after_long_help = EXAMPLES)]
pub struct Init {
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
    /// Ask nothing: answers come from the options below, secrets from standard input, Partner Center's on the first line,
    /// that of Dynamics on the second (none: the same)
    #[arg(long)]
    non_interactive: bool,
    /// Do not ask the services whether the answers are right
    #[arg(long)]
    offline: bool,
    /// Directory (tenant) id of the Partner Center account
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Application (client) id that signs in to Partner Center
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// URL of the Dynamics environment
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Directory (tenant) id of the Dynamics environment [default: the same]
    #[arg(long, value_name = "ID")]
    dataverse_tenant: Option<String>,
    /// Application (client) id that signs in to Dynamics [default: the same]
    #[arg(long, value_name = "ID")]
    dataverse_client: Option<String>,
    /// Team in Dynamics that owns new leads
    #[arg(long, value_name = "ID")]
    owner_team: Option<String>,
    /// State directory [default: /var/lib/referrald, below it the name of an instance]
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    /// Sign-in service of a national cloud
    #[arg(long, value_name = "URL")]
    authority: Option<url::Url>,
    /// Referrals API of a national cloud
    #[arg(long, value_name = "URL")]
    partner_center_url: Option<url::Url>,
}

const HELP: &str = "\
Ask for what a first configuration needs, check each answer, and write it.

Writes the configuration (--config, else /etc/referrald/referrald.toml) with writes = \"off\", and each secret into a file of \
its own beside it, readable for its owner only. For /etc/referrald it also writes the drop-in that passes the secrets to the \
service. Nothing that anybody has written is overwritten without --force, and secrets are never shown.

Several tenants: --instance NAME for each. Its configuration is /etc/referrald/NAME/referrald.toml, its state \
/var/lib/referrald/NAME, its service referrald@NAME.";

const EXAMPLES: &str = "\
Examples:
  sudo referrald init
  sudo referrald --instance contoso init
  printf '%s\\n' \"$SECRET\" | referrald --config ./referrald.toml init --non-interactive \\
    --tenant 11111111-2222-4333-8444-555555555555 --client 22222222-3333-4444-8555-666666666666 \\
    --url https://contoso.crm4.dynamics.com --state ./state";

/// Runs the command.
pub(super) async fn init(call: &Call<'_>, init: &Init, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    call.build.start_log(&LogSettings { level: "off".to_owned(), format: LogFormat::Human })?;
    let file = call.flags.config.clone().unwrap_or_else(|| Sources::DEFAULT_FILE.into());
    let file = std::path::absolute(&file)?;
    let secrets = file.parent().unwrap_or(Path::new("/")).join("secrets");
    let unit = Unit::of_config(&file);
    // A service whose user may not read the files gets the secrets from its unit.
    let is_installed = file == unit.config_file() && !unit.files(Path::new("/")).is_empty();
    let there = |path: &Path| {
        Failure::Other(format!("{} is there already; to overwrite it: `referrald init --force`", path.display()))
    };
    if file.exists() && !init.force && !is_untouched(&file) {
        return Err(there(&file));
    }
    // Before anybody answers ten questions for nothing.
    let above = file.ancestors().skip(1).find(|folder| folder.exists());
    if let Some(folder) = above.filter(|folder| rustix::fs::access(*folder, rustix::fs::Access::WRITE_OK).is_err()) {
        let reason =
            format!("{} cannot be written by this user; run it as root, as in `sudo referrald init`", folder.display());
        return Err(Failure::Other(reason));
    }
    let mut ask: Box<dyn Ask> = match init.non_interactive {
        true => Box::new(Script::new()?),
        false => Box::new(Terminal::new().map_err(Failure::Other)?),
    };
    let mut answers = gather(init, ask.as_mut(), out).await?;
    if let (None, Some(name)) = (&answers.state_directory, &unit.instance) {
        answers.state_directory = Some(Settings::defaults().state.directory.join(name));
    }
    let written = draft::secrets(&answers, &secrets);
    if let Some((path, _)) = written.iter().find(|(path, _)| path.exists() && !init.force) {
        return Err(there(path));
    }
    let naming = if is_installed { Naming::Credentials } else { Naming::Files };
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| Failure::Other(format!("{path} cannot be written: {error}"))
    };
    files::open_directory(file.parent().unwrap_or(Path::new("/"))).map_err(failed(&file))?;
    files::private_directory(&secrets).map_err(failed(&secrets))?;
    for (path, secret) in &written {
        files::write_secret(path, secret).map_err(failed(path))?;
    }
    if is_installed && !written.is_empty() {
        let place = unit.drop_in();
        files::open_directory(place.parent().unwrap_or(Path::new("/"))).map_err(failed(&place))?;
        files::write_open(&place, &draft::drop_in(&answers, &secrets)).map_err(failed(&place))?;
    }
    let schema = if Path::new(SCHEMA).exists() { format!("#:schema file://{SCHEMA}\n") } else { String::new() };
    let text = format!("{schema}{}", draft::configuration(&answers, naming, &secrets));
    files::write_open(&file, &text).map_err(failed(&file))?;
    tell(call, &file, &written.into_iter().map(|(path, _)| path).collect::<Vec<_>>(), is_installed, out)
}

/// Whether the file is still as the package installed it.
pub(super) fn is_untouched(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text == PACKAGED)
}

fn tell(
    call: &Call<'_>,
    file: &Path,
    secrets: &[PathBuf],
    is_installed: bool,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let unit = Unit::of_config(file);
    let is_of_unit = file == unit.config_file();
    let options = match options_for(file) {
        options if options.is_empty() => options,
        options => format!(" {options}"),
    };
    let sudo = if is_of_unit { "sudo " } else { "" };
    let mut next: Vec<String> = ["login", "doctor"].map(|command| format!("{sudo}referrald{options} {command}")).into();
    if is_installed {
        if !secrets.is_empty() {
            next.insert(0, "sudo systemctl daemon-reload".to_owned());
        }
        next.push(format!("sudo systemctl enable --now {unit}"));
    }
    if call.is_json {
        print_json(out, &json!({"configuration": file, "secrets": secrets, "next": next}))?;
        return Ok(Exit::Fine);
    }
    writeln!(out)?;
    row(out, "Configuration", &format!("{}: nothing is written to either service yet", file.display()))?;
    for secret in secrets {
        row(out, "Secret", &secret.display().to_string())?;
    }
    if is_installed && !secrets.is_empty() {
        row(out, "Unit", &format!("{} passes them to {unit}.service", unit.drop_in().display()))?;
    }
    writeln!(out, "\nNext:\n")?;
    for command in next {
        writeln!(out, "  {command}")?;
    }
    Ok(Exit::Fine)
}

/// Asks one thing after the other; each answer is checked before the next question.
async fn gather(init: &Init, ask: &mut dyn Ask, out: &mut (dyn Write + Send)) -> Result<Answers, Failure> {
    let defaults = Settings::defaults();
    let authority = init.authority.clone().unwrap_or(defaults.partner_center.auth.authority);
    let portal_url = init.partner_center_url.clone().unwrap_or(defaults.partner_center.base_url);
    let directory = async |ask: &mut dyn Ask,
                           out: &mut (dyn Write + Send),
                           given: &Option<String>,
                           prompt: &str,
                           otherwise: Option<&str>| loop {
        let tenant = ask.text(prompt, given.as_deref(), otherwise, &|text| answers::tenant(text).map(|_| ()))?;
        let tenant = answers::tenant(&tenant).map_err(Failure::Other)?;
        if init.offline {
            return Ok::<String, Failure>(tenant);
        }
        match check::directory(&authority, &tenant).await {
            Ok(None) => return Ok(tenant),
            Ok(Some(doubt)) => {
                ask.say(out, &doubt)?;
                return Ok(tenant);
            }
            Err(reason) if ask.keep(&reason)? => return Ok(tenant),
            Err(_) => {}
        }
    };
    let known = |text: &str| answers::client(text).map(|_| ());
    let no_secret = |text: &str| answers::secret(text).map(|_| ());
    ask.say(out, "Partner Center: the app registration that signs in, and its secret.")?;
    let tenant = directory(ask, out, &init.tenant, "Directory (tenant) ID", None).await?;
    let client = ask.text("Application (client) ID", init.client.as_deref(), None, &known)?;
    let secret = ask.secret("Client secret, its Value (nothing: a public client)", &no_secret)?;
    let portal = Application {
        tenant,
        client: answers::client(&client).map_err(Failure::Other)?,
        secret: answers::secret(&secret).map_err(Failure::Other)?,
    };

    ask.say(out, "Dynamics: the environment, and the app registration of its application user.")?;
    let crm_url = loop {
        let text = ask.text("URL of the environment", init.url.as_deref(), None, &|text| {
            answers::environment(text).map(|_| ())
        })?;
        let url = answers::environment(&text).map_err(Failure::Other)?;
        if init.offline {
            break url;
        }
        match check::environment(&url).await {
            Ok(()) => break url,
            Err(reason) if ask.keep(&reason)? => break url,
            Err(_) => {}
        }
    };
    let crm = loop {
        let tenant = directory(ask, out, &init.dataverse_tenant, "Directory (tenant) ID", Some(&portal.tenant)).await?;
        let client =
            ask.text("Application (client) ID", init.dataverse_client.as_deref(), Some(&portal.client), &known)?;
        let prompt = "Client secret, its Value (nothing: the same as above)";
        let secret = answers::secret(&ask.secret(prompt, &no_secret)?).map_err(Failure::Other)?;
        let client = answers::client(&client).map_err(Failure::Other)?;
        let secret = secret.or_else(|| portal.secret.clone());
        let crm = Application { tenant, client, secret };
        let answers = Answers {
            authority: authority.clone(),
            portal_url: portal_url.clone(),
            portal: portal.clone(),
            crm_url: crm_url.clone(),
            crm: crm.clone(),
            owner_team: None,
            state_directory: None,
        };
        if init.offline {
            break crm;
        }
        let keep = tempfile::tempdir()?;
        match check::sign_in(&answers, keep.path()).await {
            Ok(identity) => {
                ask.say(out, &format!("Signed in to Dynamics as user {}.", identity.user))?;
                break crm;
            }
            Err(reason) if ask.keep(&reason)? => break crm,
            Err(_) => {}
        }
    };
    let team = ask.text("Team for new leads, its id (or nothing)", init.owner_team.as_deref(), Some(""), &|text| {
        answers::team(text).map(|_| ())
    })?;
    let owner_team = answers::team(&team).map_err(Failure::Other)?;
    let state_directory = init.state.as_deref().map(std::path::absolute).transpose()?;
    Ok(Answers { authority, portal_url, portal, crm_url, crm, owner_team, state_directory })
}
