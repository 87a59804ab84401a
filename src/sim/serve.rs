//! The world over loopback HTTP: three ports, and faults that break real connections.
//!
//! Hyper is used directly, because a connection that breaks without an answer cannot be said in a router.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::exchange::{Answer, Delivery, Request, Service};
use super::world::World;

/// Largest request body taken.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long one attempt of a webhook delivery may take.
const DELIVERY_TIME_MAX: Duration = Duration::from_secs(10);
/// Pause of the courier when there is nothing to deliver.
const COURIER_PAUSE: Duration = Duration::from_millis(20);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Connections that a listener keeps waiting.
const BACKLOG: u32 = 1024;

/// How a service can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// As usual.
    Open,
    /// Nobody listens: connections are refused, and those there were are cut.
    Cut,
    /// Connections are taken and nothing is ever answered on them.
    Silent,
}

/// The world while it is being served.
#[derive(Debug)]
pub struct Simulator {
    /// Base URL of the referrals API.
    pub portal_url: String,
    /// URL of the environment.
    pub crm_url: String,
    /// Base URL of Entra ID.
    pub authority_url: String,
    /// The world itself, to look into and to edit.
    pub world: Arc<Mutex<World>>,
    lines: BTreeMap<Service, watch::Sender<Line>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Simulator {
    /// Opens three ports on the loopback address and serves until [`Simulator::stop`] or drop.
    ///
    /// `round_trip` is added to every answer. Links and token audiences of the world are set to the new addresses.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start(mut world: World, round_trip: Duration) -> io::Result<Simulator> {
        let portal = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let crm = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let authority = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = |address: SocketAddr| format!("http://{address}");
        let (portal_url, crm_url) = (url(portal.local_addr()?), url(crm.local_addr()?));
        let authority_url = url(authority.local_addr()?);
        world.options.portal.url.clone_from(&portal_url);
        world.options.crm.url.clone_from(&crm_url);
        world.options.audiences.insert((Service::Portal, portal_url.clone()));
        world.options.audiences.insert((Service::Crm, crm_url.clone()));

        let world = Arc::new(Mutex::new(world));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut lines = BTreeMap::new();
        for (listener, service) in [(portal, Service::Portal), (crm, Service::Crm), (authority, Service::Authority)] {
            let (sender, line) = watch::channel(Line::Open);
            lines.insert(service, sender);
            let in_flight = AtomicU32::new(0);
            let desk = Arc::new(Desk { world: world.clone(), service, round_trip, in_flight, line });
            let address = listener.local_addr()?;
            tasks.spawn(listen(listener, address, desk, stop.clone()));
        }
        tasks.spawn(courier(world.clone(), stop.clone()));
        Ok(Simulator { portal_url, crm_url, authority_url, world, lines, stop, tasks })
    }

    /// Changes how a service can be reached. The port stays its own.
    pub fn set_line(&self, service: Service, line: Line) {
        if let Some(sender) = self.lines.get(&service) {
            sender.send_replace(line);
        }
    }

