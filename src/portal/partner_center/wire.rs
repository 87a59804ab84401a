//! The JSON of referrals, read leniently: one odd field never costs a referral, one odd row never costs a page.
//!
//! A page is parsed once, straight into one tree per row, and that tree becomes the referral's document. Only when that
//! fails (a row nested too deeply, broken text) is the page taken apart row by row, to save the intact ones.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr as _;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::model::{
    ETag, Patch, Qualification, Referral, ReferralId, ReferralStatus, ReferralType, Substatus, Timestamp,
};
use crate::ports::Defect;

/// Longest id text of an undecodable row that is passed on, in characters.
const DEFECT_ID_CHARS_MAX: usize = 64;

/// A decoded page.
#[derive(Debug)]
pub(super) struct DecodedPage {
    /// The rows that could be decoded, in the order of the service.
    pub(super) referrals: Vec<Referral>,
    /// The others.
    pub(super) defects: Vec<Defect>,
    /// What the page says about the next one.
    pub(super) next_link: NextLink,
}

/// What a page says about the next one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NextLink {
    /// It was the last.
    None,
    /// A link, as sent.
    Text(String),
    /// Something that is neither text nor null.
    NotText,
}

/// Decodes a page. The error is a sentence without values.
pub(super) fn page(body: &[u8]) -> Result<DecodedPage, String> {
    let body = without_mark(body);
    match intact_page(body) {
        Ok(page) => Ok(page),
        Err(_) => {
            salvaged_page(&String::from_utf8_lossy(body)).map_err(|error| unreadable("a page of referrals", &error))
        }
    }
}

/// Decodes one referral. The error is a sentence without values.
pub(super) fn referral_from_bytes(body: &[u8]) -> Result<Referral, String> {
    let document = serde_json::from_slice(without_mark(body)).map_err(|error| unreadable("a referral", &error))?;
    referral(document).map_err(|defect| format!("the answer is no referral: {}", defect.reason))
}

/// The body of a write (partner-center §1.8).
pub(super) fn patch_body(patch: &Patch) -> Value {
    let operations = patch.operations.iter();
    operations.map(|operation| json!({ "op": "replace", "path": operation.path, "value": operation.value })).collect()
}

/// Decodes one row; its tree is kept as the document.
fn referral(document: Value) -> Result<Referral, Defect> {
    let Value::Object(mut row) = document else {
        return Err(Defect { id: None, reason: "not an object".to_owned() });
    };
    let id = match row.get("id") {
        None | Some(Value::Null) => return Err(Defect { id: None, reason: "no id".to_owned() }),
        Some(Value::String(text)) => ReferralId::parse(text)
            .ok_or_else(|| Defect { id: printable(text), reason: "its id is no GUID".to_owned() })?,
        Some(_) => return Err(Defect { id: None, reason: "its id is no text".to_owned() }),
    };
    mend_shapes(&mut row);
    Ok(Referral {
        id,
        etag: ["eTag", "etag", "@odata.etag"].iter().find_map(|name| text(&row, name)).map(|tag| ETag(tag.to_owned())),
        status: status(word(&row, "status")),
        substatus: substatus(word(&row, "substatus")),
        created: instant(&row, "createdDateTime"),
        updated: instant(&row, "updatedDateTime"),
        expires: instant(&row, "expirationDateTime"),
        external_reference: scalar(row.get("externalReferenceId")),
        engagement: identifier(row.get("engagementId")),
        organization: identifier(row.get("organizationId")),
        kind: kind(word(&row, "type")),
        qualification: qualification(word(&row, "qualification")),
        is_outgoing: word(&row, "direction").eq_ignore_ascii_case("Outgoing"),
        is_spam: flag(row.get("isSpam")).unwrap_or(false),
        invited_by: identifier(at(&row, &["inviteContext", "invitedBy", "organizationId"])),
        consent_to_contact: flag(at(&row, &["consent", "consentToContact"])),
        has_registration: has_registration(&row),
        document: Arc::new(Value::Object(row)),
    })
}

