//! A real PostgreSQL server for tests: in a folder of its own, on a free port, gone when the test is.

mod install;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::env;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Set to `required` where a machine without PostgreSQL is a mistake.
const SWITCH: &str = "PARLOUR_TEST_POSTGRES";
const LIFELINE: &str = include_str!("lifeline.sh");

/// How long PostgreSQL may take to make its files, and then to answer.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// How many ports are tried: another process may take one between our look and PostgreSQL's.
const PORTS: u32 = 3;

/// A running PostgreSQL server. It ends, and its folder is removed, when this is dropped and when our process
/// ends in any way. (Killed as root, with a TMPDIR where others cannot write, the empty folder stays.)
#[derive(Debug)]
pub struct Postgres {
    lifeline: Child,
    /// Orders to `lifeline.sh`; closing it ends the server.
    orders: Option<ChildStdin>,
    pid: Option<u32>,
    port: Port,
    programs: PathBuf,
    databases: AtomicU32,
    folder: TempDir,
}

impl Postgres {
    /// Starts a server and waits until it answers. `None`, and a line on standard error, where PostgreSQL is
    /// not installed.
    ///
    /// # Errors
    /// A sentence: the server cannot start or is not ready in time (with the last line of its log), or it is
    /// not installed and the environment has `PARLOUR_TEST_POSTGRES=required`.
    pub fn start() -> Result<Option<Self>, String> {
        let Some(programs) = install::programs() else {
            let required = env::var_os(SWITCH).is_some_and(|value| value == "required");
            return skipped(required).map(|()| None);
        };
        let mut postgres = Self::prepare(programs, Port::claim()?)?;
        for left in (0..PORTS).rev() {
            match postgres.start_server() {
                Ok(()) => break,
                Err(_) if left > 0 && postgres.port.is_taken() => postgres.port = Port::claim()?,
                Err(error) => return Err(error),
            }
        }
        Ok(Some(postgres))
    }

