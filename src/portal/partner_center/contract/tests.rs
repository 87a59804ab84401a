//! The tables against Microsoft's swagger file, and the checks against good and bad samples.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

const SWAGGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference/partner-center-referrals.swagger.json");
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
    let fine = json!({"details": {"dealValue": 1.50, "notes": null}, "customerProfile": {"ids": {}}, "tags": ["a"]});
    assert_eq!(check_referral(&referral(fine)), Ok(()));
}
