//! How the world behaves where the documents leave room, and which limits it has.

use std::collections::BTreeSet;
use std::time::Duration;

use super::entra::Person;
use super::exchange::Service;

/// Everything that can be chosen about a world. The default is the documented behaviour at its strictest.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The referrals side.
    pub portal: PortalOptions,
    /// The leads side.
    pub crm: CrmOptions,
    /// The directory.
    pub tenant: String,
    /// Applications and their secrets: client id, secret.
    pub client: (String, String),
    /// The user of the password grant: name, password.
    pub user: (String, String),
    /// The first refresh token.
    pub first_refresh_token: String,
    /// What tokens can be asked for, per service.
    pub audiences: BTreeSet<(Service, String)>,
    /// What whoever is asked to sign in does.
    pub person: Person,
    /// Pause between two looks at a device code.
    pub device_interval: Duration,
    /// The audience that access tokens name, where it is not the one that was asked for.
    pub token_audience: Option<String>,
    /// The tenant that access tokens name, where it is another.
    pub token_tenant: Option<String>,
    /// Calls of the referrals API without an MFA claim are refused with 900421 (partner-center §2.7).
    pub enforces_mfa: bool,
    /// The old refresh token dies when it is used (the documented service keeps it).
    pub rotates_strictly: bool,
    /// Constant error of the `Date` header in milliseconds.
    pub date_skew_millis: i64,
}

impl Default for Options {
    fn default() -> Self {
        let portal = PortalOptions::default();
        let crm = CrmOptions::default();
        Options {
            audiences: BTreeSet::from([
                (Service::Portal, "https://api.partner.microsoft.com".to_owned()),
                (Service::Crm, crm.url.clone()),
            ]),
            portal,
            crm,
            tenant: "aaaaaaaa-0000-4000-8000-000000000001".to_owned(),
            client: ("cccccccc-0000-4000-8000-000000000001".to_owned(), "simulated~secret".to_owned()),
            user: ("referrals@example.test".to_owned(), "simulated password".to_owned()),
            first_refresh_token: "1.simulated-refresh-token-0".to_owned(),
            person: Person::default(),
            device_interval: Duration::from_secs(5),
            token_audience: None,
            token_tenant: None,
            enforces_mfa: true,
            rotates_strictly: false,
            date_skew_millis: 0,
        }
    }
}

/// How the referrals API behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct PortalOptions {
    /// Scheme and host as the client knows them; the links of the service are made from it.
    pub url: String,
    /// Rows per page (partner-center §1.4: 100).
    pub page_size: usize,
    /// The first page of a list is empty and names the next one (partner-center §1.4).
    pub begins_empty: bool,
    /// How pages hang together.
    pub paging: Paging,
    /// How `nextLink` looks.
    pub link_form: LinkForm,
    /// Least length of a skip token in bytes before encoding.
    pub token_bytes: usize,
    /// Whether `updatedDateTime ge` is understood.
    pub updated_filter: UpdatedFilter,
    /// `Prefer: return=representation` is honoured.
    pub honours_prefer: bool,
    /// A New referral may be closed as Won or Lost directly (not documented, so not by default).
    pub closes_new_with_any_word: bool,
    /// Lists carry the eTag (partner-center §4 row 6).
    pub lists_etags: bool,
    /// Tokens of an application without a user are accepted.
    pub accepts_app_only: bool,
    /// What the signed-in user may see.
    pub role: Role,
    /// Days after which a New referral without its own deadline expires (partner-center §1.7: 14).
    pub expiry_days: u32,
    /// Requests granted within any minute; more are answered with 429. The service publishes no number.
    pub requests_per_minute: Option<usize>,
}

impl Default for PortalOptions {
    fn default() -> Self {
        PortalOptions {
            url: "https://api.partner.microsoft.com".to_owned(),
            page_size: 100,
            begins_empty: false,
            paging: Paging::Offset,
            link_form: LinkForm::Defective,
            token_bytes: 1100,
            updated_filter: UpdatedFilter::Refused,
            honours_prefer: true,
            closes_new_with_any_word: false,
            lists_etags: true,
            accepts_app_only: false,
            role: Role::Admin,
            expiry_days: 14,
            requests_per_minute: None,
        }
    }
}

/// Roles of a user in Partner Center (partner-center §1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Referrals admin: sees all.
    Admin,
    /// Referrals user who is on no team: the listing is silently empty.
    Stranger,
    /// No role: 403.
    Nobody,
}

/// How the pages of a listing hang together while rows move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// The order is frozen when the scan starts; the rows are live.
    Snapshot,
    /// The token says how many rows were seen: a row that moves to the front pushes another onto the next page again.
    Offset,
    /// The token names the last row: fast for large worlds.
    Key,
}

