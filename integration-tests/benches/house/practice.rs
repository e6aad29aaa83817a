//! A practice to be measured: Synapse, Parlour as a process of its own, a tap on each of the two ways between them, and as many
//! people as a row needs.

use std::{process::Stdio, sync::OnceLock, time::Duration};

use futures_util::{StreamExt as _, stream};
use parlour::{
    config::Config,
    demo::{
        client::{Client, Recovery, SignIn},
        homeserver::{Homeserver, HomeserverPlan},
        practice::{DemoPerson, SERVER_NAME},
        python::{default_cache, synapse_python},
        say::Silent,
        world::{Place, World},
    },
    edge::{SystemChance, random_hex},
    run::Extras,
};
use parlour_domain::{PersonId, Role};
use parlour_engine::CommitPoint;
use parlour_integration_tests::{
    LIMIT, Talk,
    crowd::Caller,
    devices::{Equipment, equip},
};
use reqwest::Method;
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::OnceCell,
    time::{Instant, sleep},
};

use crate::{
    machine::{Busy, Cpu, signal},
    tap::Tap,
};

/// What a practice is to have beyond the demo's people.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// More staff.
    pub staff: usize,
    /// Patients with devices that nobody reads with.
    pub patients: usize,
    /// What each of them has.
    pub equipment: Equipment,
}

/// A running practice.
pub struct Practice {
    /// The way from Parlour to the homeserver.
    pub to_homeserver: Tap,
    /// The way from the homeserver to Parlour.
    pub to_parlour: Tap,
    /// The staff, without the demo's.
    pub staff: Vec<DemoPerson>,
    /// The patients, without the demo's.
    pub patients: Vec<DemoPerson>,
    demo: Vec<DemoPerson>,
    config: Config,
    place: Place,
    http: reqwest::Client,
    homeserver: Homeserver,
    parlour: Process,
    folder: TempDir,
}

/// What Parlour and the homeserver had used of the processor at some moment.
#[derive(Clone, Debug)]
pub struct Usage {
    parlour: Cpu,
    homeserver: Cpu,
}

/// The processor time that they used between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Parlour's process.
    pub parlour: Duration,
    /// The homeserver's.
    pub homeserver: Duration,
}

impl Usage {
    /// What was used since an earlier moment.
    pub fn since(&self, before: &Self) -> Used {
        Used {
            parlour: self.parlour.since(&before.parlour),
            homeserver: self.homeserver.since(&before.homeserver),
        }
    }
}

struct Process {
    pid: u32,
    child: Child,
    /// When it closes, the process ends.
    _orders: ChildStdin,
}

/// How long it is waited for others to let the machine be before anything is measured; set once.
pub static WAIT_FOR_OTHERS: OnceLock<Duration> = OnceLock::new();

static SYNAPSE: OnceCell<String> = OnceCell::const_new();

/// The version of the homeserver that the practices have, once there was one.
pub fn synapse() -> &'static str {
    SYNAPSE.get().map_or("unknown", String::as_str)
}

/// A conversation may take so long to be made, and Parlour so long to come to rest.
const LONG: Duration = Duration::from_secs(1200);
const POLL: Duration = Duration::from_millis(50);
/// At rest, nothing has gone through the taps for so long …
const STILL: Duration = Duration::from_millis(300);
/// … and in so many windows one after the other …
const WINDOWS: u32 = 4;
const WINDOW: Duration = Duration::from_millis(100);
/// … Parlour and the homeserver have used no more than this.
const CALM: Duration = Duration::from_millis(6);
/// Others let the machine be when they use no more than so many percent of it.
const FEW_PERCENT: f64 = 15.0;
/// So many accounts are made at once.
const AT_ONCE: usize = 8;

