//! `referrald login`: a person signs in, and both services are asked whether it worked.

mod loopback;
mod proof;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::sync::mpsc;

use super::build::{Line, SystemClock, crm_line, load, portal_line, webhook_line};
use super::exit::Exit;
use super::layout::paragraph;
use super::progress::watched;
use super::{Call, Failure};
use crate::http::Tokens;
use crate::model::Side;
use crate::ports::Clock;
use loopback::{Loopback, Reply};

/// How long the person has at the browser.
pub const SIGN_IN_TIME_MAX: Duration = Duration::from_secs(15 * 60);
/// The port of the redirect URI of an application that shows a credential: such a URI is registered to the letter.
pub const REDIRECT_PORT: u16 = 8724;

/// `login`.
#[derive(Clone, Copy, Debug, Args)]
#[command(long_about = HELP, after_long_help = EXAMPLES)]
pub struct Login {
    /// For which service
    #[arg(long, value_enum, default_value_t = Target::PartnerCenter)]
    side: Target,
    /// Enter a code on another device instead of opening an address here
    #[arg(long)]
    device_code: bool,
    /// Port of the redirect URI http://localhost:PORT; 0 takes any free one [default: 8724, or any for a public client]
    #[arg(long, value_name = "PORT", conflicts_with = "device_code")]
    port: Option<u16>,
}

const HELP: &str = "\
Sign in as a person, and prove it by calling both services.

Prints an address; whoever opens it in a browser signs in as the user with the role Referrals admin, with a second factor. \
The answer comes back to a port of this machine. On a machine without a browser open the address elsewhere, and paste the \
address that the browser ends at (it begins with http://localhost) into this terminal; or use --device-code.

The new refresh token is kept in the state directory. A running daemon goes on with it by itself.";

const EXAMPLES: &str = "\
Exit code: 0 when the service answers to the new sign-in; else 1.

Examples:
  sudo referrald login
  sudo referrald login --device-code
  sudo referrald login --side dataverse";

/// For which service somebody signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The referrals API ([partner_center.auth])
    PartnerCenter,
    /// The environment ([dataverse.auth])
    Dataverse,
    /// The webhook registration API ([partner_center.webhook_auth])
    Webhook,
}

/// Runs the command.
pub(super) async fn login(call: &Call<'_>, login: &Login, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let settings = load(call.flags)?;
    call.quiet_log(&settings.log)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let line = match login.side {
        Target::PartnerCenter => portal_line(&settings, &clock)?,
        Target::Dataverse => crm_line(&settings, &clock)?,
        Target::Webhook => webhook_line(&settings, &clock)?,
    };
    let desk = Desk { line, is_json: call.is_json };
    match (desk.line.tokens.wants_person(), login.device_code) {
        (false, _) => desk.say(out, "the application signs in by itself here; nobody has to sign in by hand")?,
        (true, true) => desk.device(out).await?,
        (true, false) => desk.browser(login.port, out).await?,
    }
    let side = match login.side {
        Target::PartnerCenter => Some(Side::Portal),
        Target::Dataverse => Some(Side::Crm),
        Target::Webhook => None,
    };
    proof::prove(&settings, &desk.line, side, call.is_json, out).await
}

struct Desk {
    line: Line,
    is_json: bool,
}

impl Desk {
    fn tokens(&self) -> &Tokens {
        &self.line.tokens
    }

    async fn browser(&self, port: Option<u16>, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
        let port = port.unwrap_or(if self.tokens().is_public_client() { 0 } else { REDIRECT_PORT });
        let loopback = Loopback::open(port).await.map_err(|error| {
            Failure::Other(format!(
                "port {port} of this machine cannot be listened on: {error}; choose one with --port"
            ))
        })?;
        let redirect = loopback.redirect();
        let invitation = self.tokens().invite(&redirect).map_err(told)?;
        if self.is_json {
            let line = json!({"open": invitation.url, "redirect": redirect, "seconds": SIGN_IN_TIME_MAX.as_secs()});
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "Open this address in a browser and sign in:\n\n{}\n", invitation.url)?;
            let port = loopback.port();
            let words = format!(
                "The answer comes to {redirect}, which must be registered with the application. Is the browser on another \
                 machine? Paste here the address that it ends at, or forward the port with ssh -L {port}:localhost:{port}, \
                 or begin again with --device-code."
            );
            paragraph(out, "", 0, &words)?;
            writeln!(out)?;
        }
        out.flush()?;
        let mut pasted = pasted(&invitation.state);
        let answering = loopback.answer(&invitation.state);
        tokio::pin!(answering);
        let deadline = tokio::time::sleep(SIGN_IN_TIME_MAX);
        tokio::pin!(deadline);
        let reply = loop {
            tokio::select! {
                reply = &mut answering => break reply?,
                () = &mut deadline => {
                    let minutes = SIGN_IN_TIME_MAX.as_secs() / 60;
                    return Err(Failure::Other(format!("nobody signed in within {minutes} minutes; begin again")));
                }
                Some(reply) = pasted.recv() => match reply {
                    Ok(reply) => break reply,
                    Err(reason) if self.is_json => writeln!(out, "{}", json!({"trouble": reason}))?,
                    Err(reason) => writeln!(out, "That did not help: {reason}")?,
                },
            }
        };
        match reply {
            Reply::Code(code) => {
                let redeeming = self.tokens().redeem(&invitation, &code);
                watched("the sign-in is completed", None, redeeming).await.map_err(told)
            }
            Reply::Declined { error, description } => Err(told(self.tokens().declined(&error, &description))),
        }
    }

    async fn device(&self, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
        let device = self.tokens().begin_device().await.map_err(told)?;
        if self.is_json {
            let seconds = device.lifetime.as_secs();
            writeln!(out, "{}", json!({"open": device.address, "code": device.user_code, "seconds": seconds}))?;
        } else {
            let minutes = device.lifetime.as_secs() / 60;
            writeln!(out, "Open {} on any device and enter the code:\n", device.address)?;
            writeln!(out, "    {}\n", device.user_code)?;
            writeln!(out, "Waiting for {minutes} minutes at most …\n")?;
        }
        out.flush()?;
        watched("waiting for the sign-in", None, self.tokens().wait_for_device(&device)).await.map_err(told)
    }

    fn say(&self, out: &mut (dyn Write + Send), text: &str) -> Result<(), Failure> {
        if self.is_json { Ok(()) } else { Ok(writeln!(out, "{text}")?) }
    }
}

/// Addresses that are typed or pasted, judged like those that come to the listener. A thread of its own: a read from a
/// terminal cannot be called off, and must not keep the process from ending.
fn pasted(state: &SecretString) -> mpsc::Receiver<Result<Reply, &'static str>> {
    let (sender, receiver) = mpsc::channel(1);
    let state = state.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if line.trim().is_empty() {
                continue;
            }
            let query = url::Url::parse(line.trim()).ok().and_then(|url| url.query().map(str::to_owned));
            let judged = match query {
                Some(query) => loopback::judge(&query, state.expose_secret()),
                None => Err("Paste the whole address, beginning with http://localhost."),
            };
            if sender.blocking_send(judged).is_err() {
                return;
            }
        }
    });
    receiver
}

fn told(error: crate::model::RemoteError) -> Failure {
    Failure::Other(error.to_string())
}
