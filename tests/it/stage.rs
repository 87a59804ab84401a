//! A stage for the built binary: the simulated services on loopback, a configuration and a state directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use referrald::control::{Client, Place};
use referrald::daemon::Status;
use referrald::model::Timestamp;
use referrald::sim::dynamics::Table;
use referrald::sim::exchange::Service;
use referrald::sim::journal::Record;
use referrald::sim::{Checker, SimClock, Simulator, World};
use serde_json::Value;
use uuid::Uuid;

/// The longest any condition is waited for; a test that needs longer has failed. The machine may be slow and busy.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Requests that reach a service so soon after it asked for silence were sent before its answer was read; a busy machine
/// needs its time to read. Windows of tests are longer.
const WINDOW_GRACE: Duration = Duration::from_secs(1);
/// Pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Everything one end-to-end test needs; removed with it.
pub struct Stage {
    /// Both services.
    pub simulator: Simulator,
    /// Configuration and state.
    pub directory: tempfile::TempDir,
    /// Everything any process has printed, for the search for personal data.
    printed: Mutex<Vec<String>>,
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

impl Finished {
    /// True when it complained in these words, wherever the lines break.
    pub fn complains(&self, words: &str) -> bool {
        says(&self.trouble, words)
    }
}

/// True when a text that was wrapped for the screen has these words.
pub fn says(text: &str, words: &str) -> bool {
    text.split_whitespace().collect::<Vec<_>>().join(" ").contains(words)
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
        let stage = Stage { simulator, directory, printed: Mutex::default() };
        stage.configure("");
        stage
    }

    /// A file of this stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A command as people are told to type it by a program that was started with the stage's configuration.
    pub fn told(&self, words: &str) -> String {
        format!("referrald --config {} {words}", self.path("referrald.toml").display())
    }

    /// Writes the configuration; `more` is appended.
    pub fn configure(&self, more: &str) {
        self.simulator.configure(self.directory.path(), more).unwrap();
    }

    /// Lays further configuration over the file, as a drop-in; an empty text takes it away again.
    pub fn overlay(&self, text: &str) {
        std::fs::create_dir_all(self.path("referrald.toml.d")).unwrap();
        std::fs::write(self.path("referrald.toml.d/10.toml"), text).unwrap();
    }

    /// Runs the binary to its end as a person would who stands in the stage's directory: every path is a short one, and
    /// nothing but trouble is logged.
    pub async fn run_here(&self, arguments: &[&str]) -> Finished {
        self.finish(self.command_here(arguments)).await
    }

