//! Runs the demo's Synapse as a child process: its folder, its configuration, its start and its end.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};

use super::{
    report::{DemoError, Report},
    world::may_listen,
};

const CONFIGURATION: &str = include_str!("synapse/homeserver.yaml");
const LOG_CONFIGURATION: &str = include_str!("synapse/log.yaml");
const LAUNCH: &str = include_str!("synapse/launch.py");
const GRANT_ADMIN: &str = include_str!("synapse/grant_admin.py");

/// Secrets that Synapse reads from a file of that name, made once.
const SECRETS: [&str; 3] = ["registration_shared_secret", "macaroon_secret_key", "form_secret"];
const SIGNING_KEY: &str = "signing.key";
/// Two locks: of the process that starts Synapse, and of Synapse, which outlives a killed starter a moment.
const STARTER_LOCK: &str = "starter.lock";
const LOCK: &str = "homeserver.lock";

const START_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A little more than an orphan takes at most.
const ORPHAN_LIMIT: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(50);
/// How long one readiness request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// `launch.py` exits with this when another Synapse holds the folder's lock.
const EXIT_FOLDER_IN_USE: i32 = 3;

/// Which homeserver to run.
#[derive(Debug, Clone)]
pub struct HomeserverPlan {
    /// Its folder: configuration, keys, database, media, log. Made if absent, for this user only.
    pub dir: PathBuf,
    /// For example `demo.parlour.local`; fixed for the life of the folder.
    pub server_name: String,
    /// The port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Parlour's application service registration (Matrix Application Service API v1.19 §Registration).
    pub registration_file: PathBuf,
    /// More of its configuration: lines of YAML.
    pub more: String,
}

/// A running Synapse. It ends when this is dropped, and when our process ends in any way.
pub struct Homeserver {
    child: Child,
    /// Closing it asks Synapse to stop.
    lifeline: Option<ChildStdin>,
    pid: u32,
    port: u16,
    python: PathBuf,
    dir: PathBuf,
    /// Given back when Synapse has ended, so that the folder can be used again at once.
    folder: Option<File>,
}

impl Homeserver {
    /// Writes the configuration where it is absent or different, starts Synapse with `python` (see
    /// [`synapse_python`](super::python::synapse_python)) and waits until it answers.
    ///
    /// # Errors
    /// The port or the folder is in use or cannot be used, Synapse stops, or is not ready within 60 seconds.
    pub async fn start(
        python: &Path,
        mut plan: HomeserverPlan,
        report: &dyn Report,
    ) -> Result<Self, DemoError> {
        make_private_folder(&plan.dir)?;
        plan.dir = plan.dir.canonicalize().map_err(DemoError::at(&plan.dir))?;
        plan.registration_file =
            plan.registration_file.canonicalize().map_err(DemoError::at(&plan.registration_file))?;
        let folder = claim_folder(&plan.dir).await?;
        plan.port = free_port(plan.port)?;
        write_files(&plan)?;

        report.step("homeserver", &format!("Starting the homeserver (Synapse) of {}.", plan.server_name));
        let mut homeserver = Self::spawn(python, &plan, folder)?;
        let Ok(ready) = timeout(START_LIMIT, homeserver.ready()).await else {
            homeserver.kill().await;
            let log = homeserver.log();
            return Err(DemoError::HomeserverSlow { seconds: START_LIMIT.as_secs(), log });
        };
        ready?;
        tracing::info!(pid = homeserver.pid, port = homeserver.port, "homeserver ready");
        report.step("homeserver", &format!("The homeserver answers at {}.", homeserver.url()));
        Ok(homeserver)
    }

    /// The address for clients on this machine: `http://127.0.0.1:PORT`, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Synapse's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Synapse's log of this run: warnings and errors.
    pub fn log(&self) -> PathBuf {
        log_file(&self.dir)
    }

