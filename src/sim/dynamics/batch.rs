//! Many operations in one request: `$batch` as multipart/mixed, with change sets (dataverse §5.1).

use super::super::exchange::{Answer, Body, Request};
use super::super::journal::{Item, Note};
use super::super::manners;
use super::super::options::CrmOptions;
use super::super::world::Turn;
use super::Dynamics;

/// Operations in one batch.
const OPERATIONS_MAX: usize = 1000;
/// Header of a part that carries a request or an answer.
const PART: &str = "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n";

/// One part of a batch.
enum Part {
    One(Request),
    ChangeSet(Vec<(String, Request)>),
}

impl Part {
    fn count(&self) -> usize {
        match self {
            Part::One(_) => 1,
            Part::ChangeSet(requests) => requests.len(),
        }
    }
}

impl Dynamics {
    pub(super) fn batch(
        &mut self,
        options: &CrmOptions,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        turn.note.operation = Some("batch");
        let parts = parts_of(options, request)?;
        let operations: usize = parts.iter().map(Part::count).sum();
        let further = u32::try_from(operations.saturating_sub(1)).unwrap_or(u32::MAX);
        self.protection.charge(&options.limits, further, turn.now);
        let goes_on = request.prefers("odata.continue-on-error");
        let boundary = format!("batchresponse_{}", turn.guid());
        let mut body = String::new();
        let mut status = 200;
        for part in &parts {
            let failure = match part {
                Part::One(one) => {
                    let answer = self.item(options, one, turn);
                    body.push_str(&format!("--{boundary}\r\n{PART}\r\n{}", printed(&answer)));
                    (answer.status >= 400).then_some(answer.status)
                }
                Part::ChangeSet(requests) => match self.change_set(options, requests, turn) {
                    Ok(answers) => {
                        let inner = format!("changesetresponse_{}", turn.guid());
                        body.push_str(&format!(
                            "--{boundary}\r\nContent-Type: multipart/mixed; boundary={inner}\r\n\r\n"
                        ));
                        for (id, answer) in answers {
                            body.push_str(&format!("--{inner}\r\n{PART}Content-ID: {id}\r\n\r\n{}", printed(&answer)));
                        }
                        body.push_str(&format!("--{inner}--\r\n"));
                        None
                    }
                    // One error takes the place of the whole set.
                    Err(answer) => {
                        body.push_str(&format!("--{boundary}\r\n{PART}\r\n{}", printed(&answer)));
                        Some(answer.status)
                    }
                },
            };
            if let Some(failure) = failure.filter(|_| !goes_on) {
                status = failure;
                break;
            }
        }
        body.push_str(&format!("--{boundary}--\r\n"));
        let mut answer = Answer::empty(status).with("content-type", &format!("multipart/mixed; boundary={boundary}"));
        answer.body = Body::Bytes(body.into_bytes());
        turn.note.operation = Some("batch");
        Ok(answer)
    }

    /// Runs one operation and notes it as an item of its own.
    fn item(&mut self, options: &CrmOptions, request: &Request, turn: &mut Turn<'_>) -> Answer {
        let mut note = Note::default();
        let mut inner = Turn { now: turn.now, by: turn.by, rng: &mut *turn.rng, note: &mut note };
        let answer = match request.path.ends_with("/$batch") {
            true => Answer::crm_error(400, "0x80060888", "A batch cannot hold a batch."),
            false => self.route(options, request, &mut inner).unwrap_or_else(|answer| answer),
        };
        turn.note.is_committed |= note.is_committed;
        turn.note.events.append(&mut note.events);
        turn.note.items.push(Item {
            operation: note.operation.unwrap_or("other"),
            method: request.method.clone(),
            path: format!("{}?{}", request.path, request.query),
            status: answer.status,
            subject: note.subject,
            written: note.written,
            if_match: request.header("if-match").map(str::to_owned),
            if_none_match: request.header("if-none-match").map(str::to_owned),
            is_committed: note.is_committed,
            refusal: note.refusal,
            goes_on: note.goes_on,
        });
        answer
    }

