//! Sign-in: access tokens for one service, renewed early, once for all callers, and never asked for in a tight loop.

mod assertion;
pub mod claims;
mod credentials;
mod grant;
mod keep;
pub mod person;
pub(super) mod refusal;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use self::credentials::Credentials;
use self::grant::{Granted, NotGranted, Proof, Target, ask};
use self::keep::{Kept, Seat};
use self::refusal::{Class, Refusal};
use super::retry;
use super::settings::{AuthSettings, Grant, HttpSettings};
use super::transport::{Lost, SetupError, Transport, Wire};
use crate::config::secret::SecretOrigin;
use crate::model::{Fault, RemoteError, Side, Timestamp};
use crate::ports::Clock;

/// How long the sign-in service is left alone after a refusal that only a person can mend, unless a secret's source
/// changes before (partner-center §2.8: slowly, never in a tight loop). Refusals that may lock the account are not
/// repeated at all.
pub const HUMAN_RETRY_DELAY: Duration = Duration::from_secs(15 * 60);
/// How long it is left alone after a failure that may pass, once the attempts of one renewal are used up.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(15);
/// The lifetime of an unused refresh token (partner-center §2.4).
pub const REFRESH_TOKEN_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// The part of its lifetime after which an access token is renewed, in percent.
const RENEW_AFTER_PERCENT: u32 = 80;
/// A token that ends sooner than this is not used any more when its renewal fails.
const USE_MARGIN: Duration = Duration::from_secs(30);

const OPERATION: &str = "sign in";

/// The access token of one service.
pub struct Tokens {
    side: Side,
    clock: Arc<dyn Clock>,
    wire: Arc<dyn Wire>,
    settings: HttpSettings,
    credentials: Credentials,
    target: Target,
    /// The kept refresh token; only the refresh-token grant has one.
    seat: Option<Arc<Seat>>,
    memory: Mutex<Memory>,
    /// Held by the one caller who renews for all.
    renewal: tokio::sync::Mutex<()>,
    requests_sent: AtomicU64,
}

#[derive(Default)]
struct Memory {
    token: Option<Access>,
    failure: Option<Failure>,
    refresh_token_obtained_at: Option<Timestamp>,
}

#[derive(Clone)]
struct Access {
    token: SecretString,
    renew_at: Timestamp,
    expires_at: Timestamp,
    origin: Origin,
    /// The service answered that a person must act.
    is_doubted: bool,
}

/// What an access token was obtained with. Another one makes a new token worth asking for before the old one is spent.
#[derive(Clone, PartialEq, Eq)]
struct Origin {
    /// When a person signed in last.
    signed_in_at: Option<Timestamp>,
    /// The digest of the configured secrets.
    secrets: String,
}

/// The last renewal failed.
#[derive(Clone)]
struct Failure {
    error: RemoteError,
    /// Until when the answer comes from memory; `None` when time alone mends nothing.
    until: Option<Timestamp>,
    /// What was configured and kept then; a change ends the waiting.
    inputs: Option<String>,
}

/// What an operator wants to know of a sign-in.
#[derive(Clone, Debug, PartialEq)]
pub struct SignInState {
    /// When the refresh token in use was obtained.
    pub refresh_token_obtained_at: Option<Timestamp>,
    /// When it ends if it is not used before.
    pub refresh_token_expires_at: Option<Timestamp>,
    /// The end of the client certificate.
    pub certificate_not_after: Option<Timestamp>,
    /// Why the last renewal failed; `None` when it did not.
    pub last_error: Option<String>,
    /// A person must act.
    pub needs_human: bool,
}

