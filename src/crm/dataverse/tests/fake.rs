//! A client stack that answers by script and remembers every call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::HumanDuration;
use crate::crm::dataverse::settings::{DataverseSettings, Identity, Observe};
use crate::crm::dataverse::{Dataverse, DataverseDialect};
use crate::http::settings::{AuthSettings, EndpointVersion, Grant};
use crate::http::{Answer, Call, Dialect, Effect, Exchange, RefusalVerdict};
use crate::model::{ETag, Fault, LeadDraft, LeadId, ReferralId, RemoteError, Side, Timestamp};
use crate::ports::{Allowance, Line, Traffic};

pub const HOST: &str = "https://contoso.crm4.dynamics.com";
pub const COLUMN: &str = "new_referralid";

/// What the service answers once.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Reply {
    pub fn with(mut self, name: &'static str, value: &str) -> Reply {
        self.headers.push((name, value.to_owned()));
        self
    }
}

pub fn ok(body: Value) -> Reply {
    Reply { status: 200, headers: Vec::new(), body: body.to_string() }
}

pub fn raw(status: u16, body: &str) -> Reply {
    Reply { status, headers: Vec::new(), body: body.to_owned() }
}

pub fn error(status: u16, code: &str, message: &str) -> Reply {
    raw(status, &json!({"error": {"code": code, "message": message}}).to_string())
}

/// The scripted stack. Rules are used up one by one; metadata is answered by default.
pub struct Fake {
    rules: Mutex<Vec<(Method, String, Reply)>>,
    calls: Mutex<Vec<Call>>,
    metadata: Mutex<BTreeMap<&'static str, Reply>>,
    closed: Mutex<Option<Timestamp>>,
    pub recommended: Mutex<Option<u16>>,
    in_flight: Mutex<(usize, usize)>,
    dialect: DataverseDialect,
}

pub const ATTRIBUTES: &str = "/Attributes?";
pub const STRINGS: &str = "StringAttributeMetadata";
pub const MEMOS: &str = "MemoAttributeMetadata";
pub const STATUSES: &str = "StatusAttributeMetadata";
pub const PICKLISTS: &str = "PicklistAttributeMetadata";
pub const DATES: &str = "DateTimeAttributeMetadata";
pub const ONE_COLUMN: &str = "MetadataId";
pub const KEYS: &str = "/Keys?";
pub const CURRENCIES: &str = "transactioncurrencies?";

pub const ALL_METADATA: [&str; 9] =
    [ATTRIBUTES, STRINGS, MEMOS, STATUSES, PICKLISTS, DATES, ONE_COLUMN, KEYS, CURRENCIES];

