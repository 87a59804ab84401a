//! The referrals side: rows as JSON documents, versions, the transition table, JSON Patch (partner-center §1).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::model::Timestamp;

use super::clock::{Ticks, print_ticks, read_ticks, ticks_of};
use super::exchange::{Answer, Request, Service, decode};
use super::faults::Class;
use super::journal::{Event, Refusal};
use super::json_patch::{is_legal, operations};
use super::options::PortalOptions;
use super::world::{Turn, throttled};

/// Where the collection lives.
const COLLECTION: &str = "/v1.0/engagements/referrals";

/// Every referral, with the orders it can be listed in.
#[derive(Debug)]
pub struct Referrals {
    pub(crate) rows: BTreeMap<Uuid, Row>,
    pub(crate) by_created: BTreeSet<(Ticks, Uuid)>,
    pub(crate) by_updated: BTreeSet<(Ticks, Uuid)>,
    deadlines: BTreeSet<(Timestamp, Uuid)>,
    references: BTreeMap<String, u32>,
    organization: Uuid,
    last_stamp: Ticks,
    versions: u32,
    pub(crate) snapshots: BTreeMap<u64, Vec<Uuid>>,
    pub(crate) last_page: Vec<Uuid>,
    /// Listed, and out of reach by themselves.
    out_of_reach: BTreeSet<Uuid>,
    gone: BTreeSet<Uuid>,
    /// When the requests of the last minute came.
    asked: VecDeque<Timestamp>,
}

/// One referral.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) document: Arc<Value>,
    pub(crate) created: Ticks,
    pub(crate) updated: Ticks,
    /// The document before its last change: what a stale listing shows.
    pub(crate) previous: Option<(Ticks, Arc<Value>)>,
    /// Missing from listings until then.
    pub(crate) hidden_until: Option<Timestamp>,
    deadline: Option<Timestamp>,
}

impl Referrals {
    pub(crate) fn new(turn: &mut Turn<'_>) -> Self {
        Referrals {
            rows: BTreeMap::new(),
            by_created: BTreeSet::new(),
            by_updated: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            references: BTreeMap::new(),
            organization: turn.guid(),
            last_stamp: 0,
            versions: 0,
            snapshots: BTreeMap::new(),
            last_page: Vec::new(),
            out_of_reach: BTreeSet::new(),
            gone: BTreeSet::new(),
            asked: VecDeque::new(),
        }
    }

    /// The partner organization that owns these referrals.
    pub fn organization(&self) -> Uuid {
        self.organization
    }

    /// New referrals belong to another organization from now on; those there are keep theirs.
    pub fn move_to(&mut self, organization: Uuid) {
        self.organization = organization;
    }

    /// One referral as the service would answer it, without `@odata.context`.
    pub fn get(&self, id: Uuid) -> Option<&Value> {
        self.rows.get(&id).map(|row| &*row.document)
    }

