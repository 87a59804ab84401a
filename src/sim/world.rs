//! The world: both services, their clock, their faults and their journal. Pure and synchronous; no input or output.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use crate::model::Timestamp;

use super::clock::{SimClock, print_http_date, read_retry_after};
use super::dynamics::Dynamics;
use super::entra::Entra;
use super::exchange::{Answer, Delivery, Request, Service};
use super::faults::{Class, FaultPlan};
use super::journal::{Actor, Event, Journal, Note, Record};
use super::manners;
use super::referrals::Referrals;
use super::webhooks::Webhooks;

pub use super::options::{
    ClosedLeads, CrmOptions, KeyState, LinkForm, Options, Paging, PlugIn, PortalOptions, ProtectionLimits,
    UpdatedFilter,
};

/// Both services and everything around them.
#[derive(Debug)]
pub struct World {
    /// How the services behave.
    pub options: Options,
    /// The referrals side.
    pub portal: Referrals,
    /// The leads side.
    pub crm: Dynamics,
    /// Sign-in.
    pub entra: Entra,
    /// Webhooks.
    pub webhooks: Webhooks,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// What was asked.
    pub journal: Journal,
    clock: SimClock,
    rng: ChaCha8Rng,
    windows: BTreeMap<Service, Window>,
    requests: u64,
}

/// A time in which a service wants silence.
#[derive(Clone, Copy, Debug)]
struct Window {
    opened: Timestamp,
    until: Timestamp,
}

/// What one handler may use: the time, chance, and a place for its notes.
pub(crate) struct Turn<'a> {
    pub(crate) now: Timestamp,
    pub(crate) by: Actor,
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) note: &'a mut Note,
}

impl Turn<'_> {
    /// A fresh GUID.
    pub(crate) fn guid(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid()
    }
}

