//! `referrald state`: the ledger in the hands of a person.
//!
//! `check` and `export` ask a running daemon. `rebuild` and `import` need the state for themselves.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::arguments::StateCommand;
use super::build::{Purpose, StartError, open_store};
use super::exit::Exit;
use super::layout::fitted;
use super::progress::{watched, watched_aside};
use super::{Call, Failure, print_json, words};
use crate::model::Timestamp;
use crate::ports::{Check, ExportCheck, StoreError};
use crate::store::settings::StateSettings;
use crate::store::{self, exports};

/// What goes on meanwhile.
const READING: &str = "the ledger is read";

/// A hint for the ledger's cache while a command has it.
const CACHE_BYTES: u64 = 16 << 20;

/// Does what was asked.
pub(super) async fn state(
    call: &Call<'_>,
    command: &StateCommand,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let directory = call.ground()?.state_directory;
    match command {
        StateCommand::Check => check(call, &directory, out).await,
        StateCommand::Rebuild => rebuild(call, &directory, out),
        StateCommand::Export { file } => export(call, &directory, file.as_deref(), out).await,
        StateCommand::Import { file } => import(call, &directory, file, out).await,
    }
}

async fn check(call: &Call<'_>, directory: &Path, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let found = match call.daemon().await? {
        Some(daemon) => watched(READING, None, daemon.check()).await?,
        None => {
            let directory = directory.to_owned();
            let looking = watched_aside(READING, move || store::examine(&directory, CACHE_BYTES));
            looking.await?.map_err(StartError::from)?
        }
    };
    if call.is_json {
        let mut value = serde_json::to_value(&found).map_err(std::io::Error::from)?;
        value["is_whole"] = found.is_whole().into();
        print_json(out, &value)?;
    } else {
        write!(out, "{}", fitted(&render(&found)))?;
    }
    Ok(if found.is_whole() { Exit::Fine } else { Exit::Failed })
}

fn rebuild(call: &Call<'_>, directory: &Path, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    call.quiet_log(&call.ground()?.log)?;
    let moved = store::set_aside(directory, CACHE_BYTES).map_err(StartError::from)?;
    let text = match &moved {
        Some(to) => format!(
            "the ledger is now {}; the next cycle rebuilds it from both services and the newest export",
            to.display()
        ),
        None => format!("there is no ledger in {}; the next cycle makes one", directory.display()),
    };
    if call.is_json {
        print_json(out, &json!({ "moved_to": moved, "text": text }))?;
    } else {
        write!(out, "{}", fitted(&text))?;
    }
    Ok(Exit::Fine)
}

async fn export(
    call: &Call<'_>,
    directory: &Path,
    file: Option<&Path>,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let daemon = call.daemon().await?;
    let Some(file) = file.filter(|file| *file != Path::new("-")) else {
        match daemon {
            Some(daemon) => daemon.export(out).await?,
            None => {
                store::sled::export(directory, CACHE_BYTES, now(), out).map_err(StartError::from)?;
            }
        }
        return Ok(Exit::Fine);
    };
    // Beside it first: a file of that name is whole or the one before.
    let beside = beside(file);
    let written = async {
        let unwritable = |error| Failure::Other(format!("{} cannot be written: {error}", file.display()));
        let opened = private(&beside).map_err(unwritable)?;
        let mut content = std::io::BufWriter::new(opened);
        match &daemon {
            Some(daemon) => watched(READING, None, daemon.export(&mut content)).await?,
            None => {
                let directory = directory.to_owned();
                let work = move || store::sled::export(&directory, CACHE_BYTES, now(), &mut content).map(|_| content);
                content = watched_aside(READING, work).await?.map_err(StartError::from)?;
            }
        }
        content.flush()?;
        content.get_ref().sync_all()?;
        let opened = std::io::BufReader::new(std::fs::File::open(&beside)?);
        let whole = |error: exports::Unusable| Failure::Other(format!("{}: {error}", file.display()));
        let mut reader = exports::Reader::open(opened).map_err(whole)?;
        while reader.next_entry().map_err(whole)?.is_some() {}
        std::fs::rename(&beside, file)?;
        Ok::<u64, Failure>(reader.count())
    }
    .await;
    let count = written.inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })?;
    if call.is_json {
        print_json(out, &json!({ "entries": count, "file": file }))?;
    } else {
        writeln!(out, "{} written to {}", words::count(count, "referral"), file.display())?;
    }
    Ok(Exit::Fine)
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    file.with_file_name(name)
}