    /// All referrals by id.
    pub fn all(&self) -> impl Iterator<Item = (Uuid, &Value)> {
        self.rows.iter().map(|(id, row)| (*id, &*row.document))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The ids in their order.
    pub fn ids(&self) -> Vec<Uuid> {
        self.rows.keys().copied().collect()
    }

    pub(crate) fn is_referenced(&self, lead: Uuid) -> bool {
        self.references.contains_key(&lead.to_string())
    }

    /// Adds a referral; what the document lacks is filled in with the usual values.
    pub(crate) fn insert(&mut self, turn: &mut Turn<'_>, expiry_days: u32, mut document: Value) -> Uuid {
        let id = text(&document, "/id").and_then(|id| Uuid::try_parse(id).ok()).unwrap_or_else(|| turn.guid());
        let stamp = self.stamp(turn);
        let created = text(&document, "/createdDateTime").and_then(read_ticks).unwrap_or(stamp);
        if let Value::Object(given) = &mut document {
            let mut whole = self.blank(id, turn);
            for (name, value) in std::mem::take(given) {
                whole.insert(name, value);
            }
            whole.insert("createdDateTime".into(), print_ticks(created).into());
            whole.insert("updatedDateTime".into(), print_ticks(stamp).into());
            whole.insert("eTag".into(), self.next_etag(turn.now).into());
            *given = whole;
        }
        let deadline = match text(&document, "/status") {
            Some("New") => Some(deadline(&document, created, expiry_days)),
            _ => None,
        };
        self.deadlines.extend(deadline.map(|at| (at, id)));
        let changed = difference(&Value::Null, &document);
        turn.note.events.push(Event::ReferralSaved { at: turn.now, referral: id, by: turn.by, changed });
        self.by_created.insert((created, id));
        self.by_updated.insert((stamp, id));
        let row =
            Row { document: Arc::new(document), created, updated: stamp, previous: None, hidden_until: None, deadline };
        self.count_reference(&row.document, true);
        self.rows.insert(id, row);
        turn.note.touched.push((id, true));
        id
    }

    /// Changes a referral in any way; keeps version, stamps and orders right. `false` when it does not exist.
    pub(crate) fn edit(&mut self, turn: &mut Turn<'_>, id: Uuid, change: impl FnOnce(&mut Value)) -> bool {
        let stamp = self.stamp(turn);
        let etag = self.next_etag(turn.now);
        let Some(mut row) = self.rows.remove(&id) else { return false };
        self.count_reference(&row.document, false);
        let before = Arc::clone(&row.document);
        let document = Arc::make_mut(&mut row.document);
        change(document);
        let from = words(&before);
        let to = words(document);
        let now = print_ticks(stamp);
        if from.0 != "Active" && to.0 == "Active" && document["acceptedDateTime"].is_null() {
            document["acceptedDateTime"] = now.clone().into();
        }
        if from.0 != "Closed" && to.0 == "Closed" {
            document["closedDateTime"] = now.clone().into();
        }
        document["updatedDateTime"] = now.into();
        document["eTag"] = etag.into();
        if from != to {
            let (at, by) = (turn.now, turn.by);
            turn.note.events.push(Event::ReferralMoved { at, referral: id, from, to: to.clone(), by });
        }
        let changed = difference(&before, &row.document);
        turn.note.events.push(Event::ReferralSaved { at: turn.now, referral: id, by: turn.by, changed });
        if to.0 != "New"
            && let Some(deadline) = row.deadline.take()
        {
            self.deadlines.remove(&(deadline, id));
        }
        self.by_updated.remove(&(row.updated, id));
        self.by_updated.insert((stamp, id));
        turn.note.touched.push((id, false));
        row.previous = Some((row.updated, before));
        row.updated = stamp;
        self.count_reference(&row.document, true);
        self.rows.insert(id, row);
        true
    }

    /// Hides a referral from listings for a while.
    pub fn hide(&mut self, id: Uuid, until: Timestamp) {
        if let Some(row) = self.rows.get_mut(&id) {
            row.hidden_until = Some(until);
        }
    }

    /// A referral that does not exist any more when it is read by itself, or does again.
    pub fn set_gone(&mut self, id: Uuid, is_gone: bool) {
        if is_gone {
            self.gone.insert(id)
        } else {
            self.gone.remove(&id)
        };
    }

    /// A referral that is listed and cannot be read or written by itself, or can again.
    pub fn set_out_of_reach(&mut self, id: Uuid, is_out: bool) {
        if is_out {
            self.out_of_reach.insert(id)
        } else {
            self.out_of_reach.remove(&id)
        };
    }

    pub(crate) fn is_something_due(&self, now: Timestamp) -> bool {
        self.deadlines.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Archives New referrals that nobody answered in time as Closed / Expired (partner-center §1.7).
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) {
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > turn.now {
                break;
            }
            self.deadlines.pop_first();
            self.edit(turn, id, |document| {
                document["status"] = "Closed".into();
                document["substatus"] = "Expired".into();
            });
        }
    }

    pub(crate) fn answer(
        &mut self,
        options: &PortalOptions,
        request: &Request,
        class: Option<Class>,
        turn: &mut Turn<'_>,
    ) -> Answer {
        if let Some(wait) = options.requests_per_minute.and_then(|granted| self.over(granted, turn.now)) {
            turn.note.operation = Some("over the limit");
            return throttled(Service::Portal, Some(wait));
        }
        let Some(rest) = request.path.strip_prefix(COLLECTION) else {
            return Answer::portal_error(404, "itemNotFound", "no such resource", None);
        };
        let id = rest.trim_matches('/');
        if id.is_empty() {
            turn.note.operation = Some("list referrals");
            return match request.method.as_str() {
                "GET" => self.list(options, request, class, turn),
                _ => Answer::portal_error(405, "invalidRequest", "method not allowed", None),
            };
        }
        let Ok(id) = Uuid::try_parse(&decode(id)) else {
            return Answer::portal_error(400, "invalidRequest", "the id is no GUID", None);
        };
        turn.note.subject = Some(id);
        match request.method.as_str() {
            "GET" => {
                turn.note.operation = Some("get referral");
                match self.rows.get(&id) {
                    Some(_) if self.out_of_reach.contains(&id) => denied(),
                    Some(_) if self.gone.contains(&id) => not_found(),
                    Some(row) => self.entity(options, row),
                    None => not_found(),
                }
            }
            "PATCH" => {
                turn.note.operation = Some("patch referral");
                match self.patch(options, request, id, turn) {
                    Ok(answer) | Err(answer) => answer,
                }
            }
            _ => Answer::portal_error(405, "invalidRequest", "method not allowed", None),
        }
    }

