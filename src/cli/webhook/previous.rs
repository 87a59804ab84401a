//! The registration that was replaced, kept so that it can be put back.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::secret::read_limited;
use crate::portal::partner_center::webhooks::Registration;

fn file(state: &Path) -> PathBuf {
    state.join("keep").join("webhook-previous.json")
}

/// Writes it down, for the owner alone: the URL may carry a secret of somebody else.
///
/// # Errors
/// In words.
pub(super) fn keep(state: &Path, registration: &Registration) -> Result<(), String> {
    let file = file(state);
    let fresh = file.with_extension("new");
    let body = json!({"url": registration.url, "events": registration.events}).to_string();
    let write = || {
        if let Some(directory) = file.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        out.write_all(body.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&fresh, &file)?;
        crate::store::owner::hand_over(state);
        Ok(())
    };
    write().map_err(|error: std::io::Error| {
        format!("the registration before cannot be kept in {}: {error}; nothing was changed", file.display())
    })
}

/// Reads it; `None` when nothing was replaced.
///
/// # Errors
/// In words.
pub(super) fn read(state: &Path) -> Result<Option<Registration>, String> {
    let file = file(state);
    if !file.exists() {
        return Ok(None);
    }
    let unreadable = |why: String| format!("{} cannot be read: {why}", file.display());
    let value: Value = serde_json::from_slice(&read_limited(&file).map_err(unreadable)?)
        .map_err(|error| unreadable(error.to_string()))?;
    let events = value["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let events = events.iter().filter_map(|event| event.as_str().map(str::to_owned)).collect();
    Ok(value["url"].as_str().map(|url| Registration { url: url.to_owned(), events }))
}

/// It was put back.
pub(super) fn forget(state: &Path) {
    let _ = std::fs::remove_file(file(state));
}