impl Tokens {
    /// The sign-in of one service. `section` names its keys in messages, for example `dataverse.auth`; `audience` is
    /// the scheme and host of the service and gives way to a configured one; `keep_dir` holds the rotated token.
    ///
    /// Secrets are read later, when they are needed: a missing file stops one side, not the program.
    ///
    /// # Errors
    /// When settings are missing or contradict each other: all of them at once, each with its key.
    pub fn new(
        side: Side,
        section: &str,
        audience: &str,
        auth: &AuthSettings,
        http: &HttpSettings,
        keep_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let credentials = Credentials::new(section, auth)?;
        for warning in credentials.exposures() {
            tracing::warn!("{warning}");
        }
        if auth.grant == Grant::Password {
            tracing::warn!(
                "{section}.grant = \"password\" is a compatibility mode: it fails as soon as multi-factor authentication is demanded; use \"refresh_token\""
            );
        }
        let audience = auth.audience.as_deref().unwrap_or(audience).trim_end_matches('/').to_owned();
        let target = Target {
            url: credentials.token_url(auth.endpoint_version),
            version: auth.endpoint_version,
            audience,
            client_id: credentials.client_id.clone(),
            timeout: http.read_timeout.get(),
        };
        let seat = (auth.grant == Grant::RefreshToken).then(|| {
            let seed = credentials.seed.as_ref().map(|seed| seed.place()).unwrap_or_default();
            let name = keep::file_name(&credentials.authority, &credentials.tenant, &credentials.client_id, &seed);
            Seat::at(keep_dir, &name)
        });
        let tokens = Tokens {
            side,
            clock,
            wire: Arc::new(Transport::new(&target.url, http)?),
            settings: http.clone(),
            credentials,
            target,
            seat,
            memory: Mutex::default(),
            renewal: tokio::sync::Mutex::default(),
            requests_sent: AtomicU64::new(0),
        };
        let kept = tokens.seat.as_ref().and_then(|seat| seat.load().ok().flatten());
        tokens.memory().refresh_token_obtained_at =
            kept.map(|kept| kept.obtained_at).or_else(|| tokens.seed_written_at());
        Ok(tokens)
    }

    /// The same sign-in over another wire.
    #[must_use]
    pub fn over(self, wire: Arc<dyn Wire>) -> Self {
        Tokens { wire, ..self }
    }

    /// An access token that is good for a while. Renewed at four fifths of its life, once for all callers; at once when
    /// a person has signed in anew, and when the service doubted the token and a configured secret has changed since.
    ///
    /// # Errors
    /// `Fault::NeedsHuman` with a sentence that says what to do, `Throttled` or `Unavailable`. A failed renewal does
    /// not hurt while the token before is still good.
    pub async fn bearer(&self) -> Result<SecretString, RemoteError> {
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let _turn = self.renewal.lock().await;
        // Who stood in line while somebody else renewed finds the result here, good or bad.
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let now = self.clock.now();
        let failure = self.memory().failure.clone();
        let remembered = failure.filter(|failure| failure.is_in_force(now, || self.inputs()));
        if let Some(failure) = remembered {
            return self.memory().usable(now).ok_or(failure.error);
        }
        // Before anything is read for the renewal: a change in between costs one more token, and is never missed.
        let origin = self.origin();
        let result = self.renew(origin).await;
        let now = self.clock.now();
        let inputs = self.inputs();
        let mut memory = self.memory();
        match result {
            Ok(access) => {
                let token = access.token.clone();
                memory.failure = None;
                memory.token = Some(access);
                Ok(token)
            }
            Err(error) => {
                let failure = Failure::new(error, now, inputs);
                memory.failure = Some(failure.clone());
                match memory.usable(now) {
                    Some(token) => {
                        tracing::warn!(error = %failure.error, "the access token could not be renewed; the one before is still good");
                        Ok(token)
                    }
                    None => Err(failure.error),
                }
            }
        }
    }

    /// Forgets `used`, because the service refused it. A newer token stays.
    pub fn invalidate(&self, used: &SecretString) {
        let mut memory = self.memory();
        if memory.token.as_ref().is_some_and(|access| is_same(&access.token, used)) {
            memory.token = None;
        }
    }

    /// Notes that the service answered to `used` that a person must act. The token stays in use, because nothing better
    /// is at hand, until what it was obtained with changes: then a new one is asked for at once (partner-center §1.11).
    pub fn doubt(&self, used: &SecretString) {
        let mut memory = self.memory();
        if let Some(access) = memory.token.as_mut().filter(|access| is_same(&access.token, used)) {
            access.is_doubted = true;
        }
    }

