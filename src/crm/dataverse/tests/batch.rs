//! Many writes in one request: against the simulated service, and against answers that no service should give.

use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

use super::super::batch::{BATCH_PAUSE, multipart};
use super::fake::*;
use crate::crm::dataverse::gather_writes;
use crate::crm::dataverse::settings::{DataverseSettings, Identity};
use crate::crm::dataverse::{Dataverse, DataverseDialect};
use crate::http::{Answer, Call, Effect, Exchange, PartVerdict, Response, judge_part};
use crate::model::{ETag, Fault, Lead, LeadId, ReferralId, RemoteError, Timestamp};
use crate::ports::{Allowance, Clock, Crm, Line, Traffic};
use crate::sim::clock::SimClock;
use crate::sim::exchange::{Request, Service};
use crate::sim::world::{Options, World};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// What happens to an answer on its way.
type Spoil = Box<dyn Fn(&Call, Result<Answer, RemoteError>) -> Result<Answer, RemoteError> + Send>;

/// The simulated service as a client stack without limits.
pub(super) struct SimExchange {
    pub(super) world: Mutex<World>,
    clock: SimClock,
    spoil: Mutex<Spoil>,
    closed: Mutex<Option<Timestamp>>,
    pub(super) calls: Mutex<Vec<Call>>,
    write_time: Mutex<Duration>,
}

impl SimExchange {
    pub(super) fn new() -> Arc<SimExchange> {
        let clock = SimClock::paused(Timestamp::from_seconds(1_795_168_800));
        Arc::new(SimExchange {
            world: Mutex::new(World::new(1, clock.clone(), Options::default())),
            clock,
            spoil: Mutex::new(Box::new(|_, answer| answer)),
            closed: Mutex::default(),
            calls: Mutex::default(),
            write_time: Mutex::default(),
        })
    }

    pub(super) fn spoil(
        &self,
        spoil: impl Fn(&Call, Result<Answer, RemoteError>) -> Result<Answer, RemoteError> + Send + 'static,
    ) {
        *self.spoil.lock().unwrap() = Box::new(spoil);
    }

    /// The calls that write, as method and number of items.
    fn written(&self) -> Vec<(String, u32)> {
        let calls = self.calls.lock().unwrap();
        let writes = calls.iter().filter(|call| call.effect == Effect::Write);
        writes.map(|call| (call.method.to_string(), call.items)).collect()
    }

    fn leads(&self) -> usize {
        self.world.lock().unwrap().crm.ids(crate::sim::dynamics::Table::Lead).len()
    }
}

#[async_trait::async_trait]
impl Exchange for SimExchange {
    async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        self.calls.lock().unwrap().push(call.clone());
        tokio::task::yield_now().await;
        let target = &call.url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut request = Request::trusted(call.method.as_str(), target);
        for (name, value) in &call.headers {
            request = request.with(name.as_str(), value.to_str().unwrap());
        }
        request.body = call.body.as_deref().unwrap_or_default().to_vec();
        let answer = self.world.lock().unwrap().ask(Service::Crm, &request);
        let mut headers = HeaderMap::new();
        for (name, value) in &answer.headers {
            headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        let status = StatusCode::from_u16(answer.status).unwrap();
        let response = Response { status, headers, body: answer.body.clone().into_bytes().into() };
        let dialect = DataverseDialect::new(mapped());
        let result = match judge_part(&dialect, call.operation, call.effect, response, self.clock.at()) {
            PartVerdict::Done(answer) => Ok(answer),
            PartVerdict::Failed(error) | PartVerdict::NotDone(error) => Err(error),
        };
        (self.spoil.lock().unwrap())(&call, result)
    }

    fn line(&self) -> &dyn Line {
        self
    }

    fn recommend(&self, _: u16) {}

    fn write_time(&self) -> Duration {
        *self.write_time.lock().unwrap()
    }

    fn parallelism(&self) -> usize {
        1
    }
}

