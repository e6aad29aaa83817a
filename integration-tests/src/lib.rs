//! What the end-to-end tests share: a world of their own each, people's clients in it, and conversations.
#![expect(clippy::expect_used, clippy::panic, reason = "a test ends where something is not as it must be")]

pub mod books;
pub mod clamd;
pub mod crowd;
pub mod dehydrated;
pub mod devices;
pub mod fake;
pub mod groups;
pub mod js;
pub mod pictures;
pub mod proxy;
pub mod requests;
pub mod soak;
pub mod trial;
pub mod witness;

use std::{path::PathBuf, sync::Once, time::Duration};

use parlour::{
    demo::{
        client::{Client, Message, Recovery, SignIn},
        practice::DemoPerson,
        say::Silent,
        talk,
        world::{Place, World},
    },
    run::{Extras, Parlour},
};
use reqwest::Method;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tracing_subscriber::EnvFilter;

use crate::proxy::Proxy;

/// How long anything may take that a test waits for.
pub const LIMIT: Duration = Duration::from_secs(40);

/// A world in a folder of its own.
pub struct Stage {
    /// The world.
    pub world: World,
    http: reqwest::Client,
    folder: TempDir,
}

/// What Parlour logs in a test is printed with whatever else the test prints. `PARLOUR_TEST_LOG` says what is wanted of it.
fn logged() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let wanted = EnvFilter::try_from_env("PARLOUR_TEST_LOG");
        let filter = wanted.unwrap_or_else(|_| EnvFilter::new("parlour=debug,parlour_engine=debug"));
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_test_writer().init();
    });
}

impl Stage {
    /// A new world.
    pub async fn open() -> Self {
        Self::open_with(Extras::default()).await
    }

    /// A new world that was told something.
    pub async fn open_with(extras: Extras) -> Self {
        Self::opened(tempfile::tempdir().expect("a temporary folder"), extras).await
    }

    /// The world that somebody has begun in the folder `world` of this one.
    pub async fn open_in(folder: TempDir) -> Self {
        Self::opened(folder, Extras::default()).await
    }

    async fn opened(folder: TempDir, extras: Extras) -> Self {
        logged();
        let place = Place::anywhere(folder.path().join("world")).expect("free ports");
        let world = World::start(place, extras, &Silent).await.expect("a world");
        Self { world, http: reqwest::Client::new(), folder }
    }

    /// A new world with a proxy on each of the two ways between Parlour and the homeserver.
    pub async fn open_between_proxies(extras: Extras) -> (Self, Proxies) {
        let Self { mut world, http, folder } = Self::open_with(extras.clone()).await;
        world.parlour.stop().await;
        // Where the homeserver looks for Parlour, the proxy is.
        let elsewhere = Place::anywhere(PathBuf::new()).expect("free ports").internal;
        let proxies = Proxies {
            to_homeserver: Proxy::start(world.place.homeserver).await.expect("a proxy"),
            to_parlour: Proxy::start_at(world.place.internal, elsewhere).await.expect("a proxy"),
        };
        world.config.listen.internal.set_port(elsewhere);
        world.config.homeserver.url = format!("http://127.0.0.1:{}", proxies.to_homeserver.port());
        world.parlour = Parlour::start(&world.config, extras).await.expect("started again");
        world.parlour.receiving().await;
        (Self { world, http, folder }, proxies)
    }

    /// Stops it and removes its folder.
    pub async fn close(self) {
        self.world.stop().await;
        self.folder.close().expect("the folder is removed");
    }

    /// Stops it and starts it again.
    pub async fn reopen(self) -> Self {
        let place = self.world.place.clone();
        self.world.stop().await;
        let world = World::start(place, Extras::default(), &Silent).await.expect("the same world");
        Self { world, ..self }
    }

    /// Stops Parlour, not the homeserver; starts it again when something has been done meanwhile.
    pub async fn without_parlour(mut self, meanwhile: impl Future<Output = ()>) -> Self {
        self.world.parlour.stop().await;
        meanwhile.await;
        self.world.parlour =
            Parlour::start(&self.world.config, Extras::default()).await.expect("started again");
        self
    }

    /// One of the people, by a word of the name.
    pub fn person(&self, name: &str) -> &DemoPerson {
        self.world.people.iter().find(|person| person.is_meant_by(name)).expect("a person of this name")
    }

    /// A person's client, on a device of their own.
    pub async fn sign_in(&self, name: &str) -> Client {
        self.device(name, "first", false).await
    }

    /// A person's client that decrypts only what comes from cross-signed devices.
    pub async fn sign_in_strict(&self, name: &str) -> Client {
        self.device(name, "strict", true).await
    }

    /// A person's client on a named device.
    pub async fn device(&self, name: &str, device: &str, strict: bool) -> Client {
        self.device_through(&self.world.homeserver_url(), name, device, strict).await
    }

    /// A person's client on a named device that finds the homeserver elsewhere, behind a proxy for instance.
    pub async fn device_through(&self, url: &str, name: &str, device: &str, strict: bool) -> Client {
        let person = self.person(name);
        let store = self.store(name, device);
        Client::sign_in(SignIn {
            homeserver_url: url,
            user_id: &person.user_id,
            password: &person.password,
            recovery: Recovery::KeyIn(&self.recovery_key(name)),
            store: &store,
            strict,
        })
        .await
        .expect("signed in")
    }

    /// The file of the key that opens a person's secret storage.
    pub fn recovery_key(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join("recovery");
        std::fs::create_dir_all(&folder).expect("a folder");
        folder.join(self.person(name).user_id.localpart())
    }

    /// Where a person's client keeps what it has.
    pub fn store(&self, name: &str, device: &str) -> PathBuf {
        self.folder.path().join("clients").join(name).join(device)
    }

