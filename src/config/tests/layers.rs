//! Which layer wins, and what loads.

use super::*;

#[test]
fn the_defaults_alone_load_and_write_nothing() {
    let loaded = Settings::load(&Sources::default()).expect("defaults are in order");
    assert_eq!(loaded.settings, Settings::defaults());
    assert_eq!(loaded.settings.writes, Writes::Off);
    assert_eq!(loaded.settings.http.retry_delay, HumanDuration::from_millis(500));
    assert_eq!(loaded.settings.link.namespace.to_string(), "85bd8765-40f0-51b4-a713-1aabed049d80");
    assert!(loaded.warnings.problems.iter().all(|problem| problem.severity == Severity::Warning));
}

#[test]
fn every_key_has_its_line_in_the_defaults() {
    // A key without a default value stands there as a comment, in its own table.
    let mut table = String::new();
    let mut written = std::collections::BTreeSet::new();
    for line in DEFAULTS.lines() {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            table = header.to_owned();
            written.insert(table.clone());
            let parts: Vec<&str> = table.split('.').collect();
            written.extend((1..parts.len()).map(|end| parts[..end].join(".")));
        } else if let Some((key, _)) = line.trim_start_matches(['#', ' ']).split_once(" = ") {
            written.insert(if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") });
        }
    }
    for key in extract::known_keys() {
        let is_open = ["mapping.groups", "mapping.tables"].iter().any(|open| key.is_within(&KeyPath::from(*open)));
        assert!(is_open || written.contains(&key.to_string()), "{key} has no line in config/default.toml");
    }
}

#[test]
fn a_sound_configuration_has_nothing_to_complain_about() {
    let loaded = sound().load().expect("it is sound");
    assert_eq!(loaded.warnings, Problems::default());
}

#[test]
fn the_example_loads_with_warnings_only() {
    let place = Place::new(include_str!("../../../config/example.toml"));
    let loaded = place.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.settings.mapping.owners.len(), 2);
    assert_eq!(loaded.settings.brakes.closings_per_hour, 10);
}

/// The names that people, packages and tests rely on.
const FIXED_NAMES: &str = r#"
writes = "both"                          # "off" | "leads-only" | "both"
identity = "derived"                     # "derived" | "alternate_key"
referral_id_column = "new_referralid"    # optional with "derived", required with "alternate_key"

[partner_center]
base_url = "https://api.partner.microsoft.com"          # every URL here: plain http for loopback addresses only
webhook_api_url = "https://api.partnercenter.microsoft.com"
[partner_center.auth]
authority = "https://login.microsoftonline.com"
tenant_id = "11111111-2222-4333-8444-555555555555"
client_id = "22222222-3333-4444-8555-666666666666"
client_secret_file = "{DIR}/secret"
grant = "refresh_token"                  # "refresh_token" | "client_credentials" | "password"
refresh_token_file = "{DIR}/seed"
endpoint_version = "v2"                  # "v2" (scope) | "v1" (resource)

[dataverse]
url = "https://contoso.crm4.dynamics.com"
[dataverse.auth]                         # same keys; grant = "client_credentials" by default
tenant_id = "11111111-2222-4333-8444-555555555555"
client_id = "22222222-3333-4444-8555-666666666666"
certificate_file = "{DIR}/certificate"
private_key_file = "{DIR}/key"

[state]
directory = "/var/lib/referrald"         # ledger/ (disposable) and keep/ (not) inside

[status]
settle_time = "10m"                      # "0s" = at once
settle_time_lost = "24h"

[brakes]
closings_per_hour = 20                   # 0 = off
acceptances_per_hour = 100

[schedule]
reconcile = "0 * * * * *"
sweep = "0 30 3 * * *"
time_zone = "UTC"

[webhook]
listen = "127.0.0.1:8787"                # absent = no listener
path = "/partner-center"
certificate_sources = ["https://3psostorageacct.blob.core.windows.net/cert/"]   # URL prefixes
intermediate_sources = ["http://www.microsoft.com/pkiops/certs/", "http://cacerts.digicert.com/"]
trust_anchors_file = "{DIR}/certificate"               # absent = built-in set

