//! One sign-in by a person: an authorization code with PKCE, or a device code (partner-center §2.5).
//!
//! What comes of it takes the place of the kept refresh token, on disk before anything that came with it is used. A daemon
//! that runs elsewhere sees the changed file and goes on by itself.

use std::time::Duration;

use secrecy::SecretString;

pub use super::grant::{DeviceCode, Invitation};

use super::grant::{self, Granted, NotGranted};
use super::keep::Kept;
use super::refusal::{Class, redirected};
use super::{Access, NotAsked, Tokens, digest};
use crate::http::settings::Grant;
use crate::model::RemoteError;

/// What a refusal tells a person who is just signing in.
const AGAIN: &str = "sign in again";
/// How much the pause between two looks grows when the service finds us impatient (RFC 8628 §3.5).
pub const SLOW_DOWN: Duration = Duration::from_secs(5);

impl Tokens {
    /// Whether a person signs in at all: only the refresh-token grant begins with one.
    pub fn wants_person(&self) -> bool {
        self.credentials.grant == Grant::RefreshToken
    }

    /// Whether the application shows nothing of itself: then any port of a redirect URI to this machine will do.
    pub fn is_public_client(&self) -> bool {
        self.credentials.is_public()
    }

    /// The directory that signs in.
    pub fn tenant(&self) -> &str {
        &self.credentials.tenant
    }

    /// What its tokens are for.
    pub fn audience(&self) -> &str {
        &self.target.audience
    }

    /// Where the sign-in service is.
    pub fn authority(&self) -> &url::Url {
        &self.target.url
    }

    /// Where the kept refresh token lies; `None` where there is none to keep.
    pub fn kept_at(&self) -> Option<&std::path::Path> {
        self.seat.as_ref().map(|seat| seat.path())
    }

    /// An address at which a person signs in; the answer goes to `redirect`.
    ///
    /// # Errors
    /// When the token could not be kept afterwards, so that nobody signs in for nothing.
    pub fn invite(&self, redirect: &str) -> Result<Invitation, RemoteError> {
        self.check_place()?;
        let authorize = self.credentials.endpoint_url(self.target.version, "authorize");
        grant::invite(&self.target, &authorize, redirect).map_err(|reason| self.local(reason))
    }

    /// Redeems the code that came to the redirect URI, and keeps what it brings.
    ///
    /// # Errors
    /// The refusal in words, or why the token could not be kept.
    pub async fn redeem(&self, invitation: &Invitation, code: &SecretString) -> Result<(), RemoteError> {
        let asked_at = self.clock.now();
        let (verifier, redirect) = (&invitation.verifier, invitation.redirect.as_str());
        let shown = grant::Grant::AuthorizationCode { code, verifier, redirect };
        let granted = self.ask(&shown).await.map_err(|no| self.signing_in(no))?;
        self.welcome(granted, asked_at).await
    }

    /// The error that came to the redirect URI instead of a code, understood.
    pub fn declined(&self, error: &str, description: &str) -> RemoteError {
        self.signing_in(NotAsked::Refused(redirected(error, description)))
    }

    /// Asks for a code that a person enters on another device.
    ///
    /// # Errors
    /// The refusal in words.
    pub async fn begin_device(&self) -> Result<DeviceCode, RemoteError> {
        self.check_place()?;
        let endpoint = self.credentials.endpoint_url(self.target.version, "devicecode");
        let asked = grant::device_code(self.wire.as_ref(), &self.target, &endpoint, self.clock.now()).await;
        asked.map_err(|no| self.signing_in(no.into()))
    }

    /// Looks until the person has signed in, and keeps what it brings. A lost answer is looked for again.
    ///
    /// # Errors
    /// When the person declines or does not come in time, or the service refuses.
    pub async fn wait_for_device(&self, device: &DeviceCode) -> Result<(), RemoteError> {
        let until = self.clock.now().plus(device.lifetime);
        let mut interval = device.interval;
        loop {
            self.clock.sleep(interval).await;
            let asked_at = self.clock.now();
            let proof = self.credentials.proof(&self.target.url, asked_at).map_err(|reason| self.local(reason))?;
            match grant::look(self.wire.as_ref(), &self.target, &proof, &device.code, asked_at).await {
                Ok(granted) => return self.welcome(granted, asked_at).await,
                Err(no) if asked_at >= until => return Err(self.signing_in(no.into())),
                Err(NotGranted::Refused(refusal)) => match refusal.error {
                    "authorization_pending" => {}
                    "slow_down" => interval = interval.saturating_add(SLOW_DOWN),
                    _ if refusal.class == Class::Retry => {
                        interval = interval.max(refusal.retry_after.unwrap_or_default());
                    }
                    _ => return Err(self.signing_in(NotAsked::Refused(refusal))),
                },
                Err(NotGranted::Lost(_) | NotGranted::Malformed) => interval = interval.saturating_add(SLOW_DOWN),
            }
        }
    }

    /// Keeps a person's token, then lets the access token that came with it be used.
    pub(super) async fn welcome(&self, granted: Granted, asked_at: crate::model::Timestamp) -> Result<(), RemoteError> {
        let Some(token) = granted.refresh_token.clone() else {
            return Err(self.local(
                "the sign-in brought no refresh token: allow the application the permission offline_access".to_owned(),
            ));
        };
        if let Some(seat) = &self.seat {
            let _turn = seat.turn.lock().await;
            let kept = seat.load().map_err(|reason| self.local(reason))?;
            let seed = self.credentials.seed.as_ref();
            let read = seed.and_then(|seed| seed.read().ok());
            let next = Kept {
                token,
                obtained_at: asked_at,
                previous: None,
                is_newer_than_seed: seed.is_some() && read.is_none(),
                seed: read.as_ref().map(digest).or_else(|| kept.and_then(|kept| kept.seed)),
                signed_in_at: Some(asked_at),
            };
            seat.store(&next).map_err(|reason| self.local(reason))?;
        }
        let origin = self.origin();
        let mut memory = self.memory();
        memory.failure = None;
        memory.refresh_token_obtained_at = Some(asked_at);
        memory.token = Some(Access::new(granted, asked_at, origin));
        Ok(())
    }

    fn check_place(&self) -> Result<(), RemoteError> {
        let Some(seat) = &self.seat else {
            return Err(self.local("nobody signs in by hand with this grant".to_owned()));
        };
        seat.check_writable().map_err(|reason| self.local(reason))
    }

    /// As `error`, for the person who is signing in: `run referrald login` would send them in circles.
    fn signing_in(&self, no: NotAsked) -> RemoteError {
        let words = match &no {
            NotAsked::Refused(refusal) => Some(self.credentials.sentence_with(refusal, &self.target.audience, AGAIN)),
            NotAsked::Lost(_) | NotAsked::Malformed | NotAsked::Local(_) => None,
        };
        let error = self.error(no);
        match words {
            Some(words) => error.with_message(words),
            None => error,
        }
    }
}

impl From<NotGranted> for NotAsked {
    fn from(no: NotGranted) -> Self {
        match no {
            NotGranted::Refused(refusal) => NotAsked::Refused(refusal),
            NotGranted::Lost(lost) => NotAsked::Lost(lost),
            NotGranted::Malformed => NotAsked::Malformed,
        }
    }
}