    /// The token in memory, while nothing asks for another one.
    fn fresh(&self) -> Option<SecretString> {
        let access = self.memory().token.clone()?;
        let is_signed_in_anew = || self.signed_in_at() != access.origin.signed_in_at;
        let is_mended = || access.is_doubted && self.credentials.digest() != access.origin.secrets;
        if is_signed_in_anew() || is_mended() {
            if access.is_doubted {
                self.invalidate(&access.token);
            }
            return None;
        }
        (self.clock.now() < access.renew_at).then_some(access.token)
    }

    fn origin(&self) -> Origin {
        Origin { signed_in_at: self.signed_in_at(), secrets: self.credentials.digest() }
    }

    fn signed_in_at(&self) -> Option<Timestamp> {
        self.seat.as_ref().and_then(|seat| seat.signed_in_at())
    }

    /// What an operator wants to know. Reads the certificate file.
    pub fn state(&self) -> SignInState {
        let certificate_not_after = self.credentials.certificate_not_after();
        let memory = self.memory();
        let obtained = memory.refresh_token_obtained_at;
        SignInState {
            refresh_token_obtained_at: obtained,
            refresh_token_expires_at: obtained.map(|instant| instant.plus(REFRESH_TOKEN_LIFETIME)),
            certificate_not_after,
            last_error: memory.failure.as_ref().map(|failure| failure.error.to_string()),
            needs_human: memory.failure.as_ref().is_some_and(|failure| failure.error.fault == Fault::NeedsHuman),
        }
    }

    /// Token requests sent since the process started.
    pub fn requests_sent(&self) -> u64 {
        self.requests_sent.load(Ordering::Relaxed)
    }

    async fn renew(&self, origin: Origin) -> Result<Access, RemoteError> {
        let asked_at = self.clock.now();
        let granted = match self.credentials.grant {
            Grant::ClientCredentials => {
                self.ask(&grant::Grant::ClientCredentials).await.map_err(|no| self.error(no))?
            }
            Grant::Password => {
                let (name, password) = self.credentials.user().map_err(|reason| self.local(reason))?;
                self.ask(&grant::Grant::Password(name, &password)).await.map_err(|no| self.error(no))?
            }
            Grant::RefreshToken => self.refresh().await?,
        };
        Ok(Access::new(granted, asked_at, origin))
    }

    /// Redeems the newest refresh token, on refusal the others, and keeps what comes back before anyone may use it.
    async fn refresh(&self) -> Result<Granted, RemoteError> {
        let seat = self.seat.as_ref().expect("the refresh-token grant has a seat");
        let _turn = seat.turn.lock().await;
        let kept = seat.load().map_err(|reason| self.local(reason))?;
        let seed = match &self.credentials.seed {
            None => None,
            Some(source) => match source.read() {
                Ok(token) => Some(token),
                // A kept token does without its seed.
                Err(_) if kept.is_some() => None,
                Err(error) => return Err(self.local(error.to_string())),
            },
        };
        let candidates = candidates(kept.as_ref(), seed.as_ref());
        if candidates.is_empty() {
            return Err(self.local(format!("there is no refresh token yet: {}", self.credentials.renewal())));
        }
        seat.check_writable().map_err(|reason| self.local(reason))?;

        let mut first_refusal = None;
        for candidate in &candidates {
            match self.ask(&grant::Grant::RefreshToken(candidate)).await {
                Ok(granted) => {
                    self.keep(seat, kept.as_ref(), seed.as_ref(), candidate, &granted)?;
                    return Ok(granted);
                }
                Err(NotAsked::Refused(refusal)) if refusal.is_grant_refused => {
                    first_refusal.get_or_insert(refusal);
                }
                Err(other) => return Err(self.error(other)),
            }
        }
        Err(self.error(NotAsked::Refused(first_refusal.expect("every candidate was refused, and there was one"))))
    }

