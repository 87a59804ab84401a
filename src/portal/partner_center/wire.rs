//! The JSON of referrals, read leniently: one odd field never costs a referral, one odd row never costs a page.
//!
//! Of a row only what the engine itself looks at is decoded at once, and its text is kept: a sweep compares versions and
//! throws almost every row away, which costs a third of building its tree. A row that might not become a tree (nested
//! deeply, broken escapes) is tried at once, so that a document can always be looked into.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr as _;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::http::{self, with_whole_letters, without_mark};
use crate::model::{
    Document, ETag, Operation, Patch, Qualification, Referral, ReferralId, ReferralStatus, ReferralType, Substatus,
    Timestamp,
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
    let page = match serde_json::from_slice::<Envelope<'_>>(body) {
        Ok(envelope) => Ok(decoded(&envelope)),
        // Foreign bytes cost a letter.
        Err(_) => serde_json::from_str::<Envelope<'_>>(&String::from_utf8_lossy(body)).map(|page| decoded(&page)),
    };
    page.map_err(|error| unreadable("a page of referrals", &error))
}

/// Decodes one referral. The error is a sentence without values.
pub(super) fn referral_from_bytes(body: &[u8]) -> Result<Referral, String> {
    let tree: Value = http::json(body).map_err(|error| unreadable("a referral", &error))?;
    row_of(tree).map_err(|defect| format!("the answer is no referral: {}", defect.reason))
}

/// The body of a write (partner-center §1.8): `replace`, the verb of all documented examples, and `add` for members that
/// may be absent from the referral.
pub(super) fn patch_body(patch: &Patch, may_be_absent: impl Fn(&str) -> bool) -> Value {
    let op = |path: &str| if may_be_absent(path) { "add" } else { "replace" };
    let operations = patch.operations.iter();
    let body = |one: &Operation| json!({ "op": op(&one.path), "path": one.path, "value": one.value });
    operations.map(body).collect()
}

/// Decodes one row of a page.
fn row(text: &str) -> Result<Referral, Defect> {
    if !text.starts_with('{') {
        return Err(Defect { id: None, reason: "not an object".to_owned() });
    }
    let broken = |error| Defect { id: id_of_broken_row(text), reason: unreadable("a referral", &error) };
    if is_doubtful(text) {
        return row_of(serde_json::from_str(&with_whole_letters(text)).map_err(broken)?);
    }
    let parts: Parts = serde_json::from_str(text).map_err(broken)?;
    referral(parts, || {
        Document::later(text.into(), |text| {
            let mut tree = serde_json::from_str(text).expect("what might not become a tree was tried at once");
            mend_shapes(&mut tree);
            tree
        })
    })
}

/// As [`row`], from its tree, which becomes the document.
fn row_of(mut tree: Value) -> Result<Referral, Defect> {
    let Value::Object(fields) = &tree else {
        return Err(Defect { id: None, reason: "not an object".to_owned() });
    };
    let mut parts = Parts::default();
    for (name, value) in fields {
        if let Some(part) = Part::named(name) {
            parts.0[part as usize] = value.clone();
        }
    }
    mend_shapes(&mut tree);
    referral(parts, || tree.into())
}

/// True for a text that is JSON and yet might not become a tree: nested deeply, half of a surrogate pair, or a key that
/// the library takes for one of its own.
fn is_doubtful(text: &str) -> bool {
    let bytes = text.as_bytes();
    let brackets = bytes.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    // Both are rare: what needs a close look is looked for only where they are.
    let is_escaped =
        || bytes.windows(3).any(|three| matches!(three, [b'\\', b'u', b'd' | b'D'])) || text.contains("\\u0024");
    brackets > BRACKETS_MAX
        || (bytes.contains(&b'$') && text.contains("\"$"))
        || (bytes.contains(&b'\\') && is_escaped())
}

/// A row with no more opening brackets cannot be nested deeper than the library follows (128).
const BRACKETS_MAX: usize = 120;

/// What the engine looks at in a row; everything else is the mapping's business.
#[derive(Clone, Copy)]
enum Part {
    Id,
    ETag,
    Etag,
    ODataEtag,
    Status,
    Substatus,
    Created,
    Updated,
    Expires,
    ExternalReference,
    Engagement,
    Organization,
    Type,
    Qualification,
    Direction,
    IsSpam,
    InviteContext,
    Consent,
    Registrations,
    RegistrationStatus,
}

impl Part {
    const COUNT: usize = Part::RegistrationStatus as usize + 1;

    fn named(name: &str) -> Option<Part> {
        Some(match name {
            "id" => Part::Id,
            "eTag" => Part::ETag,
            "etag" => Part::Etag,
            "@odata.etag" => Part::ODataEtag,
            "status" => Part::Status,
            "substatus" => Part::Substatus,
            "createdDateTime" => Part::Created,
            "updatedDateTime" => Part::Updated,
            "expirationDateTime" => Part::Expires,
            "externalReferenceId" => Part::ExternalReference,
            "engagementId" => Part::Engagement,
            "organizationId" => Part::Organization,
            "type" => Part::Type,
            "qualification" => Part::Qualification,
            "direction" => Part::Direction,
            "isSpam" => Part::IsSpam,
            "inviteContext" => Part::InviteContext,
            "consent" => Part::Consent,
            "registrations" => Part::Registrations,
            "registrationStatus" => Part::RegistrationStatus,
            _ => return None,
        })
    }
}

