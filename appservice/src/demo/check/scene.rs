//! What a row works with: people's own clients, and raw HTTP with a person's token.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::try_join_all;
use reqwest::Method;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::super::{
    client::{Client, ClientError, Message, Recovery, SignIn},
    report::DemoError,
};

/// How long something may take that a person waits for.
pub(super) const LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked whether a conversation is made.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// Why a promise was not kept, or could not be tried.
pub(super) enum Trouble {
    /// Not kept.
    Broken(String),
    /// Not tried.
    Skipped(String),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<String> for Trouble {
    fn from(words: String) -> Self {
        Self::Broken(words)
    }
}

/// The evidence of a kept promise, or what went wrong.
pub(super) type Evidence = Result<String, Trouble>;

/// A conversation as its owner was told of it.
pub(super) struct Talk {
    pub(super) id: String,
    pub(super) hub: OwnedRoomId,
    pub(super) told: Value,
}

impl Talk {
    /// The room of a patient.
    pub(super) fn spoke(&self, patient: &Client) -> Result<OwnedRoomId, String> {
        self.room_of(patient.user_id())
    }

    /// The room of a patient who need not have signed in.
    pub(super) fn room_of(&self, patient: &UserId) -> Result<OwnedRoomId, String> {
        let patients = self.told["patients"].as_array().map_or(&[][..], Vec::as_slice);
        let own = patients.iter().find(|entry| entry["user_id"] == patient.as_str());
        let id = own.and_then(|entry| entry["room_id"].as_str()).and_then(|id| RoomId::parse(id).ok());
        id.ok_or_else(|| format!("the practice API names no room for {patient}"))
    }
}

/// A person, as far as whoever is to sign in as them must know.
pub(super) struct Known {
    pub(super) user_id: OwnedUserId,
    pub(super) name: String,
    pub(super) password: String,
}

/// The people, each with their own client, and where things are.
pub(super) struct Scene {
    pub(super) murphy: Client,
    pub(super) kim: Client,
    pub(super) ann: Client,
    pub(super) ben: Client,
    /// A client that decrypts only what comes from cross-signed devices.
    pub(super) cara: Client,
    pub(super) people: Vec<Known>,
    pub(super) house: PathBuf,
    stores: PathBuf,
    homeserver_url: String,
    public_url: String,
    http: reqwest::Client,
}

impl Scene {
    pub(super) async fn open(
        homeserver_url: &str,
        public_url: &str,
        people: Vec<Known>,
        stores: &Path,
        house: &Path,
    ) -> Result<Self, DemoError> {
        let sign_in = async |name: &str| {
            let person = people.iter().find(|person| person.name.contains(name));
            let person = person.ok_or_else(|| DemoError::Conversation(format!("{name} is not there")))?;
            let (user_id, password) = (&*person.user_id, &*person.password);
            let store = stores.join(user_id.localpart());
            let strict = name == "Cara";
            let recovery = Recovery::Password;
            let client = Client::sign_in(SignIn {
                homeserver_url,
                user_id,
                password,
                recovery,
                store: &store,
                strict,
            });
            Ok::<_, DemoError>(client.await?)
        };
        let names = ["Murphy", "Kim", "Ann", "Ben", "Cara"];
        let clients = try_join_all(names.iter().map(|name| sign_in(name))).await?;
        let Ok([murphy, kim, ann, ben, cara]) = <[Client; 5]>::try_from(clients) else {
            return Err(DemoError::Conversation("not everybody could sign in".to_owned()));
        };
        let (house, stores) = (house.to_owned(), stores.to_owned());
        let (homeserver_url, public_url) = (homeserver_url.to_owned(), public_url.to_owned());
        let http = reqwest::Client::new();
        Ok(Self { murphy, kim, ann, ben, cara, people, house, stores, homeserver_url, public_url, http })
    }

    /// One of the people, by a word of the name.
    pub(super) fn known(&self, name: &str) -> Result<&Known, String> {
        let known = self.people.iter().find(|person| person.name.contains(name));
        known.ok_or_else(|| format!("{name} is not there"))
    }

    fn store(&self, person: &Known, device: &str) -> PathBuf {
        self.stores.join(format!("{}-{device}", person.user_id.localpart()))
    }

    /// A client that was stopped loses all that it kept.
    pub(super) fn forget(&self, name: &str, device: &str) -> Result<(), String> {
        let store = self.store(self.known(name)?, device);
        std::fs::remove_dir_all(store).map_err(|error| format!("what the client kept stays: {error}"))
    }

    /// Somebody's client on a device more.
    pub(super) async fn sign_in(&self, name: &str, device: &str) -> Result<Client, Trouble> {
        let person = self.known(name)?;
        Ok(Client::sign_in(SignIn {
            homeserver_url: &self.homeserver_url,
            user_id: &person.user_id,
            password: &person.password,
            recovery: Recovery::Password,
            store: &self.store(person, device),
            strict: false,
        })
        .await?)
    }

    pub(super) async fn close(self) {
        for client in [self.murphy, self.kim, self.ann, self.ben, self.cara] {
            client.stop().await;
        }
    }

    /// The practice API, asked with a person's token: status and body.
    pub(super) async fn api(
        &self,
        who: &Client,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), String> {
        let url = format!("{}/_parlour/v1{path}", self.public_url);
        let token = who.matrix().access_token().unwrap_or_default();
        let mut request = self.http.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|_| format!("{path} was not answered"))?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.map_err(|_| format!("{path} was answered without JSON"))?))
    }

    /// Dr Murphy begins a conversation.
    pub(super) async fn begin(&self, wanted: Value) -> Result<Talk, String> {
        let (mut status, mut told) =
            self.api(&self.murphy, Method::POST, "/conversations", Some(&wanted)).await?;
        let deadline = Instant::now() + LIMIT;
        while status == 202 && Instant::now() < deadline {
            sleep(LOOK).await;
            let path = format!("/conversations/{}", told["id"].as_str().unwrap_or_default());
            let (_, now) = self.api(&self.murphy, Method::GET, &path, None).await?;
            status = if now["ready"] == true { 201 } else { 202 };
            told = now;
        }
        let id = told["id"].as_str().map(str::to_owned);
        let hub = told["hub_room_id"].as_str().and_then(|id| RoomId::parse(id).ok());
        match (status, id, hub) {
            (201, Some(id), Some(hub)) => Ok(Talk { id, hub, told }),
            _ => Err(format!("POST /conversations was answered {status} {}", told["errcode"])),
        }
    }
}

/// Sends words once the room is there; the event's id.
pub(super) async fn say(
    client: &Client,
    room: &RoomId,
    words: &str,
) -> Result<ruma::OwnedEventId, ClientError> {
    client.wait_for_room(LIMIT, |found| found.room_id == room).await?;
    client.send_text(room, words).await
}

/// Waits until exactly these words can be read.
pub(super) async fn read(client: &Client, room: &RoomId, words: &str) -> Result<Message, ClientError> {
    client.wait_for(room, LIMIT, |message| message.body == words).await
}

/// A path of the client API with an id in it.
pub(super) fn room_path(room: &RoomId, rest: &str) -> String {
    let mut encoded = String::new();
    for byte in room.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => encoded.push(byte.into()),
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    format!("/_matrix/client/v3/rooms/{encoded}/{rest}")
}