#[async_trait]
impl Line for SimExchange {
    fn closed_until(&self) -> Option<Timestamp> {
        *self.closed.lock().unwrap()
    }

    fn close_until(&self, until: Timestamp) {
        *self.closed.lock().unwrap() = Some(until);
    }

    async fn closed_beyond(&self, _: Option<Timestamp>) -> Timestamp {
        std::future::pending().await
    }

    fn lose_patience(&self) {}

    fn requests_sent(&self) -> u64 {
        self.calls.lock().unwrap().len() as u64
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn allow(&self, _: Option<Allowance>) {}
}

pub(super) fn open(line: &Arc<SimExchange>, batch_size: u32) -> Dataverse {
    let settings = DataverseSettings { batch_size, ..settings() };
    let clock: Arc<dyn Clock> = Arc::new(line.clock.clone());
    let dialect = Arc::new(DataverseDialect::new(mapped()));
    let exchange = gather_writes(&settings, dialect, Arc::clone(line) as Arc<dyn Exchange>, clock).unwrap();
    Dataverse::open(&settings, Identity::Derived, Some(COLUMN), mapped(), exchange).unwrap()
}

fn ids(number: u128) -> (ReferralId, LeadId) {
    (ReferralId::new(Uuid::from_u128(0xA000 + number)), LeadId::new(Uuid::from_u128(0xB000 + number)))
}

pub(super) async fn create_many(dataverse: &Dataverse, count: u128) -> Vec<Result<Lead, RemoteError>> {
    dataverse.schema().await.expect("a schema");
    let draft = draft();
    let creates = (0..count).map(|number| {
        let (referral, lead) = ids(number);
        let draft = &draft;
        async move { dataverse.create(referral, lead, draft, Uuid::from_u128(number)).await }
    });
    join_all(creates).await
}

/// The writes that were begun together, then one by one those that follow from it.
pub(super) fn is_batch(call: &Call) -> bool {
    call.url.path().ends_with("$batch")
}

#[tokio::test]
async fn many_writes_travel_together_and_each_gets_its_own_answer() {
    let line = SimExchange::new();
    let answers = create_many(&open(&line, 20), 33).await;
    for (number, answer) in answers.into_iter().enumerate() {
        let (referral, id) = ids(number as u128);
        let lead = answer.expect("a lead");
        assert_eq!((lead.id, lead.referral, lead.etag.is_some()), (id, Some(referral), true));
    }
    assert_eq!(line.written(), [("POST".to_owned(), 20), ("POST".to_owned(), 13)]);
    assert_eq!((line.leads(), line.world.lock().unwrap().journal.batch_items()), (33, 33));
}

#[tokio::test]
async fn slow_writes_travel_in_smaller_batches_and_the_slowest_alone() {
    for (millis, size) in [(50, 20), (500, 6), (4_000, 1)] {
        let line = SimExchange::new();
        *line.write_time.lock().unwrap() = Duration::from_millis(millis);
        assert!(create_many(&open(&line, 20), 40).await.iter().all(Result::is_ok));
        let sizes: Vec<u32> = line.written().iter().map(|(_, items)| *items).collect();
        assert_eq!((sizes[0], sizes.iter().sum::<u32>()), (size, 40), "{millis} ms: {sizes:?}");
        assert!(sizes.iter().all(|items| *items <= size), "{millis} ms: {sizes:?}");
    }
}

#[tokio::test]
async fn few_writes_go_singly() {
    let line = SimExchange::new();
    assert!(create_many(&open(&line, 20), 9).await.iter().all(Result::is_ok));
    assert_eq!(line.written(), vec![("PATCH".to_owned(), 1); 9]);
}

#[tokio::test]
async fn a_batch_size_of_one_sends_every_write_singly() {
    let line = SimExchange::new();
    assert!(create_many(&open(&line, 1), 30).await.iter().all(Result::is_ok));
    assert_eq!(line.written(), vec![("PATCH".to_owned(), 1); 30]);
}

#[tokio::test]
async fn a_write_that_is_refused_in_a_batch_concerns_no_other() {
    let line = SimExchange::new();
    let dataverse = open(&line, 20);
    let leads: Vec<Lead> = create_many(&dataverse, 12).await.into_iter().map(|lead| lead.unwrap()).collect();
    let draft = draft();
    let stale = ETag("W/\"1\"".to_owned());
    let writes = leads.iter().enumerate().map(|(place, lead)| {
        let (dataverse, draft) = (&dataverse, &draft);
        let etag = if place == 4 { &stale } else { lead.etag.as_ref().unwrap() };
        async move { dataverse.update(lead.id, etag, draft, Uuid::from_u128(place as u128)).await }
    });
    for (place, answer) in join_all(writes).await.into_iter().enumerate() {
        match answer {
            Ok(lead) => assert!(place != 4 && lead.id == leads[place].id),
            Err(error) => assert!(place == 4 && error.fault == Fault::Conflict && !error.is_outcome_unknown),
        }
    }
    // A create of what exists is a conflict as well, and nothing else.
    assert!(create_many(&dataverse, 12).await.iter().all(|answer| {
        answer.as_ref().is_err_and(|error| error.fault == Fault::Conflict && !error.is_outcome_unknown)
    }));
    assert_eq!(line.leads(), 12);
}

#[tokio::test]
async fn writes_that_the_answer_does_not_tell_of_are_unknown_and_not_sent_again() {
    let line = SimExchange::new();
    let dataverse = open(&line, 20);
    line.spoil(|call, answer| match answer {
        Ok(answer) if is_batch(call) => {
            let body = String::from_utf8(answer.body.to_vec()).unwrap();
            let mark = body.lines().next().unwrap().to_owned();
            let cut = body.match_indices(&mark).nth(5).unwrap().0;
            Ok(Answer { body: format!("{}{mark}--\r\n", &body[..cut]).into(), ..answer })
        }
        answer => answer,
    });
    let answers = create_many(&dataverse, 15).await;
    assert!(answers[..5].iter().all(Result::is_ok));
    assert!(answers[5..].iter().all(|answer| answer.as_ref().is_err_and(|error| error.is_outcome_unknown)));
    assert_eq!((line.written().len(), line.leads()), (1, 15));
}

#[tokio::test]
async fn a_lost_answer_leaves_every_write_of_the_batch_unknown() {
    let line = SimExchange::new();
    let dataverse = open(&line, 20);
    line.spoil(|call, answer| match is_batch(call) {
        true => Err(RemoteError {
            is_outcome_unknown: true,
            ..RemoteError::new(crate::model::Side::Crm, call.operation, Fault::Unavailable)
        }),
        false => answer,
    });
    let answers = create_many(&dataverse, 15).await;
    assert!(answers.iter().all(|answer| {
        answer.as_ref().is_err_and(|error| error.is_outcome_unknown && error.operation == "create lead")
    }));
    assert_eq!(line.written().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_batch_leaves_every_write_unknown() {
    for body in ["", "<html>welcome</html>", "{}", "--other\r\n\r\n--other--"] {
        let line = SimExchange::new();
        let dataverse = open(&line, 20);
        line.spoil(move |call, answer| match (is_batch(call), answer) {
            (true, Ok(answer)) => Ok(Answer { body: body.into(), ..answer }),
            (_, answer) => answer,
        });
        let answers = create_many(&dataverse, 12).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.is_outcome_unknown)), "{body}");
    }
}