/// Gives the documented misshapes one shape, so that a mapping need not know them (partner-center §1.6, §4 row 14):
/// a person or list of ids sent as a bare object becomes a list, a deal value sent as text becomes its exact number.
fn mend_shapes(row: &mut Map<String, Value>) {
    as_list(row.get_mut("team"));
    if let Some(Value::Object(customer)) = row.get_mut("customerProfile") {
        as_list(customer.get_mut("team"));
        as_list(customer.get_mut("ids"));
    }
    if let Some(Value::Object(details)) = row.get_mut("details")
        && let Some(value) = details.get_mut("dealValue")
        && let Value::String(text) = &*value
        && let Ok(number) = serde_json::Number::from_str(text.trim())
    {
        *value = Value::Number(number);
    }
}

/// `{}` becomes an empty list, any other object a list of one.
fn as_list(value: Option<&mut Value>) {
    if let Some(value) = value
        && let Value::Object(object) = value
    {
        let list = if object.is_empty() { Vec::new() } else { vec![Value::Object(std::mem::take(object))] };
        *value = Value::Array(list);
    }
}

fn status(word: &str) -> ReferralStatus {
    match () {
        () if word.eq_ignore_ascii_case("New") => ReferralStatus::New,
        () if word.eq_ignore_ascii_case("Active") => ReferralStatus::Active,
        () if word.eq_ignore_ascii_case("Closed") => ReferralStatus::Closed,
        () => ReferralStatus::Other,
    }
}

fn substatus(word: &str) -> Substatus {
    use Substatus::{Accepted, Declined, Expired, Lost, Other, Pending, Received, Won};
    let known = [
        ("Pending", Pending),
        ("Received", Received),
        ("Accepted", Accepted),
        ("Won", Won),
        ("Lost", Lost),
        ("Declined", Declined),
        ("Expired", Expired),
    ];
    known.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map_or(Other, |(_, substatus)| substatus)
}

fn kind(word: &str) -> ReferralType {
    match () {
        () if word.eq_ignore_ascii_case("Independent") => ReferralType::Independent,
        () if word.eq_ignore_ascii_case("Shared") => ReferralType::Shared,
        () => ReferralType::Other,
    }
}

fn qualification(word: &str) -> Qualification {
    match () {
        () if word.eq_ignore_ascii_case("Direct") => Qualification::Direct,
        () if word.eq_ignore_ascii_case("MarketingQualified") => Qualification::MarketingQualified,
        () if word.eq_ignore_ascii_case("SalesQualified") => Qualification::SalesQualified,
        () => Qualification::Other,
    }
}

/// A registration is attached, or the service says that one is under way.
fn has_registration(row: &Map<String, Value>) -> bool {
    let is_attached = match row.get("registrations") {
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(one)) => !one.is_empty(),
        _ => false,
    };
    let status = word(row, "registrationStatus");
    is_attached || !(status.is_empty() || status.eq_ignore_ascii_case("None"))
}

/// Text that says something: not null, not blank.
fn text<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    row.get(name)?.as_str().filter(|text| !text.trim().is_empty())
}

/// An enum word, or nothing.
fn word<'a>(row: &'a Map<String, Value>, name: &str) -> &'a str {
    text(row, name).unwrap_or_default().trim()
}

fn instant(row: &Map<String, Value>, name: &str) -> Option<Timestamp> {
    text(row, name).and_then(Timestamp::parse)
}