    fn keep(
        &self,
        seat: &Seat,
        kept: Option<&Kept>,
        seed: Option<&SecretString>,
        used: &SecretString,
        granted: &Granted,
    ) -> Result<(), RemoteError> {
        let newest = granted.refresh_token.as_ref().unwrap_or(used);
        let is_rotated = !is_same(newest, used);
        let known = kept.filter(|kept| is_same(&kept.token, newest));
        let next = Kept {
            token: newest.clone(),
            obtained_at: match known {
                _ if is_rotated => self.clock.now(),
                Some(kept) => kept.obtained_at,
                None => self.seed_written_at().unwrap_or(self.clock.now()),
            },
            previous: if is_rotated { Some(used.clone()) } else { known.and_then(|kept| kept.previous.clone()) },
            seed: seed.map(digest).or_else(|| kept.and_then(|kept| kept.seed.clone())),
            is_newer_than_seed: seed.is_none() && kept.is_some_and(|kept| kept.is_newer_than_seed),
            signed_in_at: kept.and_then(|kept| kept.signed_in_at),
        };
        if known.is_none_or(|kept| kept.seed != next.seed) {
            seat.store(&next).map_err(|reason| self.local(reason))?;
        }
        self.memory().refresh_token_obtained_at = Some(next.obtained_at);
        Ok(())
    }

    /// Asks, with a few attempts while a failure may pass by itself.
    async fn ask(&self, grant: &grant::Grant<'_>) -> Result<Granted, NotAsked> {
        let mut attempt = 1;
        loop {
            let now = self.clock.now();
            let proof: Proof = self.credentials.proof(&self.target.url, now).map_err(NotAsked::Local)?;
            self.requests_sent.fetch_add(1, Ordering::Relaxed);
            let (error, wait) = match ask(self.wire.as_ref(), &self.target, &proof, grant, now).await {
                Ok(granted) => return Ok(granted),
                Err(NotGranted::Refused(refusal)) => {
                    if refusal.class != Class::Retry {
                        return Err(NotAsked::Refused(refusal));
                    }
                    let wait = refusal.retry_after.unwrap_or_default();
                    (NotAsked::Refused(refusal), wait)
                }
                Err(NotGranted::Lost(lost)) => (NotAsked::Lost(lost), Duration::ZERO),
                Err(NotGranted::Malformed) => (NotAsked::Malformed, Duration::ZERO),
            };
            if attempt >= self.settings.attempts_max || wait > self.settings.retry_after_wait_max.get() {
                return Err(error);
            }
            let delay = retry::delay(attempt, self.settings.retry_delay.get(), self.settings.retry_delay_max.get());
            self.clock.sleep(wait.saturating_add(delay)).await;
            attempt += 1;
        }
    }

    fn error(&self, reason: NotAsked) -> RemoteError {
        let unavailable =
            |message: String| RemoteError::new(self.side, OPERATION, Fault::Unavailable).with_message(message);
        match reason {
            NotAsked::Local(reason) => self.local(reason),
            NotAsked::Malformed => unavailable("the sign-in service sent no token that can be used".to_owned()),
            NotAsked::Lost(Lost::NotSent(cause)) => {
                unavailable(format!("no connection to the sign-in service: {cause}"))
            }
            NotAsked::Lost(Lost::Broken(cause)) => {
                unavailable(format!("the connection to the sign-in service broke: {cause}"))
            }
            NotAsked::Lost(Lost::TimedOut) => unavailable("no answer from the sign-in service in time".to_owned()),
            NotAsked::Lost(Lost::TooLarge(_)) => unavailable("the sign-in service's answer is too large".to_owned()),
            NotAsked::Lost(Lost::Forbidden(reason)) => self.local(reason),
            NotAsked::Refused(refusal) => {
                let fault = match (refusal.class, refusal.retry_after) {
                    (Class::Human | Class::Configuration, _) => Fault::NeedsHuman,
                    (Class::Retry, Some(wait)) => Fault::Throttled { until: self.clock.now().plus(wait) },
                    (Class::Retry, None) => Fault::Unavailable,
                };
                RemoteError {
                    status: Some(refusal.status.as_u16()),
                    message: Some(self.credentials.sentence(&refusal, &self.target.audience)),
                    code: refusal.code,
                    request_id: refusal.request_id,
                    ..RemoteError::new(self.side, OPERATION, fault)
                }
            }
        }
    }