[observability]
listen = "127.0.0.1:9464"                # absent = no listener
"#;

#[test]
fn the_fixed_names_load() {
    let place = sound();
    place.put("certificate", "-----BEGIN CERTIFICATE-----\n");
    place.put("key", "-----BEGIN PRIVATE KEY-----\n");
    place.put("referrald.toml", &FIXED_NAMES.replace("{DIR}", &place.directory.path().display().to_string()));
    let loaded = place.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.settings.writes, Writes::Both);
    assert_eq!(loaded.settings.referral_id_column.as_deref(), Some("new_referralid"));
    let warned: Vec<&str> = loaded.warnings.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(warned, ["mapping.owners"], "{}", loaded.warnings);
}

#[test]
fn later_layers_win_and_origins_are_known() {
    let place = sound()
        .variable("REFERRALD_RETRY__ATTEMPTS_MAX", "3")
        .variable("REFERRALD_BRAKES__UPDATES_PER_CYCLE", "1")
        .flag("retry.attempts_max", "2");
    place.put("referrald.toml.d/20-later.toml", "brakes.closings_per_hour = 2\n");
    place.put("referrald.toml.d/10-earlier.toml", "brakes.closings_per_hour = 1\nbrakes.creates_per_cycle = 1\n");
    place.put("referrald.toml.d/30-not-ours.txt", "this is no TOML");
    place.put("referrald.toml.d/.40-hidden.toml", "nor this");
    let loaded = place.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.settings.brakes.closings_per_hour, 2);
    assert_eq!(loaded.settings.brakes.creates_per_cycle, 1);
    assert_eq!(loaded.settings.brakes.updates_per_cycle, 1);
    assert_eq!(loaded.settings.retry.attempts_max, 2);
    let origin = |key: &str| {
        let directory = place.directory.path().display().to_string();
        loaded.origin(&KeyPath::from(key)).to_string().replace(&directory, "DIR")
    };
    assert_eq!(origin("brakes.closings_per_hour"), "DIR/referrald.toml.d/20-later.toml:1:28");
    assert_eq!(origin("brakes.creates_per_cycle"), "DIR/referrald.toml.d/10-earlier.toml:2:28");
    assert_eq!(origin("brakes.updates_per_cycle"), "environment variable REFERRALD_BRAKES__UPDATES_PER_CYCLE");
    assert_eq!(origin("retry.attempts_max"), "flag --set retry.attempts_max");
    assert_eq!(origin("retry.delay"), "built-in default");
    assert_eq!(origin("dataverse.url"), "DIR/referrald.toml:8:7");
}

#[test]
fn values_from_the_environment_get_the_type_that_the_key_wants() {
    let loaded = sound()
        .variable("REFERRALD_REFERRAL_ID_COLUMN", "true")
        .variable("REFERRALD_DATAVERSE__TAG", "123")
        .variable("REFERRALD_HTTP__USER_AGENT", "\"456\"")
        .variable("REFERRALD_PARTNER_CENTER__USE_UPDATED_FILTER", "true")
        .variable("REFERRALD_BRAKES__CLOSINGS_PER_HOUR", " 7 ")
        .variable("REFERRALD_STATUS__SETTLE_TIME", "0s")
        .variable("REFERRALD_STATUS__CODES__8", "lost")
        .variable("REFERRALD_LINK__ADOPT", "[\"subject\"]")
        .variable("REFERRALD_WRITES", "leads-only")
        .variable("REFERRALD_CONFIG", "/nowhere")
        .variable("REFERRALD_LOG", "debug")
        .variable("HOME", "/root")
        .load()
        .unwrap_or_else(|problems| panic!("{problems}"));
    let settings = loaded.settings;
    assert_eq!(settings.referral_id_column.as_deref(), Some("true"));
    assert_eq!(settings.dataverse.tag, "123");
    assert_eq!(settings.http.user_agent, "456");
    assert!(settings.partner_center.use_updated_filter);
    assert_eq!(settings.brakes.closings_per_hour, 7);
    assert!(settings.status.settle_time.get().is_zero());
    assert_eq!(settings.status.codes.len(), 8);
    assert_eq!(settings.link.adopt.len(), 1);
    assert_eq!(settings.writes, Writes::LeadsOnly);
}