/// Text or a number as trimmed text; `None` when blank.
fn scalar(value: Option<&Value>) -> Option<String> {
    let text = match value? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// An id that is compared with others of its kind: GUIDs in one spelling, other words (`msft`) as they are.
fn identifier(value: Option<&Value>) -> Option<String> {
    let text = scalar(value)?;
    Some(uuid::Uuid::try_parse(&text).map_or(text, |guid| guid.as_hyphenated().to_string()))
}

fn flag(value: Option<&Value>) -> Option<bool> {
    match value? {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn at<'a>(row: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(row.get(*first)?, |value, name| value.get(name))
}

/// An id text that is safe to print, cut short.
fn printable(text: &str) -> Option<String> {
    let kept: String = text.trim().chars().take(DEFECT_ID_CHARS_MAX).collect();
    (!kept.is_empty() && kept.chars().all(|c| c.is_ascii_alphanumeric() || "-_{}".contains(c))).then_some(kept)
}

fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Says what kind of failure it was and never what was in the text.
fn unreadable(what: &str, error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => format!("the answer breaks off before the end of {what}"),
        Category::Syntax => format!("the answer is no JSON of {what}, or is nested too deeply"),
        Category::Data | Category::Io => format!("the answer is not in the shape of {what}"),
    }
}

/// The quick way: every row becomes a tree in one pass over the body.
pub(super) fn intact_page(body: &[u8]) -> serde_json::Result<DecodedPage> {
    let envelope: Envelope<Value> = serde_json::from_slice(body)?;
    Ok(decoded(envelope.next_link(), envelope.rows.into_iter().map(Ok)))
}

/// The patient way: finds where each row begins and ends, then reads each one alone.
fn salvaged_page(body: &str) -> serde_json::Result<DecodedPage> {
    let envelope: Envelope<&RawValue> = serde_json::from_str(body)?;
    let rows = envelope.rows.iter().map(|raw| {
        serde_json::from_str(raw.get())
            .map_err(|error| Defect { id: id_of_broken_row(raw.get()), reason: unreadable("a referral", &error) })
    });
    Ok(decoded(envelope.next_link(), rows))
}

fn decoded(next_link: NextLink, rows: impl Iterator<Item = Result<Value, Defect>>) -> DecodedPage {
    let mut page = DecodedPage { referrals: Vec::with_capacity(rows.size_hint().0), defects: Vec::new(), next_link };
    for (position, row) in rows.enumerate() {
        match row.and_then(referral) {
            Ok(referral) => page.referrals.push(referral),
            Err(defect) => {
                page.defects.push(Defect { reason: format!("row {}: {}", position + 1, defect.reason), ..defect });
            }
        }
    }
    page
}

fn id_of_broken_row(row: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
    }
    let named: Named<'_> = serde_json::from_str(row).ok()?;
    printable(&named.id)
}

/// The collection envelope (partner-center §1.4); its other members are informational and skipped unread.
struct Envelope<Row> {
    rows: Vec<Row>,
    next_link: Option<Box<RawValue>>,
}

impl<Row> Envelope<Row> {
    fn next_link(&self) -> NextLink {
        let Some(raw) = &self.next_link else {
            return NextLink::None;
        };
        match serde_json::from_str(raw.get()) {
            Ok(Value::Null) => NextLink::None,
            Ok(Value::String(link)) if link.trim().is_empty() => NextLink::None,
            Ok(Value::String(link)) => NextLink::Text(link),
            Ok(_) | Err(_) => NextLink::NotText,
        }
    }
}

impl<'de, Row: Deserialize<'de>> Deserialize<'de> for Envelope<Row> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor(PhantomData))
    }
}

struct EnvelopeVisitor<Row>(PhantomData<Row>);

impl<'de, Row: Deserialize<'de>> Visitor<'de> for EnvelopeVisitor<Row> {
    type Value = Envelope<Row>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a collection of referrals")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut rows, mut next_link) = (None, None);
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            match () {
                () if name.eq_ignore_ascii_case("value") => rows = Some(members.next_value()?),
                () if name.eq_ignore_ascii_case("@odata.nextLink") => next_link = members.next_value()?,
                () => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        let rows = rows.ok_or_else(|| serde::de::Error::missing_field("value"))?;
        Ok(Envelope { rows, next_link })
    }
}
