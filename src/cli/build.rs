//! Builds everything from the configuration. The one place that may name anything.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::arguments::{Demo, Flags};
use super::credential::{SignIn, credential};
use super::webhook::Attendant;
use crate::config::{KeyPath, Settings, Severity};
use crate::daemon::reconciler::{Credential, Reload};
use crate::daemon::{Beside, DaemonSettings, Engine, Reconciler};
use crate::http::settings::LimitSettings;
use crate::http::{self, Tokens};
use crate::model::{Side, Timestamp};
use crate::observability::ObservabilitySettings;
use crate::portal::partner_center::webhooks::WebhookApi;
use crate::ports::{Batch, Clock, Crm, Line as _, Memo, Opening, Portal, Ports, StateStore, StoreError};
use crate::store::settings::StateSettings;
use crate::telemetry::{self, LogSettings, TelemetryError};
use crate::trigger::Bell;
use crate::trigger::settings::ScheduleSettings;
use crate::{alarm, crm, portal, store};

/// What a command needs to know before it builds an engine, or instead of building one.
#[derive(Clone, Debug)]
pub struct Ground {
    /// `state.directory`.
    pub state_directory: PathBuf,
    /// `[daemon]`.
    pub daemon: DaemonSettings,
    /// `[schedule]`.
    pub schedule: ScheduleSettings,
    /// `[log]`.
    pub log: LogSettings,
    /// `[observability]`.
    pub observability: ObservabilitySettings,
    /// `[alarm]`, and what it needs of others.
    pub alarm: alarm::Configured,
}

/// What an engine is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Cycles: `run`, `once`. The end is told by [`Engine::shutdown`].
    Cycles,
    /// A forecast. The ledger is only read.
    Forecast,
    /// A look at the ledger: `status`. No service is asked.
    Look,
    /// An operator's decision. No service is asked.
    Decision,
}