#[test]
fn a_variable_that_a_setting_names_is_no_setting() {
    let place = sound_with("[dataverse.auth]\nclient_secret_environment = \"REFERRALD_DATAVERSE_SECRET\"\n");
    place.drop_last("client_secret_file");
    let loaded =
        place.variable("REFERRALD_DATAVERSE_SECRET", "hunter2").load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, Problems::default());
}

#[test]
fn a_missing_file_is_an_error_and_no_file_is_not() {
    let place = sound();
    let mut sources = place.sources();
    sources.file = Some(place.directory.path().join("absent.toml"));
    let found = Settings::load(&sources).expect_err("the file is missing");
    assert!(found.to_string().contains("absent.toml:1:1"), "{found}");
    sources.file = None;
    assert!(Settings::load(&sources).is_ok());
    sources.file = Some(place.directory.path().to_owned());
    assert_eq!(Settings::load(&sources).expect_err("a directory is no file").error_count(), 1);
}

#[test]
fn a_file_beyond_the_limit_or_of_foreign_bytes_is_refused() {
    let place = sound();
    place.put("referrald.toml", &"#".repeat(Sources::FILE_BYTES_MAX as usize + 1));
    assert!(place.found().to_string().contains("larger than 1048576 bytes"));
    std::fs::write(place.directory.path().join("referrald.toml"), b"a = \"\xff\"").expect("a file");
    assert!(place.found().to_string().contains("not UTF-8"));
    for index in 0..=Sources::DROP_INS_MAX {
        place.put(&format!("referrald.toml.d/{index}.toml"), "");
    }
    assert!(place.found().to_string().contains("more than 100 drop-ins"));
}

#[test]
fn a_column_and_an_owner_are_replaced_as_a_whole() {
    let place = sound_with("mapping.groups.mine.columns.new_test = { template = \"{{ name }}\" }\n");
    place.put(
        "referrald.toml.d/10-below.toml",
        "[mapping.groups.mine]\nowner = \"crm\"\ncolumns.new_test = { from = [\"/name\"] }\n",
    );
    let loaded = place.load().unwrap_or_else(|problems| panic!("{problems}"));
    let column = &loaded.settings.mapping.groups["mine"].columns["new_test"];
    assert!(column.from.is_empty() && column.template.is_some());
    let user = "77777777-7777-4888-8999-aaaaaaaaaaaa";
    let loaded = sound_with(&format!("mapping.fallback_owner.user = \"{user}\"")).load();
    let owner = loaded.unwrap_or_else(|problems| panic!("{problems}")).settings.mapping.fallback_owner;
    assert_eq!(owner, Some(crate::model::Owner::User(user.parse().expect("a GUID"))));
}

#[test]
fn shown_settings_read_back_the_same() {
    let place =
        sound_with("[http]\nuser_agent = \"two\\\\ lines\"\n[mapping.tables.size]\n\"1 to 9\" = 5\nb = \"x\"\n");
    let loaded = place.load().unwrap_or_else(|problems| panic!("{problems}"));
    for with_origin in [false, true] {
        let copy = Place::new(&show::to_toml(&loaded, with_origin));
        let again = copy.load().unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(again.settings, loaded.settings);
    }
    let json: Settings = serde_json::from_value(show::to_json(&loaded, false)).expect("it is the same shape");
    assert_eq!(json, loaded.settings);
    let origins = show::to_json(&loaded, true);
    assert_eq!(origins["origins"]["retry.delay"]["kind"], "built_in");
    assert_eq!(origins["origins"]["http.user_agent"]["line"], 2);
}

#[test]
fn a_named_file_goes_before_the_usual_one() {
    let sources = Sources::from_process(Some("/nowhere/referrald.toml".into()));
    assert_eq!(sources.file.as_deref(), Some(std::path::Path::new("/nowhere/referrald.toml")));
    assert!(sources.flags.is_empty() && sources.environment.contains_key("PATH"));
}
