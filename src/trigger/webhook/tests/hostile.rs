//! What strangers send: over real sockets, to the real listener. Nothing is accepted, and nobody else is asked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{DnType, KeyUsagePurpose, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::certificates::PLACES_MAX;
use super::super::desk::{BODY_BYTES_MAX, Desk};
use super::super::tally::VERIFIED;
use super::super::{Standing, Webhook};
use super::authority::*;
use super::delivery::desk;
use super::fetching::Net;
use crate::config::Settings;
use crate::trigger::Bell;

/// A listener with a network of its own behind it.
struct Stage {
    webhook: Webhook,
    net: Arc<Net>,
    address: SocketAddr,
    bell: Bell,
}

impl Stage {
    async fn new(files: &[(&str, Vec<u8>)], root: &Authority, connections_max: u32) -> Stage {
        Stage::with(files, root, connections_max, Duration::from_millis(300)).await
    }

    async fn with(
        files: &[(&str, Vec<u8>)],
        root: &Authority,
        connections_max: u32,
        request_timeout: Duration,
    ) -> Stage {
        let net = Net::with(files);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut settings = Settings::defaults().webhook;
        settings.connections_max = connections_max;
        settings.debounce = crate::config::HumanDuration::from_millis(1);
        let bell = Bell::new();
        let desk = Arc::new(Desk { request_timeout, ..desk(root, &net) });
        let webhook = Webhook::over(vec![listener], desk, &settings, PathBuf::new(), bell.clone());
        Stage { webhook, net, address, bell }
    }

    async fn send(&self, request: &[u8]) -> u16 {
        self.send_in_pieces(&[request]).await
    }

