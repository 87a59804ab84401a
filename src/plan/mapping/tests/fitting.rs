//! Text over every limit, and where the rest of it goes.

use serde_json::json;
use unicode_segmentation::UnicodeSegmentation;

use super::support::*;
use crate::plan::mapping::template::TEMPLATE_DEPTH_MAX;
use crate::plan::mapping::text::units;

const FAMILY: &str = "👨‍👩‍👧‍👦";

#[test]
fn text_over_every_limit_is_cut_at_a_grapheme_and_kept_whole_in_the_description() {
    let mapping = mapping("");
    for unit in ["한", FAMILY, "😀", "e\u{323}\u{301}", "a "] {
        let long = unit.repeat(120);
        let derived = derive(
            &mapping,
            &edited(|document| {
                let profile = &mut document["customerProfile"];
                profile["team"] =
                    json!([{"firstName": long, "lastName": long, "email": long, "title": long, "phoneNumber": long}]);
                profile["address"]["postalCode"] = json!(long);
            }),
        );
        let schema = schema();
        for group in &derived.groups {
            for (column, value) in &group.draft {
                let Some(text) = value.as_str() else { continue };
                let limit = schema.columns[column].length_max.map_or(usize::MAX, |units| units as usize);
                assert!(units(text) <= limit, "{column} of {unit:?}");
            }
        }
        let contact = of(&mapping, &derived.groups, "contact");
        assert!(contact.is_cut);
        let kept = contact.draft["lastname"].as_str().expect("text").to_owned();
        let whole = contact.columns["lastname"].as_str().expect("text").to_owned();
        let head = kept.strip_suffix('…').expect("an ellipsis");
        assert!(whole.starts_with(head), "{unit:?}");
        let mut boundaries = whole.grapheme_indices(true).map(|(at, _)| at);
        assert!(boundaries.any(|at| at == head.len()), "{unit:?}");
        let description =
            of(&mapping, &derived.groups, "description").columns["description"].as_str().expect("text").to_owned();
        assert!(description.contains(&format!("Full lastname: {whole}")), "{unit:?}");
        assert!(description.contains(&format!("Full address1_postalcode: {whole}")), "{unit:?}");
    }
}

#[test]
fn a_cut_emoji_family_is_not_torn() {
    let mapping = mapping("");
    let derived = derive(
        &mapping,
        &edited(|document| document["customerProfile"]["team"][1]["lastName"] = json!(FAMILY.repeat(6))),
    );
    let contact = of(&mapping, &derived.groups, "contact");
    // 50 units hold four families of 11 and the ellipsis.
    assert_eq!(contact.draft["lastname"], format!("{}…", FAMILY.repeat(4)));
}

#[test]
fn the_whole_text_stays_in_the_description_when_long_notes_are_cut() {
    let mapping = mapping("");
    let name = "가".repeat(400);
    let derived = derive(
        &mapping,
        &edited(|document| {
            document["name"] = json!(name);
            document["details"]["notes"] = json!("word ".repeat(1000));
        }),
    );
    let description = of(&mapping, &derived.groups, "description");
    let text = description.draft["description"].as_str().expect("text");
    assert!(description.is_cut && units(text) <= 2000);
    assert!(text.starts_with("Partner Center: https://partner.microsoft.com/"));
    assert!(text.ends_with(&format!("…\n\nFull subject: {name}")), "{text}");
}

#[test]
fn what_is_too_long_for_the_description_itself_is_cut_there() {
    let mapping = mapping("");
    let derived = derive(&mapping, &edited(|document| document["name"] = json!("😀".repeat(1500))));
    let text = of(&mapping, &derived.groups, "description").draft["description"].as_str().expect("text").to_owned();
    assert!(units(&text) <= 2000 && text.contains("Full subject: 😀") && text.ends_with("😀…"));
}

#[test]
fn a_long_mobile_number_loses_its_spaces_first() {
    let mapping = mapping("[mapping.groups.contact.columns.mobilephone]\nfrom = [\"@contact/phoneNumber\"]");
    let derived = derive(
        &mapping,
        &edited(|document| document["customerProfile"]["team"][1]["phoneNumber"] = json!("+49 89 123 456 789 012")),
    );
    let contact = of(&mapping, &derived.groups, "contact");
    assert_eq!(contact.draft["mobilephone"], "+4989123456789012");
    assert_eq!(contact.draft["telephone1"], "+49 89 123 456 789 012");
    assert!(!contact.is_cut);
}

#[test]
fn without_a_description_group_text_is_cut_all_the_same() {
    let mapping = mapping("[mapping.groups.description]\nenabled = false");
    let derived = derive(&mapping, &edited(|document| document["name"] = json!("x".repeat(301))));
    assert_eq!(of(&mapping, &derived.groups, "topic").draft["subject"], format!("{}…", "x".repeat(299)));
}

#[test]
fn a_template_that_never_ends_is_stopped_and_skipped() {
    let mapping = mapping(
        "[mapping.groups.company.columns.companyname]\n\
         template = \"{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}\"",
    );
    let derived = derive(&mapping, &edited(|_| {}));
    let company = of(&mapping, &derived.groups, "company");
    assert_eq!(company.skipped[0].to_string(), "column companyname is skipped: the template failed");
    assert!(company.draft.is_empty() && company.blocked.is_none());
}

#[test]
fn a_template_that_nests_too_deep_is_stopped_and_skipped() {
    let mapping = mapping(
        "[mapping.groups.company.columns.companyname]\n\
         template = \"{% for node in [referral.tree] recursive %}x{% if node.next %}{{ loop([node.next]) }}{% endif %}{% endfor %}\"",
    );
    let tree = |depth: usize| (0..depth).fold(json!({"leaf": 1}), |inner, _| json!({"next": inner}));
    let company = |depth: usize| {
        let derived = derive(&mapping, &edited(|document| document["tree"] = tree(depth)));
        let group = of(&mapping, &derived.groups, "company").clone();
        (group.columns.get("companyname").cloned(), group.skipped.len())
    };
    assert_eq!(company(3), (Some(json!("xxxx")), 0));
    assert_eq!(company(TEMPLATE_DEPTH_MAX * 2), (None, 1));
}