pub fn euro() -> Uuid {
    Uuid::from_u128(0xE0)
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        let attribute = |name: &str, kind: &str| {
            json!({"LogicalName": name, "AttributeType": kind, "RequiredLevel": {"Value": "None"},
                   "IsValidForCreate": true, "IsValidForUpdate": true})
        };
        let attributes: Vec<Value> = [
            ("leadid", "Uniqueidentifier"),
            ("subject", "String"),
            ("lastname", "String"),
            ("description", "Memo"),
            ("statecode", "State"),
            ("statuscode", "Status"),
            ("createdon", "DateTime"),
            ("modifiedon", "DateTime"),
            ("createdby", "Lookup"),
            ("modifiedby", "Lookup"),
            ("merged", "Boolean"),
            ("masterid", "Lookup"),
            ("qualifyingopportunityid", "Lookup"),
            ("transactioncurrencyid", "Lookup"),
            ("estimatedamount", "Money"),
            ("leadsourcecode", "Picklist"),
            ("new_day", "DateTime"),
            (COLUMN, "String"),
        ]
        .map(|(name, kind)| attribute(name, kind))
        .into();
        let options = |numbers: &[i32]| -> Value {
            json!({"OptionSet": {"Options": numbers.iter().map(|n| json!({"Value": n})).collect::<Vec<_>>()}})
        };
        let metadata = BTreeMap::from([
            (ATTRIBUTES, ok(json!({"value": attributes}))),
            (STRINGS, ok(json!({"value": [{"LogicalName": "subject", "MaxLength": 250}]}))),
            (MEMOS, ok(json!({"value": [{"LogicalName": "description", "MaxLength": 10000}]}))),
            (
                STATUSES,
                ok(json!({"OptionSet": {"Options": [{"Value": 1, "State": 0}, {"Value": 100_000_001, "State": 2}]}})),
            ),
            (PICKLISTS, ok(options(&[1, 4, 100_000_000]))),
            (DATES, ok(json!({"value": [{"LogicalName": "new_day", "DateTimeBehavior": {"Value": "DateOnly"}}]}))),
            (ONE_COLUMN, ok(json!({"LogicalName": COLUMN, "MetadataId": Uuid::nil()}))),
            (
                KEYS,
                ok(json!({"value": [{"SchemaName": "new_ReferralIdKey", "LogicalName": "new_referralidkey",
                "KeyAttributes": [COLUMN], "EntityKeyIndexStatus": "Active"}]})),
            ),
            (
                CURRENCIES,
                ok(json!({"value": [{"transactioncurrencyid": euro().to_string(), "isocurrencycode": "EUR",
                    "currencyprecision": 2, "exchangerate": 1.0}]})),
            ),
        ]);
        Arc::new(Fake {
            rules: Mutex::default(),
            calls: Mutex::default(),
            metadata: Mutex::new(metadata),
            closed: Mutex::default(),
            recommended: Mutex::default(),
            in_flight: Mutex::default(),
            dialect: DataverseDialect::new(mapped()),
        })
    }

    /// Answers the next call of this method whose URL contains `part`.
    pub fn on(&self, method: Method, part: &str, reply: Reply) {
        self.rules.lock().expect("no panic").push((method, part.to_owned(), reply));
    }

    /// Answers metadata calls of this kind from now on.
    pub fn metadata(&self, part: &'static str, reply: Reply) {
        self.metadata.lock().expect("no panic").insert(part, reply);
    }

    /// Every call so far.
    pub fn all_calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no panic").clone()
    }

    /// Every call so far that was not about metadata.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = self.all_calls();
        calls.retain(|call| self.metadata_of(call).is_none());
        calls
    }

    pub fn count(&self, part: &str) -> usize {
        self.all_calls().iter().filter(|call| call.url.as_str().contains(part)).count()
    }

    /// The most calls that were under way at once since the last time this was asked.
    pub fn most_in_flight(&self) -> usize {
        std::mem::take(&mut self.in_flight.lock().expect("no panic").1)
    }

    fn metadata_of(&self, call: &Call) -> Option<Reply> {
        let url = call.url.as_str();
        let metadata = self.metadata.lock().expect("no panic");
        metadata.iter().find(|(part, _)| url.contains(*part)).map(|(_, reply)| reply.clone())
    }

    fn reply(&self, call: &Call) -> Reply {
        let mut rules = self.rules.lock().expect("no panic");
        let found = rules
            .iter()
            .position(|(method, part, _)| *method == call.method && call.url.as_str().contains(part.as_str()));
        match found {
            Some(index) => rules.remove(index).2,
            None => self.metadata_of(call).unwrap_or_else(|| panic!("unscripted: {} {}", call.method, call.url)),
        }
    }
}

#[async_trait]
impl Exchange for Fake {
    async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        let reply = self.reply(&call);
        self.calls.lock().expect("no panic").push(call.clone());
        // Others may run while the answer is under way.
        {
            let mut in_flight = self.in_flight.lock().expect("no panic");
            in_flight.0 += 1;
            in_flight.1 = in_flight.1.max(in_flight.0);
        }
        tokio::task::yield_now().await;
        self.in_flight.lock().expect("no panic").0 -= 1;
        let mut headers = HeaderMap::new();
        for (name, value) in &reply.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"));
        }
        let status = StatusCode::from_u16(reply.status).expect("a status");
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(Answer {
                status,
                headers,
                body: reply.body.into(),
                request_id: Some("req-1".into()),
                server_time: Timestamp::parse("2026-03-01T09:00:00Z"),
            });
        }
        let refusal = self.dialect.classify(status, &headers, reply.body.as_bytes());
        let is_unknown = call.effect == Effect::Write && refusal.verdict == RefusalVerdict::Unavailable;
        let fault = match refusal.verdict {
            RefusalVerdict::Throttled { .. } | RefusalVerdict::Closed { .. } => {
                Fault::Throttled { until: Timestamp::EPOCH }
            }
            RefusalVerdict::Unavailable | RefusalVerdict::Again => Fault::Unavailable,
            RefusalVerdict::TokenRefused | RefusalVerdict::Unauthorized => Fault::Unauthorized,
            RefusalVerdict::Conflict => Fault::Conflict,
            RefusalVerdict::Missing => Fault::Missing,
            RefusalVerdict::Refused => Fault::Refused,
            RefusalVerdict::NeedsHuman => Fault::NeedsHuman,
        };
        Err(RemoteError {
            status: Some(reply.status),
            code: refusal.code,
            message: refusal.message,
            is_outcome_unknown: is_unknown,
            ..RemoteError::new(Side::Crm, call.operation, fault)
        })
    }

    fn line(&self) -> &dyn Line {
        self
    }

    fn recommend(&self, parallelism: u16) {
        *self.recommended.lock().expect("no panic") = Some(parallelism);
    }

    fn parallelism(&self) -> usize {
        1
    }

    fn write_time(&self) -> Duration {
        Duration::ZERO
    }
}

