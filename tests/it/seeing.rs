//! What is seen from outside, of the built program: health, readiness, metrics, the page, and limits on all of it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use referrald::sim::webhooks::ROOT_PEM;

use crate::stage::{Daemon, Stage};

const LISTEN: &str = "[observability]\nlisten = \"127.0.0.1:0\"\n";
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the daemon's listener is.
async fn address(daemon: &Daemon) -> String {
    let is_there = |status: &referrald::daemon::Status| {
        status.observability.as_ref().is_some_and(|listener| listener.address.is_some())
    };
    let status = daemon.until("the listener", is_there).await;
    status.observability.and_then(|listener| listener.address).unwrap()
}

/// Gets a page: status, headers, body.
async fn get(address: &str, path: &str) -> (u16, reqwest::header::HeaderMap, String) {
    get_as(address, path, "*/*").await
}

/// As [`get`], with what the reader accepts.
async fn get_as(address: &str, path: &str, accept: &str) -> (u16, reqwest::header::HeaderMap, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://{address}{path}")).header("accept", accept).send().await.unwrap();
    (answer.status().as_u16(), answer.headers().clone(), answer.text().await.unwrap())
}

/// Every figure, by name and labels, in the format that Prometheus asks for.
async fn scrape(address: &str) -> BTreeMap<String, f64> {
    let (status, headers, text) = get(address, "/metrics").await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(!text.contains("# EOF"), "{text}");
    let (status, headers, text) = get_as(address, "/metrics", "application/openmetrics-text;q=0.5,*/*;q=0.1").await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').map(|(name, figure)| (name.to_owned(), figure.parse().unwrap())).unwrap())
        .collect()
}

