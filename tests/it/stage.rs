//! A stage for the built binary: the simulated services on loopback, a configuration and a state directory.

use std::path::PathBuf;
use std::time::Duration;

use referrald::sim::exchange::Service;
use referrald::sim::journal::Record;
use referrald::sim::{SimClock, Simulator, World};
use serde_json::Value;

/// Everything one end-to-end test needs; removed with it.
pub struct Stage {
    /// Both services.
    pub simulator: Simulator,
    /// Configuration and state.
    pub directory: tempfile::TempDir,
}

/// What a finished command left behind.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it complained about.
    pub trouble: String,
}

impl Stage {
    /// A stage over a world with `referrals` referrals.
    pub async fn new(seed: u64, referrals: usize) -> Stage {
        let mut world = World::new(seed, SimClock::running(), Default::default());
        world.populate(seed, referrals);
        Stage::with(world).await
    }

    /// A stage over a world.
    pub async fn with(world: World) -> Stage {
        let simulator = Simulator::start(world, Duration::ZERO).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let stage = Stage { simulator, directory };
        stage.configure("");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration; `more` is appended.
    pub fn configure(&self, more: &str) {
        let options = self.simulator.with(|world| world.options.clone());
        std::fs::write(self.path("secret"), &options.client.1).unwrap();
        if !self.path("refresh").exists() {
            std::fs::write(self.path("refresh"), &options.first_refresh_token).unwrap();
        }
        let secret = self.path("secret").display().to_string();
        let text = format!(
            r#"
writes = "both"
[partner_center]
base_url = "{portal}"
requests_per_minute = 600000
[partner_center.auth]
authority = "{authority}"
tenant_id = "{tenant}"
client_id = "{client}"
client_secret_file = "{secret}"
refresh_token_file = "{refresh}"
[dataverse]
url = "{crm}"
requests_per_minute = 600000
[dataverse.auth]
authority = "{authority}"
tenant_id = "{tenant}"
client_id = "{client}"
client_secret_file = "{secret}"
[state]
directory = "{state}"
[status]
settle_time = "0s"
settle_time_lost = "0s"
{more}
"#,
            portal = self.simulator.portal_url,
            crm = self.simulator.crm_url,
            authority = self.simulator.authority_url,
            tenant = options.tenant,
            client = options.client.0,
            refresh = self.path("refresh").display(),
            state = self.path("state").display(),
        );
        std::fs::write(self.path("referrald.toml"), text).unwrap();
    }

    /// Runs the binary to its end.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_referrald"));
        command.arg("--config").arg(self.path("referrald.toml")).args(arguments).env_remove("NOTIFY_SOCKET");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        Finished {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            trouble: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that prints JSON and expects an exit code.
    pub async fn json(&self, arguments: &[&str], code: i32) -> Value {
        let finished = self.run(&[&["--json"], arguments].concat()).await;
        assert_eq!(finished.code, code, "{finished:#?}");
        serde_json::from_str(&finished.out).unwrap_or_else(|error| panic!("{error}: {finished:#?}"))
    }

    /// Writes the daemon has sent to a service since the journal was cleared.
    pub fn writes(&self, service: Service) -> Vec<Record> {
        self.simulator
            .with(|world| world.journal.writes().filter(|record| record.service == service).cloned().collect())
    }

    /// Forgets the requests so far.
    pub fn clear_journal(&self) {
        self.simulator.with(|world| world.journal.clear());
    }
}
