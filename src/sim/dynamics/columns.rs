//! Tables and columns as they are shipped (dataverse §2.1, §2.4).

use super::super::options::CrmOptions;

/// The tables of the small organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `leads`.
    Lead,
    /// `opportunities`.
    Opportunity,
    /// `systemusers`.
    User,
    /// `teams`.
    Team,
    /// `transactioncurrencies`.
    Currency,
    /// `accounts`.
    Account,
    /// `contacts`.
    Contact,
    /// `campaigns`.
    Campaign,
    /// `organizations`.
    Organization,
    /// `publishers`.
    Publisher,
    /// `solutions`.
    Solution,
}

/// Every table.
pub const TABLES: [Table; 11] = [
    Table::Lead,
    Table::Opportunity,
    Table::User,
    Table::Team,
    Table::Currency,
    Table::Account,
    Table::Contact,
    Table::Campaign,
    Table::Organization,
    Table::Publisher,
    Table::Solution,
];

impl Table {
    /// Logical name.
    pub fn name(self) -> &'static str {
        match self {
            Table::Lead => "lead",
            Table::Opportunity => "opportunity",
            Table::User => "systemuser",
            Table::Team => "team",
            Table::Currency => "transactioncurrency",
            Table::Account => "account",
            Table::Contact => "contact",
            Table::Campaign => "campaign",
            Table::Organization => "organization",
            Table::Publisher => "publisher",
            Table::Solution => "solution",
        }
    }

    /// Entity set name.
    pub fn set(self) -> &'static str {
        match self {
            Table::Lead => "leads",
            Table::Opportunity => "opportunities",
            Table::User => "systemusers",
            Table::Team => "teams",
            Table::Currency => "transactioncurrencies",
            Table::Account => "accounts",
            Table::Contact => "contacts",
            Table::Campaign => "campaigns",
            Table::Organization => "organizations",
            Table::Publisher => "publishers",
            Table::Solution => "solutions",
        }
    }

    /// Primary key column.
    pub fn key(self) -> &'static str {
        match self {
            Table::Lead => "leadid",
            Table::Opportunity => "opportunityid",
            Table::User => "systemuserid",
            Table::Team => "teamid",
            Table::Currency => "transactioncurrencyid",
            Table::Account => "accountid",
            Table::Contact => "contactid",
            Table::Campaign => "campaignid",
            Table::Organization => "organizationid",
            Table::Publisher => "publisherid",
            Table::Solution => "solutionid",
        }
    }

    /// The table behind an entity set name.
    pub fn of_set(set: &str) -> Option<Table> {
        TABLES.into_iter().find(|table| table.set() == set)
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Logical name.
    pub name: String,
    /// Name of the property in the Web API: `_x_value` for lookups.
    pub property: String,
    /// What it holds.
    pub kind: Kind,
    /// May be given on create.
    pub is_creatable: bool,
    /// May be given on update.
    pub is_updatable: bool,
    /// `None`, `Recommended`, `ApplicationRequired` or `SystemRequired`.
    pub required: &'static str,
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One line of text; longest in UTF-16 units.
    Text(u32),
    /// Many lines of text.
    Memo(u32),
    /// Whole number.
    Integer(i64, i64),
    /// Large whole number.
    BigInteger,
    /// Money from zero up to a maximum.
    Money(i64),
    /// Exact decimal.
    Decimal,
    /// Floating number.
    Double,
    /// True or false.
    Boolean,
    /// One of these options.
    Choice(Vec<(i32, &'static str)>),
    /// State codes.
    State(Vec<(i32, &'static str)>),
    /// Status codes and the state of each; the first of a state is its default.
    Status(Vec<(i32, i32, &'static str)>),
    /// `YYYY-MM-DD`.
    Date,
    /// Instant in whole seconds.
    Instant,
    /// A GUID that is no lookup.
    Guid,
    /// A reference: names of the navigation properties and what each leads to.
    Lookup(Vec<(String, Table)>),
}

impl Column {
    pub(crate) fn new(name: &str, kind: Kind) -> Self {
        let property = match kind {
            Kind::Lookup(_) => format!("_{name}_value"),
            _ => name.to_owned(),
        };
        Column { name: name.to_owned(), property, kind, is_creatable: true, is_updatable: true, required: "None" }
    }

    fn read_only(name: &str, kind: Kind) -> Self {
        Column { is_creatable: false, is_updatable: false, ..Column::new(name, kind) }
    }

    fn level(mut self, required: &'static str) -> Self {
        self.required = required;
        self
    }
}

fn lookup(name: &str, targets: &[(&str, Table)]) -> Column {
    let targets = targets.iter().map(|(nav, table)| ((*nav).to_owned(), *table)).collect();
    Column::new(name, Kind::Lookup(targets))
}

/// The columns of a table.
pub fn columns(table: Table, options: &CrmOptions) -> Vec<Column> {
    let mut all = vec![Column { is_updatable: false, ..Column::new(table.key(), Kind::Guid).level("SystemRequired") }];
    match table {
        Table::Lead => all.extend(lead(options)),
        Table::Opportunity => all.extend(opportunity()),
        Table::User => {
            all.extend([Column::new("fullname", Kind::Text(200)), Column::new("isdisabled", Kind::Boolean)]);
        }
        Table::Team => all.push(Column::new("name", Kind::Text(160))),
        Table::Currency => all.extend([
            Column::new("isocurrencycode", Kind::Text(5)),
            Column::new("currencyname", Kind::Text(100)),
            Column::new("currencysymbol", Kind::Text(13)),
            Column::new("currencyprecision", Kind::Integer(0, 4)),
            Column::new("exchangerate", Kind::Decimal),
            Column::read_only("statecode", Kind::State(vec![(0, "Active"), (1, "Inactive")])),
        ]),
        Table::Account => all.push(Column::new("name", Kind::Text(160))),
        Table::Contact => {
            all.extend([Column::new("firstname", Kind::Text(50)), Column::new("lastname", Kind::Text(50))]);
        }
        Table::Campaign => all.push(Column::new("name", Kind::Text(128))),
        Table::Organization => all.extend([
            Column::new("name", Kind::Text(160)),
            Column::new("languagecode", Kind::Integer(0, 99_999)),
            Column::new("expirechangetrackingindays", Kind::Integer(0, 365)),
            lookup("basecurrencyid", &[("basecurrencyid", Table::Currency)]),
        ]),
        Table::Publisher => all.extend([
            Column::new("uniquename", Kind::Text(256)),
            Column::new("friendlyname", Kind::Text(256)),
            Column::new("customizationprefix", Kind::Text(8)),
            Column::new("customizationoptionvalueprefix", Kind::Integer(10_000, 99_999)),
        ]),
        Table::Solution => all.extend([
            Column::new("uniquename", Kind::Text(65)),
            Column::new("friendlyname", Kind::Text(256)),
            Column::new("version", Kind::Text(256)),
            lookup("publisherid", &[("publisherid", Table::Publisher)]),
        ]),
    }
    all.extend([
        Column::read_only("createdon", Kind::Instant),
        Column::read_only("modifiedon", Kind::Instant),
        Column { is_creatable: false, is_updatable: false, ..lookup("createdby", &[("createdby", Table::User)]) },
        Column { is_creatable: false, is_updatable: false, ..lookup("modifiedby", &[("modifiedby", Table::User)]) },
        Column::read_only("versionnumber", Kind::BigInteger),
    ]);
    all
}

fn lead(options: &CrmOptions) -> Vec<Column> {
    let mut all = vec![
        Column::new("subject", Kind::Text(300)).level("ApplicationRequired"),
        Column::new("firstname", Kind::Text(50)).level("Recommended"),
        Column::new("lastname", Kind::Text(50)).level("ApplicationRequired"),
        Column::new("companyname", Kind::Text(100)).level("Recommended"),
        Column::new("description", Kind::Memo(options.description_length)),
        Column::new("qualificationcomments", Kind::Memo(2000)),
        Column::read_only("fullname", Kind::Text(160)),
        Column::read_only("address1_composite", Kind::Memo(1000)),
        Column::new("estimatedclosedate", Kind::Date),
        Column::new("numberofemployees", Kind::Integer(0, 1_000_000)),
        Column::new("revenue", Kind::Money(100_000_000_000_000)),
        Column::new("estimatedamount", Kind::Money(1_000_000_000_000)),
        Column::new("budgetamount", Kind::Money(1_000_000_000_000)),
        Column::read_only("revenue_base", Kind::Money(100_000_000_000_000)),
        Column::read_only("estimatedamount_base", Kind::Money(1_000_000_000_000)),
        Column::read_only("budgetamount_base", Kind::Money(1_000_000_000_000)),
        Column::read_only("exchangerate", Kind::Decimal),
        Column::new("address1_latitude", Kind::Double),
        Column::new("address1_longitude", Kind::Double),
    ];
    for (name, length) in [
        ("middlename", 50),
        ("salutation", 100),
        ("jobtitle", 100),
        ("emailaddress1", 100),
        ("emailaddress2", 100),
        ("emailaddress3", 100),
        ("telephone1", 50),
        ("telephone2", 50),
        ("telephone3", 50),
        ("mobilephone", 20),
        ("fax", 50),
        ("pager", 20),
        ("websiteurl", 200),
        ("address1_name", 100),
        ("address1_line1", 250),
        ("address1_line2", 250),
        ("address1_line3", 250),
        ("address1_city", 80),
        ("address1_stateorprovince", 50),
        ("address1_postalcode", 20),
        ("address1_postofficebox", 20),
        ("address1_country", 80),
        ("address1_county", 50),
        ("address1_telephone1", 50),
        ("sic", 20),
    ] {
        all.push(Column::new(name, Kind::Text(length)));
    }
    for name in [
        "confirminterest",
        "decisionmaker",
        "evaluatefit",
        "donotemail",
        "donotphone",
        "donotbulkemail",
        "donotpostalmail",
        "donotfax",
        "donotsendmm",
    ] {
        all.push(Column::new(name, Kind::Boolean));
    }
    for (name, options) in [
        ("leadqualitycode", vec![(1, "Hot"), (2, "Warm"), (3, "Cold")]),
        ("prioritycode", vec![(1, "Default Value")]),
        ("salesstagecode", vec![(1, "Default Value")]),
        ("initialcommunication", vec![(0, "Contacted"), (1, "Not Contacted")]),
        ("preferredcontactmethodcode", vec![(1, "Any"), (2, "Email"), (3, "Phone"), (4, "Fax"), (5, "Mail")]),
        ("budgetstatus", vec![(0, "No Committed Budget"), (1, "May Buy"), (2, "Can Buy"), (3, "Will Buy")]),
        ("need", vec![(0, "Must have"), (1, "Should have"), (2, "Good to have"), (3, "No need")]),
        ("purchaseprocess", vec![(0, "Individual"), (1, "Committee"), (2, "Unknown")]),
        (
            "purchasetimeframe",
            vec![(0, "Immediate"), (1, "This Quarter"), (2, "Next Quarter"), (3, "This Year"), (4, "Unknown")],
        ),
        (
            "leadsourcecode",
            vec![
                (1, "Advertisement"),
                (2, "Employee Referral"),
                (3, "External Referral"),
                (4, "Partner"),
                (5, "Public Relations"),
                (6, "Seminar"),
                (7, "Trade Show"),
                (8, "Web"),
                (9, "Word of Mouth"),
                (10, "Other"),
            ],
        ),
    ] {
        all.push(Column::new(name, Kind::Choice(options)));
    }
    all.push(Column::new("industrycode", Kind::Choice((1..=33).map(|code| (code, "Industry")).collect())));
    let state = Kind::State(vec![(0, "Open"), (1, "Qualified"), (2, "Disqualified")]);
    all.push(Column { is_creatable: false, ..Column::new("statecode", state).level("SystemRequired") });
    all.push(Column::new(
        "statuscode",
        Kind::Status(vec![
            (1, 0, "New"),
            (2, 0, "Contacted"),
            (3, 1, "Qualified"),
            (4, 2, "Lost"),
            (5, 2, "Cannot Contact"),
            (6, 2, "No Longer Interested"),
            (7, 2, "Canceled"),
        ]),
    ));
    all.extend([
        lookup("transactioncurrencyid", &[("transactioncurrencyid", Table::Currency)]),
        lookup("campaignid", &[("campaignid", Table::Campaign)]),
        lookup("parentaccountid", &[("parentaccountid", Table::Account)]),
        lookup("parentcontactid", &[("parentcontactid", Table::Contact)]),
        lookup("customerid", &[("customerid_account", Table::Account), ("customerid_contact", Table::Contact)]),
        lookup("qualifyingopportunityid", &[("qualifyingopportunityid", Table::Opportunity)]),
        lookup("ownerid", &[("ownerid", Table::User), ("ownerid", Table::Team)]).level("SystemRequired"),
        Column { is_creatable: false, is_updatable: false, ..lookup("masterid", &[("masterid", Table::Lead)]) },
        Column::read_only("merged", Kind::Boolean),
    ]);
    for name in [&options.referral_column, &options.required_column].into_iter().flatten() {
        let is_required = options.required_column.as_ref() == Some(name);
        let level = if is_required { "SystemRequired" } else { "None" };
        all.push(Column::new(name, Kind::Text(100)).level(level));
    }
    all
}

fn opportunity() -> Vec<Column> {
    vec![
        Column::new("name", Kind::Text(300)).level("ApplicationRequired"),
        Column::new("description", Kind::Memo(2000)),
        Column::new("estimatedvalue", Kind::Money(1_000_000_000_000)),
        Column::new("actualvalue", Kind::Money(1_000_000_000_000)),
        Column::new("estimatedclosedate", Kind::Date),
        Column::new("actualclosedate", Kind::Date),
        Column {
            is_creatable: false,
            ..Column::new("statecode", Kind::State(vec![(0, "Open"), (1, "Won"), (2, "Lost")]))
        },
        Column::new(
            "statuscode",
            Kind::Status(vec![
                (1, 0, "In Progress"),
                (2, 0, "On Hold"),
                (3, 1, "Won"),
                (4, 2, "Canceled"),
                (5, 2, "Out-Sold"),
            ]),
        ),
        lookup("originatingleadid", &[("originatingleadid", Table::Lead)]),
        lookup("transactioncurrencyid", &[("transactioncurrencyid", Table::Currency)]),
        lookup("customerid", &[("customerid_account", Table::Account), ("customerid_contact", Table::Contact)]),
        lookup("ownerid", &[("ownerid", Table::User), ("ownerid", Table::Team)]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_lead_and_opportunity_is_in_the_published_metadata() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference/dataverse-lead.edmx.xml");
        let Ok(text) = std::fs::read_to_string(path) else {
            println!("skipped: {path} is not there");
            return;
        };
        let options = CrmOptions { referral_column: None, ..CrmOptions::default() };
        for table in [Table::Lead, Table::Opportunity] {
            let start = text.find(&format!("<EntityType Name=\"{}\"", table.name())).expect("the type");
            let end = start + text[start..].find("</EntityType>").expect("its end");
            let part = &text[start..end];
            for column in columns(table, &options) {
                let property = &column.property;
                assert!(part.contains(&format!("<Property Name=\"{property}\"")), "{}.{property}", table.name());
                if let Kind::Lookup(targets) = &column.kind {
                    for (nav, _) in targets {
                        let wanted = format!("<NavigationProperty Name=\"{nav}\"");
                        assert!(part.contains(&wanted), "{}.{nav}", table.name());
                    }
                }
            }
        }
    }
}