    /// The address of a database: `postgres://postgres@127.0.0.1:PORT/database`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port.number)
    }

    /// Makes an empty database that nobody else has, and returns its address.
    ///
    /// # Errors
    /// What `createdb` said.
    pub fn create_database(&self) -> Result<String, String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        let mut createdb = self.client("createdb");
        // Nobody is ever connected to template0, which would be in the way.
        createdb.args(["--maintenance-db=postgres", "--template=template0", &name]);
        said(createdb)?;
        Ok(self.url(&name))
    }

    /// The folder of its files: `data`, and what it said in `postgres.log`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// The server's process id; `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Stops the server in an orderly way (PostgreSQL's fast mode: sessions are ended, all is written down).
    /// Its port refuses connections until [`Self::start_server`]. Does nothing if it is stopped.
    ///
    /// # Errors
    /// It did not stop within 10 seconds.
    pub fn stop_server(&mut self) -> Result<(), String> {
        self.stop_with("INT")
    }

    /// Stops the server as a crash would (PostgreSQL's immediate mode): the next start recovers from its log
    /// of changes. Does nothing if it is stopped.
    ///
    /// # Errors
    /// It did not stop within 10 seconds.
    pub fn crash_server(&mut self) -> Result<(), String> {
        self.stop_with("QUIT")
    }

    /// Starts the server again, with the same data on the same port, and waits until it answers. Does nothing
    /// if it runs.
    ///
    /// # Errors
    /// It cannot start or is not ready within 30 seconds, with the last line of its log.
    pub fn start_server(&mut self) -> Result<(), String> {
        if self.pid.is_some() {
            return Ok(());
        }
        self.order(&format!("start {}", self.port.number))?;
        let began = Instant::now();
        let ready = self.wait_for(START_LIMIT, |state| state.parse::<u32>().ok()).and_then(|pid| {
            self.pid = Some(pid);
            self.wait_until_ready(pid, began)
        });
        let Err(problem) = ready else { return Ok(()) };
        let problem = self.with_log(&problem);
        // As before: stopped, and free to start.
        self.crash_server()?;
        Err(problem)
    }

    /// Makes the server's files; it does not run yet.
    fn prepare(programs: PathBuf, port: Port) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("parlour-postgres-").tempdir();
        let folder = folder.map_err(|error| format!("no temporary folder: {error}"))?;
        let in_folder = |error: io::Error| format!("{}: {error}", folder.path().display());

        let log = File::create(log_file(folder.path())).map_err(in_folder)?;
        let mut lifeline = Command::new("sh");
        lifeline
            .args(["-c", LIFELINE, "sh"])
            .args([folder.path(), &programs])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(in_folder)?)
            .stderr(log)
            // A Ctrl-C in the terminal is for us, and reaches the server as our end.
            .process_group(0);
        without_settings(&mut lifeline);
        // What we just made is ours, which tells who we are.
        if fs::metadata(folder.path()).map_err(in_folder)?.uid() == 0 {
            let user = install::unprivileged()?;
            chown(folder.path(), Some(user.uid), Some(user.gid)).map_err(in_folder)?;
            lifeline.uid(user.uid).gid(user.gid);
        }
        let mut lifeline =
            lifeline.spawn().map_err(|error| format!("sh, in {}: {error}", folder.path().display()))?;
        let orders = lifeline.stdin.take();
        let databases = AtomicU32::new(0);
        let mut postgres = Self { lifeline, orders, pid: None, port, programs, databases, folder };

        match postgres.wait_for(START_LIMIT, |state| Some(state == "stopped")) {
            Ok(true) => Ok(postgres),
            Ok(false) => Err(postgres.with_log("PostgreSQL could not make its files")),
            Err(problem) => Err(postgres.with_log(&problem)),
        }
    }

    fn stop_with(&mut self, signal: &str) -> Result<(), String> {
        if self.pid.is_none() {
            return Ok(());
        }
        self.order(&format!("stop {signal}"))?;
        self.wait_for(STOP_LIMIT, |state| (state == "stopped").then_some(()))
            .map_err(|problem| self.with_log(&problem))?;
        self.pid = None;
        Ok(())
    }

    fn order(&mut self, order: &str) -> Result<(), String> {
        let orders = self.orders.as_mut().ok_or("the server has ended")?;
        writeln!(orders, "{order}").map_err(|error| format!("{order}: {error}"))
    }

    /// Polls the state that `lifeline.sh` writes down until `take` takes it.
    fn wait_for<T>(&mut self, limit: Duration, take: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let began = Instant::now();
        loop {
            let state = fs::read_to_string(self.folder.path().join("state")).unwrap_or_default();
            if let Some(taken) = Some(state.trim_end()).filter(|state| !state.is_empty()).and_then(&take) {
                return Ok(taken);
            }
            if let Ok(Some(status)) = self.lifeline.try_wait() {
                return Err(format!("the shell that keeps PostgreSQL ended: {status}"));
            }
            patience(began, limit)?;
        }
    }

    fn wait_until_ready(&self, pid: u32, began: Instant) -> Result<(), String> {
        while !(self.says_ready(pid) && TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number)).is_ok()) {
            if has_ended(pid) {
                return Err("PostgreSQL ended".to_owned());
            }
            patience(began, START_LIMIT)?;
        }
        Ok(())
    }

    /// Whether the server says that it takes connections, in its own folder: on the port, another may answer.
    fn says_ready(&self, pid: u32) -> bool {
        // PostgreSQL's pidfile.h: the process id is line 1, the postmaster's status is line 8.
        let file = fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines().map(str::trim);
        lines.next() == Some(&pid.to_string()) && lines.nth(6) == Some("ready")
    }

    /// A problem, with the last thing that the server said.
    fn with_log(&self, problem: &str) -> String {
        let log = fs::read(log_file(self.folder.path())).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(nothing)");
        format!("{problem}; the last line of its log: {last}")
    }

    /// One of PostgreSQL's client programs, set to speak to this server.
    fn client(&self, program: &str) -> Command {
        let mut client = Command::new(self.programs.join(program));
        without_settings(&mut client);
        client
            .args(["--host=127.0.0.1", "--username=postgres", "--no-password"])
            .arg(format!("--port={}", self.port.number))
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::null());
        client
    }

    /// The last resort; the folder goes with its `TempDir`.
    fn kill(&mut self) {
        if let Some(pid) = self.pid {
            let mut kill = Command::new("sh");
            kill.args(["-c", "kill -KILL \"$1\"", "sh", &pid.to_string()]);
            // It may have ended in this moment.
            let _ended = said(kill);
        }
        let _ended = self.lifeline.kill();
        let _status = self.lifeline.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.orders = None;
        let began = Instant::now();
        while matches!(self.lifeline.try_wait(), Ok(None)) {
            if patience(began, STOP_LIMIT).is_err() {
                self.kill();
                return;
            }
        }
    }
}