    /// Looks into the world or changes it.
    pub fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes the ports and every connection.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Delivers webhook events to whoever has registered, several attempts each.
async fn courier(world: Arc<Mutex<World>>, stop: CancellationToken) {
    crate::http::install_crypto();
    let builder = reqwest::Client::builder().no_proxy().timeout(DELIVERY_TIME_MAX);
    let Ok(client) = builder.redirect(reqwest::redirect::Policy::none()).build() else { return };
    let lock = || world.lock().unwrap_or_else(PoisonError::into_inner);
    let delivering = async {
        loop {
            let next = lock().webhooks.outbox.pop_front();
            let Some(mut delivery) = next else {
                tokio::time::sleep(COURIER_PAUSE).await;
                continue;
            };
            let mut request = client.post(&delivery.url).body(delivery.body.clone());
            for (name, value) in &delivery.headers {
                request = request.header(*name, value);
            }
            let status = request.send().await.map_or(0, |answer| answer.status().as_u16());
            let is_to_be_tried_again = {
                let mut world = lock();
                let now = world.clock().at();
                world.webhooks.attempted(&mut delivery, status, now)
            };
            if is_to_be_tried_again {
                tokio::time::sleep(COURIER_PAUSE * 10).await;
                lock().webhooks.outbox.push_back(delivery);
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = delivering => {}
    }
}

/// One service at its port.
struct Desk {
    world: Arc<Mutex<World>>,
    service: Service,
    round_trip: Duration,
    in_flight: AtomicU32,
    line: watch::Receiver<Line>,
}

/// Listens while the line is not cut, and keeps the port while it is.
async fn listen(listener: TcpListener, address: SocketAddr, desk: Arc<Desk>, stop: CancellationToken) {
    let mut line = desk.line.clone();
    let mut listener = Some(listener);
    while let Some(open) = listener.take() {
        tokio::select! {
            () = accept(open, desk.clone(), stop.clone()) => return,
            _ = line.wait_for(|line| *line == Line::Cut) => {}
        }
        // Bound and not listening: connections are refused, and nobody else gets the port.
        let Ok(socket) = TcpSocket::new_v4() else { return };
        if socket.set_reuseaddr(true).and_then(|()| socket.bind(address)).is_err() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = line.wait_for(|line| *line != Line::Cut) => listener = socket.listen(BACKLOG).ok(),
        }
    }
}

async fn accept(listener: TcpListener, desk: Arc<Desk>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, desk.clone()));
                }
                // Out of descriptors, or the peer was gone already: the next one may work.
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    connections.shutdown().await;
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    // Small answers must not wait for more data to come.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { desk.answer(request).await }
    });
    // A broken connection is what some faults are for.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Desk {
    async fn answer(&self, request: http::Request<Incoming>) -> io::Result<http::Response<Body>> {
        if *self.line.borrow() == Line::Silent {
            std::future::pending::<()>().await;
        }
        let (head, body) = request.into_parts();
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return response(Answer::empty(413)),
        };
        let count = Count::up(&self.in_flight);
        let request = Request {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: headers(&head.headers),
            body: body.to_vec(),
            is_trusted: false,
            in_flight: count.value,
        };
        let answer = self.world.lock().unwrap_or_else(PoisonError::into_inner).ask(self.service, &request);
        tokio::time::sleep(self.round_trip).await;
        match answer.delivery {
            Delivery::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Delivery::Hang => std::future::pending().await,
            Delivery::Slow(delay) => tokio::time::sleep(delay).await,
            Delivery::Whole | Delivery::Truncated(_) => {}
        }
        response(answer)
    }
}

/// Counts a request while it is at work, also when its connection is dropped half-way.
struct Count<'a> {
    counter: &'a AtomicU32,
    value: u32,
}