#[tokio::test]
async fn a_service_without_batches_is_written_to_singly_and_asked_again_after_a_while() {
    for status in [404, 405, 415, 501] {
        let line = SimExchange::new();
        let dataverse = open(&line, 20);
        line.spoil(move |call, answer| refused(call, answer, status));
        // What the batch did in the simulation, the single writes find done.
        create_many(&dataverse, 12).await;
        let singly = vec![("PATCH".to_owned(), 1); 12];
        assert_eq!((line.written()[0].clone(), &line.written()[1..]), (("POST".to_owned(), 12), &singly[..]));
        create_many(&dataverse, 12).await;
        assert_eq!(line.written().len(), 25, "no batch is tried");
        line.clock.advance(BATCH_PAUSE + Duration::from_secs(1));
        create_many(&dataverse, 12).await;
        assert_eq!(line.written()[25], ("POST".to_owned(), 12));
    }
}

#[tokio::test]
async fn a_gateway_that_refuses_batches_alone_is_written_through_singly() {
    let line = SimExchange::new();
    let dataverse = open(&line, 20);
    line.spoil(|call, answer| refused(call, answer, 403));
    create_many(&dataverse, 12).await;
    let singly = vec![("PATCH".to_owned(), 1); 12];
    assert_eq!((line.written()[0].clone(), &line.written()[1..]), (("POST".to_owned(), 12), &singly[..]));
}

