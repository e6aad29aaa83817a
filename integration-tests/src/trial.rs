//! A Parlour that can be killed: a process of its own beside a homeserver that can be killed, with a proxy on each of the
//! two ways between them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use parlour::{
    config::Config,
    demo::{
        client::{Client, Recovery, SignIn},
        homeserver::{Homeserver, HomeserverPlan},
        practice::{DemoPerson, SERVER_NAME},
        python::{default_cache, synapse_python},
        say::Silent,
        talk,
        world::{Place, World},
    },
    run::Extras,
};
use parlour_engine::failpoints;
use reqwest::Method;
use ruma::{EventId, UserId};
use serde_json::{Value, json};
use sqlx::Connection as _;
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
    /// How often the ghosts are looked after, if not by the product's own measure.
    care: Option<Duration>,
    /// What Parlour's log shows from its next start on, as `PARLOUR_LOG` has it.
    pub shown: String,
    /// Of how many megabytes the disk is that Parlour's data lie on, if it is one of their own.
    disk: Option<u32>,
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
            care: None,
            shown: std::env::var("PARLOUR_TRIAL_LOG").unwrap_or_else(|_| "warn".to_owned()),
            disk: None,
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
        self.stop().await;
        self.folder.close().expect("the folder is removed");
    }

    /// Stops everything and leaves the folder, for whoever wants to know what happened; where it is.
    pub async fn close_and_keep(mut self) -> PathBuf {
        self.stop().await;
        self.folder.keep()
    }

    async fn stop(&mut self) {
        self.kill_parlour().await;
        if let Some(mut homeserver) = self.homeserver.take() {
            homeserver.stop().await;
        }
    }

    /// Starts the homeserver.
    pub async fn start_homeserver(&mut self) {
        let plan = HomeserverPlan {
            dir: self.place.data.join("homeserver"),
            server_name: SERVER_NAME.to_owned(),
            port: self.place.homeserver,
            registration_file: self.place.data.join("registration.yaml"),
            more: String::new(),
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

    /// Keeps a copy of the homeserver's database, which must be down.
    pub fn copy_homeserver(&self, to: &Path) {
        std::fs::create_dir(to).expect("a folder for the copy");
        let from = self.homeserver_database();
        for file in with_its_log(&from).filter(|file| file.exists()) {
            std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
        }
    }

    /// Puts such a copy back in the place of the homeserver's database, which must be down.
    pub fn put_homeserver_back(&self, from: &Path) {
        for file in with_its_log(&self.homeserver_database()) {
            let copy = from.join(file.file_name().expect("a name"));
            if file.exists() {
                std::fs::remove_file(&file).expect("removed");
            }
            if copy.exists() {
                std::fs::copy(&copy, &file).expect("put back");
            }
        }
    }

    /// The homeserver's SQLite file.
    pub fn homeserver_database(&self) -> PathBuf {
        self.place.data.join("homeserver").join("homeserver.db")
    }

    /// Has the next Parlours keep their data on a disk of so many megabytes, which is theirs alone and goes with them. Only
    /// root can.
    pub fn on_a_disk_of(&mut self, megabytes: u32) {
        let (data, before) = (self.place.data.join("parlour"), self.place.data.join("before"));
        std::fs::rename(&data, before).expect("set aside");
        std::fs::create_dir(&data).expect("a folder for the disk");
        self.disk = Some(megabytes);
    }

    /// The folder of Parlour's data as the running Parlour sees it.
    pub fn seen_by_parlour(&self) -> PathBuf {
        let child = self.parlour.as_ref().and_then(|process| process.child.id()).expect("Parlour runs");
        let data = self.place.data.join("parlour");
        PathBuf::from(format!("/proc/{child}/root")).join(data.strip_prefix("/").expect("a whole path"))
    }

    fn command(&self) -> Command {
        let Some(megabytes) = self.disk else { return Command::new(&self.program) };
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c"])
            .arg("mount -t tmpfs -o \"size=$1m\" tmpfs \"$2\" && cp -a \"$3/.\" \"$2\" && shift 3 && exec \"$@\"")
            .arg("sh")
            .arg(megabytes.to_string())
            .arg(self.place.data.join("parlour"))
            // What was there before is brought onto it.
            .arg(self.place.data.join("before"))
            .arg(&self.program);
        command
    }

    /// How many transactions the homeserver keeps although it takes Parlour for reachable: those that it is sending
    /// just now, and those that it has lost sight of.
    pub async fn transactions_kept_back(&self) -> i64 {
        let url = format!("sqlite://{}?mode=ro", self.homeserver_database().display());
        let mut connection = sqlx::AnyConnection::connect(&url).await.expect("the homeserver's database");
        let (count,) = sqlx::query_as(
            "SELECT COUNT(*) FROM application_services_txns
             WHERE as_id IN (SELECT as_id FROM application_services_state WHERE state = 'up')",
        )
        .fetch_one(&mut connection)
        .await
        .expect("its transactions");
        connection.close().await.expect("closed");
        count
    }

    /// Starts Parlour, and does not wait for anything.
    pub async fn spawn_parlour(&mut self) {
        self.spawn(None).await;
    }

    /// Starts Parlour with an order that it obeys from its beginning on, and does not wait for anything.
    pub async fn spawn_parlour_ordered(&mut self, order: &str) {
        self.spawn(Some(order)).await;
    }

    async fn spawn(&mut self, order: Option<&str>) {
        let temporary = self.place.data.join("tmp");
        std::fs::create_dir_all(&temporary).expect("a folder");
        let mut command = self.command();
        let log = self.place.data.join("parlour.log");
        let log = std::fs::File::options().append(true).create(true).open(log).expect("a log");
        command
            .args(["run", "--config"])
            .arg(self.place.data.join("parlour.toml"))
            .env("PARLOUR_CONTROL", "1")
            .env("TMPDIR", temporary)
            .env("PARLOUR_LOG", &self.shown)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        if let Some(fault) = &self.fault {
            command.env("PARLOUR_FAULT", fault);
        }
        if let Some(care) = self.care {
            command.env("PARLOUR_CARE", care.as_millis().to_string());
        }
        if let Some(order) = order {
            command.env("PARLOUR_FIRST_ORDER", order);
        }
        let mut child = command.spawn().expect("Parlour starts");
        let orders = child.stdin.take().expect("its input");
        let answers = BufReader::new(child.stdout.take().expect("its output")).lines();
        self.parlour = Some(Process { child, orders, answers });
    }

    /// Starts Parlour and waits until messages travel.
    pub async fn start_parlour(&mut self) {
        self.spawn_parlour().await;
        self.travels().await;
    }

    /// Waits until messages travel.
    pub async fn travels(&self) {
        self.wait_for("messages travel", |metrics| metrics["parlour_receiving"] == 1.0).await;
    }

    /// Whether the homeserver still has an event to send to Parlour; what Parlour has answered 200 to it has not.
    pub async fn homeserver_still_sends(&self, event: &EventId) -> bool {
        let url = format!("sqlite://{}?mode=ro", self.homeserver_database().display());
        let mut connection = sqlx::AnyConnection::connect(&url).await.expect("the homeserver's database");
        let (count,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM application_services_txns WHERE event_ids LIKE $1")
                .bind(format!("%{event}%"))
                .fetch_one(&mut connection)
                .await
                .expect("its transactions");
        connection.close().await.expect("closed");
        count > 0
    }

    /// From its next start on, Parlour breaks this promise, or none.
    pub fn break_promise(&mut self, fault: Option<&str>) {
        self.fault = fault.map(str::to_owned);
    }

    /// Changes Parlour's configuration, from its next start on.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        let file = self.place.data.join("parlour.toml");
        let text = std::fs::read_to_string(&file).expect("the configuration");
        std::fs::write(&file, change(text)).expect("written");
    }

    /// From its next start on, Parlour looks after its ghosts so often.
    pub fn care_every(&mut self, pause: Duration) {
        self.care = Some(pause);
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
        self.order_if_it_runs(order).await.expect("Parlour answers")
    }

    /// Gives Parlour an order; its answer, or none when it ends meanwhile.
    pub async fn order_if_it_runs(&mut self, order: &str) -> Option<String> {
        let process = self.parlour.as_mut()?;
        process.orders.write_all(format!("{order}\n").as_bytes()).await.ok()?;
        timeout(LIMIT, process.answers.next_line()).await.expect("in time").ok()?
    }

    /// Where Parlour has ended itself, as side and name of the commit point; none when its last word was another.
    pub fn ended_at(&self) -> Option<String> {
        let last = self.last_words();
        Some(last.lines().last()?.strip_prefix(failpoints::ENDS)?.trim().to_lowercase())
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
            ["parlour_inbox_waiting", "parlour_legs_waiting"]
                .iter()
                .all(|name| metrics.get(*name) == Some(&0.0))
        })
        .await;
    }

    /// Parlour's inside, as the homeserver and monitoring ask it.
    pub fn internal_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.place.internal)
    }

    /// Parlour's log.
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

    /// The folder that a person's client on a named device keeps its store in.
    pub fn client_store(&self, name: &str, device: &str) -> PathBuf {
        let person = self.person(name).user_id.localpart();
        self.folder.path().join("clients").join(person).join(device)
    }

    /// A person's client on a named device.
    pub async fn sign_in(&self, name: &str, device: &str) -> Client {
        let (person, store) = (self.person(name), self.client_store(name, device));
        let keys = self.folder.path().join("recovery");
        std::fs::create_dir_all(&keys).expect("a folder");
        Client::sign_in(SignIn {
            homeserver_url: &self.homeserver_url(),
            user_id: &person.user_id,
            password: &person.password,
            recovery: Recovery::KeyIn(&keys.join(person.user_id.localpart())),
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

/// A SQLite file, its write-ahead log and the log's index.
fn with_its_log(file: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let file = file.as_os_str().to_owned();
    ["", "-wal", "-shm"].into_iter().map(move |end| {
        let mut name = file.clone();
        name.push(end);
        name.into()
    })
}
