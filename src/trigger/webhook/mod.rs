//! The webhook: a listener that only rings the bell, and only for what Microsoft has signed.
//!
//! A delivery's way: limits → method, path, content type → headers → place of the certificate → certificate (known, or
//! fetched from a configured place) → chain, subject, key → signature over the raw body → the ring. After that nothing of
//! it is kept, and no address in it is followed. Whatever cannot be verified is refused; polling misses nothing.

pub mod address;
pub mod certificates;
pub mod desk;
pub mod fetch;
pub mod listener;
pub mod reason;
pub mod ringer;
pub mod signed;
pub mod signer;
pub mod source;
pub mod tally;
pub mod verify;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::secret::read_limited;
use crate::http::settings::HttpSettings;
use crate::model::Timestamp;
use crate::trigger::Bell;
use crate::trigger::settings::WebhookSettings;
use certificates::{Certificates, Now};
use desk::Desk;
use fetch::{Fetch, HttpFetch};
use ringer::{Pace, Ringer};
use signed::Algorithm;
use signer::{Pin, Trust};
use source::{Kind, Sources};
use tally::{Counts, Tally};
use verify::Rules;

/// Below `state.directory`: the URL of the last good certificate. Disposable.
pub const NOTE: &str = "webhook-certificate-url";

/// The running listener; it ends when this is dropped.
pub struct Webhook {
    desk: watch::Sender<Arc<Desk>>,
    pace: Arc<Mutex<Pace>>,
    addresses: Vec<SocketAddr>,
    note: PathBuf,
    stop: CancellationToken,
}

/// How the webhook stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// What came.
    pub counts: Counts,
    /// The end of the newest certificate that is believed now.
    pub certificate_until: Option<Timestamp>,
}

impl Webhook {
    /// Opens the listener and rings `bell` from then on. `None` when neither an address is configured nor systemd passed
    /// a socket.
    ///
    /// # Errors
    /// Every problem as a sentence that names its key.
    pub async fn start(
        settings: &WebhookSettings,
        http: &HttpSettings,
        state_directory: &Path,
        bell: Bell,
    ) -> Result<Option<Webhook>, Vec<String>> {
        let sockets = listener::sockets(settings.listen).await.map_err(|error| {
            let listen = settings.listen.map(|listen| listen.to_string()).unwrap_or_default();
            vec![format!("webhook.listen: {listen} cannot be listened on: {error}; free it and restart the daemon")]
        })?;
        if sockets.is_empty() {
            return Ok(None);
        }
        let note = state_directory.join(NOTE);
        let desk = Arc::new(desk(settings, http, &note, Arc::default(), Ringer::default())?);
        Ok(Some(Webhook::over(sockets, desk, settings, note, bell)))
    }

    /// Serves a desk on these sockets.
    pub fn over(
        sockets: Vec<tokio::net::TcpListener>,
        desk: Arc<Desk>,
        settings: &WebhookSettings,
        note: PathBuf,
        bell: Bell,
    ) -> Webhook {
        let stop = CancellationToken::new();
        let pace = Arc::new(Mutex::new(settings.pace()));
        let places = Arc::new(Semaphore::new(usize::try_from(settings.connections_max).unwrap_or(usize::MAX >> 4)));
        desk.certificates.prefetch();
        let (ringer, tally, now) = (desk.ringer.clone(), desk.tally.clone(), desk.now.clone());
        let (sender, receiver) = watch::channel(desk);
        let addresses = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        for socket in sockets {
            tokio::spawn(listener::accept(socket, receiver.clone(), places.clone(), stop.clone()));
        }
        let (asked, stopped) = (pace.clone(), stop.clone());
        tokio::spawn(async move {
            let pace = || *asked.lock().unwrap_or_else(PoisonError::into_inner);
            ringer.run(&bell, pace, || tally.rung(now()), &stopped).await;
        });
        Webhook { desk: sender, pace, addresses, note, stop }
    }

