//! Reading rows: selection, filters, orders, pages (dataverse §2.4, §4.3).

use std::cmp::Ordering;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::exchange::{Answer, Body, Request, decode, encode};
use super::super::odata::{Filter, Order, orders, parts, rank};
use super::super::options::CrmOptions;
use super::super::world::Turn;
use super::{Column, Dynamics, Kind, ROOT, Row, Table};

impl Dynamics {
    pub(super) fn read(
        &mut self,
        options: &CrmOptions,
        table: Table,
        key: &str,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        turn.note.operation = Some(match table {
            Table::Lead => "get lead",
            Table::Opportunity => "get opportunity",
            _ => "get row",
        });
        let target = self.target(table, key)?;
        turn.note.subject = target.id;
        let Some(id) = target.id.filter(|_| target.exists) else { return Err(self.missing(table, &target)) };
        let expand = request.parameter("$expand");
        let etag = self.row(table, id).map(Row::etag).unwrap_or_default();
        let is_plain = expand.is_none() && request.preference("odata.include-annotations").is_none();
        if is_plain && request.header("if-none-match") == Some(etag.as_str()) {
            return Ok(Answer::empty(304).with("etag", &etag));
        }
        let select = request.parameter("$select");
        let mut body = self.render(table, id, select.as_deref(), expand.as_deref(), request)?;
        body["@odata.context"] = format!("{}{ROOT}$metadata#{}/$entity", options.url, table.set()).into();
        Ok(Answer::json(200, body).with("etag", &etag))
    }

    pub(super) fn count(&self, table: Table, turn: &mut Turn<'_>) -> Answer {
        turn.note.operation = Some("count");
        let count = self.tables.get(&table).map_or(0, |rows| rows.rows.len()).min(5000);
        let mut answer = Answer::empty(200).with("content-type", "text/plain");
        answer.body = Body::Bytes(format!("\u{feff}{count}").into_bytes());
        answer
    }

    pub(super) fn list(
        &mut self,
        options: &CrmOptions,
        table: Table,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        turn.note.operation = Some(match table {
            Table::Lead => "list leads",
            Table::Opportunity => "list opportunities",
            _ => "list rows",
        });
        if request.raw_parameter("$skip").is_some() {
            return Err(bad("The query parameter $skip is not supported."));
        }
        let (base, cookie) = split_token(&request.query)?;
        let filter = match request.parameter("$filter") {
            None => None,
            Some(text) => Some(Filter::parse(&text).map_err(|message| bad(&message))?),
        };
        if self.times_out_searches && filter.iter().flat_map(Filter::properties).any(|name| name == "subject") {
            return Err(Answer::crm_error(500, "0x80044151", "SQL timeout expired."));
        }
        let order = orders(&request.parameter("$orderby").unwrap_or_default());
        for property in
            filter.iter().flat_map(Filter::properties).chain(order.iter().map(|order| order.property.as_str()))
        {
            self.known(table, property)?;
        }
        let asked = request.preference("odata.maxpagesize").and_then(|text| text.parse().ok());
        let page_size: usize = asked.unwrap_or(options.page_size_max).clamp(1, options.page_size_max);
        let top = request.parameter("$top").filter(|_| asked.is_none()).and_then(|text| text.parse().ok());
        let mut found = self.matching(table, filter.as_ref(), turn);
        found.sort_by(|left, right| self.in_order(table, &order, *left, *right));
        let total = found.len();
        if let Some(cookie) = &cookie {
            found.retain(|id| self.is_after(table, &order, *id, cookie));
        }
        found.truncate(top.unwrap_or(usize::MAX));
        let has_more = found.len() > page_size;
        found.truncate(page_size);
        turn.note.goes_on = has_more;
        let (select, expand) = (request.parameter("$select"), request.parameter("$expand"));
        let shown = self.shown(table, select.as_deref())?;
        let mut rows = Vec::with_capacity(found.len());
        for id in &found {
            rows.push(self.rendered(table, *id, &shown, expand.as_deref(), request)?);
        }
        let mut body = json!({
            "@odata.context": format!("{}{ROOT}$metadata#{}", options.url, table.set()),
            "value": null,
        });
        body["value"] = Value::Array(rows);
        if request.parameter("$count").as_deref() == Some("true") {
            body["@odata.count"] = total.min(5000).into();
        }
        if let Some(last) = found.last().filter(|_| has_more) {
            let page = cookie.as_ref().map_or(2, |cookie| cookie.page + 1);
            let token = self.cookie(table, &order, *last, page, &base);
            body["@odata.nextLink"] = format!("{}{ROOT}{}?{base}&$skiptoken={token}", options.url, table.set()).into();
        }
        Ok(Answer::json(200, body))
    }

