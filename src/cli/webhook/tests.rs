//! What counts as a drift, and what is kept of another consumer.

use super::{drift, is_success, previous};
use crate::config::Settings;
use crate::portal::partner_center::webhooks::Registration;

#[test]
fn a_drift_is_named_without_the_url_of_somebody_else() {
    let mut settings = Settings::defaults().webhook;
    let ours = "https://hook.example/partner-center";
    let found = |url: &str, events: &[&str]| {
        let events = events.iter().map(|event| (*event).to_owned()).collect();
        Registration { url: url.to_owned(), events }
    };
    assert_eq!(drift(&settings, None), None, "nothing is wanted");
    settings.url = Some(ours.parse().expect("a URL"));
    let all: Vec<&str> = settings.events.iter().map(String::as_str).collect();
    assert_eq!(drift(&settings, Some(&found(ours, &all))), None);
    assert!(drift(&settings, None).expect("a drift").contains("webhook register"));
    let other = drift(&settings, Some(&found("https://other.example/?sig=secret", &all))).expect("a drift");
    assert!(other.contains("--take-over") && !other.contains("secret"), "{other}");
    let fewer = drift(&settings, Some(&found(ours, &["test-created"]))).expect("a drift");
    assert!(fewer.contains("referral-created") && !fewer.contains("test-created"), "{fewer}");
}

#[test]
fn what_was_replaced_is_kept_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(previous::read(directory.path()), Ok(None));
    let one = Registration { url: "https://other.example/?sig=x".to_owned(), events: vec!["invoice-ready".to_owned()] };
    previous::keep(directory.path(), &one).expect("kept");
    assert_eq!(previous::read(directory.path()), Ok(Some(one)));
    let file = directory.path().join("keep/webhook-previous.json");
    assert_eq!(std::fs::metadata(file).expect("there").permissions().mode() & 0o777, 0o600);
    previous::forget(directory.path());
    assert_eq!(previous::read(directory.path()), Ok(None));
}

#[test]
fn a_report_is_good_when_our_end_took_it() {
    for (code, is_good) in
        [("OK", true), ("ok", true), ("200", true), ("204", true), ("Unauthorized", false), ("503", false), ("", false)]
    {
        assert_eq!(is_success(code), is_good, "{code}");
    }
}