    /// A member of staff begins a conversation.
    pub async fn begin(
        &self,
        owner: &Client,
        name: &str,
        mode: &str,
        staff: &[&str],
        patients: &[&str],
    ) -> Talk {
        let ids = |names: &[&str]| names.iter().map(|n| self.person(n).user_id.clone()).collect::<Vec<_>>();
        let wanted = json!({ "name": name, "mode": mode, "staff": ids(staff), "patients": ids(patients) });
        let told = talk::begin(&self.world.public_url(), owner, &wanted).await.expect("a conversation");
        Talk { told }
    }

    /// The practice API with any token, or none: status and body.
    pub async fn api(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let url = format!("{}/_parlour/v1{path}", self.world.public_url());
        self.ask(method, &url, token, body.map(Value::to_string)).await
    }

    /// Parlour's inside, as the homeserver asks it: status and body.
    pub async fn internal(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<String>,
    ) -> (u16, Value) {
        let url = format!("http://{}{path}", self.world.config.listen.internal);
        self.ask(method, &url, token, body).await
    }

    /// The homeserver's client API as one of Parlour's own users: status and body.
    pub async fn as_ours(
        &self,
        user: &UserId,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.world.homeserver_url());
        let url = reqwest::Url::parse_with_params(&url, [("user_id", user.as_str())]).expect("a URL");
        let token = self.world.config.homeserver.as_token.reveal();
        self.ask(method, url.as_str(), Some(token), body.map(Value::to_string)).await
    }

    /// The practice's bot.
    pub fn bot(&self) -> OwnedUserId {
        self.world.parlour.engine().bot().expect("a bot").user_id
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        token: Option<&str>,
        body: Option<String>,
    ) -> (u16, Value) {
        let mut request = self.http.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }
}

/// The proxies between Parlour and the homeserver.
pub struct Proxies {
    /// The way from Parlour to the homeserver.
    pub to_homeserver: Proxy,
    /// The way from the homeserver to Parlour.
    pub to_parlour: Proxy,
}

/// Whether nothing else runs on the machine: only then times are held against their limits (`PARLOUR_TEST_ALONE=yes`).
pub fn runs_alone() -> bool {
    std::env::var("PARLOUR_TEST_ALONE").is_ok_and(|alone| alone == "yes")
}

/// A conversation as its owner was told of it.
#[derive(Clone)]
pub struct Talk {
    /// The practice API's answer.
    pub told: Value,
}

impl Talk {
    /// Its id.
    pub fn id(&self) -> &str {
        self.told["id"].as_str().expect("an id")
    }

    /// The staff's room.
    pub fn hub(&self) -> OwnedRoomId {
        room(&self.told["hub_room_id"])
    }

    /// A patient's room.
    pub fn spoke(&self, patient: &DemoPerson) -> OwnedRoomId {
        let patients = self.told["patients"].as_array().expect("patients");
        let own = patients.iter().find(|entry| entry["user_id"] == patient.user_id.as_str());
        room(&own.expect("a patient of it")["room_id"])
    }

    /// All its rooms.
    pub fn rooms(&self) -> Vec<OwnedRoomId> {
        let patients = self.told["patients"].as_array().expect("patients");
        let spokes = patients.iter().map(|entry| room(&entry["room_id"]));
        std::iter::once(self.hub()).chain(spokes).collect()
    }
}

fn room(value: &Value) -> OwnedRoomId {
    RoomId::parse(value.as_str().expect("a room")).expect("a room id")
}

/// Sends words once the room is there.
pub async fn say(client: &Client, room: &RoomId, words: &str) -> OwnedEventId {
    client.wait_for_room(LIMIT, |found| found.room_id == room).await.expect("in the room");
    client.send_text(room, words).await.expect("sent")
}

/// Sends any content once the room is there.
pub async fn send(client: &Client, room: &RoomId, event_type: &str, content: Value) -> OwnedEventId {
    client.wait_for_room(LIMIT, |found| found.room_id == room).await.expect("in the room");
    client.send_raw(room, event_type, content).await.expect("sent")
}

/// Sends an event exactly as given, past the client's encryption; `rest` is the path behind the room.
pub async fn put(client: &Client, room: &RoomId, rest: &str, content: Value) -> OwnedEventId {
    let path = room_path(room, rest);
    let (status, answer) = client.http().call(Method::PUT, &path, Some(content)).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    EventId::parse(answer["event_id"].as_str().expect("an event")).expect("an event id")
}

/// Waits until exactly these words can be read.
pub async fn read(client: &Client, room: &RoomId, words: &str) -> Message {
    match client.wait_for(room, LIMIT, |message| message.body == words).await {
        Ok(message) => message,
        Err(error) => {
            panic!("{words:?}: {error}; the homeserver has {:#?}", witness::newest(client, room).await)
        }
    }
}

/// Waits until the bot has told why an event was refused; its words.
pub async fn refusal(client: &Client, room: &RoomId, refused: &EventId) -> String {
    let notice = client
        .wait_for(room, LIMIT, |message| {
            message.msgtype == "m.notice" && message.in_reply_to.as_deref() == Some(refused)
        })
        .await;
    notice.expect("the bot's word").body
}

/// A path of the client API about a room.
pub fn room_path(room: &RoomId, rest: &str) -> String {
    let mut path = reqwest::Url::parse("http://x/_matrix/client/v3/rooms").expect("a URL");
    path.path_segments_mut().expect("a base").push(room.as_str());
    format!("{}/{rest}", path.path())
}

/// A person's access token.
pub fn token(client: &Client) -> String {
    client.matrix().access_token().expect("signed in")
}
