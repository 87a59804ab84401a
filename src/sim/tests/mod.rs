//! The documented behaviour of both services, fact by fact.

mod crm;
mod direct;
mod faults;
mod portal;
mod story;

use serde_json::Value;

use super::{Answer, Options, Request, Service, SimClock, World};
use crate::model::Timestamp;

fn world() -> World {
    world_with(Options::default())
}

fn world_with(options: Options) -> World {
    World::new(11, SimClock::paused(Timestamp::from_seconds(1_795_000_000)), options)
}

fn code(answer: &Answer) -> (u16, String) {
    let body = answer.value();
    let code = body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default();
    (answer.status, code.to_owned())
}

fn crm(world: &mut World, method: &str, place: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
    let mut request = Request::trusted(method, &format!("/api/data/v9.2/{place}"));
    if let Some(body) = body {
        request = request.with_json(&body);
    }
    for (name, value) in headers {
        request = request.with(name, value);
    }
    world.ask(Service::Crm, &request)
}

fn portal(world: &mut World, method: &str, place: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
    let mut request = Request::trusted(method, &format!("/v1.0/engagements/referrals{place}"));
    if let Some(body) = body {
        request = request.with_json(&body);
    }
    for (name, value) in headers {
        request = request.with(name, value);
    }
    world.ask(Service::Portal, &request)
}