    /// Trouble on this machine: nobody was asked.
    fn local(&self, reason: String) -> RemoteError {
        RemoteError::new(self.side, OPERATION, Fault::NeedsHuman).with_message(reason)
    }

    /// Everything whose change makes another try worth while.
    fn inputs(&self) -> String {
        let kept = self.seat.as_ref().and_then(|seat| crate::config::secret::read_limited(seat.path()).ok());
        format!("{} {}", self.credentials.digest(), keep::hex_sha256(&kept.unwrap_or_default()))
    }

    fn seed_written_at(&self) -> Option<Timestamp> {
        let source = self.credentials.seed.as_ref()?;
        let SecretOrigin::File(path) = &source.origin else { return None };
        let modified = std::fs::metadata(path).ok()?.modified().ok()?;
        jiff::Timestamp::try_from(modified).ok().map(Timestamp::from)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Secrets stay out.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("side", &self.side).field("target", &self.target).finish_non_exhaustive()
    }
}

impl Access {
    fn new(granted: Granted, asked_at: Timestamp, origin: Origin) -> Self {
        Access {
            token: granted.token,
            renew_at: asked_at.plus(granted.lifetime.saturating_mul(RENEW_AFTER_PERCENT) / 100),
            expires_at: asked_at.plus(granted.lifetime),
            origin,
            is_doubted: false,
        }
    }
}

impl Memory {
    /// The token, while it is accepted.
    fn usable(&self, now: Timestamp) -> Option<SecretString> {
        self.token.as_ref().filter(|access| now.plus(USE_MARGIN) < access.expires_at).map(|access| access.token.clone())
    }
}

impl Failure {
    fn new(error: RemoteError, now: Timestamp, inputs: String) -> Self {
        let after = |pause| Some(now.plus(pause));
        match error.fault {
            Fault::Throttled { until } => Failure { error, until: Some(until), inputs: None },
            Fault::NeedsHuman if error.code.as_deref().is_some_and(refusal::locks_out) => {
                Failure { error, until: None, inputs: Some(inputs) }
            }
            // The sign-in service said so; without a status the trouble is on this machine, and nobody was asked.
            Fault::NeedsHuman if error.status.is_some() => {
                Failure { error, until: after(HUMAN_RETRY_DELAY), inputs: Some(inputs) }
            }
            Fault::NeedsHuman => Failure { error, until: after(RENEWAL_PAUSE), inputs: Some(inputs) },
            Fault::Unavailable
            | Fault::Conflict
            | Fault::Missing
            | Fault::Refused
            | Fault::Unauthorized
            | Fault::Malformed => Failure { error, until: after(RENEWAL_PAUSE), inputs: None },
        }
    }

    fn is_in_force(&self, now: Timestamp, inputs: impl Fn() -> String) -> bool {
        self.until.is_none_or(|until| now < until) && self.inputs.as_ref().is_none_or(|before| *before == inputs())
    }
}

/// Why a token request brought nothing.
enum NotAsked {
    Refused(Refusal),
    Lost(Lost),
    Malformed,
    Local(String),
}

/// The refresh tokens worth trying, the newest first: a seed that changed since the kept token was written is newer.
fn candidates(kept: Option<&Kept>, seed: Option<&SecretString>) -> Vec<SecretString> {
    let is_seed_newer = match (kept, seed) {
        (Some(kept), Some(seed)) => !kept.is_newer_than_seed && kept.seed.as_ref() != Some(&digest(seed)),
        (_, _) => true,
    };
    let current = kept.map(|kept| &kept.token);
    let previous = kept.and_then(|kept| kept.previous.as_ref());
    let order = if is_seed_newer { [seed, current, previous] } else { [current, seed, previous] };
    let mut candidates: Vec<SecretString> = Vec::new();
    for token in order.into_iter().flatten() {
        if !candidates.iter().any(|known| is_same(known, token)) {
            candidates.push(token.clone());
        }
    }
    candidates
}

fn digest(token: &SecretString) -> String {
    keep::hex_sha256(token.expose_secret().as_bytes())
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