/// The parts of one row; what is absent is null.
#[derive(Default)]
struct Parts([Value; Part::COUNT]);

impl Parts {
    fn value(&self, part: Part) -> &Value {
        &self.0[part as usize]
    }

    /// Text that says something: not null, not blank.
    fn text(&self, part: Part) -> Option<&str> {
        self.value(part).as_str().filter(|text| !text.trim().is_empty())
    }

    /// An enum word, or nothing.
    fn word(&self, part: Part) -> &str {
        self.text(part).unwrap_or_default().trim()
    }

    fn instant(&self, part: Part) -> Option<Timestamp> {
        self.text(part).and_then(Timestamp::parse)
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PartsVisitor)
    }
}

struct PartsVisitor;

impl<'de> Visitor<'de> for PartsVisitor {
    type Value = Parts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a referral")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Parts, A::Error> {
        let mut parts = Parts::default();
        while let Some(Named(part)) = fields.next_key()? {
            match part {
                Some(part) => parts.0[part as usize] = fields.next_value()?,
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(parts)
    }
}

/// The name of a field, as far as it is one of ours.
struct Named(Option<Part>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl Visitor<'_> for Names {
            type Value = Named;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_str<E>(self, name: &str) -> Result<Named, E> {
                Ok(Named(Part::named(name)))
            }
        }

        deserializer.deserialize_str(Names)
    }
}

fn referral(parts: Parts, document: impl FnOnce() -> Document) -> Result<Referral, Defect> {
    let id = match parts.value(Part::Id) {
        Value::Null => return Err(Defect { id: None, reason: "no id".to_owned() }),
        Value::String(text) => ReferralId::parse(text)
            .ok_or_else(|| Defect { id: printable(text), reason: "its id is no GUID".to_owned() })?,
        _ => return Err(Defect { id: None, reason: "its id is no text".to_owned() }),
    };
    let etag = [Part::ETag, Part::Etag, Part::ODataEtag].into_iter().find_map(|part| parts.text(part));
    Ok(Referral {
        id,
        etag: etag.map(|tag| ETag(tag.to_owned())),
        status: status(parts.word(Part::Status)),
        substatus: substatus(parts.word(Part::Substatus)),
        created: parts.instant(Part::Created),
        updated: parts.instant(Part::Updated),
        expires: parts.instant(Part::Expires),
        external_reference: scalar(parts.value(Part::ExternalReference)),
        engagement: identifier(parts.value(Part::Engagement)),
        organization: identifier(parts.value(Part::Organization)),
        kind: kind(parts.word(Part::Type)),
        qualification: qualification(parts.word(Part::Qualification)),
        is_outgoing: parts.word(Part::Direction).eq_ignore_ascii_case("Outgoing"),
        is_spam: flag(parts.value(Part::IsSpam)).unwrap_or(false),
        invited_by: identifier(at(parts.value(Part::InviteContext), &["invitedBy", "organizationId"])),
        consent_to_contact: flag(at(parts.value(Part::Consent), &["consentToContact"])),
        has_registration: has_registration(&parts),
        document: document(),
    })
}

/// Gives the documented misshapes one shape, so that a mapping need not know them (partner-center §1.6, §4 row 14):
/// a person or list of ids sent as a bare object becomes a list, a deal value sent as text becomes its exact number.
fn mend_shapes(tree: &mut Value) {
    let Value::Object(row) = tree else { return };
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
fn has_registration(parts: &Parts) -> bool {
    let is_attached = match parts.value(Part::Registrations) {
        Value::Array(list) => !list.is_empty(),
        Value::Object(one) => !one.is_empty(),
        _ => false,
    };
    let status = parts.word(Part::RegistrationStatus);
    is_attached || !(status.is_empty() || status.eq_ignore_ascii_case("None"))
}

/// Text or a number as trimmed text; `None` when blank.
fn scalar(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// An id that is compared with others of its kind: GUIDs in one spelling, other words (`msft`) as they are.
fn identifier(value: &Value) -> Option<String> {
    let text = scalar(value)?;
    Some(uuid::Uuid::try_parse(&text).map_or(text, |guid| guid.as_hyphenated().to_string()))
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().try_fold(value, |value, name| value.get(name)).unwrap_or(&Value::Null)
}

/// An id text that is safe to print, cut short.
fn printable(text: &str) -> Option<String> {
    let kept: String = text.trim().chars().take(DEFECT_ID_CHARS_MAX).collect();
    (!kept.is_empty() && kept.chars().all(|c| c.is_ascii_alphanumeric() || "-_{}".contains(c))).then_some(kept)
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

fn decoded(envelope: &Envelope<'_>) -> DecodedPage {
    let mut page = DecodedPage {
        referrals: Vec::with_capacity(envelope.rows.len()),
        defects: Vec::new(),
        next_link: envelope.next_link(),
    };
    for (position, text) in envelope.rows.iter().enumerate() {
        match row(text.get()) {
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
struct Envelope<'a> {
    rows: Vec<&'a RawValue>,
    next_link: Option<&'a RawValue>,
}

impl Envelope<'_> {
    fn next_link(&self) -> NextLink {
        let Some(raw) = self.next_link else {
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

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

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
