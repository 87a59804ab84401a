//! The referral: what Partner Center knows of one deal.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Document, Timestamp};

/// One referral, decoded leniently; `document` keeps everything the service said (partner-center §1.6).
#[derive(Clone, Debug, PartialEq)]
pub struct Referral {
    /// The primary key, stable for ever.
    pub id: ReferralId,
    /// The version, verbatim with its inner quotes; lists may omit it (partner-center §4 row 6).
    pub etag: Option<ETag>,
    /// Where the deal stands.
    pub status: ReferralStatus,
    /// The finer word that goes with `status`.
    pub substatus: Substatus,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// When it last changed, by anyone.
    pub updated: Option<Timestamp>,
    /// The answer is due by then; often absent (the deal clock then counts 14 days).
    pub expires: Option<Timestamp>,
    /// The CRM key written back to the referral; `None` for null, absent and blank.
    pub external_reference: Option<String>,
    /// Groups our referral with the counterparts of the same deal. Not unique.
    pub engagement: Option<String>,
    /// The partner organization that owns this record.
    pub organization: Option<String>,
    /// Seen by one partner, or shared for co-selling.
    pub kind: ReferralType,
    /// How warm the service thinks it is.
    pub qualification: Qualification,
    /// True for `direction == "Outgoing"`.
    pub is_outgoing: bool,
    /// The service's own verdict.
    pub is_spam: bool,
    /// The organization that invited us: `msft` for Microsoft.
    pub invited_by: Option<String>,
    /// `consent.consentToContact`; `None` when the record does not say.
    pub consent_to_contact: Option<bool>,
    /// A deal registration is attached (Won waits, spec 5).
    pub has_registration: bool,
    /// The whole answer: the source of every mapping expression.
    pub document: Document,
}

/// A referral's id in lower-case hyphenated form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReferralId(uuid::Uuid);

impl ReferralId {
    /// Wraps a GUID.
    pub const fn new(id: uuid::Uuid) -> Self {
        ReferralId(id)
    }

    /// Reads a GUID in any common spelling (case, braces, no hyphens). `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text.trim()).ok().map(ReferralId)
    }

    /// The GUID.
    pub const fn uuid(self) -> uuid::Uuid {
        self.0
    }
}

impl std::fmt::Display for ReferralId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.as_hyphenated())
    }
}

/// An entity tag, sent back verbatim in `If-Match`. Only equality has a meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ETag(pub String);

impl std::fmt::Display for ETag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `status` of a referral (partner-center §1.7). Unknown words are kept as `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReferralStatus {
    /// Waiting for our answer.
    New,
    /// Accepted.
    Active,
    /// Over; nothing can be written any more.
    Closed,
    /// `None` or a word this version does not know: treated as not writable.
    Other,
}

impl ReferralStatus {
    /// Whether the transition table of partner-center §1.7 lets a referral go from here to `next`.
    pub fn may_become(self, next: ReferralStatus) -> bool {
        use ReferralStatus::{Active, Closed, New, Other};
        match (self, next) {
            (New, New | Active | Closed) | (Active, Active | Closed) | (Closed, Closed) => true,
            (New | Active | Closed | Other, _) => false,
        }
    }
}

impl std::fmt::Display for ReferralStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ReferralStatus::New => "New",
            ReferralStatus::Active => "Active",
            ReferralStatus::Closed => "Closed",
            ReferralStatus::Other => "an unknown status",
        })
    }
}

/// `substatus` of a referral (partner-center §1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Substatus {
    /// New: not yet looked at.
    Pending,
    /// New: received.
    Received,
    /// Active: the only substatus of an accepted referral.
    Accepted,
    /// Closed with success.
    Won,
    /// Closed without.
    Lost,
    /// Closed as the answer to a New one.
    Declined,
    /// Closed by the service because nobody answered; never written by us.
    Expired,
    /// `None` or an unknown word.
    Other,
}

impl std::fmt::Display for Substatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self {
            Substatus::Pending => "Pending",
            Substatus::Received => "Received",
            Substatus::Accepted => "Accepted",
            Substatus::Won => "Won",
            Substatus::Lost => "Lost",
            Substatus::Declined => "Declined",
            Substatus::Expired => "Expired",
            Substatus::Other => "an unknown substatus",
        };
        f.write_str(word)
    }
}

/// `type` of a referral.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReferralType {
    /// Visible to one partner.
    Independent,
    /// Co-sell.
    Shared,
    /// Anything else.
    Other,
}

/// `qualification` of a referral.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Qualification {
    /// From the customer.
    Direct,
    /// By marketing.
    MarketingQualified,
    /// By a seller.
    SalesQualified,
    /// `None` or an unknown word.
    Other,
}

/// How a referral may be closed by us. `Expired` is missing on purpose: only the service writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Closing {
    /// Closed / Won.
    Won,
    /// Closed / Lost.
    Lost,
    /// Closed / Declined: the answer to a New referral.
    Declined,
}

impl Closing {
    /// The substatus this closing writes.
    pub fn substatus(self) -> Substatus {
        match self {
            Closing::Won => Substatus::Won,
            Closing::Lost => Substatus::Lost,
            Closing::Declined => Substatus::Declined,
        }
    }
}

impl std::fmt::Display for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Closed / {}", self.substatus())
    }
}

/// One write to one referral: a JSON Patch document (partner-center §1.8), never empty when sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// Replacements in the order they are sent.
    pub operations: Vec<Operation>,
}

/// `replace` of one allowed path (partner-center §1.8).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// A JSON pointer from the allowed list, for example `/details/dealValue`.
    pub path: String,
    /// The new value.
    pub value: Value,
}

impl Patch {
    /// Adds a replacement.
    pub fn replace(&mut self, path: &str, value: impl Into<Value>) {
        self.operations.push(Operation { path: path.to_owned(), value: value.into() });
    }

    /// True when there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}