/// Nothing can be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration cannot be used; the text lists every problem.
    #[error("{0}")]
    Configuration(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Builds what commands need. The product has one, [`Product`]; tests have others.
#[async_trait]
pub trait Build: Send + Sync {
    /// Reads the configuration: the file that was named, else the default one.
    fn ground(&self, flags: &Flags) -> Result<Ground, StartError>;

    /// Sets the log up, once for the process.
    fn start_log(&self, log: &LogSettings) -> Result<(), TelemetryError> {
        telemetry::init(log)
    }

    /// Opens the ledger and makes an engine.
    async fn engine(&self, flags: &Flags, purpose: Purpose) -> Result<Arc<dyn Engine>, StartError>;

    /// Opens the webhook's listener, if the configuration has one; what it hears rings the bell.
    async fn webhook(&self, _flags: &Flags, _bell: &Bell) -> Result<Option<Arc<dyn Beside>>, StartError> {
        Ok(None)
    }

    /// Where the values of these keys come from, as far as that is known: file, line and column.
    fn origins(&self, _flags: &Flags, _keys: &[String]) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// `config check`; gives the exit code.
    fn config_check(&self, flags: &Flags, is_json: bool, out: &mut dyn Write) -> std::io::Result<u8>;

    /// `config show`; gives the exit code.
    fn config_show(
        &self,
        flags: &Flags,
        is_json: bool,
        with_origin: bool,
        out: &mut dyn Write,
        trouble: &mut dyn Write,
    ) -> std::io::Result<u8>;

    /// `demo`; gives the exit code.
    async fn demo(&self, demo: Demo, is_json: bool, out: &mut (dyn Write + Send)) -> std::io::Result<u8>;
}

/// The real thing: both services as the configuration names them, the ledger on disk.
pub struct Product;

#[async_trait]
impl Build for Product {
    fn ground(&self, flags: &Flags) -> Result<Ground, StartError> {
        let settings = load(flags)?;
        Ok(Ground {
            state_directory: settings.state.directory,
            daemon: settings.daemon,
            schedule: settings.schedule,
            log: settings.log,
            alarm: alarm::Configured {
                alarm: settings.alarm,
                http: settings.http,
                lag_max: settings.observability.lag_max.get(),
            },
            observability: settings.observability,
        })
    }

    async fn engine(&self, flags: &Flags, purpose: Purpose) -> Result<Arc<dyn Engine>, StartError> {
        let settings = load(flags)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // Before the ledger: nothing is made for a configuration that cannot be used.
        let services = services(&settings, clock)?;
        let store = open_store(&settings.state, purpose).await?;
        let (ports, credentials) = services.over(Arc::new(store));
        let flags = flags.clone();
        let reload: Reload = Arc::new(move || match Settings::load(&flags.sources()) {
            Ok(loaded) => Ok(loaded.settings),
            Err(problems) => {
                Err(problems.problems.iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect())
            }
        });
        Ok(Arc::new(Reconciler::new(ports, settings, credentials, Some(reload))))
    }

    async fn webhook(&self, flags: &Flags, bell: &Bell) -> Result<Option<Arc<dyn Beside>>, StartError> {
        let attendant = Attendant::start(flags, &load(flags)?, bell).await;
        Ok(attendant.map(|attendant| Arc::new(attendant) as Arc<dyn Beside>))
    }

    fn origins(&self, flags: &Flags, keys: &[String]) -> BTreeMap<String, String> {
        let Ok(loaded) = Settings::load(&flags.sources()) else { return BTreeMap::new() };
        let origin = |key: &String| Some((key.clone(), loaded.origin(&KeyPath::parse(key).ok()?).to_string()));
        keys.iter().filter_map(origin).collect()
    }

    fn config_check(&self, flags: &Flags, is_json: bool, out: &mut dyn Write) -> std::io::Result<u8> {
        super::config::check(&flags.sources(), is_json, out)
    }

    fn config_show(
        &self,
        flags: &Flags,
        is_json: bool,
        with_origin: bool,
        out: &mut dyn Write,
        trouble: &mut dyn Write,
    ) -> std::io::Result<u8> {
        super::config::show(&flags.sources(), is_json, with_origin, out, trouble)
    }

    async fn demo(&self, demo: Demo, is_json: bool, out: &mut (dyn Write + Send)) -> std::io::Result<u8> {
        super::demo::demo(demo, is_json, out).await
    }
}

/// Reads the configuration; every error is in the error. What is only worth a look is for `config check`.
pub(super) fn load(flags: &Flags) -> Result<Settings, StartError> {
    Settings::load(&flags.sources()).map(|loaded| loaded.settings).map_err(|problems| {
        let errors = problems.problems.iter().filter(|problem| problem.severity == Severity::Error);
        let text = errors.map(|problem| format!("{problem}\n")).collect::<String>();
        StartError::Configuration(text.trim_end().to_owned())
    })
}

/// Opens the ledger. A command that runs no cycle leaves it as orderly as it found it.
pub(super) async fn open_store(state: &StateSettings, purpose: Purpose) -> Result<store::SledStore, StartError> {
    let (directory, cache_bytes) = (state.directory.clone(), state.cache_bytes);
    let open = match purpose {
        Purpose::Cycles | Purpose::Decision => store::open,
        // A damaged ledger is for the next cycle to move aside.
        Purpose::Forecast | Purpose::Look => store::look,
    };
    let opened = tokio::task::spawn_blocking(move || open(&directory, cache_bytes)).await;
    let store = opened.map_err(|error| StartError::Failed(format!("the ledger could not be opened: {error}")))??;
    match purpose {
        Purpose::Cycles => {}
        Purpose::Forecast | Purpose::Look | Purpose::Decision => {
            let is_orderly = matches!(store.opening(), Opening::Fresh | Opening::Clean);
            let before = store.memo()?;
            let memo =
                Memo { is_stopped_cleanly: is_orderly, is_sweep_due: before.is_sweep_due || !is_orderly, ..before };
            store.record(Batch { memo: Some(memo), ..Batch::default() }).await?;
        }
    }
    Ok(store)
}

/// Builds both adapters over the client stack, and puts the ledger beside them.
pub(super) fn connect(
    settings: &Settings,
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
) -> Result<(Ports, Vec<(Side, Credential)>), StartError> {
    Ok(services(settings, clock)?.over(store))
}

/// Both services, ready to be asked; no file has been touched.
struct Services {
    portal: Arc<dyn Portal>,
    crm: Arc<dyn Crm>,
    clock: Arc<dyn Clock>,
    credentials: Vec<(Side, Credential)>,
}

impl Services {
    fn over(self, store: Arc<dyn StateStore>) -> (Ports, Vec<(Side, Credential)>) {
        (Ports { portal: self.portal, crm: self.crm, store, clock: self.clock }, self.credentials)
    }
}

fn services(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Services, StartError> {
    let crm_settings = &settings.dataverse;
    let portal_line = portal_line(settings, &clock)?;
    let crm_line = crm_line(settings, &clock)?;
    let portal = SignIn { tokens: portal_line.tokens, auth: |settings| settings.partner_center.auth.clone() };
    let crm = SignIn { tokens: crm_line.tokens, auth: |settings| settings.dataverse.auth.clone() };
    // One that cannot be used is told by the listener; both sides work without it.
    let has_other = settings.partner_center.webhook_auth != Default::default();
    let webhook_tokens = has_other.then(|| webhook_line(settings, &clock).ok()).flatten().map(|line| line.tokens);
    let webhook =
        webhook_tokens.map(|tokens| SignIn { tokens, auth: |settings| settings.partner_center.webhook_sign_in() });
    let columns = settings.columns();
    let portal_settings = portal::PortalSettings::PartnerCenter(settings.partner_center.clone());
    let column = settings.referral_id_column.as_deref();
    Ok(Services {
        portal: portal::open(&portal_settings, portal_line.client),
        crm: crm::open(crm_settings, settings.identity, column, columns, crm_line.client, Arc::clone(&clock))
            .map_err(StartError::Configuration)?,
        clock,
        credentials: vec![(Side::Portal, credential(portal, webhook)), (Side::Crm, credential(crm, None))],
    })
}

/// One service, ready to be asked.
pub(super) struct Line {
    /// Its sign-in.
    pub tokens: Arc<Tokens>,
    /// Its client stack.
    pub client: Arc<http::Client>,
}

/// The line to the referrals API.
pub(super) fn portal_line(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Line, StartError> {
    let portal = &settings.partner_center;
    let (side, section) = (Side::Portal, "partner_center.auth");
    let address = (&portal.base_url, portal::dialect(), portal.limits());
    Ok(heeding(line(settings, clock, (side, section, &portal.auth), address)?, settings, side))
}

/// The line to the Web API of Dataverse.
pub(super) fn crm_line(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Line, StartError> {
    let crm_settings = &settings.dataverse;
    let url = crm_settings.url.as_ref().ok_or_else(|| {
        StartError::Configuration(
            "dataverse.url is missing: `referrald init` asks for it; by hand, name the environment, for example \
             https://contoso.crm4.dynamics.com"
                .to_owned(),
        )
    })?;
    let (side, section) = (Side::Crm, "dataverse.auth");
    let dialect = crm::dialect(settings.columns());
    let address = (url, dialect, crm_settings.limits());
    Ok(heeding(line(settings, clock, (side, section, &crm_settings.auth), address)?, settings, side))
}

/// The line to the webhook registration API.
pub(super) fn webhook_line(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Line, StartError> {
    let portal = &settings.partner_center;
    let section = match portal.webhook_auth == Default::default() {
        true => "partner_center.auth",
        false => "partner_center.webhook_auth",
    };
    let limits = LimitSettings { in_flight_max: 1, ..portal.limits() };
    let auth = portal.webhook_sign_in();
    let address = (&portal.webhook_api_url, portal::dialect(), limits);
    line(settings, clock, (Side::Portal, section, &auth), address)
}

fn line(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    (side, section, auth): (Side, &str, &http::settings::AuthSettings),
    (url, dialect, limits): (&url::Url, Arc<dyn http::Dialect>, LimitSettings),
) -> Result<Line, StartError> {
    let failed = |error: http::SetupError| StartError::Configuration(error.to_string());
    let (audience, keep) = (url.origin().ascii_serialization(), settings.state.directory.join("keep"));
    let tokens = Tokens::new(side, section, &audience, auth, &settings.http, &keep, Arc::clone(clock));
    let tokens = Arc::new(tokens.map_err(failed)?);
    let shared = Arc::clone(&tokens);
    let client = http::Client::new(dialect, url.clone(), &settings.http, limits, shared, Arc::clone(clock));
    Ok(Line { tokens, client: Arc::new(client.map_err(failed)?) })
}

/// What the daemon was told of a closed window holds for every command.
fn heeding(line: Line, settings: &Settings, side: Side) -> Line {
    if let Some(until) = store::keep::kept_windows(&settings.state.directory).get(&side) {
        line.client.close_until(*until);
    }
    line
}

/// Builds the client of the webhook registration API.
pub(super) fn webhook_api(settings: &Settings) -> Result<WebhookApi, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let line = webhook_line(settings, &clock)?;
    let portal_settings = portal::PortalSettings::PartnerCenter(settings.partner_center.clone());
    Ok(portal::webhooks(&portal_settings, line.client))
}

/// The time of this host.
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        jiff::Timestamp::now().into()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