    /// All or nothing.
    fn change_set(
        &mut self,
        options: &CrmOptions,
        requests: &[(String, Request)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<(String, Answer)>, Answer> {
        let before = self.clone();
        let (items, events) = (turn.note.items.len(), turn.note.events.len());
        let mut places: Vec<(String, String)> = Vec::new();
        let mut answers = Vec::new();
        for (id, request) in requests {
            let answer = match referred(request, &places) {
                Ok(request) => self.item(options, &request, turn),
                Err(answer) => answer,
            };
            if answer.status >= 400 {
                *self = before;
                for item in &mut turn.note.items[items..] {
                    item.is_committed = false;
                }
                turn.note.events.truncate(events);
                turn.note.is_committed = turn.note.items.iter().any(|item| item.is_committed);
                return Err(answer);
            }
            if let Some(place) = answer.header("odata-entityid") {
                places.push((format!("${id}"), place.to_owned()));
            }
            answers.push((id.clone(), answer));
        }
        Ok(answers)
    }
}

/// Puts the places of rows that were created earlier where `$1` stands.
fn referred(request: &Request, places: &[(String, String)]) -> Result<Request, Answer> {
    let mut body = String::from_utf8_lossy(&request.body).into_owned();
    for (name, place) in places {
        body = body.replace(&format!("\"{name}\""), &format!("\"{place}\""));
    }
    let open = body
        .find("\"$")
        .map(|at| &body[at + 1..])
        .filter(|rest| rest[1..].starts_with(|one: char| one.is_ascii_digit()));
    if let Some(rest) = open {
        let name = rest.split('"').next().unwrap_or_default();
        let message = format!("Content-ID Reference: '{name}' does not exist in the batch context.");
        return Err(Answer::crm_error(400, "0x80060888", &message));
    }
    Ok(Request { body: body.into_bytes(), ..request.clone() })
}

fn printed(answer: &Answer) -> String {
    let status = http::StatusCode::from_u16(answer.status).ok();
    let reason = status.and_then(|status| status.canonical_reason()).unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", answer.status);
    for (name, value) in &answer.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("OData-Version: 4.0\r\n\r\n");
    text.push_str(&answer.body.text());
    text.push_str("\r\n");
    text
}

fn parts_of(options: &CrmOptions, request: &Request) -> Result<Vec<Part>, Answer> {
    let text = String::from_utf8_lossy(&request.body).into_owned();
    let boundary = request.header("content-type").and_then(boundary_of).ok_or_else(|| malformed("no boundary"))?;
    let mut parts = Vec::new();
    let mut count = 0;
    for piece in pieces(&text, &boundary)? {
        let (head, rest) = headed(piece)?;
        if let Some(inner) = value_of(&head, "content-type").as_deref().and_then(boundary_of) {
            let mut requests = Vec::new();
            for piece in pieces(rest, &inner)? {
                let (head, rest) = headed(piece)?;
                let Some(id) = value_of(&head, "content-id") else {
                    let message = "The Content-ID header is missing in a change set part.";
                    return Err(Answer::crm_error(400, "0x80060888", message));
                };
                let one = operation(options, rest, request)?;
                if !one.is_write() {
                    return Err(malformed("a change set holds no GET"));
                }
                requests.push((id, one));
            }
            count += requests.len();
            parts.push(Part::ChangeSet(requests));
        } else {
            count += 1;
            parts.push(Part::One(operation(options, rest, request)?));
        }
    }
    if count > OPERATIONS_MAX {
        return Err(malformed("a batch holds at most 1000 operations"));
    }
    Ok(parts)
}

fn boundary_of(content_type: &str) -> Option<String> {
    if !content_type.to_ascii_lowercase().starts_with("multipart/mixed") {
        return None;
    }
    let value = content_type.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The texts between the boundary lines; the last line must close.
fn pieces<'a>(text: &'a str, boundary: &str) -> Result<Vec<&'a str>, Answer> {
    let mark = format!("--{boundary}");
    let end = text.find(&format!("{mark}--")).ok_or_else(|| malformed("the closing boundary is missing"))?;
    let pieces = text[..end].split(&format!("{mark}\r\n")).skip(1).collect::<Vec<_>>();
    if pieces.is_empty() { Err(malformed("there is no part; lines end with CR LF")) } else { Ok(pieces) }
}

/// Splits headers from what follows the blank line.
fn headed(piece: &str) -> Result<(Vec<&str>, &str), Answer> {
    let (head, rest) = piece.split_once("\r\n\r\n").ok_or_else(|| malformed("a message header is invalid"))?;
    Ok((head.split("\r\n").collect(), rest))
}

fn value_of(head: &[&str], name: &str) -> Option<String> {
    let pairs = head.iter().filter_map(|line| line.split_once(':'));
    pairs.into_iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

fn operation(options: &CrmOptions, text: &str, outer: &Request) -> Result<Request, Answer> {
    let (head, body) = headed(text)?;
    let mut words = head.first().copied().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        return Err(malformed("a request line is invalid"));
    };
    let path = target.strip_prefix(options.url.as_str()).unwrap_or(target);
    let mut request = Request::new(method, path);
    request.is_trusted = outer.is_trusted;
    for (name, value) in head.iter().skip(1).filter_map(|line| line.split_once(':')) {
        request = request.with(name.trim(), value.trim());
    }
    request.body = body.trim_end_matches("\r\n").as_bytes().to_vec();
    match manners::unlike(&request, "application/json") {
        Some(refusal) => Err(refusal),
        None => Ok(request),
    }
}

fn malformed(message: &str) -> Answer {
    Answer::crm_error(400, "0x80048d19", &format!("The stream is not readable: {message}."))
}