/// Scrapes until the figures fit: what is shown may be a second old.
async fn until(address: &str, what: &str, fits: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
    let began = Instant::now();
    loop {
        let figures = scrape(address).await;
        if fits(&figures) {
            return figures;
        }
        assert!(began.elapsed() < PATIENCE, "waited for {what}: {figures:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends bytes as they are and gives what comes back.
fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The other end may hang up before it has taken all.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_is_what_happened() {
    let stage = Stage::new(91, 25).await;
    std::fs::write(stage.path("roots.pem"), ROOT_PEM).unwrap();
    let (portal, roots) = (&stage.simulator.portal_url, stage.path("roots.pem").display().to_string());
    stage.overlay(&format!(
        "{LISTEN}[webhook]\nlisten = \"127.0.0.1:0\"\ncertificate_sources = [\"{portal}/cert/\"]\ntrust_anchors_file = \"{roots}\"\n"
    ));
    let daemon = stage.daemon().await;
    let address = address(&daemon).await;
    assert_eq!(get(&address, "/healthz").await.0, 200);
    daemon.first_cycle().await;
    let figures =
        until(&address, "the first cycle", |figures| figures["referrald_cycles_total{outcome=\"complete\"}"] >= 1.0)
            .await;
    let leads = stage.simulator.with(|world| world.crm.lead_ids().len()) as f64;
    assert!(leads > 5.0);
    assert_eq!(figures["referrald_actions_total{action=\"create\",outcome=\"done\"}"], leads);
    assert_eq!(figures["referrald_linked_referrals"], leads);
    assert_eq!(figures["referrald_referrals"], daemon.status().await.referrals as f64);
    for (side, service) in [
        ("partner_center", referrald::sim::exchange::Service::Portal),
        ("dynamics", referrald::sim::exchange::Service::Crm),
    ] {
        let asked = stage.requests(service).len() as f64;
        let prefix = format!("referrald_requests_total{{side=\"{side}\"");
        let counted: f64 = figures.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, figure)| figure).sum();
        assert_eq!(counted, asked, "{side}: {figures:#?}");
    }
    assert_eq!(figures["referrald_ready"], 1.0);
    assert!(figures["process_resident_memory_bytes"] > 1e6 && figures["referrald_ledger_size_bytes"] > 0.0);
    assert_eq!(get(&address, "/readyz").await.0, 200);

    // Two forged deliveries and one to nowhere.
    let webhook = daemon.status().await.webhook.unwrap().addresses[0].clone();
    for path in ["partner-center", "partner-center", "elsewhere"] {
        stage.post(&format!("http://{webhook}/{path}"), &[("content-type", "application/json")], b"{}").await;
    }
    let deliveries = "referrald_webhook_deliveries_total{verdict=\"no_signature\"}";
    let figures = until(&address, "the deliveries", |figures| figures.get(deliveries) == Some(&2.0)).await;
    assert_eq!(figures["referrald_webhook_deliveries_total{verdict=\"verified\"}"], 0.0);
    assert_eq!(figures["referrald_webhook_rings_total"], 0.0);

    // A service goes away: readiness says why, health does not care, the page goes on.
    stage.simulator.with(|world| world.faults.outage(Some(referrald::sim::exchange::Service::Crm)));
    daemon.cycle().await;
    until(&address, "the outage", |figures| figures["referrald_ready"] == 0.0).await;
    let (status, _, why) = get(&address, "/readyz").await;
    assert!(status == 503 && why.contains("Dynamics"), "{status} {why}");
    assert_eq!(get(&address, "/healthz").await.0, 200);
    let (status, headers, page) = get(&address, "/").await;
    assert_eq!(status, 200);
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"), "{headers:?}");
    assert!(page.contains("Dynamics") && page.contains("in trouble"), "{page}");
    assert_eq!(daemon.stop().await, 0);
    stage.judge_discretion();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_nothing_personal_and_takes_nothing_but_get() {
    let stage = Stage::new(92, 25).await;
    stage.overlay(&format!("{LISTEN}connections_max = 4\nrequest_timeout = \"1s\"\n"));
    let daemon = stage.daemon().await;
    let address = address(&daemon).await;
    daemon.first_cycle().await;
    let until_written = async |page: &str| {
        let began = Instant::now();
        loop {
            let (_, _, text) = get(&address, page).await;
            if page != "/" || text.contains("What and why") || began.elapsed() > PATIENCE {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    for page in ["/", "/metrics", "/readyz"] {
        let text = until_written(page).await;
        std::fs::write(stage.path(&format!("page{}", page.replace('/', "-"))), text).unwrap();
    }
    stage.judge_discretion();

    let refused = raw(&address, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}");
    assert!(refused.starts_with("HTTP/1.1 405") && refused.contains("allow: GET, HEAD"), "{refused}");
    let head = raw(&address, b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length") && !head.contains("<html"), "{head}");
    assert!(raw(&address, b"GET /etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    let long = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 64 * 1024], b"\r\n\r\n".to_vec()].concat();
    assert!(!raw(&address, &long).starts_with("HTTP/1.1 200"), "a head larger than 8 KiB");
    assert!(!raw(&address, b"not http at all\r\n\r\n").starts_with("HTTP/1.1 200"));

    // All places are taken by clients that say nothing; they are let go after the time for a head.
    let idle: Vec<_> = (0..4).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    let began = Instant::now();
    while !raw(&address, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 503") {
        assert!(began.elapsed() < PATIENCE, "nobody is turned away");
    }
    while !raw(&address, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 200") {
        assert!(began.elapsed() < PATIENCE, "idle clients hold the places for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(idle);
    assert!(daemon.status().await.observability.unwrap().turned_away > 0);
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_no_trouble_for_the_daemon_and_is_taken_when_it_is_free() {
    let stage = Stage::new(93, 3).await;
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    stage.overlay(&format!("[observability]\nlisten = \"{taken}\"\n"));
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    let listener = daemon.status().await.observability.unwrap();
    assert!(listener.address.is_none() && listener.trouble.unwrap().contains("in use"));
    daemon.until_logged("the status page is not there").await;
    drop(other);
    assert_eq!(address(&daemon).await, taken);
    assert_eq!(get(&taken, "/readyz").await.0, 200);
    // A reload moves it.
    let text = std::fs::read_to_string(stage.path("referrald.toml.d/10.toml")).unwrap();
    stage.overlay(&text.replace(&taken, "127.0.0.1:0"));
    daemon.signal("HUP");
    daemon
        .until("the other address", |status| {
            status.observability.as_ref().and_then(|listener| listener.address.clone()).is_some_and(|now| now != taken)
        })
        .await;
    assert_eq!(daemon.stop().await, 0);
}
