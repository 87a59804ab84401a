//! Builds everything from the configuration. The one place that may name anything.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::arguments::Demo;
use crate::daemon::{DaemonSettings, Engine};
use crate::ports::StoreError;
use crate::telemetry::{self, LogSettings, TelemetryError};
use crate::trigger::settings::ScheduleSettings;

/// What a command needs to know before it builds an engine, or instead of building one.
#[derive(Clone, Debug)]
pub struct Ground {
    /// `state.directory`.
    pub state_directory: PathBuf,
    /// `[daemon]`.
    pub daemon: DaemonSettings,
    /// `[schedule]`.
    pub schedule: ScheduleSettings,
    /// `[log]`.
    pub log: LogSettings,
}

/// What an engine is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Cycles: `run`, `once`. The end is told by [`Engine::shutdown`].
    Cycles,
    /// A forecast. The ledger is only read.
    Forecast,
    /// A look at the ledger: `status`. No service is asked.
    Look,
    /// An operator's decision. No service is asked.
    Decision,
}

/// Nothing can be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration cannot be used; the text lists every problem.
    #[error("{0}")]
    Configuration(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Builds what commands need. The product has one, [`Product`]; tests have others.
#[async_trait]
pub trait Build: Send + Sync {
    /// Reads the configuration: the file that was named, else the default one.
    fn ground(&self, config: Option<&Path>) -> Result<Ground, StartError>;

    /// Sets the log up, once for the process.
    fn start_log(&self, log: &LogSettings) -> Result<(), TelemetryError> {
        telemetry::init(log)
    }

    /// Opens the ledger and makes an engine.
    async fn engine(&self, config: Option<&Path>, purpose: Purpose) -> Result<Arc<dyn Engine>, StartError>;

    /// `config check`; gives the exit code.
    fn config_check(&self, config: Option<PathBuf>, is_json: bool, out: &mut dyn Write) -> std::io::Result<u8>;

    /// `config show`; gives the exit code.
    fn config_show(
        &self,
        config: Option<PathBuf>,
        is_json: bool,
        with_origin: bool,
        out: &mut dyn Write,
        trouble: &mut dyn Write,
    ) -> std::io::Result<u8>;

    /// `demo`; gives the exit code.
    async fn demo(&self, demo: Demo, is_json: bool, out: &mut (dyn Write + Send)) -> std::io::Result<u8>;
}

/// The real thing.
pub struct Product;

/// Said while a part of the product is in another branch.
const NOT_WIRED: &str = "this build has no services wired to it";

#[async_trait]
impl Build for Product {
    fn ground(&self, _config: Option<&Path>) -> Result<Ground, StartError> {
        Err(StartError::Failed(NOT_WIRED.to_owned()))
    }

    async fn engine(&self, _config: Option<&Path>, _purpose: Purpose) -> Result<Arc<dyn Engine>, StartError> {
        Err(StartError::Failed(NOT_WIRED.to_owned()))
    }

    fn config_check(&self, _config: Option<PathBuf>, _is_json: bool, _out: &mut dyn Write) -> std::io::Result<u8> {
        Err(std::io::Error::other(NOT_WIRED))
    }

    fn config_show(
        &self,
        _config: Option<PathBuf>,
        _is_json: bool,
        _with_origin: bool,
        _out: &mut dyn Write,
        _trouble: &mut dyn Write,
    ) -> std::io::Result<u8> {
        Err(std::io::Error::other(NOT_WIRED))
    }

    async fn demo(&self, _demo: Demo, _is_json: bool, _out: &mut (dyn Write + Send)) -> std::io::Result<u8> {
        Err(std::io::Error::other(NOT_WIRED))
    }
}