#[async_trait]
impl Line for Fake {
    fn closed_until(&self) -> Option<Timestamp> {
        *self.closed.lock().expect("no panic")
    }

    fn close_until(&self, until: Timestamp) {
        *self.closed.lock().expect("no panic") = Some(until);
    }

    async fn closed_beyond(&self, _: Option<Timestamp>) -> Timestamp {
        std::future::pending().await
    }

    fn lose_patience(&self) {}

    fn requests_sent(&self) -> u64 {
        self.all_calls().len() as u64
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn allow(&self, _: Option<Allowance>) {}
}

pub fn settings() -> DataverseSettings {
    DataverseSettings {
        url: Some(HOST.parse().expect("a URL")),
        tag: "referrald".into(),
        page_size: 500,
        observe: Observe::Poll,
        poll_pages_max: 10,
        ids_per_request: 50,
        poll_overlap: HumanDuration::from_seconds(300),
        requests_per_minute: 600,
        in_flight_max: 8,
        budget_share_percent: 97,
        batch_size: 20,
        requests_per_day: 100_000,
        auth: AuthSettings {
            authority: "https://login.microsoftonline.com".parse().expect("a URL"),
            tenant_id: None,
            client_id: None,
            client_secret_file: None,
            client_secret_credential: None,
            client_secret_environment: None,
            client_secret_expires: None,
            certificate_file: None,
            private_key_file: None,
            grant: Grant::ClientCredentials,
            refresh_token_file: None,
            refresh_token_credential: None,
            username: None,
            password_file: None,
            endpoint_version: EndpointVersion::V2,
            audience: None,
        },
    }
}

pub fn mapped() -> std::collections::BTreeSet<String> {
    ["lastname", "description", "estimatedamount", "transactioncurrencyid", "leadsourcecode", "new_day", "new_gone"]
        .map(String::from)
        .into()
}

/// The adapter in derived mode, with the referral id column.
pub fn derived(fake: &Arc<Fake>) -> Dataverse {
    open(fake, Identity::Derived, Some(COLUMN))
}

/// The adapter in alternate-key mode.
pub fn keyed(fake: &Arc<Fake>) -> Dataverse {
    open(fake, Identity::AlternateKey, Some(COLUMN))
}

pub fn open(fake: &Arc<Fake>, identity: Identity, column: Option<&str>) -> Dataverse {
    let exchange: Arc<dyn Exchange> = Arc::clone(fake) as Arc<dyn Exchange>;
    Dataverse::open(&settings(), identity, column, mapped(), exchange).expect("settings are fine")
}

/// The columns that every lead is read with.
pub const SELECT: &str = "leadid,subject,statecode,statuscode,createdon,modifiedon,_createdby_value,_modifiedby_value,merged,\
    _masterid_value,_qualifyingopportunityid_value,_transactioncurrencyid_value,description,estimatedamount,lastname,\
    leadsourcecode,new_day,new_referralid";

pub fn referral() -> ReferralId {
    ReferralId::new(Uuid::from_u128(0x3f1c_2a9e))
}

pub fn lead_id() -> LeadId {
    LeadId::new(Uuid::from_u128(0xef0d_112e))
}

pub fn lead_row() -> Value {
    json!({
        "@odata.context": format!("{HOST}/api/data/v9.2/$metadata#leads/$entity"),
        "@odata.etag": "W/\"71004878\"",
        "leadid": lead_id().to_string(),
        "subject": "Contoso migration",
        "statecode": 0, "statuscode": 1,
        "createdon": "2026-03-01T08:15:30Z", "modifiedon": "2026-03-01T08:15:30Z",
        "_createdby_value": Uuid::from_u128(1).to_string(),
        "_modifiedby_value": Uuid::from_u128(2).to_string(),
        "merged": false,
        "_transactioncurrencyid_value": euro().to_string(),
        "estimatedamount": 120_000,
        "new_referralid": referral().to_string(),
    })
}

pub fn draft() -> LeadDraft {
    LeadDraft { columns: [("subject".to_owned(), json!("Contoso migration"))].into(), ..LeadDraft::default() }
}

pub fn etag() -> ETag {
    ETag("W/\"71004878\"".into())
}

pub fn request() -> Uuid {
    Uuid::from_u128(0xaa)
}

/// A call's body as JSON.
pub fn body(call: &Call) -> Value {
    serde_json::from_slice(call.body.as_deref().expect("a body")).expect("JSON")
}

/// A call's header, or nothing.
pub fn header<'a>(call: &'a Call, name: &str) -> &'a str {
    call.headers.get(name).map_or("", |value| value.to_str().expect("text"))
}