    /// How long to wait until there is room among the requests granted in a minute, if there is none now.
    fn over(&mut self, granted: usize, now: Timestamp) -> Option<Duration> {
        const MINUTE: Duration = Duration::from_secs(60);
        while self.asked.front().is_some_and(|at| now.since(*at) >= MINUTE) {
            self.asked.pop_front();
        }
        if self.asked.len() >= granted {
            return Some(self.asked.front().map_or(MINUTE, |at| at.plus(MINUTE).since(now)));
        }
        self.asked.push_back(now);
        None
    }

    fn patch(
        &mut self,
        options: &PortalOptions,
        request: &Request,
        id: Uuid,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        let operations = operations(request)?;
        turn.note.written = operations.iter().map(|operation| operation.path.clone()).collect();
        let Some(row) = self.rows.get(&id) else { return Err(not_found()) };
        if self.out_of_reach.contains(&id) {
            return Err(denied());
        }
        let etag = text(&row.document, "/eTag").unwrap_or_default();
        if request.header("if-match").is_some_and(|sent| sent != "*" && sent != etag) {
            let message = "eTag did not match";
            let answer = Answer::portal_error(412, "preconditionFailed", message, Some("99918"));
            return Err(answer.with("etag", etag));
        }
        let mut refuse = |refusal, message: &str| {
            turn.note.refusal = Some(refusal);
            Err(Answer::portal_error(400, "invalidRequest", message, None))
        };
        if let Some(wrong) = operations.iter().find(|operation| !operation.is_allowed()) {
            return refuse(Refusal::ForbiddenPath, &format!("{} {} is not allowed", wrong.verb, wrong.path));
        }
        let from = words(&row.document);
        if from.0 == "Closed" {
            return refuse(Refusal::ClosedReferral, "the referral is closed");
        }
        let mut changed = Value::clone(&row.document);
        for operation in &operations {
            operation.apply(&mut changed).map_err(|message| invalid(&message))?;
        }
        let to = words(&changed);
        if from != to && !is_legal(options, &from, &to) {
            let message = format!("{} / {} cannot become {} / {}", from.0, from.1, to.0, to.1);
            return refuse(Refusal::IllegalTransition, &message);
        }
        turn.note.is_committed = true;
        self.edit(turn, id, |document| *document = changed);
        let row = &self.rows[&id];
        Ok(if options.honours_prefer && request.prefers("return=representation") {
            self.entity(options, row)
        } else {
            Answer::empty(204)
        })
    }

    fn entity(&self, options: &PortalOptions, row: &Row) -> Answer {
        let mut document = Value::clone(&row.document);
        document["@odata.context"] = format!("{}/v1.0/$metadata#Referrals/$entity", plain(&options.url)).into();
        let uri = format!("{}{COLLECTION}/{}", options.url, text(&document, "/id").unwrap_or_default());
        document["links"] = json!({"self": {"uri": uri, "method": "GET"}});
        Answer::json(200, document).with("etag", text(&row.document, "/eTag").unwrap_or_default())
    }

    /// A stamp later than any before.
    fn stamp(&mut self, turn: &mut Turn<'_>) -> Ticks {
        let drawn = ticks_of(turn.now) + turn.rng.random_range(0..10_000);
        self.last_stamp = drawn.max(self.last_stamp + 1);
        self.last_stamp
    }

    fn next_etag(&mut self, now: Timestamp) -> String {
        self.versions += 1;
        format!("\"{:08x}-0000-0100-0000-{:08x}0000\"", self.versions, now.millis() / 1000)
    }

    fn count_reference(&mut self, document: &Value, is_added: bool) {
        let Some(reference) = text(document, "/externalReferenceId") else { return };
        let key = reference.trim().to_lowercase();
        let count = self.references.entry(key.clone()).or_default();
        *count = if is_added { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.references.remove(&key);
        }
    }

