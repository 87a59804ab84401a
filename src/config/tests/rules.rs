//! Each rule fires.

use super::*;

#[test]
fn identity_rules() {
    check("identity = \"alternate_key\"", Severity::Error, "identity", "referral_id_column");
    check("referral_id_column = \"New_ReferralId\"", Severity::Error, "referral_id_column", "lower case");
    assert!(sound_with("identity = \"alternate_key\"\nreferral_id_column = \"new_referralid\"").load().is_ok());
}

#[test]
fn writing_needs_both_services() {
    let place = Place::new(
        "writes = \"leads-only\"\n[mapping]\nfallback_owner = { team = \"66666666-7777-4888-8999-aaaaaaaaaaaa\" }",
    );
    insta::assert_snapshot!(place.drawn(), @r##"
    warning: `partner_center.auth.refresh_token_file`: no refresh token yet: nobody
             has signed in
     --> built-in default
      = help: run `referrald login` when the rest is in order

    error: `dataverse.url`: not set: there is nowhere to put leads
     --> DIR/referrald.toml:1:10
      |
    1 | writes = "leads-only"
      |          ^^^^^^^^^^^^
      = help: set it to the environment, as in "https://contoso.crm4.dynamics.com"

    error: `partner_center.auth.tenant_id`: not set: nobody can sign in
     --> DIR/referrald.toml:1:10
      |
    1 | writes = "leads-only"
      |          ^^^^^^^^^^^^
      = help: set it to the directory id shown in the Entra admin centre

    error: `partner_center.auth.client_id`: not set: nobody can sign in
     --> DIR/referrald.toml:1:10
      |
    1 | writes = "leads-only"
      |          ^^^^^^^^^^^^
      = help: set it to the application id of the app registration

    error: `dataverse.auth.tenant_id`: not set: nobody can sign in
     --> DIR/referrald.toml:1:10
      |
    1 | writes = "leads-only"
      |          ^^^^^^^^^^^^
      = help: set it to the directory id shown in the Entra admin centre

    error: `dataverse.auth.client_id`: not set: nobody can sign in
     --> DIR/referrald.toml:1:10
      |
    1 | writes = "leads-only"
      |          ^^^^^^^^^^^^
      = help: set it to the application id of the app registration

    error: `dataverse.auth.client_secret_file`: no credential: the application
           cannot sign in
     --> DIR/referrald.toml:1:10
      |
    1 | writes = "leads-only"
      |          ^^^^^^^^^^^^
      = help: set client_secret_file, client_secret_credential or
              client_secret_environment, or certificate_file and private_key_file

    6 errors, 1 warning
    "##);
    place.put("referrald.toml", "writes = \"off\"\n");
    assert!(place.load().is_ok(), "reminders only");
}

#[test]
fn sign_in_rules() {
    let dataverse = |text: &str| format!("[dataverse.auth]\n{text}");
    let portal = |text: &str| format!("[partner_center.auth]\n{text}");
    check(&portal("tenant_id = \"common\""), Severity::Error, "partner_center.auth.tenant_id", "directory");
    check(&portal("tenant_id = \"...\""), Severity::Error, "partner_center.auth.tenant_id", "GUID");
    check(&portal("client_id = \"my app\""), Severity::Error, "partner_center.auth.client_id", "GUID");
    check(&portal("client_id = \"app\""), Severity::Warning, "partner_center.auth.client_id", "GUID");
    check(&portal("grant = \"client_credentials\""), Severity::Warning, "partner_center.auth.grant", "refuses");
    check(
        &dataverse("client_secret_file = \"/nowhere/x\""),
        Severity::Error,
        "dataverse.auth.client_secret_file",
        "/nowhere/x does not exist",
    );
    let (key, expires) =
        ("dataverse.auth.client_secret_expires", |day: &str| dataverse(&format!("client_secret_expires = {day}")));
    check(&expires("\"soon\""), Severity::Error, key, "no day");
    check(&expires("\"2020-01-01\""), Severity::Warning, key, "has ended");
    for day in ["\"2099-05-01\"", "2099-05-01"] {
        assert!(sound_with(&expires(day)).load().is_ok(), "{day}");
    }
    let place = sound_with(&dataverse("client_secret_environment = \"NOT_SET\""));
    place.drop_last("client_secret_file");
    check_place(&place, Severity::Warning, "dataverse.auth.client_secret_environment", "not set");
    check(
        &dataverse("client_secret_credential = \"a\""),
        Severity::Error,
        "dataverse.auth.client_secret_file",
        "more than one",
    );
    check(
        &dataverse("refresh_token_credential = \"a/b\""),
        Severity::Error,
        "dataverse.auth.refresh_token_credential",
        "name",
    );
    check(
        &dataverse("private_key_file = \"/nowhere\""),
        Severity::Error,
        "dataverse.auth.private_key_file",
        "certificate_file",
    );
    check(
        &portal("authority = \"http://login.example\""),
        Severity::Error,
        "partner_center.auth.authority",
        "https://",
    );
    check(
        &portal("authority = \"https://me:hunter2@login.example\""),
        Severity::Error,
        "partner_center.auth.authority",
        "user name",
    );
    check(
        &portal("refresh_token_file = \"/nowhere/x\""),
        Severity::Warning,
        "partner_center.auth.refresh_token_file",
        "does not exist",
    );
    check(
        &portal("grant = \"password\"\nusername = \"u\""),
        Severity::Error,
        "partner_center.auth.password_file",
        "password",
    );
    let place = sound();
    let text = format!(
        "grant = \"password\"\nusername = \"u\"\npassword_file = \"{}/secret\"",
        place.directory.path().display()
    );
    place.put("referrald.toml.d/50-test.toml", &portal(&text));
    check_place(&place, Severity::Warning, "partner_center.auth.grant", "STOPGAP");
}

#[test]
fn a_credential_is_looked_for_where_systemd_puts_it() {
    let place = sound_with("[partner_center.auth]\nrefresh_token_credential = \"token\"\n");
    place.drop_last("refresh_token_file");
    let key = "partner_center.auth.refresh_token_credential";
    check_place(&place, Severity::Warning, key, "LoadCredential=token");
    let directory = place.directory.path().display().to_string();
    let place = place.variable("CREDENTIALS_DIRECTORY", &directory);
    check_place(&place, Severity::Error, key, "no such credential");
    place.put("token", "synthetic");
    assert!(place.load().is_ok());
}

#[test]
fn what_a_file_holds_is_looked_at() {
    let place = sound();
    let directory = place.directory.path().display().to_string();
    place.drop_last("client_secret_file");
    let drop_in =
        format!("[dataverse.auth]\ncertificate_file = \"{directory}/c\"\nprivate_key_file = \"{directory}/k\"\n");
    place.put("referrald.toml.d/50-test.toml", &drop_in);
    place.put("c", "-----BEGIN CERTIFICATE-----\n");
    place.put("k", "-----BEGIN RSA PRIVATE KEY-----\n");
    check_place(&place, Severity::Error, "dataverse.auth.private_key_file", "openssl pkcs8");
    place.put("k", "-----BEGIN PRIVATE KEY-----\n");
    assert!(place.load().is_ok());
    place.put("c", "nothing");
    check_place(&place, Severity::Error, "dataverse.auth.certificate_file", "openssl x509");
    place.put("c", "-----BEGIN CERTIFICATE-----\n");
    place.put("secret", " \n");
    check_place(&place, Severity::Error, "partner_center.auth.client_secret_file", "empty");
}

#[test]
fn a_kept_token_replaces_the_seed() {
    let place = sound();
    let directory = place.directory.path().display().to_string();
    place.put("referrald.toml.d/50-test.toml", &format!("state.directory = \"{directory}\""));
    std::fs::remove_file(place.directory.path().join("seed")).expect("it was there");
    check_place(&place, Severity::Warning, "partner_center.auth.refresh_token_file", "does not exist");
    place.put("keep/partner_center.token", "synthetic");
    assert_eq!(place.found(), Problems::default());
}

#[test]
fn url_rules() {
    check("[dataverse]\nurl = \"http://contoso.crm4.dynamics.com\"", Severity::Error, "dataverse.url", "https://");
    check(
        "[dataverse]\nurl = \"https://contoso.crm4.dynamics.com/api\"",
        Severity::Error,
        "dataverse.url",
        "only scheme",
    );
    check(
        "[dataverse]\nurl = \"https://contoso.crm4.dynamics.com?x=1\"",
        Severity::Error,
        "dataverse.url",
        "only scheme",
    );
    check("[dataverse]\nurl = \"ftp://contoso\"", Severity::Error, "dataverse.url", "https://");
    check(
        "[partner_center]\nbase_url = \"https://api.partner.microsoft.com/v1.0\"",
        Severity::Error,
        "partner_center.base_url",
        "path",
    );
    check("[http]\nproxy = \"http://u:hunter2@proxy:3128\"", Severity::Error, "http.proxy", "HTTPS_PROXY");
    check("[webhook]\npath = \"x\"", Severity::Error, "webhook.path", "slash");
    check(
        "[webhook]\ncertificate_sources = [\"http://example.com/\"]",
        Severity::Error,
        "webhook.certificate_sources.0",
        "https://",
    );
    check("[webhook]\nalgorithms = [\"rsa-sha1\"]", Severity::Error, "webhook.algorithms.0", "rsa-sha256");
    check("[webhook]\nurl = \"http://example.com/\"", Severity::Error, "webhook.url", "https://");
    check("[webhook]\nconnections_max = 0", Severity::Error, "webhook.connections_max", "zero");
    check(
        "[webhook]\nintermediates_directory = \"/nowhere\"",
        Severity::Error,
        "webhook.intermediates_directory",
        "no folder",
    );
    check(
        "[webhook]\ntls_certificate_file = \"/nowhere\"",
        Severity::Error,
        "webhook.tls_certificate_file",
        "belong together",
    );
    let nobody = "[webhook]\nlisten = \"127.0.0.1:1\"\ncertificate_names = []";
    check(nobody, Severity::Error, "webhook.certificate_names", "verified");
    check("[webhook]\npinned_keys = [\"AAAA\"]", Severity::Error, "webhook.pinned_keys.0", "SHA-256");
    check("[observability]\nlisten = \"0.0.0.0:1\"", Severity::Warning, "observability.listen", "no sign-in");
    let both = "[webhook]\nlisten = \"127.0.0.1:1\"\n[observability]\nlisten = \"127.0.0.1:1\"";
    check(both, Severity::Error, "observability.listen", "same address");
    check("[observability]\nconnections_max = 0", Severity::Error, "observability.connections_max", "1 or more");
    let secret = "[alarm]\nurl_file = \"/nowhere/url\"\n";
    check(secret, Severity::Error, "alarm.url_file", "/nowhere/url does not exist");
    check(&format!("{secret}url_credential = \"url\""), Severity::Error, "alarm.url_file", "more than one");
    check("[alarm]\nname = \" \"", Severity::Error, "alarm.name", "where it comes from");
    check("[observability]\nlag_max = \"0s\"", Severity::Error, "observability.lag_max", "");
    for loopback in ["http://127.0.0.1:8080", "http://[::1]:8080/", "http://127.1.2.3"] {
        assert!(sound_with(&format!("dataverse.url = \"{loopback}\"")).load().is_ok(), "{loopback}");
    }
}

#[test]
fn schedule_scope_status_and_log_rules() {
    check("[schedule]\nsweep = \"61 * * * *\"", Severity::Error, "schedule.sweep", "cron");
    check("[schedule]\ntime_zone = \"Mars/Base\"", Severity::Error, "schedule.time_zone", "IANA");
    check("[mapping]\nclosing_date_zone = \"Mars/Base\"", Severity::Error, "mapping.closing_date_zone", "IANA");
    check("[scope]\ncountries = [\"DE\", \"Germany\"]", Severity::Error, "scope.countries.1", "ISO 3166");
    check("[scope]\ntypes = [\"shared\"]", Severity::Warning, "scope.types.0", "Shared");
    check("[scope]\ncreated_after = \"yesterday\"", Severity::Error, "scope.created_after", "instant");
    check("[status.codes]\nwon = \"won\"", Severity::Error, "status.codes.won", "whole number");
    check("[status]\nreason = \"{{ labl }}\"", Severity::Error, "status.reason", "label");
    check("[status]\nreason = \"{{ label\"", Severity::Error, "status.reason", "template");
    check("[status]\nsettle_time = \"48h\"", Severity::Warning, "status.settle_time_lost", "sooner");
    check("[log]\nlevel = \"a=b=c\"", Severity::Error, "log.level", "debug");
    assert!(sound_with("scope.created_after = 2026-01-01T00:00:00Z").load().is_ok(), "a bare TOML date");
}

#[test]
fn limit_rules() {
    check("[dataverse]\npage_size = 5001", Severity::Error, "dataverse.page_size", "5000");
    check("[partner_center]\nin_flight_max = 0", Severity::Error, "partner_center.in_flight_max", "from 1");
    check("[partner_center]\nin_flight_max = 3", Severity::Warning, "partner_center.in_flight_max", "2 or less");
    check("[daemon]\nwork_budget = \"0s\"", Severity::Error, "daemon.work_budget", "nothing");
    check("[retry]\ndelay = \"7h\"", Severity::Error, "retry.delay", "longer than retry.delay_max");
    check("[retry]\ndelay_max = \"10s\"", Severity::Error, "retry.delay_max", "longer than retry.delay_max");
    check("[status]\nsettle_time_lost = \"99999d\"", Severity::Error, "status.settle_time_lost", "ten years");
    check("[brakes]\nleads_vanished_percent = 101", Severity::Error, "brakes.leads_vanished_percent", "100");
    check("[brakes]\nclosings_per_hour = 0", Severity::Warning, "brakes.closings_per_hour", "off");
    check("[state]\ndirectory = \"relative\"", Severity::Warning, "state.directory", "absolute");
    check("[state]\ndirectory = \"/dev/null\"", Severity::Error, "state.directory", "no directory");
}

#[test]
fn mapping_rules() {
    let group = |text: &str| format!("[mapping.groups.mine]\nowner = \"crm\"\n{text}");
    let key = |rest: &str| format!("mapping.groups.mine.{rest}");
    for (text, place, words) in [
        ("columns = {}", "", "no columns"),
        ("columns.new_test = { }", "columns.new_test", "one of `from`"),
        ("columns.new_test = { from = [\"/a\"], value = 1 }", "columns.new_test", "more than one"),
        ("columns.new_test = { from = [\"a/b\"] }", "columns.new_test.from.0", "JSON pointer"),
        ("columns.new_test = { template = \"{% if %}\" }", "columns.new_test.template", "does not parse"),
        ("columns.new_test = { value = \"x\", table = \"none\" }", "columns.new_test.table", "no such value table"),
        ("columns.New_Test = { value = \"x\" }", "columns.New_Test", "lower case"),
        ("columns.statuscode = { value = 1 }", "columns.statuscode", "not for a mapping"),
        (
            "columns.new_test = { value = \"x\" }\nwrite_back.new_test = \"/name\"",
            "write_back.new_test",
            "does not take",
        ),
        ("columns.new_test = { value = \"x\" }\nwrite_back.new_test = \"/status\"", "write_back.new_test", "own rules"),
        (
            "columns.new_test = { value = \"x\" }\nwrite_back.new_fax = \"/campaignId\"",
            "write_back.new_fax",
            "no such column",
        ),
    ] {
        let place = if place.is_empty() { "mapping.groups.mine".to_owned() } else { key(place) };
        check(&group(text), Severity::Error, &place, words);
    }
    check("[mapping]\non_consent_withdrawn = \"mark\"", Severity::Error, "mapping.on_consent_withdrawn", "column");
    let anyone = "{ owner = { team = \"66666666-7777-4888-8999-aaaaaaaaaaaa\" } }";
    check(&format!("[mapping]\nowners = [{anyone}, {anyone}]"), Severity::Warning, "mapping.owners.0", "last");
    let without_owner = sound();
    without_owner.drop_last("fallback_owner");
    check_place(&without_owner, Severity::Warning, "mapping.owners", "invisible to sellers");
    without_owner.put("referrald.toml.d/50-test.toml", &format!("[mapping]\nowners = [{anyone}]\n"));
    check_place(&without_owner, Severity::Warning, "mapping.owners", "owner Dynamics refuses");
    let amount = "[mapping.groups.mine]\nowner = \"crm\"\ncolumns.revenue = { value = 1 }\n";
    check(amount, Severity::Warning, "mapping.groups.mine.columns.revenue", "without its currency");
    let column = "owner = \"crm\"\ncolumns.new_test = { value = \"x\" }\n";
    let twice = format!("[mapping.groups.one]\n{column}[mapping.groups.two]\n{column}");
    check(&twice, Severity::Error, "mapping.groups.two.columns.new_test", "`one`");
    let subject = "[mapping.groups.a]\nowner = \"crm\"\ncolumns.subject = { value = \"x\" }\n";
    check(subject, Severity::Error, "mapping.groups.a.columns.subject", "built-in group");
    let off = sound_with(&format!("{twice}enabled = false\n"));
    assert_eq!(off.found(), Problems::default(), "a group can be switched off");
}
