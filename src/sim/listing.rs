//! Listing referrals: order, filter, pages, and the defects of the real listing (partner-center §1.3, §1.4).

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use uuid::Uuid;

use super::clock::{Ticks, ticks_of};
use super::exchange::{Answer, Request, decode};
use super::faults::Class;
use super::odata::{Filter, Literal, Operator, orders};
use super::options::{LinkForm, Paging, PortalOptions, Role, UpdatedFilter};
use super::referrals::{Referrals, Row, invalid, plain};
use super::world::Turn;

/// Snapshots kept at once.
const SNAPSHOTS_MAX: usize = 32;
/// How far back a stale listing lags, in ticks: one minute.
const STALE_TICKS: Ticks = 600_000_000;

/// Everything a page needs to know; it travels in the skip token.
#[derive(Clone, Debug)]
struct Scan {
    by_updated: bool,
    is_descending: bool,
    filter: String,
    select: String,
    /// Rows that may still be returned.
    left: u64,
    /// Rows seen so far.
    offset: usize,
    /// The last row of the page before.
    last: Option<(Ticks, Uuid)>,
    snapshot: Option<u64>,
    /// Tells equal tokens apart.
    nonce: u32,
}

impl Referrals {
    pub(crate) fn list(
        &mut self,
        options: &PortalOptions,
        request: &Request,
        class: Option<Class>,
        turn: &mut Turn<'_>,
    ) -> Answer {
        match options.role {
            Role::Admin => {}
            Role::Stranger => return Answer::json(200, serde_json::json!({"@odata.count": 0, "value": []})),
            Role::Nobody => {
                return Answer::portal_error(403, "accessDenied", "the user has no role for referrals", None);
            }
        }
        match self.page(options, request, class, turn) {
            Ok(answer) | Err(answer) => answer,
        }
    }

    fn page(
        &mut self,
        options: &PortalOptions,
        request: &Request,
        class: Option<Class>,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        let asked = request.raw_parameter("$skiptoken");
        let mut scan = match asked {
            Some(token) => Scan::from_token(token).ok_or_else(|| invalid("the skip token is damaged"))?,
            None => Scan::from_request(request)?,
        };
        let filter = scan.parsed_filter(options)?;
        let page_size = options.page_size.min(usize::try_from(scan.left).unwrap_or(usize::MAX));
        if options.paging == Paging::Snapshot && scan.snapshot.is_none() {
            scan.snapshot = Some(self.keep_snapshot(&scan, filter.as_ref(), turn));
        }
        if options.begins_empty && asked.is_none() {
            let token = scan.token(options);
            return Ok(self.envelope(options, &scan, Vec::new(), Some(token), None, turn));
        }
        let mut found = match class {
            Some(Class::RepeatedPage) if asked.is_some() => {
                scan.nonce += 1;
                let ids = self.last_page.clone();
                return Ok(self.envelope(options, &scan, ids, Some(scan.token(options)), None, turn));
            }
            Some(Class::StaleList) => {
                let after = ticks_of(turn.now) - STALE_TICKS;
                let rows =
                    self.stale_order(&scan, after).into_iter().filter(|(_, id)| self.is_shown(*id, &filter, turn));
                rows.skip(scan.offset).take(page_size + 1).collect()
            }
            _ => self.rows_of(&scan, options.paging, &filter, page_size + 1, turn),
        };
        let has_more = found.len() > page_size;
        found.truncate(page_size);
        let mut next = scan.clone();
        next.offset += found.len();
        next.left = next.left.saturating_sub(found.len() as u64);
        next.last = found.last().copied().or(scan.last);
        let mut token = (has_more && next.left > 0).then(|| next.token(options));
        if class == Some(Class::LoopingToken) && token.is_some() {
            token = asked.map(str::to_owned).or(token);
        }
        let mut ids: Vec<Uuid> = found.into_iter().map(|(_, id)| id).collect();
        self.last_page = ids.clone();
        if class == Some(Class::ReorderedPage) {
            ids.shuffle(turn.rng);
        }
        let stale = (class == Some(Class::StaleList)).then(|| ticks_of(turn.now) - STALE_TICKS);
        Ok(self.envelope(options, &scan, ids, token, stale, turn))
    }

