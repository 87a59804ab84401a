//! What we know of the organization, and when it is asked again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::metadata::Live;
use super::schema::Survey;
use super::{Dataverse, codes};
use crate::model::{Fault, RemoteError, Side};

/// How old a schema must be before a refusal makes us read it again: one bad row is no reason to ask ten questions.
pub const SCHEMA_AGE_MIN: Duration = Duration::from_secs(5 * 60);

/// A schema and when it was read.
#[derive(Clone)]
pub(super) struct Loaded {
    live: Arc<Live>,
    at: Instant,
    is_stale: bool,
}

impl Dataverse {
    pub(super) fn survey(&self) -> Survey<'_> {
        Survey {
            api: &self.api,
            identity: self.identity,
            referral_column: self.referral_column.as_deref(),
            mapped: &self.mapped,
        }
    }

    /// The schema as last read; the first caller reads it, the others wait for that.
    pub(super) async fn live(&self) -> Result<Arc<Live>, RemoteError> {
        if let Some(live) = self.fresh() {
            return Ok(live);
        }
        let _turn = self.loading.lock().await;
        match self.fresh() {
            Some(live) => Ok(live),
            None => self.load().await,
        }
    }

    pub(super) fn loaded(&self) -> Option<Loaded> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn fresh(&self) -> Option<Arc<Live>> {
        self.loaded().filter(|loaded| !loaded.is_stale).map(|loaded| loaded.live)
    }

    /// Reads the schema; the caller has the turn. A failure leaves the former one in place.
    pub(super) async fn load(&self) -> Result<Arc<Live>, RemoteError> {
        let survey = self.survey();
        let live = Arc::new(survey.run().await?);
        survey.tell_absent(&live, self.loaded().as_ref().map(|loaded| loaded.live.as_ref()));
        self.strays.write().unwrap_or_else(PoisonError::into_inner).clear();
        let loaded = Loaded { live: Arc::clone(&live), at: Instant::now(), is_stale: false };
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
        Ok(live)
    }

    /// Keeps another answer about the alternate key.
    pub(super) fn keep_key(&self, is_key_active: bool) -> Option<Arc<Live>> {
        let mut slot = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let loaded = slot.as_mut()?;
        loaded.live = Arc::new(loaded.live.with_key(is_key_active));
        Some(Arc::clone(&loaded.live))
    }

    /// Marks the schema when the service says that it is another one by now; the next call reads it again.
    pub(super) fn noticed<T>(&self, result: Result<T, RemoteError>) -> Result<T, RemoteError> {
        if let Err(error) = &result {
            let known = error.code.as_deref().and_then(codes::find_text);
            if known.is_some_and(|known| known.is_schema_stale) {
                self.is_doubtful.store(true, Ordering::Relaxed);
                let mut slot = self.live.write().unwrap_or_else(PoisonError::into_inner);
                if let Some(loaded) = slot.as_mut().filter(|loaded| loaded.at.elapsed() >= SCHEMA_AGE_MIN) {
                    loaded.is_stale = true;
                }
            }
        }
        result
    }

    /// Marks the schema that a draft was made for when the draft does not fit the one we know by now.
    pub(super) fn fitting<T>(&self, body: Result<T, RemoteError>) -> Result<T, RemoteError> {
        if body.is_err() {
            self.is_doubtful.store(true, Ordering::Relaxed);
        }
        body
    }

    /// The schema, with an alternate key that may be used; asked again while it may not (dataverse §8, trap 2).
    pub(super) async fn live_with_key(&self, operation: &'static str) -> Result<Arc<Live>, RemoteError> {
        let live = self.live().await?;
        if live.schema.is_key_active {
            return Ok(live);
        }
        match self.survey().is_key_active().await? {
            true => Ok(self.keep_key(true).unwrap_or(live)),
            false => Err(self.key_is_not_active(operation)),
        }
    }

    pub(super) fn key_is_not_active(&self, operation: &'static str) -> RemoteError {
        let column = self.referral_column.as_deref().unwrap_or_default();
        RemoteError::new(Side::Crm, operation, Fault::Unauthorized).with_message(format!(
            "the alternate key on lead column {column} is not active: run `referrald schema install`, which creates it and waits until its index is"
        ))
    }
}