fn private(file: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)
}

async fn import(call: &Call<'_>, directory: &Path, file: &Path, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    call.quiet_log(&call.ground()?.log)?;
    let state = StateSettings { directory: directory.to_owned(), cache_bytes: CACHE_BYTES };
    let store = open_store(&state, Purpose::Decision).await?;
    let (runtime, from) = (tokio::runtime::Handle::current(), file.to_owned());
    let work = move || {
        let imported = runtime.block_on(store.import(&from, now()));
        (store, imported)
    };
    let (store, imported) = watched_aside("the export is read", work).await?;
    let imported = imported.map_err(|error| match error {
        StoreError::Failed { reason } => Failure::Other(reason),
        other => Failure::Start(other.into()),
    })?;
    store.shutdown().map_err(StartError::from)?;
    if call.is_json {
        print_json(out, &imported)?;
    } else {
        let store::Imported { taken, known, forgotten, exported } = &imported;
        writeln!(out, "{} taken from the export of {exported}", words::count(*taken, "referral"))?;
        if *known > 0 {
            writeln!(out, "{} known to the ledger already: its own entries stay", words::count(*known, "referral"))?;
        }
        if *forgotten > 0 {
            writeln!(out, "{} left out: they were forgotten", words::count(*forgotten, "referral"))?;
        }
        writeln!(out, "the next cycle compares them with both services")?;
    }
    Ok(Exit::Fine)
}

fn render(found: &Check) -> String {
    let mut text = String::new();
    match &found.damage {
        None => {
            let _ = writeln!(
                text,
                "the ledger is whole: {}, {} with an outcome unknown, {}",
                words::count(found.entries, "referral"),
                words::count(found.intended, "write"),
                words::count(found.history, "history line"),
            );
            for (standing, count) in &found.by_standing {
                let _ = writeln!(text, "  {} {standing:?}", words::number_text(*count));
            }
        }
        Some(damage) => {
            let _ = writeln!(text, "the ledger is damaged: {damage}");
            let _ = writeln!(text, "  the next cycle moves it aside or mends it from both services; nothing is lost");
        }
    }
    for ExportCheck { file, exported, entries, trouble } in &found.exports {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let _ = match trouble {
            None => writeln!(text, "export {name} is whole: {}, {exported}", words::count(*entries, "referral")),
            Some(trouble) => writeln!(text, "export {name} cannot be used: {trouble}"),
        };
    }
    text
}

fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::model::{Standing, Timestamp};
    use crate::ports::{Check, ExportCheck};

    #[test]
    fn a_check_reads_like_this() {
        let export = ExportCheck {
            file: "/state/keep/exports/ledger-20261122T033000Z.jsonl".into(),
            exported: Timestamp::from_seconds(1_795_318_200),
            entries: 12,
            trouble: None,
        };
        let torn = ExportCheck { trouble: Some("line 7: it is no entry".to_owned()), ..export.clone() };
        let whole = Check {
            entries: 1200,
            by_standing: [(Standing::Pending, 1), (Standing::Linked, 1199)].into(),
            intended: 1,
            history: 3,
            exports: vec![export, torn],
            ..Check::default()
        };
        insta::assert_snapshot!("state_check", render(&whole));
        let damaged = Check { damage: Some("an index line is missing".to_owned()), ..Check::default() };
        insta::assert_snapshot!("state_check_damaged", render(&damaged));
    }
}