    /// Rows that fit, by the index that narrows most.
    fn matching(&self, table: Table, filter: Option<&Filter>, turn: &Turn<'_>) -> Vec<Uuid> {
        let Some(rows) = self.tables.get(&table) else { return Vec::new() };
        let fits = |id: &Uuid, row: &Row| {
            !self.out_of_reach.contains(id)
                && row.hidden_until.is_none_or(|until| until <= turn.now)
                && filter.is_none_or(|filter| filter.fits(&|property| self.resolve(table, row, property)))
        };
        let ids = filter.and_then(|filter| filter.only_ids(table.key()));
        let since = filter.and_then(|filter| filter.not_before("modifiedon"));
        match (ids, since) {
            (Some(mut ids), _) => {
                ids.sort_unstable();
                ids.dedup();
                ids.retain(|id| rows.rows.get(id).is_some_and(|row| fits(id, row)));
                ids
            }
            (None, Some(since)) => {
                let from = (since.div_euclid(10_000_000), Uuid::nil());
                let newer = rows.modified.range(from..).map(|(_, id)| *id);
                newer.filter(|id| rows.rows.get(id).is_some_and(|row| fits(id, row))).collect()
            }
            (None, None) => rows.rows.iter().filter(|(id, row)| fits(id, row)).map(|(id, _)| *id).collect(),
        }
    }

    /// The value of a property, also through a single-valued lookup (`originatingleadid/subject`).
    fn resolve<'a>(&'a self, table: Table, row: &'a Row, property: &str) -> Option<&'a Value> {
        match property.split_once('/') {
            None => row.columns.get(property),
            Some((nav, rest)) => {
                let (other, id) = self.follow(table, row, nav)?;
                self.row(other, id)?.columns.get(rest)
            }
        }
    }

    fn follow(&self, table: Table, row: &Row, nav: &str) -> Option<(Table, Uuid)> {
        let (column, targets) = self.navigation(table, nav)?;
        let id = row.id(&column.property)?;
        targets
            .iter()
            .filter(|(name, _)| name == nav)
            .map(|(_, table)| (*table, id))
            .find(|(table, id)| self.row(*table, *id).is_some())
    }

    fn navigation(&self, table: Table, nav: &str) -> Option<(&Column, &[(String, Table)])> {
        self.columns_of(table).iter().find_map(|column| match &column.kind {
            Kind::Lookup(targets) if targets.iter().any(|(name, _)| name == nav) => Some((column, targets.as_slice())),
            _ => None,
        })
    }

    fn known(&self, table: Table, property: &str) -> Result<(), Answer> {
        let is_known = match property.split_once('/') {
            None => self.column(table, property).is_some(),
            Some((nav, rest)) => self
                .navigation(table, nav)
                .is_some_and(|(_, targets)| targets.iter().any(|(_, other)| self.column(*other, rest).is_some())),
        };
        if is_known { Ok(()) } else { Err(no_property(table, property)) }
    }

