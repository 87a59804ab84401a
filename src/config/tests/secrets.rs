//! Secrets are refused and never printed.

use super::*;

#[test]
fn an_unknown_key_keeps_its_value_to_itself() {
    let drawn = sound_with("[dataverse.auth]\nclient_secrt = \"hunter2\"\ntenant_id = 5 # password hunter2\n").drawn();
    assert!(!drawn.contains("hunter2"), "{drawn}");
    assert!(drawn.contains("client_secrt = ***"), "{drawn}");
}

#[test]
fn a_secret_in_the_file_is_refused_with_its_line_and_never_printed() {
    for key in ["client_secret", "password", "refresh_token", "private_key"] {
        for text in [
            format!("[dataverse.auth]\n{key} = \"hunter2\"\n"),
            format!("[dataverse.auth]\n\"{key}\" = 'hunter2'\n"),
            format!("dataverse.auth.{key} = \"\"\"\nhunter2\n\"\"\"\n"),
            format!("[dataverse]\nauth = {{ {key} = \"hunter2\", tenant_id = 5 }}\n"),
            format!("[dataverse]\nauth = {{ {key} = [\"hunter2\", {{ a = \"hunter2\" }}], grant = \"x\" }}\n"),
        ] {
            let place = sound_with(&text);
            let found = place.found();
            let shown = format!("{found}\n{:#}\n{found:?}", found.to_json());
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
            let secret = found.problems.iter().find(|problem| problem.key == format!("dataverse.auth.{key}"));
            let secret = secret.unwrap_or_else(|| panic!("{text}\n{found}"));
            assert!(secret.message.contains("a secret"), "{found}");
            assert!(matches!(&secret.origin, Origin::File { line: 1..=2, .. }), "{found}");
        }
    }
}

#[test]
fn a_secret_is_not_printed_when_the_file_is_broken_either() {
    for text in [
        "[dataverse.auth]\nclient_secret = hunter2\n",
        "[dataverse.auth]\nclient_secret = \"hunter2\n",
        "password = \"\"\"\nx = hunter2",
        "client_secret = \"hunter2\" \"hunter2\"",
        "x = \"http://user:hunter2@proxy",
        "[dataverse.auth\nclient_secret = \"hunter2\"",
        "client_secret = \"a\"\nhunter2 = 1\nhunter2 = 2",
    ] {
        let found = sound_with(text).found();
        assert_eq!(found.error_count(), 1, "{text}\n{found}");
        assert!(!format!("{found}{:?}{}", found, found.to_json()).contains("hunter2"), "{text}\n{found}");
    }
    let drawn = sound_with("a = 1\nsettle_time = 10m\n").drawn();
    assert!(drawn.contains("2 | settle_time = 10m"), "an ordinary line is shown\n{drawn}");
}

#[test]
fn a_secret_in_the_environment_or_a_flag_is_refused_and_never_printed() {
    let place = sound()
        .variable("REFERRALD_DATAVERSE__AUTH__CLIENT_SECRET", "hunter2")
        .flag("dataverse.auth.password", "hunter2");
    let found = place.found();
    let shown = format!("{found}{found:?}{}{:?}", found.to_json(), place.sources());
    assert_eq!(found.error_count(), 2, "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("environment variable REFERRALD_DATAVERSE__AUTH__CLIENT_SECRET"), "{shown}");
}

#[test]
fn a_url_that_cannot_be_read_is_not_quoted() {
    let place = sound_with("http.proxy = \"http://user:hunter2@pro xy\"\n")
        .variable("REFERRALD_DATAVERSE__URL", "https://user:hunter2@[")
        .flag("partner_center.base_url", "user:hunter2@host");
    let found = place.found();
    assert!(found.error_count() >= 3, "{found}");
    assert!(!format!("{found}{}", found.to_json()).contains("hunter2"), "{found}");
}

#[test]
fn a_secret_written_where_its_file_belongs_is_not_printed() {
    let found = sound_with("[dataverse.auth]\nclient_secret_file = \"hunter2\"").found();
    assert_eq!(found.error_count(), 1, "{found}");
    assert!(!format!("{found}{}", found.to_json()).contains("hunter2"), "{found}");
}

#[test]
fn a_password_in_a_url_is_hidden_when_shown() {
    let place = sound().variable("REFERRALD_HTTP__PROXY", "http://user:hunter2@proxy.example:3128");
    let loaded = place.load().unwrap_or_else(|problems| panic!("{problems}"));
    let shown = format!("{}{}", show::to_toml(&loaded, true), show::to_json(&loaded, true));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(loaded.settings.http.proxy.is_some());
}
