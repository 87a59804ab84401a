//! What goes wrong, by seed: each class of trouble has its odds, and `calm` ends all of it.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use uuid::Uuid;

use super::clock::print_http_date;
use super::dynamics::Dynamics;
use super::entra::Entra;
use super::exchange::{Answer, Delivery, Request, Service};
use super::journal::Event;
use super::referrals::Referrals;
use super::world::{Turn, throttled};
use crate::model::Timestamp;

/// A class of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// 429 with `Retry-After`.
    Throttle,
    /// 429 or 503 without `Retry-After`.
    ThrottleBare,
    /// 500, 502, 503 or 504, before or after a write was done.
    ServerError,
    /// A gateway's HTML page with a 5xx.
    HtmlError,
    /// An HTML page with 200.
    HtmlSuccess,
    /// The connection breaks before anything is done.
    ResetBefore,
    /// The connection breaks after the work is done: a lost answer.
    ResetAfter,
    /// The answer comes late.
    Slow,
    /// The answer never comes.
    Hang,
    /// Half an answer.
    Truncated,
    /// A list that is a minute older than the rows.
    StaleList,
    /// The rows of a page in any order.
    ReorderedPage,
    /// The page before comes again under a new token.
    RepeatedPage,
    /// The next link leads to the same page.
    LoopingToken,
    /// Another client touches a row while pages are read.
    RowMoves,
    /// Another client touches the row just before a conditional write.
    Conflict,
    /// Another client saves the row again and again for some minutes: every conditional write meets a newer version.
    StubbornConflict,
    /// The token stops working.
    TokenExpiry,
    /// No token works for a while: somebody revoked the sessions.
    TokenRevoked,
    /// The referrals API asks for another factor for a while.
    MfaDemanded,
    /// The account loses its role for a while: lists are empty, single rows are out of reach.
    RoleLost,
    /// A row is missing from listings for a while.
    VanishingRows,
    /// A wrong `Date` header.
    ClockSkew,
    /// A delta link is older than the service keeps changes.
    DeltaExpired,
}

/// Every class.
pub const CLASSES: [Class; 24] = [
    Class::Throttle,
    Class::ThrottleBare,
    Class::ServerError,
    Class::HtmlError,
    Class::HtmlSuccess,
    Class::ResetBefore,
    Class::ResetAfter,
    Class::Slow,
    Class::Hang,
    Class::Truncated,
    Class::StaleList,
    Class::ReorderedPage,
    Class::RepeatedPage,
    Class::LoopingToken,
    Class::RowMoves,
    Class::Conflict,
    Class::StubbornConflict,
    Class::TokenExpiry,
    Class::TokenRevoked,
    Class::MfaDemanded,
    Class::RoleLost,
    Class::VanishingRows,
    Class::ClockSkew,
    Class::DeltaExpired,
];

/// What one kind of request is answered as long as it lasts; nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// A refusal in the service's own shape with this status and no known code.
    Refusal(u16),
    /// A gateway's HTML page with this status.
    Page(u16),
}

/// Which trouble comes how often.
#[derive(Debug)]
pub struct FaultPlan {
    rng: ChaCha8Rng,
    odds: BTreeMap<Class, f64>,
    played: BTreeMap<Class, u64>,
    next: Vec<Next>,
    down: Option<Service>,
    spells: BTreeMap<Service, (Class, Timestamp)>,
    busy: BTreeMap<Uuid, Timestamp>,
    lasting: Vec<(String, String, Lasting)>,
    /// Shortest wait that a throttled answer asks for, in seconds.
    pub wait_seconds_min: u64,
    /// Longest wait that a throttled answer asks for, in seconds.
    pub wait_seconds_max: u64,
    /// Odds that a wait is given as a date (partner-center §1.12).
    pub wait_as_date: f64,
}

/// Trouble of the next request that it fits.
#[derive(Debug)]
struct Next {
    class: Class,
    path_end: String,
    is_for_writes: bool,
}

impl FaultPlan {
    /// No trouble.
    pub fn none() -> Self {
        FaultPlan::only(0, &[], 0.0)
    }

    /// Every class with the same odds per request.
    pub fn storm(seed: u64, odds: f64) -> Self {
        FaultPlan::only(seed, &CLASSES, odds)
    }

    /// These classes with the same odds per request.
    pub fn only(seed: u64, classes: &[Class], odds: f64) -> Self {
        FaultPlan {
            rng: ChaCha8Rng::seed_from_u64(seed),
            odds: classes.iter().map(|class| (*class, odds * class.rarity())).collect(),
            played: BTreeMap::new(),
            next: Vec::new(),
            down: None,
            spells: BTreeMap::new(),
            busy: BTreeMap::new(),
            lasting: Vec::new(),
            wait_seconds_min: 1,
            wait_seconds_max: 90,
            wait_as_date: 0.2,
        }
    }

