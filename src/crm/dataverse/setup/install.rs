//! The referral id column and its alternate key: created where they are missing, waited for until the index works.
//!
//! Each step looks first, so running it twice does no harm. Metadata writes take a lock of the whole organization: they are
//! sequential, and one that finds the lock taken waits.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::{FoundKey, Index, Setup};
use crate::crm::dataverse::write;
use crate::http::{Call, Effect};
use crate::model::{Fault, RemoteError, Side};
use crate::ports::Clock;

/// Longest text of the column; a key may have 450 characters at most (dataverse §3.3).
pub const LENGTH: u32 = 100;
/// Pause between two looks at the index.
pub const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// How long the index is waited for (dataverse §3.5).
pub const INDEX_TIME_MAX: Duration = Duration::from_secs(10 * 60);
/// Pause when another customization is running (dataverse §3.5).
pub const BUSY_PAUSE: Duration = Duration::from_secs(30);
/// How long a fresh column or key may be missing for the service's caches, and how long an index that is built again may
/// still show its former failure (dataverse §3.5: "briefly").
pub const SETTLE_TIME_MAX: Duration = Duration::from_secs(60);
/// How often the organization's lock is tried for.
pub const BUSY_ATTEMPTS_MAX: u32 = 20;
/// How long one write to the schema may take.
const WRITE_TIME_MAX: Duration = Duration::from_secs(240);

/// Something with this name or these columns exists already (dataverse §3.5).
const EXISTS: [&str; 4] = ["0x80047013", "0x80060304", "0x80060893", "0x80060894"];
/// The column of the key is not known, or not yet (dataverse §7).
const NO_COLUMN: [&str; 4] = ["0x80060890", "0x80041103", "0x8005e009", "0x8004024a"];
/// Another customization is running (dataverse §3.5, §7).
const BUSY: [&str; 2] = ["0x80071151", "0x8004ed47"];