#[tokio::test]
async fn batches_that_are_answered_with_a_fault_are_not_tried_for_ever() {
    for status in [500, 502] {
        let line = SimExchange::new();
        let dataverse = open(&line, 20);
        line.spoil(move |call, answer| refused(call, answer, status));
        for _ in 0..2 {
            let answers = create_many(&dataverse, 12).await;
            let is_open = |error: &RemoteError| error.is_outcome_unknown && error.status.is_none();
            assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(is_open)), "{answers:?}");
        }
        create_many(&dataverse, 12).await;
        assert_eq!((line.written().len(), &line.written()[2..]), (14, &vec![("PATCH".to_owned(), 1); 12][..]));
    }
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_sent_singly_and_the_next_is_half_as_large() {
    let line = SimExchange::new();
    let dataverse = open(&line, 40);
    line.spoil(|call, answer| refused(call, answer, 413));
    create_many(&dataverse, 40).await;
    assert_eq!(line.written().len(), 41);
    line.spoil(|_, answer| answer);
    create_many(&dataverse, 40).await;
    assert_eq!(line.written()[41..], [("POST".to_owned(), 20), ("POST".to_owned(), 20)]);
}

#[tokio::test]
async fn a_batch_that_is_refused_as_a_whole_leaves_its_writes_unknown() {
    let line = SimExchange::new();
    let dataverse = open(&line, 20);
    line.spoil(|call, answer| refused(call, answer, 400));
    let answers = create_many(&dataverse, 12).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.is_outcome_unknown)));
    create_many(&dataverse, 12).await;
    assert_eq!(line.written().len(), 13, "then singly for a while");
}

