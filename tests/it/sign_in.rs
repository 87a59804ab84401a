//! Sign-in on its good and its worst day.

use referrald::daemon::Status;
use referrald::sim::Service;
use referrald::sim::entra::SignInTrouble;
use serde_json::json;
use uuid::Uuid;

use crate::stage::{Daemon, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn each_rotated_refresh_token_is_kept_before_the_old_one_is_forgotten() {
    let stage = Stage::new(41, 5).await;
    stage.simulator.with(|world| world.options.rotates_strictly = true);
    for pass in 0..3 {
        stage.json(&["once"], 0).await;
        let newest = stage.simulator.with(|world| world.entra.newest_refresh_token().to_owned());
        let kept = std::fs::read_dir(stage.state().join("keep")).unwrap().flatten();
        let holds = kept.filter_map(|file| std::fs::read(file.path()).ok());
        let is_kept = holds.into_iter().any(|bytes| String::from_utf8_lossy(&bytes).contains(&newest));
        assert!(is_kept, "pass {pass}: the newest token is not in keep/");
    }
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_token_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new(42, 3).await;
    stage.json(&["once"], 0).await;
    for file in std::fs::read_dir(stage.state().join("keep")).unwrap().flatten() {
        let holds_token =
            String::from_utf8_lossy(&std::fs::read(file.path()).unwrap_or_default()).contains("1.simulated");
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert!(!holds_token || mode == 0o600, "{}: {mode:o}", file.path().display());
    }
}

/// A daemon whose sign-in was revoked, a referral that came after, and how it stands then.
pub async fn signed_out(seed: u64) -> (Stage, Daemon, Uuid, Status) {
    let stage = Stage::new(seed, 20).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    stage.simulator.with(|world| {
        world.entra.revoke_all();
        world.entra.expire_all();
    });
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "While signed out"})));
    let status = daemon.cycle().await;
    (stage, daemon, fresh, status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_stops_that_side_and_a_fresh_file_wakes_the_running_daemon() {
    let (stage, daemon, fresh, status) = signed_out(43).await;
    let portal = serde_json::to_value(&status).unwrap()["sides"].clone();
    println!("{portal:#}");
    let troubled: Vec<_> = status.sides.values().filter(|side| side.needs_human).collect();
    assert_eq!(troubled.len(), 1, "{status:#?}");
    let trouble = troubled[0].trouble.clone().unwrap_or_default();
    assert!(trouble.contains("50173") && trouble.contains("refresh_token_file"), "{trouble}");
    assert_eq!(stage.lead_of(fresh), None);
    // The endpoint is left alone while nothing changes.
    stage.clear_journal();
    for _ in 0..5 {
        daemon.cycle().await;
    }
    let asked = stage.requests(Service::Authority);
    assert!(
        asked.iter().filter(|record| record.status != 200).count() == 0,
        "nothing that can lock an account: {asked:#?}"
    );
    // A person signs in again and drops the new token where the daemon looks.
    let token = sign_in(&stage).await;
    std::fs::write(stage.path("refresh"), token).unwrap();
    let status = daemon.cycle().await;
    assert!(status.sides.values().all(|side| side.trouble.is_none()), "{status:#?}");
    assert!(stage.lead_of(fresh).is_some(), "what was pending is done");
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn multi_factor_demanded_at_the_token_endpoint_stops_once_with_four() {
    let stage = Stage::new(44, 20).await;
    stage.simulator.with(|world| world.entra.troubles.insert(Service::Portal, SignInTrouble::MfaDemanded));
    let report = stage.json(&["once"], 4).await;
    println!("{report:#}");
    assert!(report["sides"].to_string().contains("50076"), "{report:#}");
    assert_eq!(stage.writes(Service::Crm), vec![], "nothing to import was seen");
    let status = stage.json(&["status"], 0).await;
    assert!(status["sides"].to_string().contains("50076"), "{status:#}");
    stage.simulator.with(|world| world.entra.troubles.clear());
    let report = stage.json(&["once"], 0).await;
    assert!(report["done"]["create"].as_u64() > Some(5), "{report:#}");
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_the_mfa_claim_is_recognised_by_900421() {
    let stage = Stage::new(45, 10).await;
    let password = stage.simulator.with(|world| world.options.user.clone());
    std::fs::write(stage.path("password"), &password.1).unwrap();
    let file = stage.path("password").display().to_string();
    stage.overlay(&format!(
        "[partner_center.auth]\ngrant = \"password\"\nusername = \"{}\"\npassword_file = \"{file}\"\n",
        password.0
    ));
    let report = stage.json(&["once"], 4).await;
    println!("{report:#}");
    assert!(report["sides"].to_string().contains("900421"), "{report:#}");
    std::fs::remove_file(stage.path("password")).unwrap();
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_names_the_key_and_is_mended_by_the_right_one() {
    let stage = Stage::new(46, 10).await;
    std::fs::write(stage.path("secret"), "wrong~secret").unwrap();
    let report = stage.json(&["once"], 4).await;
    println!("{report:#}");
    assert!(report["sides"].to_string().contains("7000215"), "{report:#}");
    assert!(report["sides"].to_string().contains("client_secret"), "{report:#}");
    stage.configure("");
    stage.json(&["once"], 0).await;
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_takes_a_corrected_secret_without_a_restart() {
    let stage = Stage::new(48, 10).await;
    std::fs::write(stage.path("secret"), "wrong~secret").unwrap();
    let daemon = stage.daemon().await;
    let status = daemon.first_cycle().await;
    assert!(status.sides.values().any(|side| side.needs_human), "{status:#?}");
    stage.clear_journal();
    daemon.cycle().await;
    daemon.cycle().await;
    let asked = stage.requests(Service::Authority).len();
    assert_eq!(asked, 0, "the same wrong secret is not tried again and again");
    stage.configure("");
    let status = daemon.cycle().await;
    assert!(status.sides.values().all(|side| side.trouble.is_none()), "{status:#?}");
    assert!(status.linked > 3, "{status:#?}");
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn multi_factor_demanded_of_a_running_daemon_ends_with_a_fresh_token_file() {
    let stage = Stage::new(49, 10).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    stage.simulator.with(|world| {
        world.entra.troubles.insert(Service::Portal, SignInTrouble::MfaDemanded);
        world.entra.expire_all();
    });
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "Behind a second factor"})));
    let status = daemon.cycle().await;
    let trouble = status.sides.values().find_map(|side| side.trouble.clone()).unwrap_or_default();
    assert!(trouble.contains("50076"), "{status:#?}");
    assert_eq!(stage.lead_of(fresh), None);
    stage.simulator.with(|world| world.entra.troubles.clear());
    let token = sign_in(&stage).await;
    std::fs::write(stage.path("refresh"), token).unwrap();
    let status = daemon.cycle().await;
    assert!(status.sides.values().all(|side| side.trouble.is_none()), "{status:#?}");
    assert!(stage.lead_of(fresh).is_some());
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_dynamics_alone_keeps_the_watermark_and_loses_nothing() {
    let stage = Stage::new(47, 20).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    stage.simulator.with(|world| {
        world.entra.troubles.insert(Service::Crm, SignInTrouble::ConsentMissing);
        world.entra.expire_all();
    });
    let fresh: Vec<_> = (0..5)
        .map(|n| stage.simulator.with(|world| world.add_referral(json!({"name": format!("Waiting {n}")}))))
        .collect();
    let status = daemon.cycle().await;
    assert!(status.sides.values().any(|side| side.needs_human), "{status:#?}");
    daemon.cycle().await;
    stage.simulator.with(|world| world.entra.troubles.clear());
    // A new process tries at once.
    assert_eq!(daemon.stop().await, 0);
    stage.json(&["once"], 0).await;
    assert!(fresh.iter().all(|id| stage.lead_of(*id).is_some()));
    stage.judge();
}

/// What a person's sign-in gives: a refresh token by the device-code grant.
async fn sign_in(stage: &Stage) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = stage.simulator.with(|world| {
        world.options.device_interval = std::time::Duration::ZERO;
        world.options.clone()
    });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let base = format!("{}/{}/oauth2/v2.0", stage.simulator.authority_url, options.tenant);
    let post = async |endpoint: &str, form: &[(&str, &str)]| -> serde_json::Value {
        client.post(format!("{base}/{endpoint}")).form(form).send().await.unwrap().json().await.unwrap()
    };
    let scope = format!("{}/.default offline_access", stage.simulator.portal_url);
    let device = post("devicecode", &[("client_id", &options.client.0), ("scope", &scope)]).await;
    loop {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", options.client.0.as_str()),
            ("client_secret", options.client.1.as_str()),
            ("device_code", device["device_code"].as_str().unwrap()),
            ("scope", &scope),
        ];
        let body = post("token", &form).await;
        match body["error"].as_str() {
            Some("authorization_pending") => {}
            _ => return body["refresh_token"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned(),
        }
    }
}