    fn in_order(&self, table: Table, order: &[Order], left: Uuid, right: Uuid) -> Ordering {
        for one in order {
            let ordering = self.rank_of(
                table,
                one,
                self.value(table, left, &one.property),
                self.value(table, right, &one.property),
            );
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        left.cmp(&right)
    }

    fn rank_of(&self, _table: Table, order: &Order, left: &Value, right: &Value) -> Ordering {
        let ordering = rank(left, right);
        if order.is_descending { ordering.reverse() } else { ordering }
    }

    fn is_after(&self, table: Table, order: &[Order], id: Uuid, cookie: &Cookie) -> bool {
        for (one, last) in order.iter().zip(&cookie.values) {
            match self.rank_of(table, one, self.value(table, id, &one.property), last) {
                Ordering::Greater => return true,
                Ordering::Less => return false,
                Ordering::Equal => {}
            }
        }
        id > cookie.last
    }

    fn cookie(&self, table: Table, order: &[Order], last: Uuid, page: u64, base: &str) -> String {
        let values = order.iter().map(|one| self.value(table, last, &one.property).clone()).collect();
        Cookie { values, last, page, query: crc32fast::hash(base.as_bytes()) }.to_token()
    }

    /// One row as JSON.
    pub(super) fn render(
        &self,
        table: Table,
        id: Uuid,
        select: Option<&str>,
        expand: Option<&str>,
        request: &Request,
    ) -> Result<Value, Answer> {
        self.rendered(table, id, &self.shown(table, select)?, expand, request)
    }

    /// The properties that a row shows. Unknown columns in `$select` are refused (dataverse §4.3).
    fn shown<'a>(&'a self, table: Table, select: Option<&'a str>) -> Result<BTreeSet<&'a str>, Answer> {
        let Some(select) = select else {
            return Ok(self.columns_of(table).iter().map(|column| column.property.as_str()).collect());
        };
        let mut shown = BTreeSet::from([table.key()]);
        for property in parts(select) {
            let Some(column) = self.column(table, property) else { return Err(no_property(table, property)) };
            shown.insert(property);
            if matches!(column.kind, Kind::Money(_)) {
                shown.insert("_transactioncurrencyid_value");
            }
            if property.starts_with("address1_") {
                shown.insert("address1_composite");
            }
        }
        Ok(shown)
    }

    fn rendered(
        &self,
        table: Table,
        id: Uuid,
        shown: &BTreeSet<&str>,
        expand: Option<&str>,
        request: &Request,
    ) -> Result<Value, Answer> {
        let Some(row) = self.row(table, id) else { return Err(super::no_such(table, id)) };
        if self.unprintable.contains(&id) {
            return Err(Answer::crm_error(500, "0x80040224", "An unexpected error occurred from ISV code."));
        }
        let mut body = Map::new();
        body.insert("@odata.etag".into(), row.etag().into());
        for property in shown {
            body.insert((*property).to_owned(), row.get(property).clone());
        }
        self.annotate(table, row, &mut body, request);
        for part in expand.map(parts).unwrap_or_default() {
            let (nav, inner) = part.split_once('(').map_or((part, None), |(nav, inner)| (nav, Some(inner)));
            if self.navigation(table, nav).is_none() {
                return Err(no_property(table, nav));
            }
            let select = inner.and_then(|inner| inner.trim_end_matches(')').strip_prefix("$select="));
            let value = match self.follow(table, row, nav) {
                Some((other, id)) => self.render(other, id, select, None, request)?,
                None => Value::Null,
            };
            body.insert(nav.to_owned(), value);
        }
        Ok(Value::Object(body))
    }

    fn annotate(&self, table: Table, row: &Row, body: &mut Map<String, Value>, request: &Request) {
        let Some(wanted) = request.header("prefer").filter(|text| text.contains("odata.include-annotations")) else {
            return;
        };
        let has = |name: &str| wanted.contains('*') || wanted.contains(name);
        for property in body.keys().cloned().collect::<Vec<_>>() {
            let Some(column) = self.column(table, &property) else { continue };
            match &column.kind {
                Kind::Lookup(targets) if has("lookuplogicalname") => {
                    let id = row.id(&property);
                    let target = targets.iter().find(|(_, table)| id.is_some_and(|id| self.row(*table, id).is_some()));
                    if let Some((_, target)) = target {
                        let name = format!("{property}@Microsoft.Dynamics.CRM.lookuplogicalname");
                        body.insert(name, target.name().into());
                    }
                }
                Kind::Status(codes) if has("FormattedValue") => {
                    let code = row.get(&property).as_i64();
                    let label =
                        codes.iter().find(|(one, _, _)| code == Some(i64::from(*one))).map(|(_, _, label)| *label);
                    if let Some(label) = label {
                        body.insert(format!("{property}@OData.Community.Display.V1.FormattedValue"), label.into());
                    }
                }
                _ => {}
            }
        }
    }
}

/// Where a listing goes on: the last row and its values in the order asked for.
struct Cookie {
    values: Vec<Value>,
    last: Uuid,
    page: u64,
    /// Checksum of the query it belongs to.
    query: u32,
}

impl Cookie {
    fn to_token(&self) -> String {
        let state = json!({"v": self.values, "i": self.last, "q": self.query}).to_string();
        let text = format!(
            "<cookie pagenumber=\"{}\" pagingcookie=\"{}\" istracking=\"False\" />",
            self.page,
            STANDARD.encode(state)
        );
        encode(&text)
    }

    fn from_token(token: &str) -> Option<Cookie> {
        let text = decode(token);
        let rest = text.strip_prefix("<cookie pagenumber=\"")?;
        let (page, rest) = rest.split_once('"')?;
        let state = rest.strip_prefix(" pagingcookie=\"")?.split_once('"')?.0;
        let state: Value = serde_json::from_slice(&STANDARD.decode(state).ok()?).ok()?;
        Some(Cookie {
            values: state["v"].as_array()?.clone(),
            last: Uuid::try_parse(state["i"].as_str()?).ok()?,
            page: page.parse().ok()?,
            query: u32::try_from(state["q"].as_u64()?).ok()?,
        })
    }
}

/// Splits the query from its skip token; the token must come back exactly as it was given.
fn split_token(query: &str) -> Result<(String, Option<Cookie>), Answer> {
    let Some((base, token)) = query.split_once("&$skiptoken=") else {
        return match query.contains("skiptoken") {
            true => Err(bad("Malformed skip token: the link must be followed as it was given.")),
            false => Ok((query.to_owned(), None)),
        };
    };
    let cookie = Cookie::from_token(token)
        .filter(|cookie| cookie.to_token() == token && cookie.query == crc32fast::hash(base.as_bytes()));
    match cookie {
        Some(cookie) => Ok((base.to_owned(), Some(cookie))),
        None => Err(bad("Malformed skip token: the link must be followed as it was given.")),
    }
}

fn bad(message: &str) -> Answer {
    Answer::crm_error(400, "0x80060888", message)
}

fn no_property(table: Table, property: &str) -> Answer {
    bad(&format!("Could not find a property named '{property}' on type 'Microsoft.Dynamics.CRM.{}'.", table.name()))
}