    /// Reads changed settings and renewed files: certificates of our own TLS, roots, intermediates, limits. They are in
    /// force when what is returned is called. The address and the number of connections stay.
    ///
    /// # Errors
    /// Every problem as a sentence.
    pub fn prepare(
        &self,
        settings: &WebhookSettings,
        http: &HttpSettings,
    ) -> Result<impl FnOnce() + Send + use<'_>, Vec<String>> {
        let before = self.desk.borrow().clone();
        let desk = desk(settings, http, &self.note, before.tally.clone(), before.ringer.clone())?;
        let pace = settings.pace();
        Ok(move || {
            desk.certificates.prefetch();
            *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = pace;
            self.desk.send_replace(Arc::new(desk));
        })
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let desk = self.desk.borrow().clone();
        Standing {
            addresses: self.addresses.clone(),
            counts: desk.tally.counts(),
            certificate_until: desk.certificates.valid_until(),
        }
    }

    /// Places of certificates that are remembered, for the bound of it.
    pub fn place_count(&self) -> usize {
        self.desk.borrow().certificates.place_count()
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Builds everything one delivery is judged with.
fn desk(
    settings: &WebhookSettings,
    http: &HttpSettings,
    note: &Path,
    tally: Arc<Tally>,
    ringer: Ringer,
) -> Result<Desk, Vec<String>> {
    let mut problems = Vec::new();
    let (rules, intermediate_sources) = keep(rules(settings), &mut problems).unzip();
    let folder = keep(folder(settings).map_err(|why| vec![why]), &mut problems);
    let fetch = keep(fetcher(http).map_err(|why| vec![why]), &mut problems);
    let tls = keep(tls(settings).map_err(|why| vec![why]), &mut problems);
    let (Some(rules), Some(intermediate_sources), Some(folder), Some(fetch), Some(tls)) =
        (rules, intermediate_sources, folder, fetch, tls)
    else {
        return Err(problems);
    };
    let rules = Arc::new(rules);
    let now: Now = Arc::new(|| jiff::Timestamp::now().into());
    let note = Some(note.to_owned());
    Ok(Desk {
        path: settings.path.clone(),
        certificates: Certificates::new(rules.clone(), intermediate_sources, folder, fetch, now.clone(), note),
        rules,
        request_timeout: settings.request_timeout.get(),
        tls,
        tally,
        ringer,
        now,
    })
}

fn keep<T>(result: Result<T, Vec<String>>, problems: &mut Vec<String>) -> Option<T> {
    result.map_err(|more| problems.extend(more)).ok()
}

/// What deliveries are judged by, and where intermediates may come from.
///
/// # Errors
/// Every problem as a sentence that names its key.
pub fn rules(settings: &WebhookSettings) -> Result<(Rules, Sources), Vec<String>> {
    let mut problems = Vec::new();
    let mut sources = |key: &str, kind, prefixes: &[String]| {
        let told = |bad: Vec<(usize, &str)>| {
            problems.extend(bad.into_iter().map(|(index, why)| format!("webhook.{key}.{index}: {why}")));
        };
        Sources::new(kind, prefixes).map_err(told).ok()
    };
    let certificate_sources = sources("certificate_sources", Kind::Certificate, &settings.certificate_sources);
    let intermediate_sources = sources("intermediate_sources", Kind::Intermediate, &settings.intermediate_sources);
    let mut algorithms = Vec::new();
    for name in &settings.algorithms {
        match Algorithm::parse(name) {
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                problems.push(format!("webhook.algorithms: {name} is not known; rsa-sha256, -sha384 and -sha512 are"))
            }
        }
    }
    let mut pins = Vec::new();
    for (index, text) in settings.pinned_keys.iter().enumerate() {
        match Pin::parse(text) {
            Some(pin) => pins.push(pin),
            None => problems.push(format!("webhook.pinned_keys.{index}: this is no base64 of a SHA-256")),
        }
    }
    let trust = match &settings.trust_anchors_file {
        None => Ok(Trust::built_in(&settings.certificate_names)),
        Some(file) => read_limited(file)
            .and_then(|pem| Trust::from_pem(&pem, &settings.certificate_names))
            .map_err(|why| format!("webhook.trust_anchors_file: {} cannot be used: {why}", file.display())),
    };
    let trust = trust.map_err(|why| problems.push(why)).ok();
    match (certificate_sources, intermediate_sources, trust) {
        (Some(certificate_sources), Some(intermediate_sources), Some(trust)) if problems.is_empty() => {
            let trust = trust.pinned(pins);
            Ok((Rules { algorithms, certificate_sources, trust }, intermediate_sources))
        }
        _ => Err(problems),
    }
}

/// The intermediates of the configured folder.
///
/// # Errors
/// A sentence that names the key.
pub fn folder(settings: &WebhookSettings) -> Result<Vec<CertificateDer<'static>>, String> {
    match &settings.intermediates_directory {
        None => Ok(Vec::new()),
        Some(folder) => {
            certificates::read_folder(folder).map_err(|why| format!("webhook.intermediates_directory: {why}"))
        }
    }
}

/// What fetches certificates.
///
/// # Errors
/// A sentence.
pub fn fetcher(http: &HttpSettings) -> Result<Arc<dyn Fetch>, String> {
    let roots = match &http.extra_roots_file {
        None => Vec::new(),
        Some(file) => {
            let refuse = |why: String| format!("http.extra_roots_file: {} cannot be used: {why}", file.display());
            let pem = read_limited(file).map_err(refuse)?;
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| refuse(error.to_string()))?
        }
    };
    Ok(Arc::new(HttpFetch::new(&http.user_agent, roots)?))
}

/// TLS of our own, if it is configured.
fn tls(settings: &WebhookSettings) -> Result<Option<TlsAcceptor>, String> {
    let (Some(certificate), Some(key)) = (&settings.tls_certificate_file, &settings.tls_private_key_file) else {
        return Ok(None);
    };
    let refuse =
        |key: &str, file: &Path, why: String| format!("webhook.{key}: {} cannot be used: {why}", file.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| refuse("tls_certificate_file", certificate, error.to_string()))?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| refuse("tls_private_key_file", key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| refuse("tls_certificate_file", certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

impl WebhookSettings {
    /// How often deliveries may ring.
    pub fn pace(&self) -> Pace {
        Pace { debounce: self.debounce.get(), rings_per_minute: self.rings_per_minute }
    }
}
