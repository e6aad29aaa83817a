//! A Parlour that can be killed: a process of its own beside a homeserver that can be killed, with a proxy on each of the
//! two ways between them.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use parlour::{
    config::Config,
    demo::{
        client::{Client, SignIn},
        homeserver::{Homeserver, HomeserverPlan},
        practice::{DemoPerson, SERVER_NAME},
        python::{default_cache, synapse_python},
        say::Silent,
        talk,
        world::{Place, World},
    },
    run::Extras,
};
use reqwest::Method;
use ruma::UserId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep, timeout},
};

use crate::{LIMIT, Talk, proxy::Proxy};

const POLL: Duration = Duration::from_millis(20);

/// A practice whose Parlour and homeserver are processes that can be killed.
pub struct Trial {
    /// Its people.
    pub people: Vec<DemoPerson>,
    /// The way from Parlour to the homeserver.
    pub to_homeserver: Proxy,
    /// The way from the homeserver to Parlour.
    pub to_parlour: Proxy,
    /// The folder of its data.
    pub data: PathBuf,
    place: Place,
    /// The command that runs Parlour as the tests are built.
    program: PathBuf,
    python: PathBuf,
    fault: Option<String>,
    homeserver: Option<Homeserver>,
    parlour: Option<Process>,
    http: reqwest::Client,
    folder: TempDir,
}

struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// What `GET /metrics` says, by name.
pub type Metrics = BTreeMap<String, f64>;

impl Trial {
    /// A new practice, everything running. `program` is the binary `parlour-under-test`; `database` a PostgreSQL URL, or
    /// none for SQLite. There are so many patients more than the demo has: `number1`, `number2` …
    pub async fn open(
        program: &str,
        database: Option<String>,
        more_patients: usize,
        fault: Option<&str>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place::anywhere(folder.path().join("world")).expect("free ports");
        let extras = Extras { database_url: database, more_patients, ..Extras::default() };
        let world = World::start(place.clone(), extras, &Silent).await.expect("a world");
        let people = world.people.clone();
        world.stop().await;
        let to_homeserver = Proxy::start(place.homeserver).await.expect("a proxy");
        let to_parlour = Proxy::start(place.internal).await.expect("a proxy");
        let put = |file: &str, from: String, to: String| {
            let file = place.data.join(file);
            let text = std::fs::read_to_string(&file).expect("a file of the world");
            assert!(text.contains(&from), "{from} stands in {}", file.display());
            std::fs::write(&file, text.replace(&from, &to)).expect("written");
        };
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        put("registration.yaml", url(place.internal), url(to_parlour.port()));
        put(
            "parlour.toml",
            format!("\nurl = \"{}\"", url(place.homeserver)),
            format!("\nurl = \"{}\"", url(to_homeserver.port())),
        );
        let python = synapse_python(&default_cache(), &Silent).await.expect("Synapse");
        let mut trial = Self {
            people,
            to_homeserver,
            to_parlour,
            data: place.data.clone(),
            place,
            program: program.into(),
            python,
            fault: fault.map(str::to_owned),
            homeserver: None,
            parlour: None,
            http: reqwest::Client::new(),
            folder,
        };
        trial.start_homeserver().await;
        trial.start_parlour().await;
        trial
    }

    /// Stops everything and removes the folder.
    pub async fn close(mut self) {
        self.kill_parlour().await;
        if let Some(mut homeserver) = self.homeserver.take() {
            homeserver.stop().await;
        }
        self.folder.close().expect("the folder is removed");
    }

    /// Starts the homeserver.
    pub async fn start_homeserver(&mut self) {
        let plan = HomeserverPlan {
            dir: self.place.data.join("homeserver"),
            server_name: SERVER_NAME.to_owned(),
            port: self.place.homeserver,
            registration_file: self.place.data.join("registration.yaml"),
        };
        let started = Homeserver::start(&self.python, plan, &Silent).await;
        self.homeserver = Some(started.expect("the homeserver starts"));
    }

    /// Ends the homeserver at once.
    pub async fn kill_homeserver(&mut self) {
        if let Some(mut homeserver) = self.homeserver.take() {
            homeserver.kill().await;
        }
    }

    /// The homeserver's SQLite file.
    pub fn homeserver_database(&self) -> PathBuf {
        self.place.data.join("homeserver").join("homeserver.db")
    }