impl<'a> Count<'a> {
    fn up(counter: &'a AtomicU32) -> Self {
        Count { counter, value: counter.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

fn headers(map: &http::HeaderMap) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in map {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        // Several lines of one header mean the same as one with commas.
        found.entry(name.as_str().to_owned()).and_modify(|old| *old = format!("{old},{value}")).or_insert(value);
    }
    found
}

fn response(answer: Answer) -> io::Result<http::Response<Body>> {
    let mut builder = http::Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        builder = builder.header(name, value);
    }
    let whole = Bytes::from(answer.body.into_bytes());
    let body = match answer.delivery {
        Delivery::Truncated(length) => {
            builder = builder.header("content-length", whole.len());
            let first = Ok(Frame::data(whole.slice(..length.min(whole.len()))));
            // Waiting once lets the head and the first bytes go out before the connection breaks.
            let broken = async {
                tokio::task::yield_now().await;
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            };
            BodyExt::boxed_unsync(StreamBody::new(stream::once(std::future::ready(first)).chain(stream::once(broken))))
        }
        Delivery::Whole | Delivery::Slow(_) | Delivery::Hang | Delivery::Reset => {
            Full::new(whole).map_err(|never: Infallible| match never {}).boxed_unsync()
        }
    };
    builder.body(body).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::faults::Class;
    use super::super::{Options, SimClock};
    use super::*;

    fn client() -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let json = http::HeaderValue::from_static("application/json");
        let headers = [(http::header::CONTENT_TYPE, json)].into_iter().collect();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(500));
        client.default_headers(headers).build().expect("a client")
    }

    async fn start() -> (Simulator, String) {
        let world = World::new(3, SimClock::running(), Options::default());
        let simulator = Simulator::start(world, Duration::ZERO).await.expect("ports");
        simulator.with(|world| world.add_referral(json!({"name": "One"})));
        let options = simulator.with(|world| world.options.clone());
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", options.client.0.as_str()),
            ("client_secret", options.client.1.as_str()),
            ("refresh_token", options.first_refresh_token.as_str()),
            ("scope", &format!("{}/.default offline_access", simulator.portal_url)),
        ];
        let url = format!("{}/{}/oauth2/v2.0/token", simulator.authority_url, options.tenant);
        let answer: Value = client().post(url).form(&form).send().await.expect("sent").json().await.expect("json");
        let token = answer["access_token"].as_str().expect("a token").to_owned();
        (simulator, token)
    }

    #[tokio::test]
    async fn a_signed_in_client_lists_referrals_and_gets_links_to_this_host() {
        let (simulator, token) = start().await;
        simulator.with(|world| world.options.portal.page_size = 1);
        simulator.with(|world| world.add_referral(json!({"name": "Two"})));
        let url = format!("{}/v1.0/engagements/referrals?$orderby=updatedDateTime%20desc", simulator.portal_url);
        let refused = client().get(&url).send().await.expect("sent");
        assert_eq!(refused.status(), 401);
        let answer = client().get(&url).bearer_auth(&token).send().await.expect("sent");
        assert_eq!(answer.status(), 200);
        let body: Value = answer.json().await.expect("json");
        assert_eq!(body["value"][0]["name"], "Two");
        let link = body["@odata.nextLink"].as_str().expect("a link");
        assert!(link.starts_with(&format!("{}/v1.0/referrals?$skiptoken=", simulator.portal_url)), "{link}");
        simulator.stop().await;
    }

    #[tokio::test]
    async fn a_line_that_is_cut_or_silent_comes_back_on_the_same_port() {
        let (simulator, token) = start().await;
        let url = format!("{}/v1.0/engagements/referrals", simulator.portal_url);
        for round in 0..3 {
            simulator.set_line(Service::Portal, Line::Cut);
            // The task that listens has to hear of it first.
            while client().get(&url).bearer_auth(&token).send().await.is_ok() {}
            let failure = client().get(&url).bearer_auth(&token).send().await.expect_err("refused");
            assert!(failure.is_connect() && !failure.is_timeout(), "round {round}: {failure:?}");
            simulator.set_line(Service::Portal, Line::Silent);
            while !client().get(&url).bearer_auth(&token).send().await.expect_err("no answer").is_timeout() {}
            simulator.set_line(Service::Portal, Line::Open);
            let answer = client().get(&url).bearer_auth(&token).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "round {round}");
        }
        simulator.stop().await;
    }

    #[tokio::test]
    async fn broken_silent_and_half_answers_reach_the_client_as_such() {
        let (simulator, token) = start().await;
        let url = format!("{}/v1.0/engagements/referrals", simulator.portal_url);
        for class in [Class::ResetBefore, Class::ResetAfter] {
            simulator.with(|world| world.faults.play_next(class));
            let failure = client().get(&url).bearer_auth(&token).send().await.expect_err("a broken connection");
            assert!(!failure.is_timeout(), "{class:?}");
        }
        simulator.with(|world| world.faults.play_next(Class::Truncated));
        let answer = client().get(&url).bearer_auth(&token).send().await.expect("a head");
        assert!(answer.bytes().await.is_err());
        simulator.with(|world| world.faults.play_next(Class::HtmlSuccess));
        let answer = client().get(&url).bearer_auth(&token).send().await.expect("sent");
        assert!(answer.text().await.expect("text").starts_with("<html>"));
        assert_eq!(client().get(&url).bearer_auth(&token).send().await.expect("sent").status(), 200);
        simulator.stop().await;
    }
}