impl Practice {
    /// A new one, everything running.
    pub async fn open(wanted: Wanted) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place::anywhere(folder.path().join("world")).expect("free ports");
        let world = World::start(place.clone(), Extras::default(), &Silent).await.expect("a world");
        let demo = world.people.clone();
        let staff = more_people(&world, Role::Staff, wanted.staff).await;
        let patients = more_people(&world, Role::Patient, wanted.patients).await;
        world.stop().await;
        let to_homeserver = Tap::before(place.homeserver).await.expect("a tap");
        let to_parlour = Tap::before(place.internal).await.expect("a tap");
        let put = |file: &str, from: String, to: String| {
            let file = place.data.join(file);
            let text = std::fs::read_to_string(&file).expect("a file of the world");
            assert!(text.contains(&from), "{from} stands in {}", file.display());
            std::fs::write(&file, text.replace(&from, &to)).expect("written");
        };
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        put("registration.yaml", url(place.internal), url(to_parlour.port()));
        let (from, to) = (url(place.homeserver), url(to_homeserver.port()));
        put("parlour.toml", format!("\nurl = \"{from}\""), format!("\nurl = \"{to}\""));
        let config = Config::read(&place.data.join("parlour.toml")).expect("a configuration");
        let python = synapse_python(&default_cache(), &Silent).await.expect("Synapse");
        let plan = HomeserverPlan {
            dir: place.data.join("homeserver"),
            server_name: SERVER_NAME.to_owned(),
            port: place.homeserver,
            registration_file: place.data.join("registration.yaml"),
            more: String::new(),
        };
        let homeserver = Homeserver::start(&python, plan, &Silent).await.expect("the homeserver starts");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        equip(&http, &homeserver.url(), &patients, wanted.equipment).await;
        let parlour = spawn(&place);
        let practice = Self {
            to_homeserver,
            to_parlour,
            staff,
            patients,
            demo,
            config,
            place,
            http,
            homeserver,
            parlour,
            folder,
        };
        practice.receives().await;
        SYNAPSE.get_or_init(async || practice.version_of_synapse().await).await;
        practice
    }

    /// Stops everything and removes the folder.
    pub async fn close(mut self) {
        self.parlour.child.kill().await.expect("killed");
        self.homeserver.stop().await;
        self.folder.close().expect("the folder is removed");
    }

    /// Ends Parlour kindly, and starts it again.
    pub async fn restart_parlour(&mut self) {
        signal(self.parlour.pid, "TERM").await;
        self.parlour.child.wait().await.expect("it ends");
        self.parlour = spawn(&self.place);
        self.receives().await;
    }

    /// Parlour's process.
    pub fn parlour(&self) -> u32 {
        self.parlour.pid
    }

    /// What Parlour and the homeserver have used of the processor so far.
    pub fn used(&self) -> Usage {
        Usage { parlour: Cpu::of(self.parlour.pid), homeserver: Cpu::of(self.homeserver.pid()) }
    }

    /// One of the demo's people, by a word of the name.
    pub fn person(&self, name: &str) -> &DemoPerson {
        self.demo.iter().find(|person| person.is_meant_by(name)).expect("a person of this name")
    }

    /// A real client of a person, with a store of its own.
    pub async fn sign_in(&self, person: &DemoPerson) -> Client {
        let homeserver_url = self.homeserver.url();
        let store = self.folder.path().join("clients").join(person.user_id.localpart());
        let signing_in = Client::sign_in(SignIn {
            homeserver_url: &homeserver_url,
            user_id: &person.user_id,
            password: &person.password,
            recovery: Recovery::Password,
            store: &store,
            strict: false,
        });
        signing_in.await.expect("signed in")
    }

    /// A token for a person, without a client.
    pub async fn token(&self, person: &DemoPerson) -> String {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": person.user_id },
            "password": person.password,
        });
        let url = format!("{}/_matrix/client/v3/login", self.homeserver.url());
        let answer = self.http.post(url).json(&body).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    /// A member of staff begins a two-way conversation; back when all of it is made.
    pub async fn begin(
        &self,
        token: &str,
        name: &str,
        staff: &[&DemoPerson],
        patients: &[DemoPerson],
    ) -> Talk {
        let ids = |people: &mut dyn Iterator<Item = &DemoPerson>| {
            people.map(|person| person.user_id.clone()).collect::<Vec<_>>()
        };
        let (staff, patients) = (ids(&mut staff.iter().copied()), ids(&mut patients.iter()));
        let wanted = json!({ "name": name, "mode": "two-way", "staff": staff, "patients": patients });
        let caller = Caller::new(&format!("http://127.0.0.1:{}", self.place.public), token);
        let (status, told) = caller.begin(&wanted, None).await.expect("an answer");
        assert!((200..300).contains(&status), "{status} {told}");
        let id = told["id"].as_str().expect("an id");
        let mut events = caller.listen(id).await.expect("a stream");
        let mut is_made = false;
        while !is_made {
            let event = events.next().await;
            assert!(event.is_some(), "the conversation is made: {}", self.log());
            is_made = event.is_some_and(|event| event["ready"] == true);
        }
        Talk { told: caller.one(id).await }
    }

    /// The homeserver's API as the bot; its answer.
    pub async fn as_bot(&self, method: Method, path: &str, body: &Value) -> Value {
        let bot = self.bot();
        let url = format!("{}{path}", self.homeserver.url());
        let url = reqwest::Url::parse_with_params(&url, [("user_id", bot)]).expect("a URL");
        let mut request = self.http.request(method.clone(), url);
        if method != Method::GET {
            request = request.json(body);
        }
        let token = self.config.homeserver.as_token.reveal();
        let answer = request.bearer_auth(token).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }

    fn bot(&self) -> String {
        format!("@_parlour_bot:{SERVER_NAME}")
    }

    async fn version_of_synapse(&self) -> String {
        let answer = self.as_bot(Method::GET, "/_synapse/admin/v1/server_version", &Value::Null).await;
        answer["server_version"].as_str().unwrap_or("unknown").to_owned()
    }

    /// Parlour's inside, as the homeserver asks it: with what to ask, and where.
    pub fn inside(&self) -> (&reqwest::Client, String, &str) {
        let url = format!("http://127.0.0.1:{}", self.place.internal);
        (&self.http, url, self.config.homeserver.hs_token.reveal())
    }

    /// One of Parlour's figures; none while it does not answer.
    pub async fn figure(&self, name: &str) -> Option<f64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.place.internal);
        let text = self.http.get(url).send().await.ok()?.text().await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
    }

    async fn receives(&self) {
        self.is("parlour_receiving", 1.0).await;
    }

    /// Waits until one of Parlour's figures has a value.
    pub async fn is(&self, name: &str, wanted: f64) {
        let deadline = Instant::now() + LONG;
        while self.figure(name).await != Some(wanted) {
            assert!(Instant::now() < deadline, "{name} becomes {wanted}: {}", self.log());
            sleep(POLL).await;
        }
    }

    /// Waits until nothing goes on any more: no event and no leg waits, nothing goes over the wire, and neither Parlour nor
    /// the homeserver is busy.
    pub async fn rests(&self) {
        self.is("parlour_inbox_waiting", 0.0).await;
        self.is("parlour_legs_waiting", 0.0).await;
        self.is_still().await;
    }

    /// Waits until nothing goes over the wire, and neither Parlour nor the homeserver is busy. It asks Parlour nothing.
    pub async fn is_still(&self) {
        let deadline = Instant::now() + LIMIT * 3;
        let (mut before, mut calm) = (self.used(), 0);
        while calm < WINDOWS && Instant::now() < deadline {
            sleep(WINDOW).await;
            let now = self.used();
            let Used { parlour, homeserver } = now.since(&before);
            let still = |tap: &Tap| tap.still_for().is_some_and(|since| since >= STILL);
            let is_calm =
                parlour + homeserver < CALM && still(&self.to_homeserver) && still(&self.to_parlour);
            calm = if is_calm { calm + 1 } else { 0 };
            before = now;
        }
    }

    /// Waits until nothing goes on, and then, for as long as it was told to, until nobody else uses the machine.
    pub async fn is_alone(&self) {
        self.is_still().await;
        let deadline = Instant::now() + WAIT_FOR_OTHERS.get().copied().unwrap_or_default();
        while Instant::now() < deadline {
            let busy = Busy::now();
            sleep(STILL).await;
            if busy.others_since() < FEW_PERCENT {
                return;
            }
        }
    }

    /// Stops Parlour in its tracks and ends its poll at the homeserver; the tap answers in its place from now on.
    pub async fn freeze(&self) {
        self.to_parlour.close_off();
        signal(self.parlour.pid, "STOP").await;
        let deadline = Instant::now() + LIMIT;
        let nudge = json!({ "messages": { self.bot(): { "*": {} } } });
        for number in 0.. {
            if !self.to_homeserver.bot_polls() {
                return;
            }
            assert!(Instant::now() < deadline, "the bot's poll ends");
            let chance = random_hex(&SystemChance, 16);
            let path = format!("/_matrix/client/v3/sendToDevice/io.parlour.bench/{chance}{number}");
            self.as_bot(Method::PUT, &path, &nudge).await;
            sleep(POLL).await;
        }
    }

    /// Lets Parlour go on where it was stopped, and have what was answered in its place.
    pub async fn thaw(&self) {
        signal(self.parlour.pid, "CONT").await;
        self.to_parlour.hand_over().await.expect("Parlour takes what it missed");
        self.rests().await;
    }

    /// The end of Parlour's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.place.data.join("parlour.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Makes accounts, and has the practice know who they are.
