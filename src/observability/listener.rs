//! The listener: connections with limits on everything, in front of the desk. It comes back by itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ObservabilitySettings;
use super::desk::Desk;
use crate::daemon::status::{ListenerStatus, Status};
use crate::daemon::{Beside, Engine, Pulse};

/// Largest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Headers of a request at most.
pub const HEADERS_MAX: usize = 64;
/// Pause before an address that could not be had is tried again.
pub const BIND_PAUSE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed: most likely the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// What a connection is told when all places are taken.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n";

/// A listener that is served until it is dropped.
pub struct Observability {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    desk: Desk,
    standing: Mutex<(Option<SocketAddr>, Option<String>)>,
    turned_away: AtomicU64,
    settings: watch::Receiver<ObservabilitySettings>,
}

impl Observability {
    /// Begins to listen; an address that cannot be had is a warning, and is tried again. What is sent through `settings`
    /// later is taken over at once.
    pub fn start(
        settings: watch::Receiver<ObservabilitySettings>,
        engine: Arc<dyn Engine>,
        pulse: Pulse,
    ) -> Observability {
        let shared = Arc::new(Shared {
            desk: Desk::new(engine, pulse),
            standing: Mutex::default(),
            turned_away: AtomicU64::new(0),
            settings: settings.clone(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(listen(Arc::clone(&shared), settings, stop.clone()));
        Observability { shared, _stop: stop.drop_guard() }
    }

    /// What it has to tell in the status.
    pub fn beside(&self) -> Arc<dyn Beside> {
        // Not the engine's owner: it only looks, and the engine keeps it.
        Arc::new(Teller(Arc::downgrade(&self.shared)))
    }
}

struct Teller(std::sync::Weak<Shared>);

impl Beside for Teller {
    fn tell(&self, status: &mut Status) {
        let Some(shared) = self.0.upgrade() else { return };
        if shared.settings.borrow().listen.is_none() {
            return;
        }
        let (address, trouble) = shared.standing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.observability = Some(ListenerStatus {
            address: address.map(|address| address.to_string()),
            trouble,
            answered: shared.desk.answered(),
            turned_away: shared.turned_away.load(Ordering::Relaxed),
        });
    }
}

/// Listens, and begins anew when settings change or the address can be had at last.
async fn listen(shared: Arc<Shared>, mut settings: watch::Receiver<ObservabilitySettings>, stop: CancellationToken) {
    let listening = async {
        loop {
            let wanted = settings.borrow_and_update().clone();
            let round = async {
                match wanted.listen {
                    None => std::future::pending().await,
                    Some(address) => match TcpListener::bind(address).await {
                        Ok(listener) => accept(listener, &shared, &wanted).await,
                        Err(error) => {
                            let text = format!("{address} cannot be listened on: {error}");
                            if shared.stand(None, Some(text.clone())) {
                                tracing::warn!("the status page is not there, it is tried again: {text}");
                            }
                            tokio::time::sleep(BIND_PAUSE).await;
                        }
                    },
                }
            };
            tokio::select! {
                changed = settings.changed() => if changed.is_err() { return },
                () = round => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
    }
}

impl Shared {
    /// Takes note of how it stands; true when that is news.
    fn stand(&self, address: Option<SocketAddr>, trouble: Option<String>) -> bool {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *standing != (address, trouble.clone());
        *standing = (address, trouble);
        is_news
    }
}

async fn accept(listener: TcpListener, shared: &Arc<Shared>, settings: &ObservabilitySettings) {
    let address = listener.local_addr().ok();
    if shared.stand(address, None)
        && let Some(address) = address
    {
        tracing::info!("the status page is on http://{address}/");
    }
    let places = Arc::new(Semaphore::new(settings.connections_max as usize));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the observability listener could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(serve(stream, Arc::clone(shared), settings.clone(), place));
            }
            Err(_) => {
                shared.turned_away.fetch_add(1, Ordering::Relaxed);
                // A best effort: the connection is dropped anyway.
                let _ = stream.try_write(BUSY);
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, settings: ObservabilitySettings, _place: OwnedSemaphorePermit) {
    let (timeout, lag_max) = (settings.request_timeout.get(), settings.lag_max.get());
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(shared.desk.answer(&request, lag_max).await) }
    });
    // Broken heads are answered by hyper: 400, 414, 431.
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // One request a connection: an idle client holds no place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Once for the head, once for an answer that nobody takes.
    match tokio::time::timeout(timeout.saturating_mul(2), serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the observability listener ended early"),
        Err(_) => tracing::debug!("a connection to the observability listener took too long"),
    }
}