    fn rows_of(
        &self,
        scan: &Scan,
        paging: Paging,
        filter: &Option<Filter>,
        count: usize,
        turn: &Turn<'_>,
    ) -> Vec<(Ticks, Uuid)> {
        let shown = |id: Uuid| self.is_shown(id, filter, turn);
        match (paging, scan.snapshot.and_then(|number| self.snapshots.get(&number))) {
            (Paging::Snapshot, Some(ids)) => ids.iter().skip(scan.offset).take(count).map(|id| (0, *id)).collect(),
            (Paging::Key, _) => self.walk(scan, scan.last).filter(|(_, id)| shown(*id)).take(count).collect(),
            _ => self.walk(scan, None).filter(|(_, id)| shown(*id)).skip(scan.offset).take(count).collect(),
        }
    }

    fn walk(&self, scan: &Scan, after: Option<(Ticks, Uuid)>) -> Box<dyn Iterator<Item = (Ticks, Uuid)> + '_> {
        let set = if scan.by_updated { &self.by_updated } else { &self.by_created };
        match (scan.is_descending, after) {
            (false, None) => Box::new(set.iter().copied()),
            (true, None) => Box::new(set.iter().rev().copied()),
            (false, Some(last)) => Box::new(set.range((Excluded(last), Unbounded)).copied()),
            (true, Some(last)) => Box::new(set.range(..last).rev().copied()),
        }
    }

    /// The order as it was before the changes of the last minute.
    fn stale_order(&self, scan: &Scan, after: Ticks) -> Vec<(Ticks, Uuid)> {
        let mut rows: Vec<(Ticks, Uuid)> = self
            .rows
            .iter()
            .filter(|(_, row)| row.created <= after)
            .map(|(id, row)| {
                let updated = row.previous.as_ref().filter(|_| row.updated > after).map_or(row.updated, |(at, _)| *at);
                (if scan.by_updated { updated } else { row.created }, *id)
            })
            .collect();
        rows.sort_unstable();
        if scan.is_descending {
            rows.reverse();
        }
        rows
    }

    fn is_shown(&self, id: Uuid, filter: &Option<Filter>, turn: &Turn<'_>) -> bool {
        let Some(row) = self.rows.get(&id) else { return false };
        row.hidden_until.is_none_or(|until| until <= turn.now)
            && filter
                .as_ref()
                .is_none_or(|filter| filter.fits(&|property| row.document.pointer(&format!("/{property}"))))
    }

    fn keep_snapshot(&mut self, scan: &Scan, filter: Option<&Filter>, turn: &Turn<'_>) -> u64 {
        let filter = filter.cloned();
        let ids = self.walk(scan, None).map(|(_, id)| id).filter(|id| self.is_shown(*id, &filter, turn)).collect();
        let number = self.snapshots.last_key_value().map_or(0, |(number, _)| number + 1);
        self.snapshots.insert(number, ids);
        while self.snapshots.len() > SNAPSHOTS_MAX {
            self.snapshots.pop_first();
        }
        number
    }

    fn envelope(
        &self,
        options: &PortalOptions,
        scan: &Scan,
        ids: Vec<Uuid>,
        token: Option<String>,
        stale_after: Option<Ticks>,
        turn: &mut Turn<'_>,
    ) -> Answer {
        let rows: Vec<Arc<Value>> =
            ids.iter().filter_map(|id| Some(shown(options, scan, self.rows.get(id)?, stale_after))).collect();
        // The count is sometimes that of the page, sometimes anything else (partner-center §1.4).
        let count = if turn.rng.random_bool(0.5) { rows.len() } else { 100 };
        let mut body = json!({
            "@odata.context": format!("{}/v1.0/$metadata#Referrals", plain(&options.url)),
            "@odata.count": count,
            "value": null,
        });
        if let Some(token) = token {
            body["@odata.nextLink"] = match options.link_form {
                LinkForm::Defective => format!("{}/v1.0/referrals?$skiptoken={token}", plain(&options.url)),
                LinkForm::Relative => format!("/v1.0/engagements/referrals?$skiptoken={token}"),
                LinkForm::Correct => format!("{}/v1.0/engagements/referrals?$skiptoken={token}", options.url),
            }
            .into();
        }
        Answer::page(body, rows)
    }
}

fn shown(options: &PortalOptions, scan: &Scan, row: &Row, stale_after: Option<Ticks>) -> Arc<Value> {
    let is_stale = stale_after.is_some_and(|after| row.updated > after);
    let mut document = match &row.previous {
        Some((_, previous)) if is_stale => Arc::clone(previous),
        _ => Arc::clone(&row.document),
    };
    if options.lists_etags && scan.select.is_empty() {
        return document;
    }
    if let Value::Object(map) = Arc::make_mut(&mut document) {
        if !options.lists_etags {
            map.remove("eTag");
        }
        if !scan.select.is_empty() {
            let wanted: Vec<&str> = scan.select.split(',').map(str::trim).collect();
            map.retain(|name, _| wanted.contains(&name.as_str()));
        }
    }
    document
}