impl Setup {
    /// Creates the column, unless somebody else did so meanwhile. `solution` is the unmanaged solution it becomes part of.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn create_column(
        &self,
        name: &str,
        solution: Option<&str>,
        clock: &dyn Clock,
    ) -> Result<(), RemoteError> {
        let language = self.language().await?;
        let body = json!({
            "@odata.type": "Microsoft.Dynamics.CRM.StringAttributeMetadata",
            "AttributeType": "String",
            "AttributeTypeName": {"Value": "StringType"},
            "SchemaName": name,
            "MaxLength": LENGTH,
            "FormatName": {"Value": "Text"},
            "RequiredLevel": {"Value": "None", "CanBeChanged": true,
                "ManagedPropertyLogicalName": "canmodifyrequirementlevelsettings"},
            "DisplayName": label("Partner Center referral ID", language),
            "Description": label("Set by referrald: the referral in Partner Center that this lead belongs to", language),
        });
        self.post(
            "create the referral id column",
            "EntityDefinitions(LogicalName='lead')/Attributes",
            &body,
            solution,
            clock,
        )
        .await
    }

    /// Creates the key over the column; its index is then built by the service. A column that was created just before may
    /// not be known everywhere yet: that is waited for.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn create_key(&self, column: &str, solution: Option<&str>, clock: &dyn Clock) -> Result<(), RemoteError> {
        let language = self.language().await?;
        let body = json!({
            "@odata.type": "Microsoft.Dynamics.CRM.EntityKeyMetadata",
            "SchemaName": format!("{column}Key"),
            "DisplayName": label("Referral ID key", language),
            "KeyAttributes": [column],
        });
        let until = clock.now().plus(SETTLE_TIME_MAX);
        loop {
            let posted = self.post(
                "create the alternate key",
                "EntityDefinitions(LogicalName='lead')/Keys",
                &body,
                solution,
                clock,
            );
            match posted.await {
                Err(error) if is_unknown_column(&error) && clock.now() < until => clock.sleep(LOOK_PAUSE).await,
                other => return other,
            }
        }
    }

    /// Has the index of a key built once more, after its duplicates are gone.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn reactivate_key(&self, key: &FoundKey, clock: &dyn Clock) -> Result<(), RemoteError> {
        let body = json!({"EntityLogicalName": "lead", "EntityKeyLogicalName": key.name});
        self.post("build the key's index again", "ReactivateEntityKey", &body, None, clock).await
    }

    /// Publishes the lead table, so that forms and views may use the column.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn publish(&self, clock: &dyn Clock) -> Result<(), RemoteError> {
        let xml = "<importexportxml><entities><entity>lead</entity></entities></importexportxml>";
        self.post("publish the lead table", "PublishXml", &json!({ "ParameterXml": xml }), None, clock).await
    }

    /// Waits until the index of the key over `column` works; `tell` hears of every look. One that is built again may show
    /// its former failure for a moment.
    ///
    /// # Errors
    /// When it failed, or takes too long, each with what to do; and as the client stack.
    pub async fn wait_for_key(
        &self,
        column: &str,
        is_built_again: bool,
        clock: &dyn Clock,
        mut tell: impl FnMut(&Index),
    ) -> Result<(), RemoteError> {
        const OPERATION: &str = "wait for the alternate key";
        let (until, settled) = (clock.now().plus(INDEX_TIME_MAX), clock.now().plus(SETTLE_TIME_MAX));
        let no = |message: String| RemoteError::new(Side::Crm, OPERATION, Fault::Refused).with_message(message);
        loop {
            // Straight after its creation a key may be missing from the answer for a moment.
            let found = self.key(column).await?.map_or(Index::Pending, |key| key.index);
            tell(&found);
            match found {
                Index::Active => return Ok(()),
                Index::Failed if is_built_again && clock.now() < settled => {}
                Index::Failed => {
                    return Err(no(format!(
                        "the index could not be built, most likely because two leads have the same {column}: correct \
                         them, then run `referrald schema install` again"
                    )));
                }
                Index::Pending | Index::Other(_) => {}
            }
            if clock.now() >= until {
                let minutes = INDEX_TIME_MAX.as_secs() / 60;
                return Err(no(format!(
                    "the index is not ready after {minutes} minutes: look again later with `referrald schema check`"
                )));
            }
            clock.sleep(LOOK_PAUSE).await;
        }
    }

    /// One write to the schema; what exists already is fine, and a running customization is waited for.
    async fn post(
        &self,
        operation: &'static str,
        resource: &str,
        body: &Value,
        solution: Option<&str>,
        clock: &dyn Clock,
    ) -> Result<(), RemoteError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, write::JSON);
        if let Some(solution) = solution {
            let value = HeaderValue::from_str(solution).map_err(|_| {
                RemoteError::new(Side::Crm, operation, Fault::Refused)
                    .with_message("the name of the solution is no unique name: letters, digits and underscores")
            })?;
            headers.insert(HeaderName::from_static("mscrm.solutionuniquename"), value);
        }
        let call = Call {
            operation,
            method: Method::POST,
            url: self.api.root.at(resource, &[]),
            headers,
            body: Some(Bytes::from(body.to_string())),
            effect: Effect::Write,
            request: None,
            timeout: Some(WRITE_TIME_MAX),
            items: 1,
        };
        let mut attempt = 1;
        loop {
            match self.api.exchange.send(call.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if is(&error, &EXISTS) => return Ok(()),
                Err(error) if is(&error, &BUSY) && attempt < BUSY_ATTEMPTS_MAX => clock.sleep(BUSY_PAUSE).await,
                Err(error) => return Err(error),
            }
            attempt += 1;
        }
    }
}

fn is(error: &RemoteError, codes: &[&str]) -> bool {
    error.code.as_deref().is_some_and(|code| codes.iter().any(|known| known.eq_ignore_ascii_case(code)))
}

/// The service does not know the column that a key shall have.
fn is_unknown_column(error: &RemoteError) -> bool {
    is(error, &NO_COLUMN) || (error.status == Some(404) && error.fault != Fault::Unavailable)
}

fn label(text: &str, language: u64) -> Value {
    json!({
        "@odata.type": "Microsoft.Dynamics.CRM.Label",
        "LocalizedLabels": [
            {"@odata.type": "Microsoft.Dynamics.CRM.LocalizedLabel", "Label": text, "LanguageCode": language},
        ],
    })
}