    /// Sets the odds of one class.
    pub fn set(&mut self, class: Class, odds: f64) {
        self.odds.insert(class, odds);
    }

    /// Plays this class on the next request it fits, whatever the odds.
    pub fn play_next(&mut self, class: Class) {
        self.play_next_at(class, "");
    }

    /// Plays this class on the next request it fits whose path ends so.
    pub fn play_next_at(&mut self, class: Class, path_end: &str) {
        self.next.push(Next { class, path_end: path_end.to_owned(), is_for_writes: false });
    }

    /// Plays this class on the next write it fits whose path ends so.
    pub fn play_next_write_at(&mut self, class: Class, path_end: &str) {
        self.next.push(Next { class, path_end: path_end.to_owned(), is_for_writes: true });
    }

    /// Answers every request of this method whose path ends so, until all is calm.
    pub fn always(&mut self, method: &str, path_end: &str, lasting: Lasting) {
        self.lasting.push((method.to_owned(), path_end.to_owned(), lasting));
    }

    /// Takes a whole service down, or brings everything back.
    pub fn outage(&mut self, service: Option<Service>) {
        self.down = service;
    }

    /// Ends all trouble.
    pub fn calm(&mut self) {
        self.odds.clear();
        self.next.clear();
        self.down = None;
        self.spells.clear();
        self.busy.clear();
        self.lasting.clear();
    }

    /// How often each class was played.
    pub fn played(&self) -> &BTreeMap<Class, u64> {
        &self.played
    }

    /// Begins trouble that lasts.
    pub(crate) fn begin_spell(&mut self, class: Class, service: Service, request: &Request, turn: &mut Turn<'_>) {
        match class {
            Class::TokenRevoked | Class::MfaDemanded | Class::RoleLost => {
                let until = turn.now.plus(Duration::from_secs(turn.rng.random_range(60..2_400)));
                self.spells.insert(service, (class, until));
                if class == Class::RoleLost {
                    let at = turn.now;
                    turn.note.events.push(Event::Hidden { at, service, row: None, until });
                }
            }
            Class::StubbornConflict => {
                let until = turn.now.plus(Duration::from_secs(turn.rng.random_range(120..1_200)));
                self.busy.extend(last_guid(&request.path).map(|id| (id, until)));
            }
            _ => {}
        }
    }

    /// The answer while such trouble lasts.
    pub(crate) fn spellbound(&self, service: Service, request: &Request, turn: &mut Turn<'_>) -> Option<Answer> {
        let fits =
            |(method, end, _): &&(String, String, Lasting)| request.method == *method && request.path.ends_with(end);
        if let Some((_, _, lasting)) = self.lasting.iter().find(fits) {
            turn.note.operation = Some("lasting trouble");
            return Some(lasting.answer(service));
        }
        let (class, _) = self.spells.get(&service).filter(|(_, until)| turn.now < *until)?;
        let is_list = Class::VanishingRows.concerns(service, request);
        let answer = match (class, service) {
            (Class::TokenRevoked, _) => Entra::refused(service),
            (Class::MfaDemanded, _) => {
                let body = json!({"code": "900421", "description": "MFA is required", "data": [], "source": "gateway"});
                Answer::json(401, body)
            }
            (_, _) if is_list => Answer::json(200, json!({"value": []})),
            (_, Service::Portal) => Answer::portal_error(404, "notFound", "the referral was not found", None),
            (_, _) if request.path.contains("/leads") || request.path.contains("/opportunities") => {
                Answer::crm_error(403, "0x80040220", "SecLib::AccessCheckEx failed. Returned hr = -2147187962")
            }
            (_, _) => return None,
        };
        turn.note.operation = Some("refused by a spell");
        Some(answer)
    }

    /// Whether another client is at work on the row that this conditional write is for.
    pub(crate) fn is_busy(&self, request: &Request, now: Timestamp) -> bool {
        !self.busy.is_empty()
            && request.header("if-match").is_some_and(|tag| tag != "*")
            && last_guid(&request.path).and_then(|id| self.busy.get(&id)).is_some_and(|until| now < *until)
    }

