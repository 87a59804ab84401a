//! The world as what carries requests: the whole client stack against it in one process, without sockets.
//!
//! On a paused clock of tokio an import of hours takes as long as its arithmetic.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::exchange::{Answer, Delivery, Request, Service};
use super::world::World;
use crate::http::{self as stack, Lost, Response, Wire};

/// One service at the end of a wire.
pub struct SimWire {
    world: Arc<Mutex<World>>,
    service: Service,
    base: Url,
    round_trip: Duration,
    in_flight: Arc<AtomicU32>,
    tally: Mutex<Tally>,
}

/// What went over a wire, as its sender sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests.
    pub sent: u64,
    /// Those that were answered with 429.
    pub throttled: u64,
    /// Those that left although an answer that was here already had asked for silence.
    pub inside_penalty: u64,
    /// The time that was asked for.
    pub penalties: Duration,
    /// When the first request left.
    pub first: Option<Instant>,
    silent_until: Option<Instant>,
}

impl SimWire {
    /// A wire to `base`, half of `round_trip` long in each direction.
    pub fn new(world: Arc<Mutex<World>>, service: Service, base: Url, round_trip: Duration) -> Self {
        SimWire { world, service, base, round_trip, in_flight: Arc::default(), tally: Mutex::default() }
    }

    /// What went over it so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn carry(&self, request: Request) -> Result<Response, Lost> {
        tokio::time::sleep(self.round_trip / 2).await;
        let answer = {
            let at_work = AtWork::begin(&self.in_flight);
            let request = Request { in_flight: at_work.value, ..request };
            let answer = self.world.lock().unwrap_or_else(PoisonError::into_inner).ask(self.service, &request);
            match answer.delivery {
                Delivery::Slow(execution) => tokio::time::sleep(execution).await,
                Delivery::Hang => std::future::pending().await,
                Delivery::Whole | Delivery::Reset | Delivery::Truncated(_) => {}
            }
            answer
        };
        tokio::time::sleep(self.round_trip / 2).await;
        match answer.delivery {
            Delivery::Reset | Delivery::Truncated(_) => Err(Lost::Broken("the connection was reset".to_owned())),
            Delivery::Whole | Delivery::Slow(_) | Delivery::Hang => Ok(response(answer)),
        }
    }

    fn count_request(&self) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.sent += 1;
        tally.first = tally.first.or(Some(Instant::now()));
        tally.inside_penalty += u64::from(tally.silent_until.is_some_and(|until| Instant::now() < until));
    }

    fn count_answer(&self, response: &Response) {
        if response.status != StatusCode::TOO_MANY_REQUESTS {
            return;
        }
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.throttled += 1;
        let seconds = response.headers.get("retry-after").and_then(|text| text.to_str().ok()?.parse().ok());
        if let Some(wait) = seconds.map(Duration::from_secs) {
            tally.penalties += wait;
            tally.silent_until = tally.silent_until.max(Some(Instant::now() + wait));
        }
    }
}

#[async_trait]
impl Wire for SimWire {
    fn refuse(&self, url: &Url) -> Option<String> {
        stack::refuse(&self.base, url)
    }

    async fn send(&self, request: stack::Request) -> Result<Response, Lost> {
        if let Some(reason) = self.refuse(&request.url) {
            return Err(Lost::Forbidden(reason));
        }
        self.count_request();
        let timeout = request.timeout;
        let carried = tokio::time::timeout(timeout, self.carry(arriving(request))).await;
        let response = carried.unwrap_or(Err(Lost::TimedOut))?;
        self.count_answer(&response);
        Ok(response)
    }
}

fn arriving(request: stack::Request) -> Request {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &request.headers {
        headers.insert(name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    Request {
        method: request.method.to_string(),
        path: request.url.path().to_owned(),
        query: request.url.query().unwrap_or_default().to_owned(),
        headers,
        body: request.body.map(|body| body.to_vec()).unwrap_or_default(),
        ..Request::default()
    }
}

fn response(answer: Answer) -> Response {
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Response { status, headers, body: answer.body.into_bytes().into() }
}

/// Counts a request while it is at work, also when its sender stops waiting.
struct AtWork {
    counter: Arc<AtomicU32>,
    value: u32,
}

impl AtWork {
    fn begin(counter: &Arc<AtomicU32>) -> Self {
        AtWork { counter: Arc::clone(counter), value: counter.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, SimClock};
    use super::*;
    use crate::model::Timestamp;

    fn wire(options: Options) -> SimWire {
        let base = Url::parse(&options.crm.url).expect("a URL");
        let world = World::new(1, SimClock::of_runtime(Timestamp::from_seconds(1_795_000_000)), options);
        SimWire::new(Arc::new(Mutex::new(world)), Service::Crm, base, Duration::from_millis(200))
    }

    fn request(url: &str) -> stack::Request {
        let (headers, timeout) = (HeaderMap::new(), Duration::from_secs(30));
        stack::Request { method: http::Method::GET, url: Url::parse(url).expect("a URL"), headers, body: None, timeout }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_a_round_trip_and_other_hosts_are_not_reached() {
        let wire = wire(Options::default());
        let began = Instant::now();
        let answer = wire.send(request("https://contoso.crm4.dynamics.com/api/data/v9.2/WhoAmI")).await;
        assert_eq!(answer.expect("an answer").status, StatusCode::UNAUTHORIZED, "there was no token");
        assert_eq!(began.elapsed(), Duration::from_millis(200));
        let elsewhere = wire.send(request("https://example.com/")).await;
        assert!(matches!(elsewhere, Err(Lost::Forbidden(_))));
        assert_eq!(wire.tally().sent, 1);
    }
}
