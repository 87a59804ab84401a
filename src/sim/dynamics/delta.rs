//! Change tracking: delta links over whole tables (dataverse §4.1).

use serde_json::{Value, json};
use uuid::Uuid;

use crate::model::Timestamp;

use super::super::exchange::{Answer, Request, decode, encode};
use super::super::options::CrmOptions;
use super::super::world::Turn;
use super::{Dynamics, ROOT, Table};

/// Whether a listing asks for a delta link or follows one.
pub(super) fn is_wanted(request: &Request) -> bool {
    request.prefers("odata.track-changes") || request.raw_parameter("$deltatoken").is_some()
}

/// The answer to a link that was given out too long ago.
pub(crate) fn expired() -> Answer {
    let message = "Version stamp associated with the client has expired. Please perform a full sync.";
    Answer::crm_error(400, "0x80044352", message)
}

/// Where a reader stands: everything up to `version` is known; this reading began at `from` and ends at `until`.
struct Position {
    from: u64,
    version: u64,
    until: u64,
    /// The first reading shows no deletions.
    is_first: bool,
    began: Timestamp,
}

impl Dynamics {
    /// Tells whoever follows changes that a lead is gone, although it is there.
    pub fn announce_deletion(&mut self, lead: Uuid) {
        self.versions += 1;
        self.deletions.insert(lead, self.versions);
    }

    pub(super) fn changes(
        &mut self,
        options: &CrmOptions,
        table: Table,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        turn.note.operation = Some("track changes");
        if !options.tracks_changes {
            return Err(Answer::crm_error(400, "0x80072491", "Change tracking is not enabled for this entity."));
        }
        for name in ["$filter", "$orderby", "$expand", "$top"] {
            if request.raw_parameter(name).is_some() {
                let name = &name[1..];
                let message =
                    format!("The \"{name}\" query parameter isn't supported when Change Tracking is enabled.");
                return Err(Answer::crm_error(400, "0x80060888", &message));
            }
        }
        let position = self.position(options, request, turn.now)?;
        let page_size = request.preference("odata.maxpagesize").and_then(|text| text.parse().ok());
        let page_size = page_size.unwrap_or(options.page_size_max).clamp(1, options.page_size_max);
        let rows = self.tables.get(&table).into_iter().flat_map(|rows| &rows.rows);
        let inside = |version: u64| version > position.version && version <= position.until;
        let mut found: Vec<(u64, Uuid)> =
            rows.filter(|(_, row)| inside(row.version)).map(|(id, row)| (row.version, *id)).collect();
        found.sort_unstable();
        let has_more = found.len() > page_size;
        found.truncate(page_size);
        let select = request.parameter("$select");
        let mut values = Vec::with_capacity(found.len());
        for (_, id) in &found {
            values.push(self.render(table, *id, select.as_deref(), None, request)?);
        }
        let base = request.query.split('&').filter(|pair| !pair.contains("token=")).collect::<Vec<_>>().join("&");
        let link = |from: u64, version: u64, until: u64, is_first: bool, began: Timestamp| {
            let kind = if is_first { "first" } else { "delta" };
            let token = encode(&format!("{from}!{version}!{until}!{kind}!{}", began.millis()));
            format!("{}{ROOT}{}?{base}&$deltatoken={token}", options.url, table.set())
        };
        let mut body = json!({"@odata.context": format!("{}{ROOT}$metadata#{}/$delta", options.url, table.set())});
        if has_more {
            let last = found.last().map_or(position.version, |(version, _)| *version);
            body["@odata.nextLink"] =
                link(position.from, last, position.until, position.is_first, position.began).into();
        } else {
            // Deletions come last, those of the whole reading, and only of leads is a record kept.
            if table == Table::Lead && !position.is_first {
                let context = format!("{}{ROOT}$metadata#leads/$deletedEntity", options.url);
                let gone =
                    self.deletions.iter().filter(|(_, version)| (position.from + 1..=position.until).contains(version));
                values.extend(gone.map(|(id, _)| json!({"@odata.context": context, "id": id, "reason": "deleted"})));
            }
            body["@odata.deltaLink"] = link(position.until, position.until, 0, false, turn.now).into();
        }
        body["value"] = Value::Array(values);
        Ok(Answer::json(200, body).with("preference-applied", "odata.track-changes"))
    }

    fn position(&self, options: &CrmOptions, request: &Request, now: Timestamp) -> Result<Position, Answer> {
        let Some(token) = request.raw_parameter("$deltatoken") else {
            return Ok(Position { from: 0, version: 0, until: self.versions, is_first: true, began: now });
        };
        let text = decode(token);
        let parts: Vec<&str> = text.split('!').collect();
        let position = match parts.as_slice() {
            [from, version, until, kind, began] => {
                let number = |text: &str| text.parse::<u64>().ok();
                let place = number(from).zip(number(version)).zip(number(until)).zip(began.parse::<i64>().ok());
                place.map(|(((from, version), until), began)| Position {
                    from,
                    version,
                    until: if until == 0 { self.versions } else { until },
                    is_first: *kind == "first",
                    began: Timestamp::from_millis(began),
                })
            }
            _ => None,
        };
        let Some(position) = position else {
            return Err(Answer::crm_error(400, "0x80060888", "The delta token is malformed."));
        };
        if now.since(position.began) > options.delta_life {
            return Err(expired());
        }
        Ok(position)
    }
}
