//! Certificates over the network: what is asked, how often, and what is never asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rcgen::{DnType, date_time_ymd};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::certificates::{
    CERTIFICATE_TIME_MAX, Certificates, FETCHES_PER_MINUTE, ISSUER_STEPS_MAX, PLACES_MAX, REFETCH_INTERVAL,
    REFUSED_TIME, read_folder,
};
use super::super::fetch::{CERTIFICATE_BYTES_MAX, Fetch, HttpFetch, Lookup};
use super::super::reason::Reason;
use super::super::signed::{Algorithm, Signed};
use super::super::signer::Trust;
use super::super::source::{Kind, Place, Sources};
use super::authority::*;

const WAIT: Duration = Duration::from_millis(500);

/// A network of a few files that writes down what it is asked.
#[derive(Default)]
pub(super) struct Net {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(super) asked: Mutex<Vec<String>>,
    pub(super) delay: Mutex<Duration>,
}

impl Net {
    pub(super) fn with(files: &[(&str, Vec<u8>)]) -> Arc<Net> {
        let net = Net::default();
        for (url, bytes) in files {
            net.put(url, bytes.clone());
        }
        Arc::new(net)
    }

    pub(super) fn put(&self, url: &str, bytes: Vec<u8>) {
        self.files.lock().expect("not poisoned").insert(url.to_owned(), bytes);
    }

    pub(super) fn count(&self) -> usize {
        self.asked.lock().expect("not poisoned").len()
    }
}

#[async_trait]
impl Fetch for Net {
    async fn fetch(&self, place: &Place, bytes_max: usize) -> Result<Vec<u8>, String> {
        let url = place.url().to_string();
        self.asked.lock().expect("not poisoned").push(url.clone());
        let delay = *self.delay.lock().expect("not poisoned");
        tokio::time::sleep(delay).await;
        let found = self.files.lock().expect("not poisoned").get(&url).cloned();
        found.filter(|bytes| bytes.len() <= bytes_max).ok_or_else(|| "the answer is 404".to_owned())
    }
}

fn certificates(net: &Arc<Net>, trust: Trust, folder: Vec<CertificateDer<'static>>) -> Certificates {
    noted(net, trust, folder, None)
}

fn noted(
    net: &Arc<Net>,
    trust: Trust,
    folder: Vec<CertificateDer<'static>>,
    note: Option<std::path::PathBuf>,
) -> Certificates {
    let rules = Arc::new(rules_for(trust, &["https://store.example/cert/"]));
    let issuers = Sources::new(Kind::Intermediate, &["http://issuers.example/certs/".to_owned()]).expect("prefixes");
    Certificates::new(rules, issuers, folder, net.clone(), Arc::new(now), note)
}

fn place(url: &str) -> Place {
    let sources = Sources::new(Kind::Certificate, &["https://store.example/cert/".to_owned()]).expect("prefixes");
    sources.admit(url).expect("an admitted URL")
}

