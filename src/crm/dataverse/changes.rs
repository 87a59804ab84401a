//! Change tracking: what happened to the lead table since a link was given out (dataverse §4.1).
//!
//! Every lead of the company crosses the wire here, so only ids and versions are asked for: whatever is ours is read by id.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::api::RawPage;
use super::{Dataverse, contract, wire};
use crate::model::{Fault, LeadId, RemoteError};
use crate::ports::{ChangeLink, Changes, Cursor, Defect, LeadVersion, Tracked};

const OPERATION: &str = "track changes of leads";

/// What is asked of every lead. A link is bound to its selection: with other columns the whole table is read again.
pub const CHANGE_COLUMNS: &[&str] = &[contract::LEAD_ID, contract::MODIFIED, "versionnumber"];

/// The link was given out too long ago (dataverse §4.1).
const EXPIRED: &str = "0x80044352";
/// The table keeps no changes.
const NOT_ENABLED: &str = "0x80072491";
/// The application user may not read every row of the table.
const DENIED: [&str; 5] = ["0x80040220", "0x80048306", "0x80048405", "0x80040256", "0x8004020d"];

/// What to do about a table that keeps no changes. It cannot be switched off again (dataverse §3.5).
pub const SWITCH_ON: &str = "in the maker portal open Tables, Lead, Properties, Advanced options, and tick \"Track changes\" \
     (it cannot be switched off again), or set dataverse.observe = \"poll\"";

impl Dataverse {
    pub(super) async fn changes(&self, link: Option<&Cursor>) -> Result<Tracked, RemoteError> {
        let page = match link {
            None => {
                let url = self.api.root.at(contract::LEADS, &[("$select", &CHANGE_COLUMNS.join(","))]);
                self.api.tracked(OPERATION, url).await
            }
            Some(link) => match self.api.root.resume(link).filter(selects_ours) {
                Some(url) => self.api.tracked(OPERATION, url).await,
                None => return Ok(Tracked::Expired),
            },
        };
        match page {
            Ok(page) => Ok(tracked(page)),
            Err(error) => refused(error, link.is_some()),
        }
    }
}

/// What a refusal means for the link, when it is about the link.
fn refused(error: RemoteError, has_link: bool) -> Result<Tracked, RemoteError> {
    let code = error.code.as_deref().unwrap_or_default();
    if code == EXPIRED || error.status == Some(410) {
        return Ok(Tracked::Expired);
    }
    if code == NOT_ENABLED {
        return Ok(Tracked::Off(format!("change tracking is off for the lead table: {SWITCH_ON}")));
    }
    if DENIED.contains(&code) && !has_link {
        return Ok(Tracked::Off(
            "change tracking needs prvReadLead with organization depth: compare the application user's security role with `referrald schema role`"
                .to_owned(),
        ));
    }
    match error.fault {
        // Whatever the link says, the service does not take it any more.
        Fault::Refused | Fault::Missing if has_link => Ok(Tracked::Expired),
        Fault::Refused | Fault::Missing => Ok(Tracked::Off(format!("the service does not track changes: {error}"))),
        _ => Err(error),
    }
}

fn tracked(page: RawPage) -> Tracked {
    let next = match (page.next, page.delta) {
        (Some(more), _) => ChangeLink::More(more),
        (None, Some(later)) => ChangeLink::Later(later),
        (None, None) => return Tracked::Off("the service answers without a link to later changes".to_owned()),
    };
    let (mut changed, mut gone, mut defects) = (Vec::new(), Vec::new(), Vec::new());
    for row in page.rows {
        match heard(row) {
            Ok(Heard::Changed(version)) => changed.push(version),
            Ok(Heard::Gone(lead)) => gone.push(lead),
            Err(defect) => defects.push(defect),
        }
    }
    Tracked::Page(Changes { changed, gone, defects, next, server_time: page.server_time })
}

enum Heard {
    Changed(LeadVersion),
    Gone(LeadId),
}

/// One row: a lead, or the notice that it is gone in the shape of OData 4.0 or 4.01.
fn heard(row: Value) -> Result<Heard, Defect> {
    let Value::Object(row) = row else { return Err(defect("the row is no object")) };
    let context = wire::text(&row, "@odata.context").unwrap_or_default();
    if row.contains_key("@removed") || row.contains_key("@odata.removed") || context.ends_with("/$deletedEntity") {
        let id = ["id", "@id", "@odata.id", contract::LEAD_ID].iter().find_map(|name| id_of(&row, name));
        return id.map(Heard::Gone).ok_or_else(|| defect("a deleted lead has no id"));
    }
    let id = id_of(&row, contract::LEAD_ID).ok_or_else(|| defect("leadid is no GUID"))?;
    let modified = wire::instant(&row, contract::MODIFIED);
    Ok(Heard::Changed(LeadVersion { id, etag: wire::etag(&row), modified }))
}

/// A bare GUID, or the address of a row that ends with one in parentheses.
fn id_of(row: &Map<String, Value>, name: &str) -> Option<LeadId> {
    let text = wire::text(row, name)?.trim();
    let text = text.strip_suffix(')').and_then(|text| text.rsplit_once('(')).map_or(text, |(_, id)| id);
    LeadId::parse(text)
}

fn defect(reason: &str) -> Defect {
    Defect { id: None, reason: reason.to_owned() }
}

/// The link was made for the columns that we ask for. One that does not say is believed.
fn selects_ours(url: &url::Url) -> bool {
    let selected = url.query_pairs().find(|(name, _)| name == "$select").map(|(_, value)| value.into_owned());
    let ours: BTreeSet<&str> = CHANGE_COLUMNS.iter().copied().collect();
    selected.is_none_or(|names| names.split(',').map(str::trim).collect::<BTreeSet<_>>() == ours)
}
