//! A client that is not the SDK's: matrix-js-sdk on Node, driven by JSON lines.

use std::{path::PathBuf, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::OnceCell,
};

/// A running Node client.
pub struct JsClient {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/js-client"))
}

/// Installs the client's packages, once; whether there is a Node to run it with. Where `PARLOUR_TEST_NODE` is
/// `required`, its absence is a failure.
///
/// # Panics
/// When the packages cannot be installed, or Node is required and missing.
pub async fn available() -> bool {
    static INSTALLED: OnceCell<bool> = OnceCell::const_new();
    let install = || async {
        let node = Command::new("node").arg("--version").stdout(Stdio::null()).status().await;
        if !node.is_ok_and(|status| status.success()) {
            let required = std::env::var("PARLOUR_TEST_NODE").is_ok_and(|value| value == "required");
            assert!(!required, "Node is required for the second client library, and there is none");
            return false;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(folder()).stdin(Stdio::null());
        let status = npm.status().await.expect("npm runs");
        assert!(status.success(), "the packages of js-client are installed");
        true
    };
    *INSTALLED.get_or_init(install).await
}

impl JsClient {
    /// Starts one and signs a person in.
    ///
    /// # Panics
    /// When that fails.
    pub async fn sign_in(homeserver_url: &str, user_id: &str, password: &str) -> Self {
        let mut child = Command::new("node")
            .arg("client.mjs")
            .current_dir(folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut client = Self { child, input, output };
        let request = json!({
            "do": "sign_in", "homeserver_url": homeserver_url, "user_id": user_id, "password": password,
        });
        let answer = client.ask(request).await;
        assert_eq!(answer["cross_signed"], true, "{answer}");
        client
    }

    /// One command and its answer.
    ///
    /// # Panics
    /// When the client says that it failed.
    pub async fn ask(&mut self, mut command: Value) -> Value {
        command["limit_ms"] = json!(40_000);
        self.input.write_all(format!("{command}\n").as_bytes()).await.expect("it listens");
        let line = self.output.next_line().await.expect("it answers").expect("it answers");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["ok"], true, "{} was answered {answer}", command["do"]);
        answer
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it does not end well.
    pub async fn stop(mut self) {
        self.ask(json!({ "do": "stop" })).await;
        assert!(self.child.wait().await.expect("it ends").success());
    }
}
