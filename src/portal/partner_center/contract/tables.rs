//! What the service publishes, as tables: operations, query options, patch rules, words, the referral tree.

/// Operations in use: method and path under `/v1.0/engagements` (partner-center §1.2).
pub const OPERATIONS: [(&str, &str); 3] =
    [("get", "/referrals"), ("get", "/referrals/{id}"), ("patch", "/referrals/{id}")];

/// Query options of the list (partner-center §1.3). `$skiptoken` comes from the service's own links.
pub const QUERY_OPTIONS: [&str; 7] = ["$expand", "$filter", "$select", "$orderby", "$top", "$skip", "$count"];

/// Operations of a JSON Patch (partner-center §1.8).
pub const PATCH_OPERATIONS: [&str; 2] = ["replace", "add"];

/// Paths of a JSON Patch and what their value is (partner-center §1.8). `/-` appends and goes with `add` only.
pub const PATCH_PATHS: [(&str, Shape); 18] = [
    ("/campaignId", Shape::Text),
    ("/consent/consentToShareReferralWithMicrosoftSellers", Shape::Flag),
    ("/customerProfile/team", Shape::List),
    ("/customerProfile/team/-", Shape::Object),
    ("/details/closingDateTime", Shape::Instant),
    ("/details/currency", Shape::Text),
    ("/details/dealValue", Shape::Amount),
    ("/details/notes", Shape::Text),
    ("/details/requirements/solutions", Shape::List),
    ("/details/requirements/solutions/-", Shape::Object),
    ("/externalReferenceId", Shape::Text),
    ("/referralProgram", Shape::Text),
    ("/salesStage", Shape::Text),
    ("/status", Shape::Word(&STATUS)),
    ("/substatus", Shape::Word(&SUBSTATUS)),
    ("/statusReason", Shape::Text),
    ("/team", Shape::List),
    ("/team/-", Shape::Object),
];

/// Paths that are offered and that we never write, because they cannot be taken back (partner-center §4 row 48).
pub const NEVER_WRITTEN: [&str; 1] = ["/consent/consentToShareReferralWithMicrosoftSellers"];

/// `status` (partner-center §1.7).
pub const STATUS: [&str; 4] = ["None", "New", "Active", "Closed"];

/// `substatus` (partner-center §1.7).
pub const SUBSTATUS: [&str; 8] = ["None", "Pending", "Received", "Accepted", "Won", "Lost", "Declined", "Expired"];

/// Which substatus goes with which status (partner-center §1.7).
pub const SUBSTATUS_OF: [(&str, &[&str]); 3] =
    [("New", &["Pending", "Received"]), ("Active", &["Accepted"]), ("Closed", &["Won", "Lost", "Declined", "Expired"])];

/// What a value looks like. Null is allowed everywhere but in `id`, `status` and `substatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any text.
    Text,
    /// One word of a closed list.
    Word(&'static [&'static str]),
    /// A UTC date-time.
    Instant,
    /// A number.
    Number,
    /// A number, or its digits as text, as the docs' own patch sample has it.
    Amount,
    /// True or false.
    Flag,
    /// A list.
    List,
    /// A list, or the empty object that the docs print in its place.
    LooseList,
    /// An object.
    Object,
    /// Anything, and anything below it.
    Any,
}

/// Where a property is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Microsoft's swagger file.
    Published,
    /// Only other documentation or real answers (partner-center §1.6).
    Observed,
}

use Origin::{Observed, Published};
use Shape::{Any, Flag, Instant, List, LooseList, Number, Object, Text, Word};

const QUALIFICATION: [&str; 4] = ["None", "Direct", "MarketingQualified", "SalesQualified"];
const TYPE: [&str; 2] = ["Independent", "Shared"];
const DIRECTION: [&str; 2] = ["Incoming", "Outgoing"];
const TARGET_TYPE: [&str; 3] = ["None", "BusinessProfileLocation", "SolutionProfile"];
/// `inviteContext.assistanceRequestCode` (partner-center §1.7).
pub const ASSISTANCE: [&str; 7] = [
    "Unknown",
    "GeneralOrOther",
    "CustomerTechnicalArchitecture",
    "ProofOfConceptOrDemo",
    "QuotesOrLicensing",
    "PostSalesCustomerSuccess",
    "WorkloadSpecificValueProposition",
];

