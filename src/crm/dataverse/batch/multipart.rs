//! The form of a batch: multipart/mixed, each part an HTTP message (dataverse §5.1).

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use url::Position;

use crate::http::{Answer, Call, Response};

/// Headers that a part of an answer may have.
const HEADERS_MAX: usize = 64;

/// What every part of ours begins with.
const PART: &str = "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n";

/// The body of a batch: every call with its own headers, lines ended by CR LF throughout.
pub fn body(boundary: &str, calls: &[&Call]) -> Vec<u8> {
    let mut body = Vec::new();
    for call in calls {
        let target = &call.url[Position::BeforePath..Position::AfterQuery];
        body.extend_from_slice(format!("--{boundary}\r\n{PART}{} {target} HTTP/1.1\r\n", call.method).as_bytes());
        for (name, value) in &call.headers {
            body.extend_from_slice(name.as_str().as_bytes());
            body.extend_from_slice(b": ");
            body.extend_from_slice(value.as_bytes());
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(call.body.as_deref().unwrap_or_default());
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

/// The parts of an answer in their order; `None` when it is no such answer, or one that cannot be taken apart surely.
/// A last part that is cut off is left out: nobody knows what it wanted to say.
pub fn parts(answer: &Answer) -> Option<Vec<Response>> {
    let boundary = boundary(answer.headers.get(CONTENT_TYPE)?.to_str().ok()?)?;
    sections(&answer.body, boundary)?.into_iter().map(|section| message(&answer.body, section)).collect()
}

/// The boundary is the answer's own, quoted or not.
fn boundary(content_type: &str) -> Option<&str> {
    let mut parameters = content_type.split(';').map(str::trim);
    if !parameters.next()?.eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let (_, value) =
        parameters.filter_map(|text| text.split_once('=')).find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    let value = value.trim_matches('"');
    (!value.is_empty()).then_some(value)
}

/// Where each part begins and ends, without the boundary lines around it.
fn sections(body: &[u8], boundary: &str) -> Option<Vec<std::ops::Range<usize>>> {
    let mark = format!("--{boundary}");
    let (mut sections, mut open, mut at) = (Vec::new(), None, 0);
    while at < body.len() {
        let end = body[at..].iter().position(|byte| *byte == b'\n').map_or(body.len(), |length| at + length + 1);
        let line = body[at..end].trim_ascii_end();
        if let Some(rest) = line.strip_prefix(mark.as_bytes()) {
            let is_last = rest == b"--";
            if is_last || rest.is_empty() {
                sections.extend(open.map(|begin| begin..at));
                open = (!is_last).then_some(end);
                if is_last {
                    return Some(sections);
                }
            }
        }
        at = end;
    }
    // Without an end the open part is cut off; without any mark this is something else.
    (open.is_some() || !sections.is_empty()).then_some(sections)
}

/// One part: headers of the part, a blank line, an HTTP answer.
fn message(body: &Bytes, section: std::ops::Range<usize>) -> Option<Response> {
    let part = body.slice(section);
    let mut blank = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let httparse::Status::Complete((head, headers)) = httparse::parse_headers(&part, &mut blank).ok()? else {
        return None;
    };
    let is_message = headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("content-type")
            && header.value.trim_ascii().to_ascii_lowercase().starts_with(b"application/http")
    });
    if !is_message {
        return None;
    }
    let message = part.slice(head..);
    let mut blank = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut blank);
    let httparse::Status::Complete(length) = response.parse(&message).ok()? else { return None };
    let mut headers = HeaderMap::new();
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    let status = StatusCode::from_u16(response.code?).ok()?;
    let end = message.len() - (message.len() - message.trim_ascii_end().len());
    let body = message.slice(length..end.max(length));
    Some(Response { status, headers, body })
}