async fn more_people(world: &World, role: Role, count: usize) -> Vec<DemoPerson> {
    let engine = world.parlour.engine();
    let bot = engine.bot().expect("a bot");
    let title = if role.is_staff() { "Nurse" } else { "Pat" };
    let people = (1..=count).map(|number| DemoPerson {
        id: PersonId::from_bytes(parlour_domain::Chance::bytes(&SystemChance)),
        user_id: UserId::parse(format!("@u{}:{SERVER_NAME}", random_hex(&SystemChance, 8))).expect("an id"),
        name: format!("{title} Number{number}"),
        role,
        record_number: None,
        password: random_hex(&SystemChance, 12),
    });
    let people: Vec<_> = people.collect();
    let made = people.iter().map(|person| {
        let bot = &bot;
        async move {
            let known = person.person().expect("a person");
            engine.store().put_person(&known).await.expect("kept");
            let path = format!("/_synapse/admin/v2/users/{}", person.user_id);
            let body = json!({ "password": person.password, "displayname": person.name, "admin": false });
            let point = CommitPoint::Administer;
            let made = engine.homeserver().call(point, Some(bot), Method::PUT, &path, &body).await;
            made.expect("an account");
        }
    });
    stream::iter(made).buffer_unordered(AT_ONCE).collect::<()>().await;
    people
}