    /// Sends bytes, ends its side where it is asked to, and gives the status of the first answer; 0 when there is none.
    async fn send_in_pieces(&self, pieces: &[&[u8]]) -> u16 {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        for piece in pieces {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        status(&mut stream).await
    }

    fn standing(&self) -> Standing {
        self.webhook.standing()
    }
}

/// The status of the first answer; 0 when the connection ends without one.
async fn status(stream: &mut TcpStream) -> u16 {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    let reading = async {
        while bytes.len() < 12 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the listener never lets a connection hang");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).unwrap_or(0)
}

/// A request as bytes; content type and length are added, unless a line of that name is given.
fn raw(lines: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    raw_with("POST /partner-center HTTP/1.1", lines, body)
}

fn raw_with(first: &str, lines: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let usual = [("host", "hook.example"), ("content-type", "application/json"), ("content-length", length.as_str())];
    let has = |name: &str| lines.iter().any(|(given, _)| given.trim_start_matches('-') == name);
    let mut text = format!("{first}\r\n").into_bytes();
    for (name, value) in usual.iter().filter(|(name, _)| !has(name)).chain(lines) {
        if !name.starts_with('-') {
            text.extend(format!("{name}: {value}\r\n").into_bytes());
        }
    }
    [text, b"\r\n".to_vec(), body.to_vec()].concat()
}

fn signature_of(signature: &[u8]) -> String {
    format!("Signature {}", STANDARD.encode(signature))
}

/// The lines of a good delivery of this body.
fn good_lines(body: &[u8]) -> Vec<(&'static str, String)> {
    vec![
        ("authorization", signature_of(&FIRST.sign(body))),
        ("x-ms-certificate-url", URL.to_owned()),
        ("x-ms-signature-algorithm", "rsa-sha256".to_owned()),
    ]
}

/// Good lines with some of them changed (a value), left out (`None`) or added.
fn lines_but(changes: &[(&'static str, Option<&str>)]) -> Vec<(&'static str, String)> {
    let mut lines = good_lines(BODY);
    for (name, value) in changes {
        lines.retain(|(given, _)| given != name);
        lines.extend(value.map(|value| (*name, value.to_owned())));
    }
    lines
}

fn borrowed<'a>(lines: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    lines.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn changed(changes: &[(&'static str, Option<&str>)]) -> Vec<u8> {
    raw(&borrowed(&lines_but(changes)), BODY)
}

fn good(body: &[u8]) -> Vec<u8> {
    raw(&borrowed(&good_lines(body)), body)
}

fn at(url: &str, signature: &[u8]) -> Vec<u8> {
    changed(&[("authorization", Some(&signature_of(signature))), ("x-ms-certificate-url", Some(url))])
}

const PLACE: &str = "https://store.example/cert/";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_strangers_send_is_accepted_or_leads_elsewhere() {
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let evil = root.odd_leaf(|params| {
        params.distinguished_name = subject(&[(DnType::OrganizationName, "Evil Corp"), (DnType::CommonName, NAME)]);
    });
    let twice = root.odd_leaf(|params| {
        let parts = [
            (DnType::OrganizationName, "Microsoft Corporation"),
            (DnType::CustomDnType(vec![2, 5, 4, 10]), "Evil Corp"),
            (DnType::CommonName, NAME),
        ];
        params.distinguished_name = subject(&parts);
    });
    let certificates: Vec<(&str, Vec<u8>)> = vec![
        ("other-root", other.leaf(&FIRST)),
        ("self-signed", self_signed(&FIRST)),
        ("other-organization", evil),
        ("two-organizations", twice),
        (
            "other-name",
            root.odd_leaf(|params| {
                params.subject_alt_names.clear();
                params.distinguished_name = subject(&[
                    (DnType::OrganizationName, "Microsoft Corporation"),
                    (DnType::CommonName, "www.microsoft.com"),
                ]);
            }),
        ),
        ("expired", root.odd_leaf(|params| params.not_after = date_time_ymd(2026, 2, 1))),
        ("future", root.odd_leaf(|params| params.not_before = date_time_ymd(2026, 12, 1))),
        ("no-signatures", root.odd_leaf(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment])),
        ("weak", root.leaf_with(&Weak::new(), |_| {})),
        ("page", b"<html>hello</html>".to_vec()),
        ("empty", Vec::new()),
        ("huge", vec![0x30; 100_000]),
        (
            "issuer-elsewhere",
            other.odd_leaf(|params| params.custom_extensions.push(issuer_url("http://169.254.169.254/a.crt"))),
        ),
    ];
    let mut files: Vec<(String, Vec<u8>)> =
        certificates.iter().map(|(name, bytes)| (format!("{PLACE}{name}.cer"), bytes.clone())).collect();
    files.push((URL.to_owned(), root.leaf(&FIRST)));
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(url, bytes)| (url.as_str(), bytes.clone())).collect();
    let stage = Stage::new(&files, &root, 16).await;

    let signature = FIRST.sign(BODY);
    let mut flipped = signature.clone();
    flipped[7] ^= 0x40;
    let mut requests: Vec<(String, Vec<u8>, u16)> = Vec::new();
    let mut add = |name: &str, request: Vec<u8>, expected: u16| requests.push((name.to_owned(), request, expected));

    // Forged and tampered.
    add("no headers", raw(&[], BODY), 400);
    add("no signature", changed(&[("authorization", None)]), 400);
    add("no certificate", changed(&[("x-ms-certificate-url", None)]), 400);
    add("no algorithm", changed(&[("x-ms-signature-algorithm", None)]), 400);
    add("another key", at(URL, &SECOND.sign(BODY)), 401);
    add("a flipped bit", at(URL, &flipped), 401);
    add("zeros", at(URL, &[0; 256]), 401);
    add("another padding", at(URL, &FIRST.sign_pss(BODY)), 401);
    add("another hash", at(URL, &FIRST.sign_sha512(BODY)), 401);
    add("a signature that is too short", at(URL, &signature[..255]), 401);
    add("a signature that is too long", at(URL, &[signature.clone(), vec![0; 128]].concat()), 401);
    add("no base64", changed(&[("authorization", Some("Signature !!!"))]), 401);
    let other_body = BODY.to_ascii_uppercase();
    add("a tampered body", raw(&borrowed(&good_lines(BODY)), &other_body), 401);
    add("an empty body", raw(&borrowed(&good_lines(BODY)), b""), 401);
    add("a body with a mark", raw(&borrowed(&good_lines(BODY)), &[b"\xef\xbb\xbf", BODY].concat()), 401);
    add(
        "a replayed signature over another event",
        raw(&borrowed(&good_lines(BODY)), br#"{"EventName":"referral-created"}"#),
        401,
    );
    // Algorithms.
    for name in ["rsa-sha1", "rsa-md5", "none", "hs256", "rsa", "rsa-sha256 ", "rsa-sha256;rsa-sha1", "\u{1F511}"] {
        let expected = if name.trim() == "rsa-sha256" { continue } else { 401 };
        add(&format!("algorithm {name}"), changed(&[("x-ms-signature-algorithm", Some(name))]), expected);
    }
    // Confused headers.
    let prefixed = signature_of(&signature);
    let wrong = signature_of(&SECOND.sign(BODY));
    add("Bearer", changed(&[("authorization", Some("Bearer abc"))]), 401);
    add(
        "Bearer beside a good signature",
        changed(&[("authorization", Some("Bearer abc")), ("x-ms-signature", Some(&prefixed))]),
        401,
    );
    add("Basic with the signature", changed(&[("authorization", Some(&prefixed.replace("Signature", "Basic")))]), 401);
    add("no scheme", changed(&[("authorization", Some(&prefixed["Signature ".len()..]))]), 401);
    add("two that differ", changed(&[("x-ms-signature", Some(&wrong))]), 401);
    add(
        "two that differ, the other way round",
        changed(&[("authorization", Some(&wrong)), ("x-ms-signature", Some(&prefixed))]),
        401,
    );
    let mut doubled = good_lines(BODY);
    doubled.push(("authorization", wrong.clone()));
    add("Authorization twice", raw(&borrowed(&doubled), BODY), 401);
    let mut doubled = good_lines(BODY);
    doubled.push(("x-ms-certificate-url", "https://evil.example/cert/a.cer".to_owned()));
    add("two certificates", raw(&borrowed(&doubled), BODY), 401);
    let mut doubled = good_lines(BODY);
    doubled.push(("x-ms-signature-algorithm", "none".to_owned()));
    add("two algorithms", raw(&borrowed(&doubled), BODY), 401);
    // Certificates.
    for (name, _) in &certificates {
        let expected = if *name == "huge" { 503 } else { 401 };
        add(&format!("certificate {name}"), at(&format!("{PLACE}{name}.cer"), &signature), expected);
    }
    // Places that are not ours to ask.
    for url in [
        "http://store.example/cert/a.cer",
        "https://evil.example/cert/a.cer",
        "https://store.example.evil.example/cert/a.cer",
        "https://store.example@evil.example/cert/a.cer",
        "https://user:word@store.example/cert/a.cer",
        "https://store.example:8443/cert/a.cer",
        "https://store.example/cert/../a.cer",
        "https://store.example/cert/%2e%2e/a.cer",
        "https://store.example/cert/..%2fa.cer",
        "https://store.example/cert/a.cer?x=1",
        "https://store.example/cert/a.cer#x",
        "https://store.example/cert\\a.cer",
        "https:\\\\store.example\\cert\\a.cer",
        "https://store.example/other/a.cer",
        "https://store.example/cert/a.crt",
        "http://127.0.0.1/cert/a.cer",
        "https://127.0.0.1/cert/a.cer",
        "http://[::1]/cert/a.cer",
        "http://[::ffff:127.0.0.1]/cert/a.cer",
        "http://localhost/cert/a.cer",
        "http://0/cert/a.cer",
        "http://127.1/cert/a.cer",
        "http://2130706433/cert/a.cer",
        "http://0x7f000001/cert/a.cer",
        "http://0177.0.0.1/cert/a.cer",
        "http://169.254.169.254/latest/meta-data/a.cer",
        "http://10.0.0.1/cert/a.cer",
        "http://192.168.1.1/cert/a.cer",
        "http://[fd00::1]/cert/a.cer",
        "http://metadata.google.internal/cert/a.cer",
        "file:///etc/passwd.cer",
        "ftp://store.example/cert/a.cer",
        "gopher://store.example/cert/a.cer",
        "data:application/x-x509-ca-cert;base64,AAAA.cer",
        "unix:/run/docker.sock/a.cer",
        "//store.example/cert/a.cer",
        "https://store.example/cert/a.cer https://evil.example/",
        "https://store\u{2024}example/cert/a.cer",
        "cert/a.cer",
    ] {
        add(&format!("place {url}"), at(url, &signature), 401);
    }
    let long = format!("{PLACE}{}.cer", "a".repeat(2000));
    add("a long place", at(&long, &signature), 401);
    // The shape of the request.
    let lines = good_lines(BODY);
    let lines = borrowed(&lines);
    for method in ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        add(method, raw_with(&format!("{method} /partner-center HTTP/1.1"), &lines, BODY), 405);
    }
    for path in [
        "/",
        "/partner-center/",
        "/partner-center/../partner-center",
        "//partner-center",
        "/Partner-Center",
        "/status",
        "*",
    ] {
        add(&format!("path {path}"), raw_with(&format!("POST {path} HTTP/1.1"), &lines, BODY), 404);
    }
    for kind in ["text/plain", "application/xml", "application/jsonx", "multipart/form-data", ""] {
        let with = [lines.clone(), vec![("content-type", kind)]].concat();
        add(&format!("content type {kind}"), raw(&with, BODY), 415);
    }
    add("packed", raw(&[lines.clone(), vec![("content-encoding", "gzip")]].concat(), BODY), 415);
    add("too large, as declared", raw(&[lines.clone(), vec![("content-length", "10000000")]].concat(), BODY), 413);
    let huge = vec![b'x'; BODY_BYTES_MAX + 1];
    let chunk = [format!("{:x}\r\n", huge.len()).into_bytes(), huge, b"\r\n0\r\n\r\n".to_vec()].concat();
    add(
        "too large, in chunks",
        raw(&[lines.clone(), vec![("transfer-encoding", "chunked"), ("-content-length", "")]].concat(), &chunk),
        413,
    );
    add(
        "a chunk without an end",
        raw(&[lines.clone(), vec![("transfer-encoding", "chunked"), ("-content-length", "")]].concat(), b"5\r\nhel"),
        408,
    );
    add(
        "a chunk of nonsense",
        raw(
            &[lines.clone(), vec![("transfer-encoding", "chunked"), ("-content-length", "")]].concat(),
            b"zz\r\nhello\r\n",
        ),
        400,
    );
    add("a body that does not come", raw(&[lines.clone(), vec![("content-length", "500")]].concat(), b"{"), 408);
    let many: Vec<(&str, &str)> = (0..200).map(|_| ("x-more", "1")).chain(lines.clone()).collect();
    add("many headers", raw(&many, BODY), 431);
    let fat = "x".repeat(20_000);
    add("a fat header", raw(&[lines.clone(), vec![("x-more", fat.as_str())]].concat(), BODY), 431);
    // Smuggled.
    let inner = good(b"{}");
    let inner = String::from_utf8_lossy(&inner).into_owned();
    add(
        "two lengths",
        raw(&[vec![("content-length", "5"), ("content-length", "200")], lines.clone()].concat(), BODY),
        400,
    );
    add(
        "length and chunks",
        raw(&[lines.clone(), vec![("content-length", "4"), ("transfer-encoding", "chunked")]].concat(), b"0\r\n\r\n"),
        400,
    );
    add(
        "chunks and length",
        raw(&[vec![("transfer-encoding", "chunked"), ("content-length", "4")], lines.clone()].concat(), b"0\r\n\r\n"),
        400,
    );
    add(
        "an odd encoding",
        raw(&[vec![("transfer-encoding", "xchunked"), ("-content-length", "")], lines.clone()].concat(), b"0\r\n\r\n"),
        400,
    );
    add("a negative length", raw(&[vec![("content-length", "-1")], lines.clone()].concat(), BODY), 400);
    add("a length with a plus", raw(&[vec![("content-length", "+5")], lines.clone()].concat(), BODY), 400);
    add(
        "a line that is folded",
        b"POST /partner-center HTTP/1.1\r\nhost: a\r\nx: y\r\n authorization: Signature x\r\n\r\n".to_vec(),
        400,
    );
    add(
        "a name with a blank",
        b"POST /partner-center HTTP/1.1\r\nhost: a\r\nauthorization : Signature x\r\n\r\n".to_vec(),
        400,
    );
    add(
        "a NUL in a header",
        b"POST /partner-center HTTP/1.1\r\nhost: a\r\nauthorization: Sig\0nature x\r\n\r\n".to_vec(),
        400,
    );
    add("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400);
    add("another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400);
    add("half a head", b"POST /partner-center HTTP/1.1\r\nhost: a\r\n".to_vec(), 0);
    add("nothing", Vec::new(), 0);
    add("a request inside the body", raw(&lines, inner.as_bytes()), 401);

    assert!(requests.len() >= 60, "{}", requests.len());
    let mut wrong = Vec::new();
    for (name, request, expected) in &requests {
        let status = stage.send(request).await;
        // What hyper makes of a broken head is its business, as long as it is a refusal.
        let is_fine = status == *expected || [400, 0].contains(expected) && [0, 400, 401, 408, 415].contains(&status);
        if !is_fine {
            wrong.push(format!("{name}: {status} and not {expected}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());

    let standing = stage.standing();
    assert_eq!(standing.counts.verdicts.get(VERIFIED), None, "{:?}", standing.counts);
    assert_eq!(standing.counts.rings, 0);
    let asked = stage.net.asked.lock().expect("not poisoned").clone();
    assert!(asked.iter().all(|url| url.starts_with(PLACE)), "{asked:?}");
    assert!(asked.len() <= 20, "{} fetches", asked.len());
    println!("{} requests, 0 accepted, {} fetches, all of them allowed", requests.len(), asked.len());

    // After all of that a good one is taken.
    assert_eq!(stage.send(&good(BODY)).await, 200);
    tokio::time::timeout(PATIENCE, stage.bell.rung()).await.expect("it rings");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_may_come_in_small_pieces_and_several_on_one_connection() {
    let root = Authority::root("Root");
    let stage = Stage::new(&[(URL, root.leaf(&FIRST))], &root, 16).await;
    let request = good(BODY);
    let pieces: Vec<&[u8]> = request.chunks(50).collect();
    assert_eq!(stage.send_in_pieces(&pieces).await, 200);
    let chunked: Vec<u8> = BODY
        .chunks(20)
        .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
        .collect();
    let lines = good_lines(BODY);
    let lines = [borrowed(&lines), vec![("transfer-encoding", "chunked"), ("-content-length", "")]].concat();
    assert_eq!(stage.send(&raw(&lines, &[chunked, b"0\r\n\r\n".to_vec()].concat())).await, 200);
    let mut stream = TcpStream::connect(stage.address).await.expect("a connection");
    for _ in 0..3 {
        stream.write_all(&request).await.expect("written");
        assert_eq!(status(&mut stream).await, 200);
    }
    assert_eq!(stage.standing().counts.verdicts[VERIFIED], 5);
}

async fn slow_ones(stage: &Stage, count: usize) -> Vec<TcpStream> {
    let mut slow = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(stage.address).await.expect("a connection");
        stream.write_all(b"POST /partner-center HTTP/1.1\r\nhost: a\r\n").await.expect("written");
        slow.push(stream);
    }
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_places_are_told_to_come_back() {
    let root = Authority::root("Root");
    let stage = Stage::with(&[(URL, root.leaf(&FIRST))], &root, 4, PATIENCE).await;
    let slow = slow_ones(&stage, 4).await;
    // Accepted in order, so all places are taken now. The answer may be lost with the connection.
    assert!([503, 0].contains(&stage.send(&good(BODY)).await));
    assert!(stage.standing().counts.verdicts["busy"] >= 1);
    drop(slow);
    while stage.send(&good(BODY)).await != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_are_ended() {
    let root = Authority::root("Root");
    let stage = Stage::new(&[(URL, root.leaf(&FIRST))], &root, 4).await;
    for stream in &mut slow_ones(&stage, 4).await {
        assert!([0, 408].contains(&status(stream).await), "a slow head keeps no place for long");
    }
    while stage.send(&good(BODY)).await != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_made_up_places_leaves_memory_bounded() {
    let root = Authority::root("Root");
    let stage = Stage::new(&[(URL, root.leaf(&FIRST))], &root, 16).await;
    assert_eq!(stage.send(&good(BODY)).await, 200);
    let signature = FIRST.sign(BODY);
    for number in 0..300 {
        let status = stage.send(&at(&format!("{PLACE}{number}.cer"), &signature)).await;
        assert_eq!(status, 503);
    }
    assert!(stage.net.count() <= 1 + 2 * super::super::certificates::FETCHES_PER_MINUTE, "{}", stage.net.count());
    assert!(stage.webhook.place_count() <= PLACES_MAX);
    assert_eq!(stage.send(&good(BODY)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_dropped_closes_its_port() {
    let root = Authority::root("Root");
    let Stage { webhook, address, .. } = Stage::new(&[], &root, 4).await;
    drop(webhook);
    let mut tries = 0;
    while TcpStream::connect(address).await.is_ok() {
        tries += 1;
        assert!(tries < 3000, "still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
