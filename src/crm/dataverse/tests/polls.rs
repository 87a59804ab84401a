//! Both polls in one request: they give what each gives alone, or each is asked alone.

use std::sync::Arc;

use super::batch::{SimExchange, create_many, is_batch, open};
use crate::crm::dataverse::Dataverse;
use crate::crm::dataverse::polls::POLLS_REFUSED_MAX;
use crate::http::Answer;
use crate::model::{Fault, RemoteError, Side, Timestamp};
use crate::ports::{Crm, FirstPages};

const SINCE: Timestamp = Timestamp::EPOCH;

/// Three leads, one of them with an opportunity.
async fn changed(line: &Arc<SimExchange>, batch_size: u32) -> Dataverse {
    let dataverse = open(line, batch_size);
    let leads = create_many(&dataverse, 3).await;
    let qualified = leads[0].as_ref().expect("a lead").id.uuid();
    line.world.lock().unwrap().qualify_lead(qualified, true).unwrap();
    line.calls.lock().unwrap().clear();
    dataverse
}

async fn both(dataverse: &Dataverse) -> Option<Result<FirstPages, RemoteError>> {
    dataverse.both_changed_since(SINCE, &[], SINCE).await
}

/// How often both and each were asked for.
fn asked(line: &SimExchange) -> (usize, usize) {
    let calls = line.calls.lock().unwrap();
    let batches = calls.iter().filter(|call| is_batch(call)).count();
    (batches, calls.len() - batches)
}

#[tokio::test]
async fn both_polls_in_one_request_give_what_each_gives_alone() {
    let line = SimExchange::new();
    let dataverse = changed(&line, 20).await;
    let pages = both(&dataverse).await.expect("one request").expect("both pages");
    assert_eq!(asked(&line), (1, 0));
    assert_eq!(line.calls.lock().unwrap()[0].items, 2, "each counts in the daily budget");
    assert_eq!((pages.leads.items.len(), pages.opportunities.items.len()), (3, 1));
    assert_eq!(pages.leads, dataverse.leads_changed_since(SINCE, &[], None).await.unwrap());
    assert_eq!(pages.opportunities, dataverse.opportunities_changed_since(SINCE, None).await.unwrap());
}

#[tokio::test]
async fn a_poll_that_is_refused_is_asked_for_alone_and_says_so_itself() {
    let line = SimExchange::new();
    let dataverse = changed(&line, 20).await;
    line.spoil(|call, answer| match answer {
        Ok(answer) if is_batch(call) => {
            let body = String::from_utf8(answer.body.to_vec()).unwrap();
            let (first, second) = body.split_once("HTTP/1.1 200 OK").expect("a first part");
            let body = format!("{first}HTTP/1.1 403 Forbidden{second}").into();
            Ok(Answer { body, ..answer })
        }
        answer => answer,
    });
    assert!(both(&dataverse).await.is_none());
    assert!(both(&dataverse).await.is_none());
    assert_eq!(asked(&line), (2, 0), "the next time both are asked for again");
}

#[tokio::test]
async fn a_service_that_takes_no_batch_is_asked_once() {
    for spoil in [405, 400, 0] {
        let line = SimExchange::new();
        let dataverse = changed(&line, 20).await;
        line.spoil(move |call, answer| match answer {
            Ok(answer) if spoil == 0 => Ok(Answer { body: "{}".into(), ..answer }),
            Ok(_) => {
                Err(RemoteError { status: Some(spoil), ..RemoteError::new(Side::Crm, call.operation, Fault::Refused) })
            }
            answer => answer,
        });
        for _ in 0..3 {
            assert!(both(&dataverse).await.is_none());
        }
        assert_eq!(asked(&line), (1, 0), "{spoil}");
    }
}