/// The referral tree: path (`*` for the rows of a list), shape, origin (partner-center §1.6).
///
/// Sales stage, size, quality and registration words are open lists in practice and count as text.
pub const REFERRAL: &[(&str, Shape, Origin)] = &[
    ("/@odata.context", Text, Published),
    ("/id", Text, Published),
    ("/eTag", Text, Published),
    ("/engagementId", Text, Published),
    ("/name", Text, Published),
    ("/organizationId", Text, Published),
    ("/organizationName", Text, Published),
    ("/mpnId", Text, Published),
    ("/externalReferenceId", Text, Published),
    ("/campaignId", Text, Published),
    ("/referralProgram", Text, Published),
    ("/createdDateTime", Instant, Published),
    ("/updatedDateTime", Instant, Published),
    ("/expirationDateTime", Instant, Published),
    ("/acceptedDateTime", Instant, Published),
    ("/closedDateTime", Instant, Published),
    ("/status", Word(&STATUS), Published),
    ("/substatus", Word(&SUBSTATUS), Published),
    ("/statusReason", Text, Published),
    ("/qualification", Word(&QUALIFICATION), Published),
    ("/type", Word(&TYPE), Published),
    ("/direction", Word(&DIRECTION), Published),
    ("/salesStage", Text, Published),
    ("/quality", Text, Published),
    ("/isSpam", Flag, Published),
    ("/favorite", Flag, Published),
    ("/dealSensitivity", Text, Observed),
    ("/createdVia", Any, Observed),
    ("/lastModifiedVia", Any, Published),
    ("/lastRunId", Any, Published),
    ("/referralSource", Text, Published),
    ("/callToAction", Text, Published),
    ("/tags", Any, Published),
    ("/target", List, Published),
    ("/target/*", Object, Published),
    ("/target/*/type", Word(&TARGET_TYPE), Published),
    ("/target/*/id", Text, Published),
    ("/customerProfile", Object, Published),
    ("/customerProfile/name", Text, Published),
    ("/customerProfile/size", Text, Published),
    ("/customerProfile/isMatchingComplete", Flag, Observed),
    ("/customerProfile/address", Object, Published),
    ("/customerProfile/address/addressLine1", Text, Published),
    ("/customerProfile/address/addressLine2", Text, Published),
    ("/customerProfile/address/city", Text, Published),
    ("/customerProfile/address/state", Text, Published),
    ("/customerProfile/address/postalCode", Text, Published),
    ("/customerProfile/address/country", Text, Published),
    ("/customerProfile/address/region", Text, Published),
    ("/customerProfile/ids", LooseList, Published),
    ("/customerProfile/ids/*", Object, Published),
    ("/customerProfile/ids/*/profileType", Text, Observed),
    ("/customerProfile/ids/*/id", Text, Observed),
    ("/customerProfile/team", List, Published),
    ("/customerProfile/team/*", Object, Published),
    ("/customerProfile/team/*/firstName", Text, Published),
    ("/customerProfile/team/*/lastName", Text, Published),
    ("/customerProfile/team/*/phoneNumber", Text, Published),
    ("/customerProfile/team/*/email", Text, Published),
    ("/customerProfile/team/*/title", Text, Observed),
    ("/customerProfile/team/*/contactPreference", Object, Published),
    ("/customerProfile/team/*/contactPreference/locale", Text, Published),
    ("/customerProfile/team/*/contactPreference/disableNotifications", Flag, Published),
    ("/customerProfile/team/*/emailValidationStatus", Any, Observed),
    ("/customerProfile/team/*/phoneValidationStatus", Any, Observed),
    ("/team", List, Published),
    ("/team/*", Object, Published),
    ("/team/*/firstName", Text, Published),
    ("/team/*/lastName", Text, Published),
    ("/team/*/phoneNumber", Text, Published),
    ("/team/*/email", Text, Published),
    ("/team/*/title", Text, Observed),
    ("/team/*/contactPreference", Object, Published),
    ("/team/*/contactPreference/locale", Text, Published),
    ("/team/*/contactPreference/disableNotifications", Flag, Published),
    ("/team/*/emailValidationStatus", Any, Observed),
    ("/team/*/phoneValidationStatus", Any, Observed),
    ("/consent", Object, Published),
    ("/consent/consentToContact", Flag, Published),
    ("/consent/consentToToShareInfoWithOthers", Flag, Published),
    ("/consent/consentToShareReferralWithMicrosoftSellers", Flag, Published),
    ("/consent/consentToMicrosoftToContactSpecificPartners", Flag, Observed),
    ("/details", Object, Published),
    ("/details/notes", Text, Published),
    ("/details/dealValue", Number, Published),
    ("/details/currency", Text, Published),
    ("/details/closingDateTime", Instant, Published),
    ("/details/customerRequestedContact", Any, Published),
    ("/details/customerAction", Text, Published),
    ("/details/incentiveLevel", Any, Observed),
    ("/details/requirements", Object, Published),
    ("/details/requirements/industries", List, Published),
    ("/details/requirements/industries/*", Object, Published),
    ("/details/requirements/industries/*/id", Text, Published),
    ("/details/requirements/products", List, Published),
    ("/details/requirements/products/*", Object, Published),
    ("/details/requirements/products/*/id", Text, Published),
    ("/details/requirements/services", List, Published),
    ("/details/requirements/services/*", Object, Published),
    ("/details/requirements/services/*/id", Text, Published),
    ("/details/requirements/solutions", List, Published),
    ("/details/requirements/solutions/*", Any, Published),
    ("/details/requirements/offers", List, Published),
    ("/details/requirements/offers/*", Any, Published),
    ("/details/requirements/salesPlays", List, Observed),
    ("/details/requirements/salesPlays/*", Any, Observed),
    ("/details/requirements/additionalRequirements", Any, Published),
    ("/inviteContext", Object, Published),
    ("/inviteContext/notes", Text, Published),
    ("/inviteContext/assistanceRequestCode", Word(&ASSISTANCE), Published),
    ("/inviteContext/invitedMpnId", Text, Observed),
    ("/inviteContext/invitedBy", Object, Published),
    ("/inviteContext/invitedBy/organizationId", Text, Published),
    ("/inviteContext/invitedBy/organizationName", Text, Published),
    ("/links", Object, Published),
    ("/links/relatedReferrals", Object, Published),
    ("/links/relatedReferrals/uri", Text, Published),
    ("/links/relatedReferrals/method", Text, Published),
    ("/links/self", Object, Published),
    ("/links/self/uri", Text, Published),
    ("/links/self/method", Text, Published),
    ("/trackingInfo", Object, Published),
    ("/trackingInfo/microsoftMsxId", Text, Published),
    ("/trackingInfo/microsoftUSFedOpportunityId", Text, Observed),
    ("/trackingInfo/microsoftUSFedLeadId", Text, Observed),
    ("/trackingInfo/migratedPSCDealId", Text, Observed),
    ("/trackingInfo/migratedPSCPartnerDealId", Text, Observed),
    ("/registrationStatus", Text, Published),
    ("/registrations", List, Published),
    ("/registrations/*", Any, Published),
];