/// The server that all tests of one process share, started by the first that asks; `None` where PostgreSQL is
/// not installed. It ends with the process.
///
/// # Panics
/// With the error of [`Postgres::start`].
#[expect(clippy::panic, reason = "a test ends where something is not as it must be")]
pub fn shared() -> Option<&'static Postgres> {
    static SHARED: OnceLock<Result<Option<Postgres>, String>> = OnceLock::new();
    match SHARED.get_or_init(Postgres::start) {
        Ok(postgres) => postgres.as_ref(),
        Err(error) => panic!("{error}"),
    }
}

/// A port that no other server of this kind takes while we have it, also while ours is stopped.
#[derive(Debug)]
struct Port {
    number: u16,
    /// PostgreSQL has no use for the UDP port of the same number: who holds it has claimed the number.
    _claim: UdpSocket,
}

impl Port {
    /// A free one. Not one that the system hands out itself (from 32768 on Linux): while the server is
    /// stopped, no connection may get its port, least of all one that tries to reach it.
    fn claim() -> Result<Self, String> {
        let any = || RandomState::new().build_hasher().finish() % 20_000;
        (0..100)
            .filter_map(|_| u16::try_from(12_000 + any()).ok())
            .find_map(|number| {
                let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
                let port = Self { number, _claim: claim };
                (!port.is_taken()).then_some(port)
            })
            .ok_or_else(|| "no free port on 127.0.0.1".to_owned())
    }

    fn is_taken(&self) -> bool {
        TcpListener::bind((Ipv4Addr::LOCALHOST, self.number)).is_err()
    }
}

fn skipped(required: bool) -> Result<(), String> {
    if required {
        return Err(format!(
            "PostgreSQL is not installed (apt install postgresql), and {SWITCH} requires it"
        ));
    }
    // Not eprintln: a test that passes would keep the line to itself.
    writeln!(io::stderr(), "skipped: PostgreSQL is not installed (apt install postgresql)")
        .map_err(|error| format!("standard error: {error}"))
}

/// Waits one beat, or says that the time is over.
fn patience(began: Instant, limit: Duration) -> Result<(), String> {
    if began.elapsed() > limit {
        return Err(format!("PostgreSQL took more than {} seconds", limit.as_secs()));
    }
    thread::park_timeout(POLL);
    Ok(())
}

/// Whether a process has ended, as far as the system says; also one whose parent has not asked after it yet.
fn has_ended(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // pid (name) state …, and a name may have parentheses.
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => Path::new("/proc/self").exists(),
    }
}

/// Takes the user's PostgreSQL settings (`PGPORT` and so on) away from a program.
fn without_settings(command: &mut Command) {
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
}

/// Runs a program: what it wrote, or what it complained of.
fn said(mut command: Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("postgres.log")
}