#[tokio::test]
async fn what_concerns_the_whole_side_is_said_once_for_both() {
    let line = SimExchange::new();
    let dataverse = changed(&line, 20).await;
    let until = Timestamp::from_seconds(1_795_172_400);
    line.spoil(move |call, _| Err(RemoteError::new(Side::Crm, call.operation, Fault::Throttled { until })));
    for _ in 0..2 {
        let error = both(&dataverse).await.expect("an answer").expect_err("throttled");
        assert_eq!(error.fault, Fault::Throttled { until });
    }
    assert_eq!(asked(&line), (2, 0));
}

#[tokio::test]
async fn a_part_that_is_throttled_closes_the_service_for_both() {
    let line = SimExchange::new();
    let dataverse = changed(&line, 20).await;
    line.spoil(|call, answer| match answer {
        Ok(answer) if is_batch(call) => {
            let body = String::from_utf8(answer.body.to_vec()).unwrap();
            let (first, second) = body.rsplit_once("HTTP/1.1 200 OK").expect("a second part");
            let body = format!("{first}HTTP/1.1 429 Too Many Requests\r\nRetry-After: 120{second}").into();
            Ok(Answer { body, ..answer })
        }
        answer => answer,
    });
    let until = Timestamp::from_seconds(1_795_168_920);
    let error = both(&dataverse).await.expect("an answer").expect_err("throttled");
    assert_eq!(error.fault, Fault::Throttled { until });
    assert_eq!(dataverse.line().closed_until(), Some(until));
    assert_eq!(asked(&line), (1, 0), "neither is asked for within the window");
}

#[tokio::test]
async fn a_batch_size_of_one_asks_for_each_alone() {
    let line = SimExchange::new();
    let dataverse = changed(&line, 1).await;
    assert!(both(&dataverse).await.is_none());
    assert_eq!(asked(&line), (0, 0));
}

#[tokio::test]
async fn a_gateway_that_refuses_the_common_request_alone_does_not_take_the_side_down() {
    // Once and for all, or for now: the fault that is meant, and how often it is tried.
    for (status, fault, tried) in [
        (404, Fault::Unavailable, 1),
        (403, Fault::Unauthorized, POLLS_REFUSED_MAX as usize),
        (500, Fault::Unavailable, POLLS_REFUSED_MAX as usize),
        (502, Fault::Unavailable, POLLS_REFUSED_MAX as usize),
    ] {
        let line = SimExchange::new();
        let dataverse = changed(&line, 20).await;
        line.spoil(move |call, answer| match is_batch(call) {
            true => {
                let error = RemoteError::new(Side::Crm, call.operation, fault.clone());
                Err(RemoteError { status: Some(status), ..error })
            }
            false => answer,
        });
        for _ in 0..POLLS_REFUSED_MAX + 2 {
            assert!(both(&dataverse).await.is_none(), "{status}");
            dataverse.leads_changed_since(SINCE, &[], None).await.expect("asked alone it is answered");
        }
        assert_eq!(asked(&line).0, tried, "{status}");
    }
}

#[tokio::test]
async fn an_outage_does_not_give_up_the_common_request() {
    let line = SimExchange::new();
    let dataverse = changed(&line, 20).await;
    let down = |batches_only: bool| {
        line.spoil(move |call, answer| match is_batch(call) || !batches_only {
            true => {
                let error = RemoteError::new(Side::Crm, call.operation, Fault::Unavailable);
                Err(RemoteError { status: Some(503), ..error })
            }
            false => answer,
        });
    };
    for _ in 0..2 * POLLS_REFUSED_MAX {
        down(false);
        assert!(both(&dataverse).await.is_none());
        dataverse.leads_changed_since(SINCE, &[], None).await.expect_err("an outage");
    }
    // The service comes back, and the common request last.
    down(true);
    assert!(both(&dataverse).await.is_none());
    dataverse.leads_changed_since(SINCE, &[], None).await.expect("asked alone it is answered");
    line.spoil(|_, answer| answer);
    both(&dataverse).await.expect("one request").expect("both pages");
}