    /// The command of [`Stage::run_here`].
    pub fn command_here(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&[]);
        let mut here = Command::new(command.get_program());
        here.args(arguments).current_dir(self.directory.path());
        for (name, _) in command.env_remove("REFERRALD_LOG").get_envs() {
            here.env_remove(name);
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name == "CREDENTIALS_DIRECTORY" || name == "TZ") {
            here.env_remove(name);
        }
        here.env("REFERRALD_CONFIG", "referrald.toml");
        here
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_referrald"));
        command.arg("--config").arg(self.path("referrald.toml")).args(arguments);
        // What the environment says to the tests is no configuration.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REFERRALD_")) {
            command.env_remove(name);
        }
        // The loudest log: whatever a test does is searched for personal data.
        command.env("REFERRALD_LOG", "trace").env_remove("NOTIFY_SOCKET").env_remove("RUNTIME_DIRECTORY");
        command.env_remove("SUDO_USER");
        command
    }

    /// Runs the binary to its end.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        self.finish(self.command(arguments)).await
    }

    /// Runs the binary to its end over a state directory of its own, as another host would.
    pub async fn run_elsewhere(&self, state: &str, arguments: &[&str]) -> Finished {
        let mut command = self.command(arguments);
        command.env("REFERRALD_STATE__DIRECTORY", self.path(state));
        self.finish(command).await
    }

    async fn finish(&self, mut command: Command) -> Finished {
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        self.keep_printed(output)
    }

    fn keep_printed(&self, output: std::process::Output) -> Finished {
        let finished = Finished {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            trouble: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        let mut printed = self.printed.lock().unwrap();
        printed.extend([finished.out.clone(), finished.trouble.clone()]);
        finished
    }

    /// Starts a command whose output is read while it runs, and which may be told something.
    pub fn talk(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command to its end with another configuration, and with this on its standard input.
    pub async fn run_with_input(&self, config: &str, arguments: &[&str], input: &str) -> Finished {
        use std::io::Write;
        let file = self.path(config).display().to_string();
        let mut child = self.talk(&[arguments, &["--config", &file]].concat());
        // One that does not listen may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        self.finished(child).await
    }

    /// Waits for the end of a command that was started by [`Stage::talk`]; its output is what has not been read yet.
    pub async fn finished(&self, child: Child) -> Finished {
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
        self.keep_printed(output)
    }

    /// Runs a command that prints JSON and expects an exit code.
    pub async fn json(&self, arguments: &[&str], code: i32) -> Value {
        let finished = self.run(&[&["--json"], arguments].concat()).await;
        assert_eq!(finished.code, code, "{}\n{}", finished.out, tail(&finished.trouble));
        serde_json::from_str(&finished.out).unwrap_or_else(|error| panic!("{error}: {}", finished.out))
    }

    /// Starts a process that lives on; its log goes to files of the stage.
    fn spawn(&self, arguments: &[&str], log: &str) -> Child {
        let file = |name: &str| std::fs::File::create(self.path(name)).unwrap();
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(file(&format!("{log}.out"))).stderr(file(&format!("{log}.err")));
        command.spawn().unwrap()
    }

    /// Starts `once`, asks it to stop as soon as `is_time` says so, and gives its exit code.
    pub async fn once_stopped_when(&self, is_time: impl Fn(&World) -> bool) -> i32 {
        let mut child = self.spawn(&["once"], &format!("once-{}", Uuid::new_v4()));
        // The world stands still meanwhile, so that the signal comes at this moment and not after the end.
        let stops_now = |world: &World| is_time(world) && terminate(&child);
        self.until(stops_now).await;
        wait_for(&mut child).await
    }

    /// Starts `run` and waits until its control socket answers.
    pub async fn daemon(&self) -> Daemon {
        let mut daemon = self.start();
        daemon.until_up().await;
        daemon
    }

    /// As [`Stage::daemon`], with the limits of its files in the hand of the test: a refused write is an error and no
    /// signal, and the log goes where no limit reaches.
    pub async fn daemon_with_limits(&self) -> Daemon {
        let mut daemon = self.start_with_limits();
        daemon.until_up().await;
        daemon
    }

    /// As [`Stage::daemon_with_limits`], and does not wait for it.
    pub fn start_with_limits(&self) -> Daemon {
        self.start_in("trap '' XFSZ; exec \"$0\" \"$@\"", &[])
    }

    /// As [`Stage::daemon`], by a line of shell that ends in the program, behind another command.
    pub async fn daemon_in(&self, line: &str, behind: &[&str]) -> Daemon {
        let mut daemon = self.start_in(line, behind);
        daemon.until_up().await;
        daemon
    }

    /// As [`Stage::daemon_in`], and does not wait for it.
    pub fn start_in(&self, line: &str, behind: &[&str]) -> Daemon {
        self.start_by(|stage, log| {
            let mut command = stage.command_behind(line, behind, &["run"]);
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let mut lines = child.stderr.take().unwrap();
            let mut file = std::fs::File::create(stage.path(&format!("{log}.err"))).unwrap();
            std::thread::spawn(move || std::io::copy(&mut lines, &mut file));
            child
        })
    }

    /// As [`Stage::run`], by a line of shell that ends in the program, behind another command.
    pub async fn run_behind(&self, line: &str, behind: &[&str], arguments: &[&str]) -> Finished {
        self.finish(self.command_behind(line, behind, arguments)).await
    }

    fn command_behind(&self, line: &str, behind: &[&str], arguments: &[&str]) -> Command {
        let program = self.command(arguments);
        let words = [behind, &["sh", "-c", line]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// As [`Stage::daemon`], over a state directory of its own, as on another host.
    pub async fn daemon_elsewhere(&self, state: &str) -> Daemon {
        let directory = self.path(state);
        let mut daemon = self.start_by(|stage, log| {
            let mut command = stage.command(&["run"]);
            command.env("REFERRALD_STATE__DIRECTORY", &directory);
            let file = |name: &str| std::fs::File::create(stage.path(name)).unwrap();
            command.stdin(Stdio::null()).stdout(file(&format!("{log}.out"))).stderr(file(&format!("{log}.err")));
            command.spawn().unwrap()
        });
        daemon.place = Place::new(None, None, &directory);
        daemon.until_up().await;
        daemon
    }

    /// Starts `run` and does not wait for it.
    pub fn start(&self) -> Daemon {
        self.start_by(|stage, log| stage.spawn(&["run"], log))
    }

    fn start_by(&self, spawn: impl FnOnce(&Stage, &str) -> Child) -> Daemon {
        // Cycles only when a test asks for one.
        let text = std::fs::read_to_string(self.path("referrald.toml.d/10.toml")).unwrap_or_default();
        if !text.contains("[schedule]") {
            self.overlay(&format!("{text}\n[schedule]\nreconcile = \"0 0 0 1 1 *\"\nsweep = \"0 0 0 1 1 *\"\n"));
        }
        let began = jiff::Timestamp::now().into();
        let log = format!("daemon-{}", Uuid::new_v4());
        let child = spawn(self, &log);
        let log = self.path(&format!("{log}.err"));
        let runtime = Some(self.path("run")).filter(|directory| directory.is_dir());
        Daemon { child: Some(child), place: Place::new(None, runtime.as_deref(), &self.state()), began, log }
    }

    /// As [`Stage::daemon`], with a socket as systemd passes it: as the first descriptor after the standard ones.
    pub async fn daemon_with_socket(&self, socket: std::net::TcpListener) -> Daemon {
        let line = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let mut daemon = self.start_by(|stage, _| {
            let mut command = stage.command_behind(line, &[], &["run"]);
            command.stdin(std::os::fd::OwnedFd::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        });
        daemon.until_up().await;
        daemon
    }

    /// Posts a body and gives the status of the answer.
    pub async fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
        let mut request = reqwest::Client::builder().no_proxy().build().unwrap().post(url).body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    }

    /// Starts `once` and kills it as soon as `is_time` says so, or lets it end; true when it was killed.
    pub async fn once_killed_when(&self, is_time: impl Fn(&World) -> bool) -> bool {
        let mut child = self.spawn(&["once"], &format!("once-{}", Uuid::new_v4()));
        let began = Instant::now();
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            // Killed while the world stands still: nothing is answered any more.
            if self.simulator.with(|world| is_time(world) && child.kill().is_ok()) {
                let status = child.wait().unwrap();
                return status.code().is_none(); // Else it had ended by itself.
            }
            assert!(began.elapsed() < PATIENCE, "it neither ended nor came this far");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the world fits.
    pub async fn until(&self, fits: impl Fn(&World) -> bool) {
        let began = Instant::now();
        while !self.simulator.with(|world| fits(world)) {
            assert!(began.elapsed() < PATIENCE, "the world does not come this far");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Writes the daemon has sent to a service since the journal was cleared.
    pub fn writes(&self, service: Service) -> Vec<Record> {
        self.simulator
            .with(|world| world.journal.writes().filter(|record| record.service == service).cloned().collect())
    }

    /// Writes to both services since the journal was cleared; none when everything is at rest.
    pub fn written(&self) -> Vec<Record> {
        [Service::Portal, Service::Crm].into_iter().flat_map(|service| self.writes(service)).collect()
    }

    /// Requests to a service since the journal was cleared.
    pub fn requests(&self, service: Service) -> Vec<Record> {
        let is_of = |record: &&Record| record.service == service && !record.is_batch_item;
        self.simulator.with(|world| world.journal.records().iter().filter(is_of).cloned().collect())
    }

    /// Forgets the requests so far.
    pub fn clear_journal(&self) {
        self.simulator.with(|world| world.journal.clear());
    }

    /// Forgets the requests so far, once they have been judged.
    pub fn clear_journal_but_judge(&self) {
        self.judge();
        self.clear_journal();
    }

    /// The lead of a referral by the computed id, if it exists.
    pub fn lead_of(&self, referral: Uuid) -> Option<Uuid> {
        let computed = Uuid::new_v5(&Checker::default().namespace, referral.to_string().as_bytes());
        self.simulator.with(|world| world.crm.lead_ids().contains(&computed).then_some(computed))
    }

    /// One column of a lead.
    pub fn column(&self, lead: Uuid, column: &str) -> Value {
        self.simulator.with(|world| world.crm.value(Table::Lead, lead, column).clone())
    }

    /// One path of a referral.
    pub fn path_of(&self, referral: Uuid, pointer: &str) -> Value {
        self.simulator
            .with(|world| world.portal.get(referral).and_then(|row| row.pointer(pointer)).cloned())
            .unwrap_or_default()
    }

    /// Judges the history by the promises, and the printed words and stored bytes by discretion.
    pub fn judge(&self) {
        let checker = Checker { window_grace: WINDOW_GRACE, ..Checker::default() };
        let broken = self.simulator.with(|world| checker.check(world));
        assert_eq!(broken, Vec::<String>::new());
        self.judge_discretion();
    }

    /// Nothing personal and nothing secret in anything printed or stored (the refresh token may be in `keep/`).
    pub fn judge_discretion(&self) {
        self.judge_discretion_but(&[]);
    }

    /// As [`Stage::judge_discretion`], but for these files.
    pub fn judge_discretion_but(&self, files_of_secrets: &[&str]) {
        let (words, secrets) = self.personal();
        let mut places: Vec<(String, Vec<u8>)> = Vec::new();
        for (number, text) in self.printed.lock().unwrap().iter().enumerate() {
            places.push((format!("output {number}"), text.clone().into_bytes()));
        }
        for file in files(self.directory.path()) {
            let name = file.strip_prefix(self.directory.path()).unwrap().display().to_string();
            let is_secret = ["secret", "refresh"].iter().chain(files_of_secrets).any(|known| *known == name);
            if !is_secret && !name.contains(".toml") {
                places.push((name, std::fs::read(&file).unwrap_or_default()));
            }
        }
        let finder = finder_of(&words);
        for (name, bytes) in &places {
            assert_eq!(finder(bytes), Vec::<String>::new(), "{name} contains personal words");
            for secret in &secrets {
                let is_kept = name.contains("keep/") && secret.starts_with("1.simulated");
                assert!(is_kept || !contains(bytes, secret.as_bytes()), "{name} contains the secret {secret:?}");
            }
        }
    }

    /// Personal words and secrets of both services that are in these bytes.
    pub fn personal_in(&self, bytes: &[u8]) -> Vec<String> {
        let (words, secrets) = self.personal();
        let mut found = finder_of(&words)(bytes);
        found.extend(secrets.into_iter().filter(|secret| contains(bytes, secret.as_bytes())));
        found
    }

    /// Personal words of both services, and secrets.
    fn personal(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        self.simulator.with(|world| {
            let mut words = BTreeSet::new();
            for (_, document) in world.portal.all() {
                for pointer in ["/customerProfile", "/details/notes", "/name"] {
                    document.pointer(pointer).iter().for_each(|value| gather(value, &mut words));
                }
            }
            for (_, lead) in world.crm.all(Table::Lead) {
                for column in
                    ["subject", "companyname", "firstname", "lastname", "emailaddress1", "telephone1", "address1_line1"]
                {
                    lead.get(column).iter().for_each(|value| gather(value, &mut words));
                }
            }
            // Words of our own that customers use too.
            words.retain(|word| {
                word.chars().count() >= 7 && !OURS.contains(&word.as_str()) && Uuid::try_parse(word).is_err()
            });
            let secrets = BTreeSet::from([
                world.options.client.1.clone(),
                world.options.first_refresh_token.clone(),
                world.entra.newest_refresh_token().to_owned(),
                "sim-1-".to_owned(),
                "sim-2-".to_owned(),
            ]);
            (words, secrets)
        })
    }
}

/// Words in documents that name no person: enumerations.
const OURS: [&str; 6] =
    ["Independent", "Manufacturing", "10to50employees", "251to1000employees", "000000000", "Referral"];

fn gather(value: &Value, words: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            words.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, words)),
        Value::Object(map) => map.values().for_each(|item| gather(item, words)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Finds words in bytes, by their first four bytes: fast enough for a trace log.
fn finder_of(words: &BTreeSet<String>) -> impl Fn(&[u8]) -> Vec<String> {
    let mut by_start: std::collections::HashMap<[u8; 4], Vec<String>> = Default::default();
    for word in words {
        let start: [u8; 4] = word.as_bytes()[..4].try_into().unwrap();
        by_start.entry(start).or_default().push(word.clone());
    }
    move |bytes| {
        let mut found = Vec::new();
        for at in 0..bytes.len().saturating_sub(3) {
            let Some(candidates) = by_start.get(&bytes[at..at + 4]) else { continue };
            found.extend(candidates.iter().filter(|word| bytes[at..].starts_with(word.as_bytes())).cloned());
        }
        found
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The last lines of a long log.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("TRACE") && !line.contains("DEBUG")).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A running `referrald run`.
pub struct Daemon {
    child: Option<Child>,
    place: Place,
    /// Just before it was started.
    began: Timestamp,
    /// Where its log goes.
    pub log: PathBuf,
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Waits until its control socket answers.
    pub async fn until_up(&mut self) {
        let began = Instant::now();
        loop {
            if let Ok(Some(_)) = Client::find(&self.place).await {
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "the daemon ended");
            assert!(began.elapsed() < PATIENCE, "the control socket does not answer");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn client(&self) -> Client {
        Client::find(&self.place).await.unwrap().expect("the daemon answers")
    }

    /// How things stand.
    pub async fn status(&self) -> Status {
        self.client().await.status().await.unwrap()
    }

    /// Waits until the status fits.
    pub async fn until(&self, what: &str, fits: impl Fn(&Status) -> bool) -> Status {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            if fits(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "waited for {what}: {status:#?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the first cycle after the start has ended; the ledger may remember cycles of former processes.
    pub async fn first_cycle(&self) -> Status {
        self.until("the first cycle", |status| {
            status.last_cycle.as_ref().is_some_and(|cycle| cycle.started > self.began) && !status.is_cycle_running
        })
        .await
    }

    /// Asks for a cycle and waits until one that began afterwards has ended.
    pub async fn cycle(&self) -> Status {
        // Otherwise the first one, which comes by itself, might be taken for the one asked for.
        self.first_cycle().await;
        let asked: Timestamp = jiff::Timestamp::now().into();
        tokio::time::sleep(Duration::from_millis(2)).await; // Stamps are in milliseconds.
        self.client().await.reconcile().await.unwrap();
        self.until("a cycle", |status| {
            status.last_cycle.as_ref().is_some_and(|cycle| cycle.started > asked) && !status.is_cycle_running
        })
        .await
    }

    /// Waits until its log has these words.
    pub async fn until_logged(&self, words: &str) {
        let began = Instant::now();
        while !self.logged().contains(words) {
            assert!(began.elapsed() < PATIENCE, "not in the log: {words}\n{}", tail(&self.logged()));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks for cycles until something has come about.
    pub async fn until_cycles(&self, what: &str, is_done: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_done() {
            assert!(began.elapsed() < PATIENCE, "waited for {what}\n{}", tail(&self.logged()));
            self.client().await.reconcile().await.unwrap();
            // Slow enough for the services' own limits, however long it takes.
            tokio::time::sleep(10 * LOOK_AGAIN).await;
        }
    }

    /// Asks it to stop and gives its exit code.
    pub async fn stop(mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        assert!(terminate(&child));
        wait_for(&mut child).await
    }

    /// From now on no file of the process takes a byte, or every file does again. True, so that it can be a condition. Only of
    /// one that was started with `trap '' XFSZ`.
    pub fn fill_disk(&self, is_full: bool) -> bool {
        let limit = if is_full { "--fsize=0:unlimited" } else { "--fsize=unlimited:unlimited" };
        let set = Command::new("prlimit").args(["--pid", &self.pid().to_string(), limit]).status().unwrap();
        assert!(set.success());
        true
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        assert!(signal(self.child.as_ref().unwrap(), name));
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Sends SIGTERM; true when it was sent.
fn terminate(child: &Child) -> bool {
    signal(child, "TERM")
}

/// Sends a signal by name; true when it was sent.
fn signal(child: &Child, name: &str) -> bool {
    Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success()
}

async fn wait_for(child: &mut Child) -> i32 {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(began.elapsed() < PATIENCE, "it does not stop");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
