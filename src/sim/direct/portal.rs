//! The referrals port over the world.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::model::{
    Document, ETag, Patch, Qualification, Referral, ReferralId, ReferralStatus, ReferralType, RemoteError, Side,
    Substatus,
};
use crate::ports::{Cursor, Defect, Line, Page, Portal, Scan};

use super::super::exchange::{Body, Request, Service, encode};
use super::super::world::World;
use super::{DirectLine, stamp, text};

const PATH: &str = "/v1.0/engagements/referrals";

/// [`Portal`] without sockets.
#[derive(Debug)]
pub struct DirectPortal {
    line: DirectLine,
}

impl DirectPortal {
    /// A port into this world.
    pub fn new(world: Arc<Mutex<World>>) -> Self {
        DirectPortal { line: DirectLine::new(world, Service::Portal, Side::Portal) }
    }
}

#[async_trait]
impl Portal for DirectPortal {
    async fn page(&self, scan: &Scan, cursor: Option<&Cursor>) -> Result<Page<Referral>, RemoteError> {
        let query = match cursor {
            Some(Cursor(query)) => query.clone(),
            None => first_query(scan),
        };
        let answer = self.line.send("list referrals", Request::new("GET", &format!("{PATH}?{query}"))).await?;
        let server_time = DirectLine::server_time(&answer);
        let (body, rows) = match answer.body {
            Body::Page(body, rows) => (body, rows),
            Body::Json(mut body) => match body["value"].take() {
                Value::Array(rows) => (body, rows.into_iter().map(Arc::new).collect()),
                _ => return Err(self.line.malformed("list referrals")),
            },
            Body::Bytes(_) => return Err(self.line.malformed("list referrals")),
        };
        let mut page = Page { items: Vec::new(), defects: Vec::new(), next: None, server_time };
        for row in rows {
            let id = text(&row, "/id");
            match decoded(row) {
                Some(referral) => page.items.push(referral),
                None => page.defects.push(Defect { id, reason: "no id".to_owned() }),
            }
        }
        page.next = body["@odata.nextLink"]
            .as_str()
            .and_then(|link| link.split_once('?'))
            .map(|(_, query)| Cursor(query.to_owned()));
        Ok(page)
    }

    async fn get(&self, id: ReferralId) -> Result<Referral, RemoteError> {
        let answer = self.line.send("get referral", Request::new("GET", &format!("{PATH}/{id}"))).await?;
        decoded(Arc::new(answer.into_value())).ok_or_else(|| self.line.malformed("get referral"))
    }

    async fn patch(
        &self,
        id: ReferralId,
        etag: &ETag,
        patch: &Patch,
        request: uuid::Uuid,
    ) -> Result<Option<Referral>, RemoteError> {
        let operations: Vec<Value> = patch
            .operations
            .iter()
            // `add` also replaces what is there, so that a record may lack a member.
            .map(|operation| json!({"op": "add", "path": operation.path, "value": operation.value}))
            .collect();
        let call = Request::new("PATCH", &format!("{PATH}/{id}"))
            .with("If-Match", &etag.0)
            .with("Prefer", "return=representation")
            .with("MS-RequestId", &request.to_string())
            .with_json(&Value::Array(operations));
        let answer = self.line.send("patch referral", call).await?;
        Ok(if answer.status == 204 { None } else { decoded(Arc::new(answer.into_value())) })
    }

    fn line(&self) -> &dyn Line {
        &self.line
    }
}

fn first_query(scan: &Scan) -> String {
    match scan {
        Scan::Recent => format!("$orderby={}", encode("updatedDateTime desc")),
        Scan::Sweep => format!("$orderby={}", encode("createdDateTime asc")),
        Scan::New => format!("$filter={}&$orderby={}", encode("status eq 'New'"), encode("createdDateTime asc")),
        Scan::ChangedSince(since) => {
            let filter = encode(&format!("updatedDateTime ge {since}"));
            format!("$filter={filter}&$orderby={}", encode("updatedDateTime desc"))
        }
        Scan::Engagement(id) => {
            let filter = encode(&format!("engagementId eq '{}'", id.as_hyphenated()));
            format!("$filter={filter}&$orderby={}", encode("createdDateTime asc"))
        }
    }
}

/// Reads a referral; `None` when it has no usable id.
pub(super) fn decoded(document: Arc<Value>) -> Option<Referral> {
    let row = &*document;
    let word = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let referral = Referral {
        id: ReferralId::parse(word("id"))?,
        etag: text(row, "/eTag").map(ETag),
        status: match word("status") {
            "New" => ReferralStatus::New,
            "Active" => ReferralStatus::Active,
            "Closed" => ReferralStatus::Closed,
            _ => ReferralStatus::Other,
        },
        substatus: match word("substatus") {
            "Pending" => Substatus::Pending,
            "Received" => Substatus::Received,
            "Accepted" => Substatus::Accepted,
            "Won" => Substatus::Won,
            "Lost" => Substatus::Lost,
            "Declined" => Substatus::Declined,
            "Expired" => Substatus::Expired,
            _ => Substatus::Other,
        },
        created: stamp(row, "/createdDateTime"),
        updated: stamp(row, "/updatedDateTime"),
        expires: stamp(row, "/expirationDateTime"),
        external_reference: text(row, "/externalReferenceId").filter(|text| !text.trim().is_empty()),
        engagement: text(row, "/engagementId"),
        organization: text(row, "/organizationId"),
        kind: match word("type") {
            "Independent" => ReferralType::Independent,
            "Shared" => ReferralType::Shared,
            _ => ReferralType::Other,
        },
        qualification: match word("qualification") {
            "Direct" => Qualification::Direct,
            "MarketingQualified" => Qualification::MarketingQualified,
            "SalesQualified" => Qualification::SalesQualified,
            _ => Qualification::Other,
        },
        is_outgoing: word("direction") == "Outgoing",
        is_spam: row["isSpam"] == true,
        invited_by: text(row, "/inviteContext/invitedBy/organizationId"),
        consent_to_contact: row.pointer("/consent/consentToContact").and_then(Value::as_bool),
        has_registration: row["registrations"].as_array().is_some_and(|list| !list.is_empty()),
        document: Document::default(),
    };
    Some(Referral { document: document.into(), ..referral })
}