#[tokio::test]
async fn a_write_that_is_throttled_inside_a_batch_closes_the_service_and_goes_again_on_its_own() {
    let line = SimExchange::new();
    let dataverse = open(&line, 20);
    line.spoil(|call, answer| match answer {
        Ok(answer) if is_batch(call) => {
            let body = String::from_utf8(answer.body.to_vec()).unwrap();
            let body =
                body.replacen("HTTP/1.1 201 Created\r\n", "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n", 1);
            Ok(Answer { body: body.into(), ..answer })
        }
        answer => answer,
    });
    let answers = create_many(&dataverse, 12).await;
    assert_eq!(line.closed_until(), Some(line.clock.at().plus(Duration::from_secs(7))));
    // In the simulation it was carried out all the same.
    assert!(answers[0].as_ref().is_err_and(|error| error.fault == Fault::Conflict));
    assert!(answers[1..].iter().all(Result::is_ok));
    assert_eq!(line.written(), [("POST".to_owned(), 12), ("PATCH".to_owned(), 1)]);
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_any_more_is_not_sent() {
    let line = SimExchange::new();
    let dataverse = open(&line, 20);
    dataverse.schema().await.unwrap();
    let draft = draft();
    let (referral, lead) = ids(0);
    let mut given_up = Box::pin(dataverse.create(referral, lead, &draft, request()));
    assert!(futures_util::poll!(&mut given_up).is_pending());
    drop(given_up);
    let answers = create_many(&dataverse, 12).await;
    let conflicts = answers.iter().filter(|answer| answer.is_err()).count();
    assert_eq!((line.written(), conflicts, line.leads()), (vec![("POST".to_owned(), 12)], 0, 12));
}

fn refused(call: &Call, answer: Result<Answer, RemoteError>, status: u16) -> Result<Answer, RemoteError> {
    if !is_batch(call) {
        return answer;
    }
    let dialect = DataverseDialect::new(mapped());
    let response =
        Response { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: "<html>".into() };
    match judge_part(&dialect, call.operation, call.effect, response, Timestamp::EPOCH) {
        PartVerdict::Done(answer) => Ok(answer),
        PartVerdict::Failed(error) | PartVerdict::NotDone(error) => Err(error),
    }
}

fn answer(content_type: &str, body: &str) -> Answer {
    let headers = [(http::header::CONTENT_TYPE, HeaderValue::try_from(content_type).unwrap())].into_iter().collect();
    Answer { status: StatusCode::OK, headers, body: body.to_owned().into(), request_id: None, server_time: None }
}

/// Status and body of every part.
fn taken_apart(content_type: &str, body: &str) -> Option<Vec<(u16, String)>> {
    let parts = multipart::parts(&answer(content_type, body))?;
    Some(parts.into_iter().map(|part| (part.status.as_u16(), String::from_utf8(part.body.to_vec()).unwrap())).collect())
}

const TWO: &str = "--b1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nHTTP/1.1 201 Created\r\n\
    ETag: W/\"1\"\r\n\r\n{\"a\":\"--b1\"}\r\n--b1\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n\r\n--b1--\r\n";

#[test]
fn the_parts_of_an_answer_come_in_their_order_whatever_the_line_ends_are() {
    let expected = Some(vec![(201, "{\"a\":\"--b1\"}".to_owned()), (204, String::new())]);
    let kinds =
        ["multipart/mixed; boundary=b1", "multipart/mixed;boundary=\"b1\"", "Multipart/Mixed; charset=x; Boundary=b1"];
    for kind in kinds {
        assert_eq!(taken_apart(kind, TWO), expected, "{kind}");
        assert_eq!(taken_apart(kind, &TWO.replace("\r\n", "\n")), expected, "{kind}");
        assert_eq!(taken_apart(kind, &format!("preamble\r\n{TWO}epilogue")), expected, "{kind}");
    }
}

#[test]
fn a_part_that_is_cut_off_is_left_out() {
    let kind = "multipart/mixed; boundary=b1";
    let first = taken_apart(kind, TWO).unwrap()[..1].to_vec();
    let whole = TWO.find("\r\n--b1--").unwrap();
    for cut in [whole, whole - 10] {
        assert_eq!(taken_apart(kind, &TWO[..cut]), Some(first.clone()), "{cut}");
    }
}

#[test]
fn what_is_no_batch_is_not_taken_apart() {
    for (kind, body) in [
        ("application/json", TWO),
        ("multipart/mixed", TWO),
        ("multipart/mixed; boundary=", TWO),
        ("multipart/mixed; boundary=b2", TWO),
        ("multipart/mixed; boundary=b1", ""),
        ("multipart/mixed; boundary=b1", "--b1\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n--b1--"),
        ("multipart/mixed; boundary=b1", "--b1\r\nContent-Type: application/http\r\n\r\nnonsense\r\n--b1--"),
    ] {
        assert_eq!(taken_apart(kind, body), None, "{kind} {body}");
    }
}

proptest! {
    #[test]
    fn no_answer_to_a_batch_makes_us_panic(body in "(--b1(--)?\r?\n|HTTP/1.1 [0-9]{1,4} x\r\n|Content-Type: application/http\r\n|\r\n|[a-z:{}\"]{0,9}){0,30}") {
        multipart::parts(&answer("multipart/mixed; boundary=b1", &body));
    }
}