    pub(crate) fn pick(&mut self, service: Service, request: &Request) -> Option<Class> {
        if self.down == Some(service) {
            *self.played.entry(Class::HtmlError).or_default() += 1;
            return Some(Class::HtmlError);
        }
        let fits = |next: &Next| {
            let is_asked = request.is_write() || !next.is_for_writes;
            is_asked && next.class.concerns(service, request) && request.path.ends_with(&next.path_end)
        };
        let forced = self.next.iter().position(fits).map(|at| self.next.remove(at).class);
        let drawn = forced.or_else(|| {
            let rng = &mut self.rng;
            let mut hits = self.odds.iter().filter(|(class, odds)| **odds > 0.0 && class.concerns(service, request));
            hits.find(|(_, odds)| rng.random_bool(odds.clamp(0.0, 1.0))).map(|(class, _)| *class)
        });
        if let Some(class) = drawn {
            *self.played.entry(class).or_default() += 1;
        }
        drawn
    }
}

impl Lasting {
    fn answer(self, service: Service) -> Answer {
        match (self, service) {
            (Lasting::Page(status), _) => Answer::html(status),
            (Lasting::Refusal(status), Service::Portal) => {
                Answer::portal_error(status, "generalException", "an error occurred", None)
            }
            (Lasting::Refusal(status), Service::Crm) => Answer::crm_error(status, "", "An error occurred."),
            (Lasting::Refusal(status), Service::Authority) => {
                Answer::json(status, json!({"error": "temporarily_unavailable"}))
            }
        }
    }
}