impl Scan {
    fn from_request(request: &Request) -> Result<Scan, Answer> {
        let order = orders(&request.parameter("$orderby").unwrap_or_default());
        let (by_updated, is_descending) = match order.as_slice() {
            [] => (false, true),
            [order] if order.property == "createdDateTime" => (false, order.is_descending),
            [order] if order.property == "updatedDateTime" => (true, order.is_descending),
            _ => return Err(invalid("$orderby takes createdDateTime or updatedDateTime")),
        };
        let left = match request.parameter("$top") {
            None => u64::MAX,
            Some(text) => text.parse().map_err(|_| invalid("$top is no number"))?,
        };
        Ok(Scan {
            by_updated,
            is_descending,
            filter: request.parameter("$filter").unwrap_or_default(),
            select: request.parameter("$select").unwrap_or_default(),
            left,
            offset: 0,
            last: None,
            snapshot: None,
            nonce: 0,
        })
    }

    fn parsed_filter(&self, options: &PortalOptions) -> Result<Option<Filter>, Answer> {
        if self.filter.is_empty() {
            return Ok(None);
        }
        let filter = Filter::parse(&self.filter).map_err(|message| invalid(&message))?;
        match is_documented(&filter, options) {
            true => Ok(Some(filter)),
            false => Err(invalid("the filter is not supported")),
        }
    }

    /// The token in the documented form: long, opaque, lower-case percent-hex.
    fn token(&self, options: &PortalOptions) -> String {
        let last = self.last.map(|(ticks, id)| json!([ticks, id]));
        let state = json!({
            "u": self.by_updated, "d": self.is_descending, "f": self.filter, "s": self.select, "l": self.left,
            "o": self.offset, "p": last, "n": self.snapshot, "x": self.nonce,
        });
        let mut bytes = state.to_string().into_bytes();
        bytes.push(b'\n');
        let mut noise = crc32fast::hash(&bytes) | 1;
        while bytes.len() < options.token_bytes {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            bytes.push(noise.to_le_bytes()[0]);
        }
        STANDARD.encode(&bytes).replace('+', "%2b").replace('/', "%2f").replace('=', "%3d")
    }

    fn from_token(token: &str) -> Option<Scan> {
        let bytes = STANDARD.decode(decode(token)).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let state: Value = serde_json::from_slice(&bytes[..end]).ok()?;
        let text = |name: &str| state[name].as_str().map(str::to_owned);
        let last = match &state["p"] {
            Value::Array(pair) => Some((pair.first()?.as_i64()?, Uuid::try_parse(pair.get(1)?.as_str()?).ok()?)),
            _ => None,
        };
        Some(Scan {
            by_updated: state["u"].as_bool()?,
            is_descending: state["d"].as_bool()?,
            filter: text("f")?,
            select: text("s")?,
            left: state["l"].as_u64()?,
            offset: usize::try_from(state["o"].as_u64()?).ok()?,
            last,
            snapshot: state["n"].as_u64(),
            nonce: u32::try_from(state["x"].as_u64()?).ok()?,
        })
    }
}

/// Only what some document shows (partner-center §1.3): `eq`, `and`, brackets, `any`, and `ge` where it is switched on.
fn is_documented(filter: &Filter, options: &PortalOptions) -> bool {
    const FIELDS: [&str; 7] = [
        "engagementId",
        "status",
        "substatus",
        "qualification",
        "direction",
        "type",
        "customerProfile/address/country",
    ];
    match filter {
        Filter::And(parts) => parts.iter().all(|part| is_documented(part, options)),
        Filter::Compare(property, Operator::Ge, literal) if property == "updatedDateTime" => {
            match (options.updated_filter, literal) {
                (UpdatedFilter::Bare, Literal::Word(_)) | (UpdatedFilter::Quoted, Literal::Text(_)) => true,
                (UpdatedFilter::Refused | UpdatedFilter::Bare | UpdatedFilter::Quoted, _) => false,
            }
        }
        Filter::Compare(property, Operator::Eq, Literal::Text(_)) => FIELDS.contains(&property.as_str()),
        Filter::Any(list, property, Operator::Eq, _) => list == "team" && property == "email",
        Filter::Or(_) | Filter::Not(_) | Filter::In(..) | Filter::Among(..) => false,
        Filter::Compare(..) | Filter::Any(..) => false,
    }
}
