//! Problems of a mapping, and what its hash depends on.

use super::support::*;
use crate::plan::mapping::{Mapping, MappingProblem};
use crate::ports::{ColumnKind, LeadSchema};

fn problems(overrides: &str, schema: &LeadSchema) -> Vec<String> {
    let (_, problems) = Mapping::compile(&settings(overrides), schema, KEY);
    problems
        .iter()
        .map(|problem: &MappingProblem| format!("{}{problem}", if problem.is_blocking { "! " } else { "" }))
        .collect()
}

#[test]
fn every_problem_names_its_key_and_what_to_do() {
    let overrides = r#"
        [mapping]
        closing_date_zone = "Mars/Olympus"
        consent_mark_column = "subject"
        [mapping.groups.company]
        write_back = { companyname = "/status", nothing = "/details/notes" }
        [mapping.groups.company.columns.companyname]
        template = "{{ referral.name"
        [mapping.groups.company.columns.new_size]
        from = ["/x"]
        [mapping.groups.company.columns.ownerid]
        from = ["/x"]
        [mapping.groups.company.columns.mobilephone]
        from = ["x"]
        [mapping.groups.company.columns.donotemail]
        [mapping.groups.company.columns.subject]
        from = ["/x"]
        [mapping.groups.amount]
        write_back = { transactioncurrencyid = "/status" }
        [mapping.groups.address.columns.address1_country]
        table = "planets"
    "#;
    insta::assert_snapshot!(problems(overrides, &schema()).join("\n"), @r##"
    mapping.closing_date_zone: there is no such time zone; UTC is used
    mapping.groups.address.columns.address1_country: there is no table `planets`
    mapping.groups.amount.write_back.transactioncurrencyid: `/status` cannot be written back; possible are /campaignId, /details/closingDateTime, /details/currency, /details/dealValue, /details/notes, /referralProgram, /salesStage
    mapping.groups.amount.write_back.estimatedamount: an amount is only written back together with its currency; add the currency column
    mapping.groups.company.columns.companyname: the template cannot be used: syntax error: unexpected end of input, expected end of variable block (in mapping.groups.company.columns.companyname#0:1)
    mapping.groups.company.columns.donotemail: it has no source; give it `from`, `template` or `value`
    mapping.groups.company.columns.mobilephone: `x` is neither a pointer ("/details/notes", "@contact/email") nor a template ("{{ … }}")
    mapping.groups.company.columns.new_size: the organization has no lead column `new_size`; create it, or set enabled = false
    mapping.groups.company.columns.ownerid: a mapping cannot write columns of the type of `ownerid`
    mapping.groups.company.write_back.nothing: the group has no column `nothing`
    ! mapping.groups.topic.columns.subject: the group `company` writes this column already; switch one of the two off
    mapping.consent_mark_column: the column cannot be set to true
    "##);
}

#[test]
fn a_required_column_that_cannot_be_written_blocks_every_lead() {
    let mut schema = schema();
    schema.columns.remove("lastname");
    let (mapping, problems) = Mapping::compile(&settings(""), &schema, KEY);
    assert!(problems.len() == 1 && problems[0].is_blocking);
    let derived = derive(&mapping, &edited(|_| {}));
    let blocked = of(&mapping, &derived.groups, "contact").blocked.as_deref();
    assert_eq!(blocked, Some("contact: the required column lastname cannot be written"));
}

#[test]
fn a_column_the_organization_requires_and_nobody_fills_is_named() {
    let mut schema = schema();
    let mut required = column(ColumnKind::Text);
    required.is_required = true;
    schema.columns.insert("new_region".to_owned(), required);
    assert_eq!(
        problems("", &schema),
        ["mapping.groups: the organization requires the lead column `new_region`, which no group fills; map it"]
    );
}

#[test]
fn a_column_for_create_only_does_not_fit_a_group_that_updates() {
    let mut schema = schema();
    schema.columns.get_mut("companyname").expect("it is there").is_updatable = false;
    schema.columns.get_mut("subject").expect("it is there").is_updatable = false;
    assert_eq!(
        problems("", &schema),
        [
            "mapping.groups.company.columns.companyname: the lead column `companyname` can only be set on create; use write = \"create\""
        ]
    );
}

#[test]
fn only_the_columns_of_the_organization_are_read() {
    let mut schema = schema();
    schema.columns.remove("jobtitle");
    let (mapping, _) = Mapping::compile(&settings("[mapping]\nconsent_mark_column = \"donotemail\""), &schema, KEY);
    assert!(!mapping.columns().contains("jobtitle"));
    assert!(mapping.columns().contains("subject") && mapping.columns().contains("donotemail"));
    assert!(!mapping.columns().contains("qualificationcomments"), "a group that is off reads nothing");
}

#[test]
fn groups_are_sorted_and_their_keys_differ() {
    let mapping = mapping("");
    assert!(mapping.groups().windows(2).all(|pair| pair[0].name < pair[1].name));
    let mut keys: Vec<u32> = mapping.groups().iter().map(|group| group.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), mapping.groups().len());
    let two_way: Vec<_> =
        mapping.groups().iter().filter(|group| group.is_two_way).map(|group| group.name.as_str()).collect();
    assert_eq!(two_way, ["amount", "closing_date"]);
}

#[test]
fn the_hash_follows_what_shapes_the_value_and_nothing_else() {
    let hash = |overrides: &str, name: &str| {
        mapping(overrides).groups().iter().find(|group| group.name == name).expect("a group").mapping_hash
    };
    let same = [
        ("company", "[mapping.groups.company]\nowner = \"hold\""),
        ("company", "[mapping.tables.employees]\n1to9employees = 1"),
        ("company", "[mapping]\nclosing_date_zone = \"Asia/Seoul\""),
        ("amount", "[mapping.groups.amount]\nwrite_back = {}"),
    ];
    for (group, overrides) in same {
        assert_eq!(hash("", group), hash(overrides, group), "{overrides}");
    }
    let other = [
        ("company", "[mapping.groups.company.columns.companyname]\nfrom = [\"/name\"]"),
        ("company", "[mapping.groups.company.columns.companyname]\nskip_if_empty = true"),
        ("company", "[mapping.groups.company.columns.mobilephone]\nfrom = [\"/x\"]"),
        ("employees", "[mapping.tables.employees]\n1to9employees = 1"),
        ("description", "[mapping.tables.products]\nAzure = \"Clouds\""),
        ("closing_date", "[mapping]\nclosing_date_zone = \"Asia/Seoul\""),
    ];
    for (group, overrides) in other {
        assert_ne!(hash("", group), hash(overrides, group), "{overrides}");
    }
}

#[test]
fn the_hashes_of_the_built_in_mapping_only_change_on_purpose() {
    let hashes: String =
        mapping("").groups().iter().map(|group| format!("{} {:08x}\n", group.name, group.mapping_hash)).collect();
    insta::assert_snapshot!(hashes, @r##"
    address fe962f48
    amount 499aa5fa
    closing_date 8d46c46d
    company fda93f23
    contact f04e805d
    description 3cb61a93
    employees 9c7c00d2
    source 32dc8438
    topic 9332d9fd
    "##);
}