    /// Asks Synapse to stop, and kills it if it has not after 10 seconds. Does nothing if it has ended.
    pub async fn stop(&mut self) {
        self.lifeline = None;
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.pid, "the homeserver did not stop, it is killed");
            self.kill().await;
        }
        self.folder = None;
    }

    /// Resolves when Synapse ends, with the error that says how. May be cancelled and called again.
    pub async fn exited(&mut self) -> DemoError {
        let status = self.child.wait().await;
        self.folder = None;
        self.stopped(status)
    }

    /// Makes an account of this homeserver an administrator, through a throw-away one that is deactivated
    /// at once (Synapse's shared-secret registration). Repeatable; `user_id` must exist.
    ///
    /// # Errors
    /// [`DemoError::AdminRefused`] with what the homeserver said.
    pub async fn make_admin(&self, user_id: &str) -> Result<(), DemoError> {
        let secret_file = self.dir.join(SECRETS[0]);
        let secret = fs::read_to_string(&secret_file).map_err(DemoError::at(&secret_file))?;
        let order = json!({"url": self.url(), "secret": secret, "user_id": user_id}).to_string();
        let failed = |source| DemoError::Program { program: self.python.clone(), source };
        let mut child = Command::new(&self.python)
            .args(["-I", "-c", GRANT_ADMIN])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(order.as_bytes()).await.map_err(failed)?;
        }
        let said = child.wait_with_output().await.map_err(failed)?;
        if said.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&said.stderr);
        let reason = words.lines().last().unwrap_or("no reason given").to_owned();
        Err(DemoError::AdminRefused { user_id: user_id.to_owned(), reason })
    }

    fn spawn(python: &Path, plan: &HomeserverPlan, folder: File) -> Result<Self, DemoError> {
        let log = log_file(&plan.dir);
        if log.exists() {
            // What the run before said stays readable for one more run.
            fs::rename(&log, log.with_added_extension("old")).map_err(DemoError::at(&log))?;
        }
        let output =
            File::options().append(true).create(true).mode(0o600).open(&log).map_err(DemoError::at(&log))?;
        let errors = output.try_clone().map_err(DemoError::at(&log))?;
        let mut command = Command::new(python);
        command
            .arg("-I")
            .arg(plan.dir.join("launch.py"))
            .arg(plan.dir.join(LOCK))
            .arg("--config-path")
            .arg(plan.dir.join("homeserver.yaml"))
            .current_dir(&plan.dir)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // A Ctrl-C in the terminal is for us: we stop Synapse last.
            .process_group(0)
            .kill_on_drop(true);
        // All that it speaks to is on this machine.
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        let mut child =
            command.spawn().map_err(|source| DemoError::Program { program: python.to_owned(), source })?;
        Ok(Self {
            lifeline: child.stdin.take(),
            pid: child.id().unwrap_or_default(),
            child,
            port: plan.port,
            python: python.to_owned(),
            dir: plan.dir.clone(),
            folder: Some(folder),
        })
    }

    /// Polls until Synapse answers; ends early with an error when the child does.
    async fn ready(&mut self) -> Result<(), DemoError> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(REQUEST_LIMIT)
            .build()
            .map_err(|error| DemoError::HttpClient(error.to_string()))?;
        let versions = format!("{}/_matrix/client/versions", self.url());
        let answered = async {
            while !client.get(&versions).send().await.is_ok_and(|answer| answer.status().is_success()) {
                sleep(POLL).await;
            }
        };
        let status = tokio::select! {
            biased;
            status = self.child.wait() => status,
            () = answered => return Ok(()),
        };
        Err(self.stopped(status))
    }

    fn stopped(&self, status: io::Result<ExitStatus>) -> DemoError {
        match status {
            Ok(status) if status.code() == Some(EXIT_FOLDER_IN_USE) => {
                DemoError::FolderInUse(self.dir.clone())
            }
            Ok(status) => DemoError::HomeserverStopped { status: status.to_string(), log: self.log() },
            Err(error) => DemoError::HomeserverStopped { status: error.to_string(), log: self.log() },
        }
    }

    /// Ends Synapse at once, as a power cut would.
    pub async fn kill(&mut self) {
        self.folder = None;
        if let Err(error) = self.child.kill().await {
            tracing::warn!(pid = self.pid, %error, "the homeserver could not be killed");
        }
    }
}

/// Claims the folder for this process. A Synapse whose starter was killed needs a moment to end, and keeps
/// the second lock (and the port) until then: that is waited for.
async fn claim_folder(dir: &Path) -> Result<File, DemoError> {
    let in_use = || DemoError::FolderInUse(dir.to_owned());
    let starter = open_private(&dir.join(STARTER_LOCK))?;
    match starter.try_lock() {
        Ok(()) => (),
        Err(TryLockError::WouldBlock) => return Err(in_use()),
        Err(TryLockError::Error(source)) => return Err(DemoError::at(dir)(source)),
    }
    let orphan = open_private(&dir.join(LOCK))?;
    let ended = async {
        // Polled: a blocking lock would keep its thread, and so the runtime, when the time is over.
        while let Err(error) = orphan.try_lock() {
            match error {
                TryLockError::WouldBlock => sleep(POLL).await,
                TryLockError::Error(source) => return Err(DemoError::at(dir)(source)),
            }
        }
        Ok(())
    };
    timeout(ORPHAN_LIMIT, ended).await.map_err(|_| in_use())??;
    Ok(starter)
}

