//! `referrald webhook verify`: one delivery, judged as the listener would, and the rule that failed.

use std::io::Write;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::super::arguments::Evidence;
use super::super::exit::Exit;
use super::super::layout::fitted;
use super::super::{Failure, print_json};
use crate::config::Settings;
use crate::config::secret::read_limited;
use crate::model::Timestamp;
use crate::trigger::webhook::certificates::Certificates;
use crate::trigger::webhook::desk::ANSWER_TIME_MAX;
use crate::trigger::webhook::fetch::FETCH_TIME_MAX;
use crate::trigger::webhook::reason::Reason;
use crate::trigger::webhook::signed::CERTIFICATE_URL;
use crate::trigger::webhook::verify::{Evidence as Bytes, Rules, read_headers, verify as judge};
use crate::trigger::webhook::{fetcher, folder, rules};

/// Judges one delivery. With a certificate file nothing is fetched.
pub(super) async fn verify(
    settings: &Settings,
    evidence: &Evidence,
    is_json: bool,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let headers = read_header_file(&evidence.headers)?;
    let body = read(&evidence.body)?;
    let (rules, intermediate_sources) =
        rules(&settings.webhook).map_err(|problems| Failure::Other(problems.join("\n")))?;
    let folder = folder(&settings.webhook).map_err(Failure::Other)?;
    let now = Timestamp::from(jiff::Timestamp::now());
    let verdict = match &evidence.certificate {
        Some(file) => {
            let certificate = read(file)?;
            let bytes = Bytes { headers: &headers, body: &body, certificate: &certificate, intermediates: &folder };
            judge(&bytes, &rules, now)
        }
        None => {
            let rules = std::sync::Arc::new(rules);
            let fetch = fetcher(&settings.http).map_err(Failure::Other)?;
            let clock = std::sync::Arc::new(|| Timestamp::from(jiff::Timestamp::now()));
            let certificates = Certificates::new(rules.clone(), intermediate_sources, folder, fetch, clock, None);
            over_the_network(&headers, &body, &rules, &certificates, now).await
        }
    };
    let (code, sentence) = match &verdict {
        Ok(()) => ("verified", "every rule holds; the listener would answer 200"),
        Err(reason) => (reason.code(), reason.sentence()),
    };
    let url = headers.get(CERTIFICATE_URL).and_then(|value| value.to_str().ok());
    if is_json {
        let status = verdict.as_ref().err().map_or(200, |reason| reason.status().as_u16());
        let value = json!({"verdict": code, "sentence": sentence, "status": status, "certificate_url": url, "body_bytes": body.len()});
        print_json(out, &value)?;
    } else {
        write!(out, "{}", fitted(&format!("{code}: {sentence}")))?;
        writeln!(out, "  body: {} bytes", body.len())?;
        // Not wrapped: it is there to be copied.
        writeln!(out, "  certificate: {}", url.unwrap_or("not named"))?;
    }
    Ok(if verdict.is_ok() { Exit::Fine } else { Exit::Failed })
}

async fn over_the_network(
    headers: &HeaderMap,
    body: &[u8],
    rules: &Rules,
    certificates: &Certificates,
    now: Timestamp,
) -> Result<(), Reason> {
    let signed = read_headers(headers, rules)?;
    let place = rules.certificate_sources.admit(&signed.certificate_url).ok_or(Reason::UrlRefused)?;
    // A person waits longer than a sender: the certificate, and its issuers.
    let signers = certificates.signers(&place, FETCH_TIME_MAX * 4 + ANSWER_TIME_MAX).await?;
    let signer = signers.first().ok_or(Reason::CertificateUnavailable)?;
    signer.check(&signed, body, now)
}

/// Header lines as they are captured: `Name: value`, or the request's first line, which is skipped.
fn read_header_file(file: &Path) -> Result<HeaderMap, Failure> {
    let bytes = read(file)?;
    let mut headers = HeaderMap::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || number == 0 && line.starts_with(b"POST ") {
            continue;
        }
        let wrong = || Failure::Other(format!("{}, line {}: expected `Name: value`", file.display(), number + 1));
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii()).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| wrong())?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    read_limited(file).map_err(|why| Failure::Other(format!("{} cannot be read: {why}", file.display())))
}