fn spawn(place: &Place) -> Process {
    let log = place.data.join("parlour.log");
    let log = std::fs::File::options().append(true).create(true).open(log).expect("a log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_parlour-under-test"))
        .args(["run", "--config"])
        .arg(place.data.join("parlour.toml"))
        .env("PARLOUR_CONTROL", "1")
        .env("PARLOUR_LOG", "warn")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("Parlour starts");
    let orders = child.stdin.take().expect("its input");
    Process { pid: child.id().expect("it runs"), child, _orders: orders }
}

/// A person who writes: their client, which looks for nothing while it is measured.
pub struct Author {
    /// The client.
    pub client: Client,
    /// What they show the practice API.
    pub token: String,
}

impl Author {
    /// Signs a person in.
    pub async fn sign_in(practice: &Practice, person: &DemoPerson) -> Self {
        let client = practice.sign_in(person).await;
        let token = parlour_integration_tests::token(&client);
        Self { client, token }
    }

    /// Waits until the client knows a room, and has it sync no longer.
    pub async fn comes_into(&self, room: &RoomId) {
        self.client.resume().await;
        let known = self.client.wait_for_room(LIMIT, |found| found.room_id == room).await;
        known.expect("in the room");
        self.client.pause().await;
    }

    /// Writes.
    pub async fn says(&self, room: &RoomId, words: &str) -> OwnedEventId {
        self.client.send_text(room, words).await.expect("sent")
    }
}