/// Opens a file that only this user can read, for appending.
fn open_private(path: &Path) -> Result<File, DemoError> {
    let mut options = File::options();
    options.append(true).create(true).mode(0o600);
    options.open(path).map_err(DemoError::at(path))
}

/// Checks the port before Synapse does, for a clear sentence; picks one for 0.
fn free_port(port: u16) -> Result<u16, DemoError> {
    match may_listen(port) {
        Ok(port) => Ok(port),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(DemoError::PortTaken(port)),
        Err(source) => Err(DemoError::PortRefused { port, source }),
    }
}

fn make_private_folder(dir: &Path) -> Result<(), DemoError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(DemoError::at(dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(DemoError::at(dir))
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("homeserver.log")
}

/// Everything that Synapse reads. Secrets and keys are made once, the rest follows the plan.
fn write_files(plan: &HomeserverPlan) -> Result<(), DemoError> {
    make_private_folder(&plan.dir.join("media"))?;
    for name in SECRETS {
        write_once(&plan.dir.join(name), random_text::<48>)?;
    }
    // Synapse's key file: algorithm, version, seed.
    write_once(&plan.dir.join(SIGNING_KEY), || Ok(format!("ed25519 a_demo {}\n", random_text::<32>()?)))?;
    write_private(&plan.dir.join("launch.py"), LAUNCH)?;
    write_private(&plan.dir.join("log.yaml"), LOG_CONFIGURATION)?;
    write_private(&plan.dir.join("homeserver.yaml"), &configuration(plan)?)
}

/// Synapse's configuration for a plan. A JSON string is a YAML string, so JSON does the quoting.
fn configuration(plan: &HomeserverPlan) -> Result<String, DemoError> {
    let quoted = |path: PathBuf| match path.to_str() {
        Some(text) => Ok(json!(text).to_string()),
        None => Err(DemoError::PathNotText(path)),
    };
    let mut values = vec![
        ("server_name", json!(plan.server_name).to_string()),
        ("port", plan.port.to_string()),
        ("database", quoted(plan.dir.join("homeserver.db"))?),
        ("media_store", quoted(plan.dir.join("media"))?),
        ("log_config", quoted(plan.dir.join("log.yaml"))?),
        ("signing_key", quoted(plan.dir.join(SIGNING_KEY))?),
        ("registration_file", quoted(plan.registration_file.clone())?),
    ];
    for name in SECRETS {
        values.push((name, quoted(plan.dir.join(name))?));
    }
    let fill = |text: String, (name, value): &(&str, String)| text.replace(&format!("{{{name}}}"), value);
    Ok(values.iter().fold(CONFIGURATION.to_owned(), fill) + plan.more.as_str())
}

/// `N` random bytes in unpadded base64.
fn random_text<const N: usize>() -> Result<String, DemoError> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| DemoError::NoRandomness(error.to_string()))?;
    Ok(STANDARD_NO_PAD.encode(bytes))
}

fn write_once(path: &Path, text: impl FnOnce() -> Result<String, DemoError>) -> Result<(), DemoError> {
    if path.exists() { Ok(()) } else { write_private(path, &text()?) }
}

/// Replaces a file that says something else, whole or not at all, readable for this user only.
fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    if fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    let partial = path.with_added_extension("partial");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&partial, path)
    };
    write().map_err(DemoError::at(path))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn plan(dir: &str) -> HomeserverPlan {
        HomeserverPlan {
            dir: dir.into(),
            server_name: "demo.parlour.local".into(),
            port: 8008,
            registration_file: "/r.yaml".into(),
            more: String::new(),
        }
    }

    #[test]
    fn fills_every_place_of_the_configuration() {
        let text = configuration(&plan("/a \"folder\"")).unwrap();
        assert!(text.contains(r#"server_name: "demo.parlour.local""#), "{text}");
        assert!(text.contains("    port: 8008\n"), "{text}");
        assert!(text.contains(r#"signing_key_path: "/a \"folder\"/signing.key""#), "{text}");
        assert!(text.contains(r#"app_service_config_files: ["/r.yaml"]"#), "{text}");
        for (at, _) in text.match_indices('{') {
            let inside = text[at + 1..].split(['}', ':']).next().unwrap_or_default();
            assert!(text[at + 1 + inside.len()..].starts_with(':'), "place {{{inside}}} is not filled");
        }
    }

    #[test]
    fn says_which_port_is_taken() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let said = free_port(port).unwrap_err().to_string();
        assert!(said.starts_with(&format!("Port {port} is taken: choose another with --port")), "{said}");
        assert_ne!(free_port(0).unwrap(), port);
    }
}