impl Class {
    /// A word for the journal.
    pub fn name(self) -> &'static str {
        match self {
            Class::Throttle => "throttle",
            Class::ThrottleBare => "throttle without header",
            Class::ServerError => "server error",
            Class::HtmlError => "html error",
            Class::HtmlSuccess => "html success",
            Class::ResetBefore => "reset before",
            Class::ResetAfter => "reset after",
            Class::Slow => "slow",
            Class::Hang => "hang",
            Class::Truncated => "truncated",
            Class::StaleList => "stale list",
            Class::ReorderedPage => "reordered page",
            Class::RepeatedPage => "repeated page",
            Class::LoopingToken => "looping token",
            Class::RowMoves => "row moves",
            Class::Conflict => "conflict",
            Class::StubbornConflict => "stubborn conflict",
            Class::TokenRevoked => "token revoked",
            Class::MfaDemanded => "mfa demanded",
            Class::RoleLost => "role lost",
            Class::TokenExpiry => "token expiry",
            Class::VanishingRows => "vanishing rows",
            Class::ClockSkew => "clock skew",
            Class::DeltaExpired => "delta link expired",
        }
    }

    /// Trouble that lasts comes less often.
    fn rarity(self) -> f64 {
        match self {
            Class::TokenRevoked | Class::MfaDemanded | Class::RoleLost => 0.1,
            _ => 1.0,
        }
    }

    /// Whether this trouble can happen to such a request.
    pub fn concerns(self, service: Service, request: &Request) -> bool {
        let is_portal_list = service == Service::Portal && request.path.trim_end_matches('/').ends_with("/referrals");
        let is_list = is_portal_list
            || (service == Service::Crm
                && !request.is_write()
                && request.path.ends_with(['s'])
                && request.query.contains("filter"));
        match self {
            Class::StaleList | Class::ReorderedPage | Class::RepeatedPage | Class::LoopingToken | Class::RowMoves => {
                is_portal_list
            }
            Class::VanishingRows => is_list,
            Class::Conflict | Class::StubbornConflict => {
                service != Service::Authority && request.header("if-match").is_some_and(|tag| tag != "*")
            }
            Class::TokenExpiry | Class::ClockSkew | Class::TokenRevoked | Class::RoleLost => {
                service != Service::Authority
            }
            Class::MfaDemanded => service == Service::Portal,
            Class::DeltaExpired => service == Service::Crm && request.query.contains("$deltatoken="),
            Class::Throttle | Class::ThrottleBare => service != Service::Authority,
            Class::ServerError | Class::HtmlError | Class::HtmlSuccess | Class::ResetBefore | Class::ResetAfter => true,
            Class::Slow | Class::Hang | Class::Truncated => true,
        }
    }

    /// An answer that takes the place of any work.
    pub(crate) fn instead(self, service: Service, waits: (u64, u64, f64), turn: &mut Turn<'_>) -> Option<Answer> {
        turn.note.operation = Some("disturbed");
        let answer = match self {
            Class::Throttle => {
                let wait = Duration::from_secs(turn.rng.random_range(waits.0..=waits.1.max(waits.0)));
                let answer = throttled(service, Some(wait));
                match turn.rng.random_bool(waits.2.clamp(0.0, 1.0)) {
                    true => answer.with("retry-after", &print_http_date(turn.now.plus(wait))),
                    false => answer,
                }
            }
            Class::ThrottleBare => match turn.rng.random_bool(0.5) {
                true => throttled(service, None),
                false => Answer::html(503),
            },
            Class::HtmlError => Answer::html([502, 503, 504][turn.rng.random_range(0..3)]),
            Class::HtmlSuccess => Answer::html(200),
            Class::DeltaExpired => super::dynamics::delta::expired(),
            Class::ResetBefore => Answer { delivery: Delivery::Reset, ..Answer::empty(0) },
            Class::ServerError | Class::Hang if turn.rng.random_bool(0.5) => server_error(service, turn.rng),
            _ => return None,
        };
        Some(answer)
    }

    /// What another client does just before this request is answered.
    pub(crate) fn meddle(
        self,
        service: Service,
        request: &Request,
        portal: &mut Referrals,
        crm: &mut Dynamics,
        turn: &mut Turn<'_>,
    ) {
        let by = turn.by;
        turn.by = super::journal::Actor::Service;
        match (self, service) {
            (Class::RowMoves, _) => {
                if let Some(id) = pick(&portal.ids(), turn.rng) {
                    portal.edit(turn, id, |document| {
                        let is_favorite = document["favorite"].as_bool().unwrap_or(false);
                        document["favorite"] = (!is_favorite).into();
                    });
                }
            }
            (Class::Conflict, Service::Portal) => {
                if let Some(id) = last_guid(&request.path) {
                    portal.edit(turn, id, |document| document["quality"] = "Unknown".into());
                }
            }
            (Class::Conflict, Service::Crm) => {
                if let Some(id) = last_guid(&request.path) {
                    crm.touch(turn, id);
                }
            }
            (Class::VanishingRows, Service::Portal) => {
                if let Some(id) = pick(&portal.ids(), turn.rng) {
                    let until = turn.now.plus(Duration::from_secs(turn.rng.random_range(60..3600)));
                    portal.hide(id, until);
                    turn.note.events.push(Event::Hidden { at: turn.now, service, row: Some(id), until });
                }
            }
            (Class::VanishingRows, Service::Crm) => {
                if let Some(id) = pick(&crm.lead_ids(), turn.rng) {
                    // Shorter than the overlap that the sheet asks of a poll (dataverse §4.2).
                    let until = turn.now.plus(Duration::from_secs(turn.rng.random_range(10..180)));
                    crm.hide(id, until);
                    turn.note.events.push(Event::Hidden { at: turn.now, service, row: Some(id), until });
                }
            }
            _ => {}
        }
        turn.by = by;
        turn.note.operation = None;
    }

    /// Spoils an answer on its way.
    pub(crate) fn spoil(self, service: Service, request: &Request, answer: &mut Answer, rng: &mut ChaCha8Rng) {
        match self {
            Class::ResetAfter => answer.delivery = Delivery::Reset,
            Class::Slow => answer.delivery = Delivery::Slow(Duration::from_millis(rng.random_range(200..5_000))),
            Class::Hang => answer.delivery = Delivery::Hang,
            Class::Truncated if answer.body.is_empty() => answer.delivery = Delivery::Reset,
            Class::Truncated => {
                let length = answer.body.clone().into_bytes().len();
                answer.delivery = Delivery::Truncated(rng.random_range(0..length));
            }
            // The write was done, and yet the gateway says it failed.
            Class::ServerError if answer.status < 500 && (request.is_write() || service == Service::Authority) => {
                let headers = std::mem::take(&mut answer.headers);
                *answer = server_error(service, rng);
                answer.headers.extend(headers.into_iter().filter(|(name, _)| name.contains("id") || name == "date"));
            }
            Class::ServerError if answer.status < 500 => {
                *answer = Answer { headers: answer.headers.clone(), ..Answer::html(500) }
            }
            _ => {}
        }
    }
}

fn server_error(service: Service, rng: &mut ChaCha8Rng) -> Answer {
    let status = [500, 502, 503, 504][rng.random_range(0..4)];
    match service {
        Service::Portal => Answer::portal_error(status, "generalException", "an error occurred", None),
        Service::Crm => Answer::crm_error(status, "0x80044151", "Sql error: timeout expired"),
        Service::Authority => Answer::json(status, serde_json::json!({"error": "temporarily_unavailable"})),
    }
}

fn pick(ids: &[Uuid], rng: &mut ChaCha8Rng) -> Option<Uuid> {
    (!ids.is_empty()).then(|| ids[rng.random_range(0..ids.len())])
}

fn last_guid(path: &str) -> Option<Uuid> {
    path.rsplit(['/', '(']).find_map(|part| Uuid::try_parse(part.trim_end_matches(')')).ok())
}