    /// Every property of a record with its usual value (partner-center §5).
    fn blank(&self, id: Uuid, turn: &mut Turn<'_>) -> Map<String, Value> {
        let profile = json!({"name": null, "size": "", "isMatchingComplete": false, "address": null, "team": [],
            "ids": []});
        let consent = json!({"consentToToShareInfoWithOthers": true, "consentToContact": true,
            "consentToShareReferralWithMicrosoftSellers": false});
        let requirements = json!({"industries": [], "products": [], "services": [], "solutions": [], "offers": [],
            "salesPlays": []});
        let details = json!({"notes": null, "dealValue": 0, "currency": "USD", "closingDateTime": null,
            "customerRequestedContact": null, "customerAction": null, "incentiveLevel": null,
            "requirements": requirements});
        let invitation = json!({"notes": null, "assistanceRequestCode": "Unknown", "invitedMpnId": null,
            "invitedBy": {"organizationId": "msft", "organizationName": "Microsoft"}});
        let mut whole = json!({
            "id": id, "engagementId": turn.guid(), "name": null, "organizationId": self.organization,
            "organizationName": "Example Partner", "externalReferenceId": null, "expirationDateTime": null,
            "status": "New", "substatus": "Pending", "statusReason": null, "qualification": "SalesQualified",
            "type": "Independent", "direction": "Incoming", "isSpam": false, "favorite": false, "quality": "Unknown",
            "customerProfile": profile, "consent": consent, "details": details, "inviteContext": invitation,
            "team": [], "target": [], "tags": [], "trackingInfo": {"microsoftMsxId": null}
        });
        for (name, value) in [("mpnId", "1234567"), ("dealSensitivity", "None"), ("registrationStatus", "None")] {
            whole[name] = value.into();
        }
        for name in [
            "referralSource",
            "campaignId",
            "salesStage",
            "referralProgram",
            "createdVia",
            "acceptedDateTime",
            "closedDateTime",
            "callToAction",
        ] {
            whole[name] = Value::Null;
        }
        match whole {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// What is different in the second document, down to the members of members; versions and stamps of changes apart.
fn difference(before: &Value, after: &Value) -> BTreeMap<String, Value> {
    const SKIPPED: [&str; 2] = ["eTag", "updatedDateTime"];
    let mut changed = BTreeMap::new();
    for (name, old, new) in members(before, after).filter(|(name, ..)| !SKIPPED.contains(name)) {
        if old == new {
            continue;
        }
        if new.is_object() && (old.is_object() || old.is_null()) {
            for (inner, _, new) in members(old, new).filter(|(_, old, new)| old != new) {
                changed.insert(format!("/{name}/{inner}"), new.clone());
            }
        } else {
            changed.insert(format!("/{name}"), new.clone());
        }
    }
    changed
}

/// Members of both documents by name, with what each of them says; null for nothing.
fn members<'a>(before: &'a Value, after: &'a Value) -> impl Iterator<Item = (&'a str, &'a Value, &'a Value)> {
    let names = |value: &'a Value| value.as_object().into_iter().flat_map(Map::keys);
    let gone = names(before).filter(|name| after.get(name.as_str()).is_none());
    names(after).chain(gone).map(|name| (name.as_str(), &before[name.as_str()], &after[name.as_str()]))
}

pub(crate) fn words(document: &Value) -> (String, String) {
    let word = |name| document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    (word("status"), word("substatus"))
}

pub(crate) fn text<'a>(document: &'a Value, pointer: &str) -> Option<&'a str> {
    document.pointer(pointer).and_then(Value::as_str)
}

pub(crate) fn invalid(message: &str) -> Answer {
    Answer::portal_error(400, "invalidRequest", message, None)
}

fn denied() -> Answer {
    Answer::portal_error(403, "accessDenied", "the user may not read this referral", None)
}

fn not_found() -> Answer {
    Answer::portal_error(404, "itemNotFound", "the referral does not exist", None)
}

/// The documented samples of the service's own links use `http`.
pub(crate) fn plain(url: &str) -> String {
    url.replacen("https://", "http://", 1)
}

fn deadline(document: &Value, created: Ticks, expiry_days: u32) -> Timestamp {
    let given = text(document, "/expirationDateTime").and_then(read_ticks);
    match given {
        Some(ticks) => Timestamp::from_millis(ticks / 10_000),
        None => Timestamp::from_millis(created / 10_000).plus(Duration::from_secs(u64::from(expiry_days) * 86_400)),
    }
}
