//! What the service publishes about itself, as tables: operations, query options, patch rules, the referral tree.
//!
//! Every request body is checked against them before it is sent. Tests compare the tables with Microsoft's swagger file
//! where it is at hand, and the simulator checks its answers with them.

use serde_json::{Map, Value};

use crate::model::{ReferralId, Timestamp};

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
const ASSISTANCE: [&str; 7] = [
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

/// Checks the body of a write (partner-center §1.8). The error names the path and the rule, never a value.
pub fn check_patch(body: &Value) -> Result<(), String> {
    let operations = body.as_array().ok_or("a patch is a list of operations")?;
    if operations.is_empty() {
        return Err("the patch is empty".to_owned());
    }
    for operation in operations {
        check_operation(operation)?;
    }
    let value_of = |path: &str| {
        let found = operations.iter().find(|operation| operation["path"] == path);
        found.and_then(|operation| operation["value"].as_str())
    };
    match (value_of("/status"), value_of("/substatus")) {
        (None, None) => Ok(()),
        (Some(status), Some(substatus)) => check_pair(status, substatus),
        (Some(_), None) | (None, Some(_)) => {
            Err("/status and /substatus are written together or not at all".to_owned())
        }
    }
}

/// Checks a referral as the service sends it. The error names the path and the rule, never a value.
pub fn check_referral(referral: &Value) -> Result<(), String> {
    let members = referral.as_object().ok_or("a referral is an object")?;
    let id = members.get("id").and_then(Value::as_str).and_then(ReferralId::parse);
    if id.is_none() {
        return Err("/id is no GUID".to_owned());
    }
    let word = |name: &str| members.get(name).and_then(Value::as_str).ok_or_else(|| format!("/{name} is missing"));
    check_pair(word("status")?, word("substatus")?)?;
    check_members(members, "")
}

/// Checks a page of referrals as the service sends it.
pub fn check_page(page: &Value) -> Result<(), String> {
    let rows = page.get("value").and_then(Value::as_array).ok_or("a page has a list named value")?;
    for (position, row) in rows.iter().enumerate() {
        check_referral(row).map_err(|reason| format!("row {}: {reason}", position + 1))?;
    }
    match page.get("@odata.nextLink") {
        None | Some(Value::String(_)) => Ok(()),
        Some(_) => Err("@odata.nextLink is no text".to_owned()),
    }
}

fn check_operation(operation: &Value) -> Result<(), String> {
    let members = operation.as_object().ok_or("an operation is an object")?;
    if let Some(unknown) = members.keys().find(|name| !["op", "path", "value"].contains(&name.as_str())) {
        return Err(format!("an operation has no member {unknown}"));
    }
    let member = |name: &str| members.get(name).ok_or_else(|| format!("an operation lacks its {name}"));
    let op = member("op")?.as_str().unwrap_or_default();
    if !PATCH_OPERATIONS.contains(&op) {
        return Err("the service offers only the operations replace and add".to_owned());
    }
    let path = member("path")?.as_str().unwrap_or_default();
    let Some((_, shape)) = PATCH_PATHS.iter().find(|(known, _)| *known == path) else {
        return Err(format!("{path} is not a path that the service lets anyone write"));
    };
    if path.ends_with("/-") && op != "add" {
        return Err(format!("{path} appends, which goes with the operation add only"));
    }
    let value = member("value")?;
    let may_be_null = !matches!(shape, Shape::Word(_) | Shape::Object);
    if value.is_null() && may_be_null {
        return Ok(());
    }
    check_shape(value, *shape, path)
}

fn check_pair(status: &str, substatus: &str) -> Result<(), String> {
    match SUBSTATUS_OF.iter().find(|(known, _)| *known == status) {
        Some((_, allowed)) if !allowed.contains(&substatus) => {
            Err(format!("this /substatus does not go with the /status {status}"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_members(members: &Map<String, Value>, parent: &str) -> Result<(), String> {
    members.iter().try_for_each(|(name, value)| check_value(value, &format!("{parent}/{name}")))
}

fn check_value(value: &Value, path: &str) -> Result<(), String> {
    let Some((_, shape, _)) = REFERRAL.iter().find(|(known, ..)| *known == path) else {
        return Err(format!("{path} is not a property of a referral"));
    };
    if value.is_null() || *shape == Shape::Any {
        return Ok(());
    }
    check_shape(value, *shape, path)?;
    match value {
        Value::Object(members) => check_members(members, path),
        Value::Array(rows) => rows.iter().try_for_each(|row| check_value(row, &format!("{path}/*"))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn check_shape(value: &Value, shape: Shape, path: &str) -> Result<(), String> {
    let (is_right, expected) = match shape {
        Shape::Text => (value.is_string(), "text"),
        Shape::Word(words) => (value.as_str().is_some_and(|word| words.contains(&word)), "one of the known words"),
        Shape::Instant => (value.as_str().and_then(Timestamp::parse).is_some(), "a date-time"),
        Shape::Number => (value.is_number(), "a number"),
        Shape::Amount => {
            let is_amount_text = || value.as_str().is_some_and(|text| text.parse::<serde_json::Number>().is_ok());
            (value.is_number() || is_amount_text(), "a number")
        }
        Shape::Flag => (value.is_boolean(), "true or false"),
        Shape::List => (value.is_array(), "a list"),
        Shape::LooseList => {
            let is_empty_object = value.as_object().is_some_and(Map::is_empty);
            (value.is_array() || is_empty_object, "a list")
        }
        Shape::Object => (value.is_object(), "an object"),
        Shape::Any => (true, "anything"),
    };
    if is_right { Ok(()) } else { Err(format!("{path} is not {expected}")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    const SWAGGER: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference/partner-center-referrals.swagger.json");
    const CONTRACTS: &str = "#/definitions/Microsoft.Partner.Service.PartnerReferrals.Contracts.V3.";

    /// Microsoft's file, where it is at hand.
    fn swagger() -> Option<Value> {
        let Ok(text) = std::fs::read(SWAGGER) else {
            eprintln!("skipped: {SWAGGER} is not there");
            return None;
        };
        Some(serde_json::from_slice(&text).expect("the swagger file is JSON"))
    }

    fn definition<'a>(swagger: &'a Value, name: &str) -> &'a Value {
        let path = format!("{CONTRACTS}{name}").replace("#/definitions/", "");
        &swagger["definitions"][path.as_str()]
    }

    fn words(list: &Value) -> BTreeSet<&str> {
        list.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
    }

    #[test]
    fn operations_and_query_options_are_the_published_ones() {
        let Some(swagger) = swagger() else { return };
        assert_eq!(swagger["basePath"], "/v1.0/engagements/");
        for (method, path) in OPERATIONS {
            assert!(swagger["paths"][path][method].is_object(), "{method} {path}");
        }
        let parameters = swagger["paths"]["/referrals"]["get"]["parameters"].as_array().expect("parameters");
        let published: BTreeSet<&str> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "query")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        assert_eq!(published, BTreeSet::from(QUERY_OPTIONS));
    }

    #[test]
    fn patch_operations_and_paths_are_the_published_ones() {
        let Some(swagger) = swagger() else { return };
        let members = &definition(&swagger, "UpdateReferralDetails")["items"]["properties"];
        assert_eq!(words(&members["op"]["enum"]), BTreeSet::from(PATCH_OPERATIONS));
        assert_eq!(words(&members["path"]["enum"]), PATCH_PATHS.iter().map(|(path, _)| *path).collect());
        let names: BTreeSet<&str> = members.as_object().expect("members").keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(["op", "path", "value"]));
    }

    #[test]
    fn the_referral_tree_is_the_published_one() {
        let Some(swagger) = swagger() else { return };
        let mut published = Vec::new();
        collect(definition(&swagger, "Referral"), "", &mut published);
        assert!(published.len() > 100, "the file holds a tree of {} properties", published.len());
        for (path, kind) in &published {
            let known = REFERRAL.iter().find(|(known, ..)| known == path);
            let is_below_any = REFERRAL.iter().any(|(known, shape, _)| {
                *shape == Shape::Any && path.strip_prefix(known).is_some_and(|rest| rest.starts_with('/'))
            });
            let Some((_, shape, origin)) = known else {
                assert!(is_below_any, "{path} is missing from the table");
                continue;
            };
            assert_eq!(*origin, Origin::Published, "{path}");
            assert!(goes_with(*shape, kind), "{path}: {shape:?} for {kind}");
        }
        for (path, _, origin) in REFERRAL {
            let is_published = published.iter().any(|(known, _)| known == path);
            assert_eq!(is_published, *origin == Origin::Published, "{path}");
        }
    }

    #[test]
    fn published_words_are_known() {
        let Some(swagger) = swagger() else { return };
        let invite = &definition(&swagger, "Referral")["properties"]["inviteContext"]["properties"];
        assert_eq!(words(&invite["assistanceRequestCode"]["enum"]), BTreeSet::from(ASSISTANCE));
    }

    fn collect(schema: &Value, path: &str, into: &mut Vec<(String, String)>) {
        if !path.is_empty() {
            into.push((path.to_owned(), schema["type"].as_str().unwrap_or_default().to_owned()));
        }
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            collect(member, &format!("{path}/{name}"), into);
        }
        if schema["items"].is_object() {
            collect(&schema["items"], &format!("{path}/*"), into);
        }
    }

    fn goes_with(shape: Shape, kind: &str) -> bool {
        match shape {
            Shape::Any => true,
            Shape::Text | Shape::Word(_) | Shape::Instant => kind == "string",
            Shape::Number | Shape::Amount => kind == "number",
            Shape::Flag => kind == "boolean",
            Shape::List | Shape::LooseList => kind == "array",
            // The file leaves the type of some rows open.
            Shape::Object => kind == "object" || kind.is_empty(),
        }
    }

    #[test]
    fn every_path_of_a_patch_leads_to_a_property() {
        for (path, _) in PATCH_PATHS {
            let property = path.replace("/-", "/*");
            assert!(REFERRAL.iter().any(|(known, ..)| *known == property), "{path}");
        }
    }

    #[test]
    fn patches_that_the_service_documents_pass() {
        for patch in [
            json!([
                {"op": "replace", "path": "/status", "value": "Active"},
                {"op": "replace", "path": "/substatus", "value": "Accepted"},
                {"op": "replace", "path": "/externalReferenceId", "value": "6b1d9a7c-1111-4222-8333-944445555666"}
            ]),
            json!([{"op": "replace", "path": "/details/dealValue", "value": "10000"}]),
            json!([{"op": "replace", "path": "/details/closingDateTime", "value": null}]),
            json!([{"op": "add", "path": "/team/-", "value": {"email": "x@partner.example"}}]),
        ] {
            assert_eq!(check_patch(&patch), Ok(()), "{patch}");
        }
    }

    #[test]
    fn patches_against_a_rule_are_named() {
        let replace = |path: &str, value: Value| json!([{"op": "replace", "path": path, "value": value}]);
        for (patch, reason) in [
            (json!({}), "list of operations"),
            (json!([]), "empty"),
            (json!([1]), "is an object"),
            (json!([{"op": "replace", "path": "/team"}]), "lacks its value"),
            (json!([{"op": "replace", "path": "/team", "value": [], "from": "/x"}]), "no member from"),
            (json!([{"op": "remove", "path": "/team", "value": []}]), "only the operations"),
            (replace("/name", json!("x")), "/name is not a path"),
            (replace("/team/-", json!({})), "add only"),
            (replace("/details/dealValue", json!("ten")), "not a number"),
            (replace("/details/notes", json!(1)), "not text"),
            (replace("/details/closingDateTime", json!("soon")), "not a date-time"),
            (replace("/status", json!("Active")), "together"),
            (replace("/substatus", json!("Accepted")), "together"),
            (replace("/status", json!(null)), "known words"),
            (replace("/status", json!("active")), "known words"),
        ] {
            let refusal = check_patch(&patch).expect_err(reason);
            assert!(refusal.contains(reason), "{patch}: {refusal}");
        }
    }

    #[test]
    fn only_pairs_of_the_transition_table_pass() {
        for status in ["New", "Active", "Closed"] {
            for substatus in SUBSTATUS {
                let patch = json!([
                    {"op": "replace", "path": "/status", "value": status},
                    {"op": "replace", "path": "/substatus", "value": substatus}
                ]);
                let is_allowed = matches!(
                    (status, substatus),
                    ("New", "Pending" | "Received")
                        | ("Active", "Accepted")
                        | ("Closed", "Won" | "Lost" | "Declined" | "Expired")
                );
                assert_eq!(check_patch(&patch).is_ok(), is_allowed, "{status}/{substatus}");
            }
        }
    }

    #[test]
    fn answers_against_the_tree_are_named() {
        let referral = |more: Value| {
            let mut referral =
                json!({"id": "8f0c2b1e-0000-4000-8000-000000000001", "status": "New", "substatus": "Pending"});
            for (name, value) in more.as_object().expect("an object") {
                referral[name] = value.clone();
            }
            referral
        };
        for (more, reason) in [
            (json!({"id": "7"}), "/id is no GUID"),
            (json!({"status": null}), "/status is missing"),
            (json!({"substatus": "Won"}), "does not go with"),
            (json!({"colour": "red"}), "/colour is not a property"),
            (json!({"details": {"dealValue": "1"}}), "/details/dealValue is not a number"),
            (json!({"team": {}}), "/team is not a list"),
            (json!({"customerProfile": {"team": [{"phone": "1"}]}}), "/customerProfile/team/*/phone is not a property"),
            (json!({"updatedDateTime": "yesterday"}), "/updatedDateTime is not a date-time"),
        ] {
            let refusal = check_referral(&referral(more)).expect_err(reason);
            assert!(refusal.contains(reason), "{refusal}");
        }
        let fine =
            json!({"details": {"dealValue": 1.50, "notes": null}, "customerProfile": {"ids": {}}, "tags": ["a"]});
        assert_eq!(check_referral(&referral(fine)), Ok(()));
    }
}