impl World {
    /// An empty world that plays no faults.
    pub fn new(seed: u64, clock: SimClock, options: Options) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let now = clock.at();
        let mut note = Note::default();
        let mut turn = Turn { now, by: Actor::Service, rng: &mut rng, note: &mut note };
        let crm = Dynamics::new(&options, &mut turn);
        let entra = Entra::new(&options, &mut turn);
        World {
            portal: Referrals::new(&mut turn),
            crm,
            entra,
            webhooks: Webhooks::default(),
            faults: FaultPlan::none(),
            journal: Journal::default(),
            clock,
            rng,
            options,
            windows: BTreeMap::new(),
            requests: 0,
        }
    }

    /// The shared clock.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Answers one request.
    pub fn ask(&mut self, service: Service, request: &Request) -> Answer {
        let now = self.clock.at();
        self.pass_time(now);
        let mut note = Note::default();
        let class = self.faults.pick(service, request);
        let mut inside_window = None;
        let mut answer = match self.windows.get(&service).filter(|window| now < window.until).copied() {
            Some(window) => {
                inside_window = Some(now.since(window.opened));
                // Whoever keeps sending waits longer (dataverse §6.1).
                let longer = window.until.plus(Duration::from_secs(5));
                self.windows.insert(service, Window { until: longer, ..window });
                throttled(service, Some(longer.since(now)))
            }
            None => self.answer(service, request, class, now, &mut note),
        };
        let asked = answer.header("retry-after").and_then(|text| read_retry_after(text, now));
        if let Some(until) = asked.filter(|_| answer.status == 429 && inside_window.is_none()) {
            self.windows.insert(service, Window { opened: now, until });
        }
        self.requests += 1;
        self.complete(service, request, &mut answer, class, now);
        note.events.extend(self.crm.take_news());
        self.mark_revivals(&mut note);
        self.notify(&note, now);
        self.journal.tell(std::mem::take(&mut note.events));
        self.journal.add(Record {
            at: now,
            service,
            operation: note.operation.unwrap_or("other"),
            method: request.method.clone(),
            path: if request.query.is_empty() {
                request.path.clone()
            } else {
                format!("{}?{}", request.path, request.query)
            },
            status: answer.status,
            subject: note.subject,
            written: note.written,
            if_match: request.header("if-match").map(str::to_owned),
            if_none_match: request.header("if-none-match").map(str::to_owned),
            is_committed: note.is_committed,
            is_delivered: matches!(answer.delivery, Delivery::Whole | Delivery::Slow(_)),
            inside_window,
            refusal: note.refusal,
            goes_on: note.goes_on,
            is_batch_item: false,
            fault: class.map(Class::name),
        });
        for item in note.items {
            self.journal.add(Record {
                at: now,
                service,
                operation: item.operation,
                method: item.method,
                path: item.path,
                status: item.status,
                subject: item.subject,
                written: item.written,
                if_match: item.if_match,
                if_none_match: item.if_none_match,
                is_committed: item.is_committed,
                is_delivered: matches!(answer.delivery, Delivery::Whole | Delivery::Slow(_)),
                inside_window: None,
                refusal: item.refusal,
                goes_on: item.goes_on,
                is_batch_item: true,
                fault: None,
            });
        }
        answer
    }

    /// Lets a person or a service act without a request.
    pub(crate) fn act<T>(&mut self, by: Actor, act: impl FnOnce(&mut Self, &mut Turn<'_>) -> T) -> T {
        let mut rng = self.rng.clone();
        let mut note = Note::default();
        let mut turn = Turn { now: self.clock.at(), by, rng: &mut rng, note: &mut note };
        let result = act(self, &mut turn);
        self.rng = rng;
        note.events.extend(self.crm.take_news());
        self.mark_revivals(&mut note);
        self.notify(&note, self.clock.at());
        self.journal.tell(note.events);
        result
    }

    /// Lets everything happen that is due: expiry of referrals, keys that become active.
    pub fn pass_time(&mut self, now: Timestamp) {
        if self.portal.is_something_due(now) {
            self.act(Actor::Service, |world, turn| world.portal.expire(turn));
        }
        self.crm.pass_time(now);
    }

    fn answer(
        &mut self,
        service: Service,
        request: &Request,
        class: Option<Class>,
        now: Timestamp,
        note: &mut Note,
    ) -> Answer {
        let waits = (self.faults.wait_seconds_min, self.faults.wait_seconds_max, self.faults.wait_as_date);
        let mut turn = Turn { now, by: Actor::Client, rng: &mut self.rng, note };
        if let Some(class) = class {
            self.faults.begin_spell(class, service, request, &mut turn);
        }
        if let Some(answer) = self.faults.spellbound(service, request, &mut turn) {
            return answer;
        }
        if self.faults.is_busy(request, now) {
            Class::Conflict.meddle(service, request, &mut self.portal, &mut self.crm, &mut turn);
        }
        if let Some(class) = class {
            if let Some(answer) = class.instead(service, waits, &mut turn) {
                return answer;
            }
            class.meddle(service, request, &mut self.portal, &mut self.crm, &mut turn);
        }
        if service == Service::Authority {
            return self.entra.answer(&self.options, request, &mut turn);
        }
        if let (Service::Portal, Some(certificate)) = (service, self.webhooks.certificate(request)) {
            turn.note.operation = Some("signing certificate");
            return certificate;
        }
        if class == Some(Class::TokenExpiry) {
            self.entra.expire(request);
        }
        let refused = match class {
            Some(Class::TokenExpiry) => Err(Entra::refused(service)),
            _ if request.is_trusted => Ok(()),
            _ => self.entra.admits(&self.options, service, request, now),
        };
        if let Err(answer) = refused {
            turn.note.operation = Some("refused token");
            return answer;
        }
        if let Some(answer) = manners::lacking(service, request) {
            turn.note.operation = Some("refused for its form");
            return answer;
        }
        match service {
            Service::Portal if request.path.starts_with("/webhooks/v1/") => {
                turn.note.operation = Some("webhook registration");
                self.webhooks.answer(&self.options.portal.url, request, &mut turn)
            }
            Service::Portal => self.portal.answer(&self.options.portal, request, class, &mut turn),
            Service::Crm => self.crm.answer(&self.options.crm, request, &mut turn),
            Service::Authority => Answer::empty(404),
        }
    }

    /// Adds what every answer carries and spoils the delivery where the plan says so.
    fn complete(
        &mut self,
        service: Service,
        request: &Request,
        answer: &mut Answer,
        class: Option<Class>,
        now: Timestamp,
    ) {
        let skew = match class {
            Some(Class::ClockSkew) => self.rng.random_range(-120_000..=120_000),
            _ => self.options.date_skew_millis,
        };
        let date = Timestamp::from_millis(now.millis() + skew);
        answer.headers.insert("date".into(), print_http_date(date));
        let id = format!("00000000-0000-4000-9000-{:012x}", self.requests);
        match service {
            Service::Portal => {
                answer.headers.insert("request-id".into(), id);
                if let Some(echo) = request.header("client-request-id") {
                    answer.headers.insert("client-request-id".into(), echo.to_owned());
                }
            }
            Service::Crm => {
                answer.headers.insert("x-ms-service-request-id".into(), id.clone());
                answer.headers.insert("req_id".into(), id);
                answer.headers.insert("odata-version".into(), "4.0".into());
            }
            Service::Authority => {
                answer.headers.insert("x-ms-request-id".into(), id);
            }
        }
        if let Some(class) = class {
            class.spoil(service, request, answer, &mut self.rng);
        }
    }

    /// Events for whoever has registered.
    fn notify(&mut self, note: &Note, now: Timestamp) {
        for (referral, is_new) in &note.touched {
            self.webhooks.referral(&self.options.portal.url, *referral, *is_new, now);
        }
    }

    /// A lead that came back although a referral named the deleted one as its own is worth judging.
    fn mark_revivals(&self, note: &mut Note) {
        for event in &mut note.events {
            if let Event::LeadCreated { lead, is_revival: true, was_referenced, .. } = event {
                let ghosts = self.crm.ghosts_of(*lead);
                *was_referenced = ghosts.iter().any(|ghost| self.portal.is_referenced(*ghost));
            }
        }
    }
}

/// The 429 of a service, with or without a wait.
pub(crate) fn throttled(service: Service, wait: Option<Duration>) -> Answer {
    let answer = match service {
        Service::Portal | Service::Authority => {
            Answer::portal_error(429, "tooManyRequests", "too many requests; slow down", None)
        }
        Service::Crm => Answer::crm_error(
            429,
            "0x80072322",
            "Number of requests exceeded the limit of 6000 over time window of 300 seconds.",
        ),
    };
    match wait {
        Some(wait) => answer.with("retry-after", &wait.as_millis().div_ceil(1000).max(1).to_string()),
        None => answer,
    }
}
