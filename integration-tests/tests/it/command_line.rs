//! `parlour demo` as a person starts it: what it prints, how it fails, that nothing stays behind.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use parlour_integration_tests::runs_alone;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpSocket,
    process::{Child, ChildStdout, Command},
};

const PARLOUR: &str = env!("CARGO_BIN_EXE_parlour-under-test");
const SECOND_START: Duration = Duration::from_secs(10);

struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(PARLOUR)
            .arg("demo")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self { child, lines }
    }

    /// Every state up to the one that ends the start.
    async fn states(&mut self) -> Vec<Value> {
        let mut states = Vec::new();
        while let Some(line) = self.lines.next_line().await.expect("a line") {
            let state: Value = serde_json::from_str(&line).expect("each line is JSON");
            let last = state["state"] == "ready" || state["state"] == "failed";
            states.push(state);
            if last {
                break;
            }
        }
        states
    }

    async fn interrupt(mut self) {
        let pid = self.child.id().expect("it runs");
        let sent = Command::new("sh").args(["-c", &format!("kill -INT {pid}")]).status().await;
        assert!(sent.expect("a shell").success());
        let status = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await;
        assert!(status.expect("it stops").expect("a status").success());
    }
}

/// A base port with three free ones after it. Each test asks for its own `place`: 1 and 2 in this file, 3 in `killed/demo.rs`.
pub(crate) fn free_ports(place: u16) -> u16 {
    // Not listened on: a child that is begun at this moment would go on with it for a while.
    let free = |port: u16| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("set");
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok()
    };
    let begin = 30_000 + place * 800 + u16::try_from(std::process::id() % 100).expect("small") * 4;
    (begin..begin + 400).step_by(4).find(|base| (0..4).all(|n| free(base + n))).expect("free ports")
}

fn folder(path: &Path) -> String {
    path.to_str().expect("a name").to_owned()
}

/// Whether anything listens there.
fn answers(url: &str) -> bool {
    let address = url.trim_start_matches("http://");
    std::net::TcpStream::connect(address).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_is_ready_keeps_its_data_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().expect("a folder");
    let data = folder(&home.path().join("demo"));
    let port = free_ports(1).to_string();
    let arguments = ["--json", "--data", &data, "--port", &port];
    let mut demo = Demo::start(&arguments);
    let states = demo.states().await;
    let first = states.last().expect("a last state").clone();
    assert_eq!(first["state"], "ready", "{states:?}");
    assert!(states.len() > 4, "each step says something: {states:?}");
    let names = |side: &str| first[side].as_array().expect("people").len();
    assert_eq!((names("staff"), names("patients")), (3, 6));
    for person in first["staff"].as_array().into_iter().chain(first["patients"].as_array()).flatten() {
        for key in ["name", "user_id", "password"] {
            assert!(person[key].as_str().is_some_and(|value| !value.is_empty()), "{key}");
        }
    }
    let talk = &first["conversations"][0];
    assert_eq!(talk["mode"], "two-way");
    assert_eq!(talk["spokes"].as_object().expect("spokes").len(), 3);
    assert!(talk["hub_room_id"].is_string() && talk["id"].is_string() && talk["name"].is_string());
    let urls = ["homeserver_url", "public_url"].map(|key| first[key].as_str().expect("a URL").to_owned());
    let page = reqwest::get(&urls[1]).await.expect("a page").text().await.expect("text");
    for words in ["Connected", "Dr Aoife Murphy", urls[0].as_str()] {
        assert!(page.contains(words), "the page says {words}");
    }
    assert!(!page.contains(first["patients"][0]["password"].as_str().expect("a password")));
    demo.interrupt().await;
    assert!(urls.iter().all(|url| !answers(url)), "everything has stopped");

    let begun = Instant::now();
    let mut again = Demo::start(&arguments);
    let states = again.states().await;
    let took = begun.elapsed();
    assert_eq!(states.last(), Some(&first), "the same people, the same conversation");
    // Beside other tests the time says nothing.
    if runs_alone() {
        assert!(took < SECOND_START, "a second start took {took:?}");
    }
    println!("a second start: {took:?}");

    // Killed without a chance to say goodbye, it takes its homeserver with it.
    again.child.start_kill().expect("killed");
    again.child.wait().await.expect("ended");
    let deadline = Instant::now() + Duration::from_secs(15);
    while answers(&urls[0]) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!answers(&urls[0]), "the homeserver outlived a kill -9");

    let mut anew = Demo::start(&[&arguments[..], &["--reset"]].concat());
    let states = anew.states().await;
    let other = states.last().expect("a last state");
    assert_eq!(other["state"], "ready", "{states:?}");
    assert_ne!(other["conversations"][0]["id"], talk["id"], "begun anew");
    anew.interrupt().await;
}

async fn fails(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(PARLOUR);
    command.arg("demo").args(arguments).stdin(Stdio::null()).envs(variables.iter().copied());
    let output = command.output().await.expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_starting_is_one_clear_sentence() {
    let home = tempfile::tempdir().expect("a folder");
    let data = folder(&home.path().join("demo"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let number = port.to_string();
    if port <= 65_532 {
        let (code, words) = fails(&["--data", &data, "--port", &number], &[]).await;
        assert_eq!(code, Some(1));
        assert!(words.contains(&number) && words.contains("--port") && words.lines().count() == 1, "{words}");
    }
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let free = free_ports(2).to_string();
    let (code, words) = fails(&["--data", &data, "--port", &free], &[("PATH", &folder(&empty))]).await;
    assert_eq!(code, Some(1));
    assert!(words.contains("Python 3.10") && words.lines().count() == 1, "{words}");
    // Packages cannot be had: nothing half-made stays, and the log that is named says which.
    let cache = home.path().join("cache");
    let offline = [
        ("XDG_CACHE_HOME", &*folder(&cache)),
        ("PIP_INDEX_URL", "http://127.0.0.1:1/"),
        ("PIP_FIND_LINKS", ""),
        ("PIP_RETRIES", "0"),
        ("PIP_NO_CACHE_DIR", "1"),
        ("PIP_CONFIG_FILE", "/dev/null"),
    ];
    let (code, words) = fails(&["--data", &data, "--port", &free], &offline).await;
    assert_eq!(code, Some(1));
    assert!(words.contains("package") && words.contains("log") && words.lines().count() == 1, "{words}");
    let left: Vec<_> = std::fs::read_dir(cache.join("parlour")).expect("a cache").flatten().collect();
    assert!(left.iter().all(|entry| entry.path().is_file()), "{left:?}");
    let nowhere = folder(&home.path().join("nowhere"));
    let (code, words) = fails(&["chat", "murphy", "--data", &nowhere], &[]).await;
    assert_eq!(code, Some(1));
    assert!(words.contains("parlour demo") && words.lines().count() == 1, "{words}");
    let file = home.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let (code, words) = fails(&["--data", &folder(&file.join("demo")), "--port", &free], &[]).await;
    assert_eq!((code, words.lines().count()), (Some(1), 1), "{words}");
}