    /// Starts Parlour, and does not wait for anything.
    pub async fn spawn_parlour(&mut self) {
        let mut command = Command::new(&self.program);
        let log = self.place.data.join("parlour.log");
        let log = std::fs::File::options().append(true).create(true).open(log).expect("a log");
        command
            .args(["run", "--config"])
            .arg(self.place.data.join("parlour.toml"))
            .env("PARLOUR_CONTROL", "1")
            .env("PARLOUR_LOG", std::env::var("PARLOUR_TRIAL_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        if let Some(fault) = &self.fault {
            command.env("PARLOUR_FAULT", fault);
        }
        let mut child = command.spawn().expect("Parlour starts");
        let orders = child.stdin.take().expect("its input");
        let answers = BufReader::new(child.stdout.take().expect("its output")).lines();
        self.parlour = Some(Process { child, orders, answers });
    }

    /// Starts Parlour and waits until messages travel.
    pub async fn start_parlour(&mut self) {
        self.spawn_parlour().await;
        self.wait_for("messages travel", |metrics| metrics["parlour_receiving"] == 1.0).await;
    }

    /// Kills Parlour with SIGKILL, and waits until it is gone.
    pub async fn kill_parlour(&mut self) {
        if let Some(mut process) = self.parlour.take() {
            process.child.kill().await.expect("killed");
        }
    }

    /// Waits until Parlour has ended by itself; whether it did in time.
    pub async fn parlour_ends(&mut self, limit: Duration) -> bool {
        let Some(process) = &mut self.parlour else { return true };
        let ended = timeout(limit, process.child.wait()).await.is_ok();
        if ended {
            self.parlour = None;
        }
        ended
    }

    /// Whether Parlour runs.
    pub fn parlour_runs(&mut self) -> bool {
        self.parlour.as_mut().is_some_and(|process| matches!(process.child.try_wait(), Ok(None)))
    }

    /// Gives Parlour an order, as `parlour-under-test` takes them; its answer.
    pub async fn order(&mut self, order: &str) -> String {
        let process = self.parlour.as_mut().expect("Parlour runs");
        process.orders.write_all(format!("{order}\n").as_bytes()).await.expect("it listens");
        let answer = timeout(LIMIT, process.answers.next_line()).await.expect("in time");
        answer.expect("an answer").expect("a line")
    }

    /// Parlour's figures; none while it does not answer.
    pub async fn metrics(&self) -> Option<Metrics> {
        let url = format!("http://127.0.0.1:{}/metrics", self.place.internal);
        let answer = self.http.get(url).send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let text = answer.text().await.ok()?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let parsed = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Some(parsed.collect())
    }

    /// Waits until Parlour's figures are as wanted. Parlour tells of no such moment by itself, so it is asked often.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let metrics = self.metrics().await;
            if metrics.as_ref().is_some_and(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {metrics:?}; {}", self.last_words());
            sleep(POLL).await;
        }
    }

    /// Waits until nothing is to be done: no event waits, no leg waits.
    pub async fn quiet(&self) {
        self.wait_for("everything is done", |metrics| {
            metrics["parlour_inbox_waiting"] == 0.0 && metrics["parlour_legs_waiting"] == 0.0
        })
        .await;
    }

    /// Parlour's log, warnings and errors.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.data.join("parlour.log")).unwrap_or_default()
    }

    /// The end of Parlour's log.
    pub fn last_words(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// One of the people, by a word of the name.
    pub fn person(&self, name: &str) -> &DemoPerson {
        self.people.iter().find(|person| person.is_meant_by(name)).expect("a person of this name")
    }

    /// The homeserver's client API as one of Parlour's own users: status and body.
    pub async fn as_ours(
        &self,
        user: &UserId,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let config = Config::read(&self.data.join("parlour.toml")).expect("the configuration");
        let url = format!("{}{path}", self.homeserver_url());
        let url = reqwest::Url::parse_with_params(&url, [("user_id", user.as_str())]).expect("a URL");
        let mut request = self.http.request(method, url).bearer_auth(config.homeserver.as_token.reveal());
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Where people's clients are pointed at: the homeserver itself.
    pub fn homeserver_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.place.homeserver)
    }

    /// Where the practice API is.
    pub fn public_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.place.public)
    }

    /// A person's client on a named device.
    pub async fn sign_in(&self, name: &str, device: &str) -> Client {
        let person = self.person(name);
        let store = self.folder.path().join("clients").join(person.user_id.localpart()).join(device);
        Client::sign_in(SignIn {
            homeserver_url: &self.homeserver_url(),
            user_id: &person.user_id,
            password: &person.password,
            store: &store,
            strict: false,
        })
        .await
        .expect("signed in")
    }

    /// A member of staff begins a two-way conversation.
    pub async fn begin(&self, owner: &Client, name: &str, staff: &[&str], patients: &[&str]) -> Talk {
        let ids = |names: &[&str]| names.iter().map(|n| self.person(n).user_id.clone()).collect::<Vec<_>>();
        let wanted =
            json!({ "name": name, "mode": "two-way", "staff": ids(staff), "patients": ids(patients) });
        Talk { told: talk::begin(&self.public_url(), owner, &wanted).await.expect("a conversation") }
    }
}
