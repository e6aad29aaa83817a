//! A real clamd that knows one thing to be harmful: on a port of its own, gone when the test is.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{Duration, Instant, sleep},
};

/// Set to `required` where a machine without clamd is a mistake.
const SWITCH: &str = "PARLOUR_TEST_CLAMD";
/// What it finds harmful.
pub const HARMFUL: &[u8] = b"%PDF-1.4 words that do harm";
/// What it calls that.
const NAME: &str = "Parlour.Test";
/// How long it may take to start.
const LIMIT: Duration = Duration::from_secs(20);
/// It ends with whoever holds the other end of its input.
const LIFELINE: &str =
    r#"clamd --config-file="$1" >/dev/null 2>&1 & clamd=$!; cat; kill "$clamd"; wait "$clamd""#;

/// A place for a clamd, and its process while it runs.
pub struct Clamd {
    port: u16,
    folder: TempDir,
    lifeline: Option<Child>,
}

impl Clamd {
    /// A place for one, which does not run yet. None, and a line on standard error, where it is not installed.
    ///
    /// # Panics
    /// Where it is not installed and the environment says that it must be.
    #[must_use]
    pub fn prepare() -> Option<Self> {
        let is_there = Command::new("clamd").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !is_there {
            let required = std::env::var(SWITCH).is_ok_and(|value| value == "required");
            assert!(
                !required,
                "clamd is not installed (apt install clamav-daemon), and {SWITCH} requires it"
            );
            eprintln!("skipped: clamd is not installed (apt install clamav-daemon)");
            return None;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let folder = TempDir::new().expect("a folder");
        let harm: String = HARMFUL.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(folder.path().join("test.ndb"), format!("{NAME}:0:*:{harm}\n")).expect("written");
        let here = folder.path().display();
        let config = format!(
            "DatabaseDirectory {here}\nTCPSocket {port}\nTCPAddr 127.0.0.1\nForeground yes\nAlertExceedsMax yes\n"
        );
        fs::write(folder.path().join("clamd.conf"), config).expect("written");
        Some(Self { port, folder, lifeline: None })
    }

    /// Where it listens, as Parlour's configuration says it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(&mut self) {
        let mut shell = Command::new("sh");
        shell.args(["-c", LIFELINE, "clamd"]).arg(self.folder.path().join("clamd.conf"));
        self.lifeline = Some(shell.stdin(Stdio::piped()).spawn().expect("a shell"));
        let deadline = Instant::now() + LIMIT;
        // It tells nobody when it is ready.
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            assert!(Instant::now() < deadline, "clamd does not listen");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut lifeline) = self.lifeline.take() {
            drop(lifeline.stdin.take());
            drop(lifeline.wait());
        }
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        self.stop();
    }
}