fn signed(key: &Key) -> Signed {
    Signed { signature: key.sign(BODY), algorithm: Algorithm::RsaSha256, certificate_url: URL.to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_fetched_once_for_everybody_and_kept_for_a_day() {
    let root = Authority::root("Root");
    let net = Net::with(&[(URL, root.leaf(&FIRST))]);
    *net.delay.lock().expect("not poisoned") = Duration::from_millis(100);
    let certificates = certificates(&net, trust(&[&root]), Vec::new());
    let callers = (0..100).map(|_| {
        let certificates = certificates.clone();
        tokio::spawn(async move { certificates.signers(&place(URL), WAIT).await })
    });
    for caller in futures_util::future::join_all(callers).await {
        assert!(caller.expect("no panic").is_ok());
    }
    assert_eq!(net.count(), 1);
    tokio::time::sleep(CERTIFICATE_TIME_MAX - Duration::from_secs(60)).await;
    assert!(certificates.signers(&place(URL), WAIT).await.is_ok());
    assert_eq!(net.count(), 1);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(certificates.signers(&place(URL), WAIT).await.is_ok());
    assert_eq!(net.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_never_kept_past_its_end() {
    let root = Authority::root("Root");
    // It ends an hour from now.
    let leaf = root.odd_leaf(|params| params.not_after = date_time_ymd(2026, 11, 20) + Duration::from_secs(11 * 3600));
    let net = Net::with(&[(URL, leaf)]);
    let certificates = certificates(&net, trust(&[&root]), Vec::new());
    assert!(certificates.signers(&place(URL), WAIT).await.is_ok());
    tokio::time::sleep(Duration::from_secs(3601)).await;
    let _ = certificates.signers(&place(URL), WAIT).await;
    assert_eq!(net.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_certificate_is_no_answer_in_time_and_there_for_the_next_delivery() {
    let root = Authority::root("Root");
    let net = Net::with(&[(URL, root.leaf(&FIRST))]);
    *net.delay.lock().expect("not poisoned") = Duration::from_secs(3);
    let certificates = certificates(&net, trust(&[&root]), Vec::new());
    assert_eq!(certificates.signers(&place(URL), WAIT).await, Err(Reason::CertificateUnavailable));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(certificates.signers(&place(URL), WAIT).await.is_ok());
    assert_eq!(net.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_place_without_a_good_certificate_is_left_alone_for_a_while() {
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    for (files, expected) in [
        (vec![], Reason::CertificateUnavailable),
        (vec![(URL, b"<html>".to_vec())], Reason::CertificateUnreadable),
        (vec![(URL, other.leaf(&FIRST))], Reason::IssuerUnknown),
        (
            vec![(URL, root.odd_leaf(|params| params.distinguished_name = subject(&[(DnType::CommonName, NAME)])))],
            Reason::OrganizationRefused,
        ),
    ] {
        let net = Net::with(&files);
        let certificates = certificates(&net, trust(&[&root]), Vec::new());
        for _ in 0..50 {
            assert_eq!(certificates.signers(&place(URL), WAIT).await, Err(expected));
        }
        assert_eq!(net.count(), 1, "{expected}");
        tokio::time::sleep(REFUSED_TIME).await;
        net.put(URL, root.leaf(&FIRST));
        assert!(certificates.signers(&place(URL), WAIT).await.is_ok(), "{expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_at_the_old_place_is_found_once_a_minute_and_both_are_believed() {
    let root = Authority::root("Root");
    let net = Net::with(&[(URL, root.leaf(&FIRST))]);
    let certificates = certificates(&net, trust(&[&root]), Vec::new());
    let old = certificates.signers(&place(URL), WAIT).await.expect("the first");
    assert_eq!(old[0].check(&signed(&FIRST), BODY, now()), Ok(()));
    net.put(URL, root.leaf(&SECOND));
    let both = certificates.signers_anew(&place(URL), WAIT).await.expect("it is time").expect("the second");
    assert_eq!(both.len(), 2);
    assert_eq!(both[0].check(&signed(&SECOND), BODY, now()), Ok(()));
    assert_eq!(both[1].check(&signed(&FIRST), BODY, now()), Ok(()), "deliveries under way");
    for _ in 0..50 {
        assert_eq!(certificates.signers_anew(&place(URL), WAIT).await, None);
    }
    assert_eq!(net.count(), 2);
    // The same certificate again does not push the one before out, and there are never more than two.
    for round in 0..3 {
        tokio::time::sleep(REFETCH_INTERVAL).await;
        let now_there = certificates.signers_anew(&place(URL), WAIT).await.expect("it is time").expect("good ones");
        assert_eq!(now_there.len(), 2, "round {round}");
    }
    // A bad day at the place does not take the good ones away.
    net.put(URL, b"<html>".to_vec());
    tokio::time::sleep(REFETCH_INTERVAL).await;
    assert_eq!(certificates.signers_anew(&place(URL), WAIT).await.expect("it is time").expect("good ones").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn made_up_names_cost_few_fetches_little_memory_and_no_good_certificate() {
    let root = Authority::root("Root");
    let net = Net::with(&[(URL, root.leaf(&FIRST))]);
    let certificates = certificates(&net, trust(&[&root]), Vec::new());
    assert!(certificates.signers(&place(URL), WAIT).await.is_ok());
    for number in 0..1000 {
        let made_up = place(&format!("https://store.example/cert/{number}.cer"));
        assert!(certificates.signers(&made_up, WAIT).await.is_err());
    }
    assert!(net.count() <= 1 + FETCHES_PER_MINUTE * 2, "{}", net.count());
    assert!(certificates.place_count() <= PLACES_MAX);
    let before = net.count();
    assert!(certificates.signers(&place(URL), WAIT).await.is_ok());
    assert_eq!(net.count(), before, "the good one is still there");
    // Not even when it has to be fetched again, in the middle of it.
    tokio::time::sleep(CERTIFICATE_TIME_MAX).await;
    for number in 0..100 {
        let made_up = place(&format!("https://store.example/cert/again-{number}.cer"));
        assert!(certificates.signers(&made_up, WAIT).await.is_err());
    }
    assert!(certificates.signers(&place(URL), WAIT).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn intermediates_come_from_where_the_certificate_says_if_that_may_be_asked() {
    let root = Authority::root("Root");
    let issuing = root.below("Issuing CA");
    let leaf_naming = |url: &str| issuing.odd_leaf(|params| params.custom_extensions.push(issuer_url(url)));
    for (form, bytes) in [("DER", issuing.der.clone()), ("PEM", pem(&issuing.der))] {
        let url = "http://issuers.example/certs/Issuing%20CA.crt";
        let net = Net::with(&[(URL, leaf_naming(url)), (url, bytes)]);
        let certificates = certificates(&net, trust(&[&root]), Vec::new());
        assert!(certificates.signers(&place(URL), WAIT).await.is_ok(), "{form}");
        assert_eq!(*net.asked.lock().expect("not poisoned"), [URL, url]);
    }
    let url = "http://issuers.example/certs/renewed.crt";
    let net = Net::with(&[(URL, leaf_naming(url)), (url, issuing.der.clone())]);
    let old = CertificateDer::from(root.below("Issuing CA").der);
    let renewed = certificates(&net, trust(&[&root]), vec![old]);
    assert!(renewed.signers(&place(URL), WAIT).await.is_ok(), "an old one of the same name lies in the folder");
    for elsewhere in [
        "http://evil.example/certs/a.crt",
        "http://issuers.example/other/a.crt",
        "http://issuers.example/certs/../a.crt",
        "http://127.0.0.1/certs/a.crt",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ldap://issuers.example/certs/a.crt",
    ] {
        let net = Net::with(&[(URL, leaf_naming(elsewhere)), (elsewhere, issuing.der.clone())]);
        let certificates = certificates(&net, trust(&[&root]), Vec::new());
        assert_eq!(certificates.signers(&place(URL), WAIT).await, Err(Reason::IssuerUnknown), "{elsewhere}");
        assert_eq!(*net.asked.lock().expect("not poisoned"), [URL], "{elsewhere}");
    }
}

#[tokio::test(start_paused = true)]
async fn intermediates_are_asked_for_a_few_steps_and_only_for_a_certificate_that_claims_the_rest() {
    let root = Authority::root("Root");
    let url = |step: usize| format!("http://issuers.example/certs/{step}.crt");
    let mut chain = vec![root.below("Step 0")];
    for step in 1..6 {
        let below = chain[step - 1].below_with(&format!("Step {step}"), |params| {
            params.custom_extensions.push(issuer_url(&url(step - 1)));
        });
        chain.push(below);
    }
    for (depth, is_found) in [(0, true), (ISSUER_STEPS_MAX - 1, true), (ISSUER_STEPS_MAX, false), (5, false)] {
        let leaf = chain[depth].odd_leaf(|params| params.custom_extensions.push(issuer_url(&url(depth))));
        let net = Net::with(&[(URL, leaf)]);
        for (step, authority) in chain.iter().enumerate() {
            net.put(&url(step), authority.der.clone());
        }
        let certificates = certificates(&net, trust(&[&root]), Vec::new());
        assert_eq!(certificates.signers(&place(URL), WAIT).await.is_ok(), is_found, "{depth}");
        assert!(net.count() <= 1 + ISSUER_STEPS_MAX, "{depth}");
    }
    let forged = chain[0].odd_leaf(|params| {
        params.distinguished_name = subject(&[(DnType::OrganizationName, "Evil Corp"), (DnType::CommonName, NAME)]);
        params.custom_extensions.push(issuer_url(&url(0)));
    });
    let net = Net::with(&[(URL, forged), (&url(0), chain[0].der.clone())]);
    let certificates = certificates(&net, trust(&[&root]), Vec::new());
    assert_eq!(certificates.signers(&place(URL), WAIT).await, Err(Reason::OrganizationRefused));
    assert_eq!(net.count(), 1, "no intermediate was asked for");
}

#[tokio::test(start_paused = true)]
async fn intermediates_come_from_a_folder_without_asking_anybody() {
    let root = Authority::root("Root");
    let issuing = root.below("Issuing CA");
    let directory = tempfile::tempdir().expect("a directory");
    for (name, bytes) in [
        ("a.cer", issuing.der.clone()),
        ("b.pem", pem(&root.below("Other").der)),
        ("README", b"no certificate".to_vec()),
    ] {
        std::fs::write(directory.path().join(name), bytes).expect("written");
    }
    let folder = read_folder(directory.path()).expect("readable");
    assert_eq!(folder.len(), 2);
    let net = Net::with(&[(URL, issuing.leaf(&FIRST))]);
    let certificates = certificates(&net, trust(&[&root]), folder);
    assert!(certificates.signers(&place(URL), WAIT).await.is_ok());
    assert_eq!(net.count(), 1);
    std::fs::write(directory.path().join("c.crt"), "no certificate").expect("written");
    assert!(read_folder(directory.path()).expect_err("not readable").contains("c.crt"));
    assert!(read_folder(&directory.path().join("nowhere")).is_err());
}

#[tokio::test]
async fn the_last_good_certificate_is_fetched_at_the_next_start() {
    let root = Authority::root("Root");
    let directory = tempfile::tempdir().expect("a directory");
    let note = directory.path().join("state").join("webhook-certificate-url");
    let net = Net::with(&[(URL, root.leaf(&FIRST))]);
    let first = noted(&net, trust(&[&root]), Vec::new(), Some(note.clone()));
    first.prefetch();
    assert_eq!(net.count(), 0, "nothing is known yet");
    assert!(first.signers(&place(URL), PATIENCE).await.is_ok());
    while !note.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = noted(&net, trust(&[&root]), Vec::new(), Some(note.clone()));
    second.prefetch();
    while second.valid_until().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(net.count(), 2);
    std::fs::write(&note, "http://169.254.169.254/latest\n").expect("written");
    noted(&net, trust(&[&root]), Vec::new(), Some(note)).prefetch();
    assert_eq!(net.count(), 2, "a note is no permission");
}

/// A server on loopback that gives every connection the same bytes; the count of connections.
async fn server(answer: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&answer).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, count)
}

fn loopback_place(address: SocketAddr) -> Place {
    let sources = Sources::new(Kind::Certificate, &[format!("http://{address}/cert/")]).expect("a prefix");
    sources.admit(&format!("http://{address}/cert/a.cer")).expect("admitted")
}

async fn fetch_from(answer: Vec<u8>) -> Result<Vec<u8>, String> {
    let (address, _) = server(answer).await;
    HttpFetch::new("referrald", Vec::new())
        .expect("a client")
        .fetch(&loopback_place(address), CERTIFICATE_BYTES_MAX)
        .await
}

#[tokio::test]
async fn a_configured_loopback_literal_is_asked() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec();
    assert_eq!(fetch_from(answer).await, Ok(b"hello".to_vec()));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (target, count) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec()).await;
    for status in [301, 302, 303, 307, 308] {
        let answer =
            format!("HTTP/1.1 {status} Moved\r\nlocation: http://{target}/cert/a.cer\r\ncontent-length: 0\r\n\r\n");
        let refused = fetch_from(answer.into_bytes()).await.expect_err("refused");
        assert!(refused.contains(&status.to_string()), "{refused}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_large_answer_is_given_up() {
    let length = CERTIFICATE_BYTES_MAX + 1;
    let declared = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    assert!(fetch_from(declared).await.expect_err("refused").contains("larger"));
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000)).repeat(100);
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n").into_bytes();
    assert!(fetch_from(chunked).await.expect_err("refused").contains("larger"));
    let endless = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "x".repeat(10 * length)).into_bytes();
    assert!(fetch_from(endless).await.expect_err("refused").contains("larger"));
}

#[tokio::test]
async fn a_cut_answer_and_other_statuses_are_no_certificate() {
    assert!(fetch_from(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello".to_vec()).await.is_err());
    assert!(fetch_from(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello".to_vec()).await.is_err());
    assert!(fetch_from(b"HTTP/1.1 206 Partial Content\r\ncontent-length: 5\r\n\r\nhello".to_vec()).await.is_err());
    assert!(fetch_from(b"SSH-2.0-OpenSSH_9\r\n".to_vec()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_not_waited_for() {
    assert!(fetch_from(Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_name_that_leads_near_is_not_asked() {
    let (address, count) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec()).await;
    for addresses in [
        vec!["127.0.0.1"],
        vec!["10.0.0.1"],
        vec!["169.254.169.254"],
        vec!["100.64.0.1"],
        vec!["::1"],
        vec!["fe80::1"],
        vec!["fd00::1"],
        vec!["::ffff:127.0.0.1"],
        vec!["8.8.8.8", "127.0.0.1"],
        vec![],
    ] {
        let found: Vec<SocketAddr> =
            addresses.iter().map(|text| SocketAddr::new(text.parse().expect("an address"), 0)).collect();
        let lookup: Lookup = Arc::new(move |_| {
            let found = found.clone();
            Box::pin(async move { Ok(found) })
        });
        let fetch = HttpFetch::with_lookup("referrald", Vec::new(), lookup).expect("a client");
        let prefix = format!("https://store.example:{}/cert/", address.port());
        let sources = Sources::new(Kind::Certificate, std::slice::from_ref(&prefix)).expect("a prefix");
        let place = sources.admit(&format!("{prefix}a.cer")).expect("admitted");
        let refused = fetch.fetch(&place, CERTIFICATE_BYTES_MAX).await.expect_err("refused");
        assert!(refused.contains("not a public one"), "{addresses:?}: {refused}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_private_literal_is_not_asked_even_when_it_is_configured() {
    for prefix in [
        "https://10.0.0.1/cert/",
        "https://169.254.169.254/cert/",
        "https://[fd00::1]/cert/",
        "https://[::ffff:127.0.0.1]/cert/",
    ] {
        let sources = Sources::new(Kind::Certificate, &[prefix.to_owned()]).expect("a prefix");
        let Some(place) = sources.admit(&format!("{prefix}a.cer")) else { continue };
        let fetch = HttpFetch::new("referrald", Vec::new()).expect("a client");
        let refused = fetch.fetch(&place, CERTIFICATE_BYTES_MAX).await.expect_err("refused");
        assert!(refused.contains("not a public one"), "{prefix}: {refused}");
    }
}