/// How `nextLink` looks (partner-center §1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkForm {
    /// `http`, and `/engagements` is missing, as documented.
    Defective,
    /// Only path and query.
    Relative,
    /// As it should be.
    Correct,
}

/// Whether `updatedDateTime ge` is understood (partner-center §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdatedFilter {
    /// 400.
    Refused,
    /// With a bare literal.
    Bare,
    /// With a quoted literal.
    Quoted,
}

/// How the Web API behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct CrmOptions {
    /// The environment as the client knows it.
    pub url: String,
    /// The custom column for the referral id, if it exists.
    pub referral_column: Option<String>,
    /// The alternate key over that column.
    pub key: KeyState,
    /// How long a new key takes to become Active.
    pub key_build_time: Duration,
    /// What happens to writes to a lead that is not open.
    pub closed_leads: ClosedLeads,
    /// Largest page (dataverse §1.4: 5000).
    pub page_size_max: usize,
    /// Active currencies: ISO code, decimal places.
    pub currencies: Vec<(String, u32)>,
    /// A custom text column without which no lead is created.
    pub required_column: Option<String>,
    /// What runs inside the service after a write.
    pub plug_ins: Vec<PlugIn>,
    /// Service protection.
    pub limits: ProtectionLimits,
    /// `x-ms-dop-hint` of WhoAmI.
    pub parallelism_hint: u32,
    /// `description` may be this long (dataverse §2.1: 2000, often enlarged).
    pub description_length: u32,
    /// Privileges that the application user's role lacks, for example `prvReadLead`.
    pub privileges_missing: BTreeSet<String>,
    /// Privileges can be asked for.
    pub tells_privileges: bool,
    /// The code with which every call of our user is refused, for example `0x80072560`.
    pub user_refusal: Option<String>,
    /// Delta links are offered.
    pub tracks_changes: bool,
    /// Delta links live this long (dataverse §4.1: 7 days).
    pub delta_life: Duration,
}

impl Default for CrmOptions {
    fn default() -> Self {
        CrmOptions {
            url: "https://contoso.crm4.dynamics.com".to_owned(),
            referral_column: Some("new_referralid".to_owned()),
            key: KeyState::Active,
            key_build_time: Duration::from_secs(60),
            closed_leads: ClosedLeads::Refuse,
            page_size_max: 5000,
            currencies: [("USD", 2), ("EUR", 2), ("GBP", 2), ("KRW", 0)]
                .map(|(code, places)| (code.to_owned(), places))
                .to_vec(),
            required_column: None,
            plug_ins: Vec::new(),
            limits: ProtectionLimits::default(),
            parallelism_hint: 52,
            description_length: 2000,
            privileges_missing: BTreeSet::new(),
            tells_privileges: true,
            user_refusal: None,
            tracks_changes: true,
            delta_life: Duration::from_secs(7 * 86_400),
        }
    }
}

/// State of the alternate key (dataverse §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// There is none.
    Absent,
    /// Its index is being built.
    Pending,
    /// It works.
    Active,
    /// Its index could not be built.
    Failed,
}

/// What happens to writes to a lead that is not open (dataverse §2.3: not documented).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedLeads {
    /// 400 `0x80040230`.
    Refuse,
    /// They are taken.
    Accept,
}

/// Logic that a customer runs inside the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlugIn {
    /// Refuses leads whose text column contains a word (400 `0x80040265`).
    Refuses {
        /// The column.
        column: String,
        /// The word.
        word: String,
    },
    /// Touches every lead again after a write, so that the version the writer got is stale at once.
    Touches,
    /// Crashes when a text column contains a word (500 `0x80040224`).
    Crashes {
        /// The column.
        column: String,
        /// The word.
        word: String,
    },
}

/// Service protection (dataverse §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectionLimits {
    /// Length of the sliding window: 300 s.
    pub window: Duration,
    /// Requests within it: 6000.
    pub requests: usize,
    /// Execution time within it: 1200 s.
    pub execution: Duration,
    /// Requests at once: 52.
    pub concurrent: u32,
    /// Execution time that a read is charged with.
    pub read_cost: Duration,
    /// Execution time that a write is charged with.
    pub write_cost: Duration,
    /// What is charged really passes before the answer comes.
    pub takes_time: bool,
}

impl Default for ProtectionLimits {
    fn default() -> Self {
        ProtectionLimits {
            window: Duration::from_secs(300),
            requests: 6000,
            execution: Duration::from_secs(1200),
            concurrent: 52,
            read_cost: Duration::from_millis(20),
            write_cost: Duration::from_millis(100),
            takes_time: false,
        }
    }
}
