//! The listener: connections with limits on everything, in front of the desk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::desk::Desk;

/// Largest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request at most.
pub const HEADERS_MAX: usize = 64;
/// What a connection is told when all places are taken.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n";
/// Pause after an accept that failed: most likely the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until `stop`. `desk` is looked up for each: a reload replaces it.
pub async fn accept(
    listener: TcpListener,
    desk: watch::Receiver<Arc<Desk>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the webhook listener could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let desk = desk.borrow().clone();
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection(stream, desk, place) => {}
                    }
                });
            }
            Err(_) => {
                desk.tally.refused("busy");
                if desk.tls.is_none() {
                    // A best effort: the connection is dropped anyway.
                    let _ = stream.try_write(BUSY);
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, desk: Arc<Desk>, _place: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    match desk.tls.clone() {
        None => serve(stream, desk).await,
        Some(tls) => match tokio::time::timeout(desk.request_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve(stream, desk).await,
            Ok(Err(_)) => desk.tally.refused("no-handshake"),
            Err(_) => desk.tally.refused("too-slow"),
        },
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, desk: Arc<Desk>) {
    let request_timeout = desk.request_timeout;
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { Ok::<_, std::convert::Infallible>(desk.answer(request).await) }
    });
    // Broken heads are answered by hyper: 400, 414, 431. A head that does not come in time ends the connection.
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(request_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a webhook connection ended early");
    }
}

/// The sockets to listen on: those that systemd passed, else the configured address.
///
/// # Errors
/// When the address cannot be had.
pub async fn sockets(listen: Option<SocketAddr>) -> std::io::Result<Vec<TcpListener>> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
            socket.set_nonblocking(true)?;
            sockets.push(TcpListener::from_std(socket)?);
        }
    }
    if let (true, Some(listen)) = (sockets.is_empty(), listen) {
        sockets.push(TcpListener::bind(listen).await?);
    }
    Ok(sockets)
}
