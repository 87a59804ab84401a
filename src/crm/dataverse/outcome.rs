//! What came of a write: a success is never reported as a failure, and a 404 never taken for more than it says.

use super::metadata::Live;
use super::settings::Identity;
use super::{Dataverse, codes, dialect, write};
use crate::http::Answer;
use crate::model::{Fault, Lead, LeadId, ReferralId, RemoteError};

/// How the row of a write is known.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Id(LeadId),
    Key(ReferralId),
}

impl Target {
    pub(super) fn is(self, lead: &Lead) -> bool {
        match self {
            Target::Id(id) => lead.id == id,
            Target::Key(referral) => lead.referral.is_none_or(|found| found == referral),
        }
    }
}

impl Dataverse {
    /// What came of a write that the service carried out: the lead as it says, else as a read says.
    pub(super) async fn written(
        &self,
        operation: &'static str,
        answer: &Answer,
        live: &Live,
        target: Target,
    ) -> Result<Lead, RemoteError> {
        if write::is_success(answer.status) && answer.status != http::StatusCode::NO_CONTENT {
            match self.decode_lead(operation, answer, live).await {
                Ok(lead) if target.is(&lead) => return Ok(lead),
                _ => tracing::warn!(operation, "the answer to a write could not be read: reading the lead instead"),
            }
        }
        let read = match target {
            Target::Id(id) => self.read_by_id(operation, id, live).await,
            Target::Key(referral) => self.read_by_key(operation, referral, live).await,
        };
        read.map_err(|error| RemoteError {
            is_outcome_unknown: true,
            message: Some("the answer to the write could not be read, and the lead neither".to_owned()),
            fault: Fault::Malformed,
            ..error
        })
    }

    /// Tells a refused create: a 404 cannot mean the lead, and a bad key URL may mean that the key is gone.
    pub(super) async fn why_not_created(&self, error: RemoteError) -> RemoteError {
        if error.fault == Fault::Missing {
            return RemoteError { fault: Fault::Refused, ..error }
                .with_message("a row that the new lead refers to does not exist: its owner or its currency");
        }
        let may_be_the_key = self.identity == Identity::AlternateKey
            && error.status.is_some_and(|status| matches!(status, 400 | 404))
            && matches!(
                error.code.as_deref().and_then(codes::parse),
                None | Some(codes::BAD_URL | codes::KEY_NOT_DEFINED)
            )
            && matches!(error.fault, Fault::Refused | Fault::Unauthorized);
        if may_be_the_key && matches!(self.survey().is_key_active().await, Ok(false)) {
            self.keep_key(false);
            let RemoteError { status, code, request_id, .. } = error;
            return RemoteError { status, code, request_id, ..self.key_is_not_active("create lead") };
        }
        error
    }

    /// Tells a refused update: a 404 that does not clearly name the lead is settled by reading it (dataverse §8, trap 28).
    pub(super) async fn why_not_updated(
        &self,
        id: LeadId,
        error: RemoteError,
        live: &Live,
    ) -> Result<Lead, RemoteError> {
        let code = error.code.as_deref().and_then(codes::parse);
        let names_lead = error.message.as_deref() == Some(dialect::LEAD_DOES_NOT_EXIST);
        let names_other = error.fault == Fault::Refused && code == Some(codes::OBJECT_DOES_NOT_EXIST);
        let is_gone = error.status == Some(404) || error.fault == Fault::Missing;
        let is_clear = names_lead || names_other || !matches!(error.fault, Fault::Missing | Fault::Refused);
        if !is_gone || is_clear {
            return Err(error);
        }
        match self.read_by_id("confirm a missing lead", id, live).await {
            Ok(_) => Err(RemoteError { fault: Fault::Refused, ..error }
                .with_message("the lead exists, but a row that the update refers to does not")),
            Err(read) if read.fault == Fault::Missing => Err(RemoteError { fault: Fault::Missing, ..error }),
            // Nothing was written, so the trouble of the read is all there is to tell.
            Err(read) => Err(read),
        }
    }
}
