//! A homeserver in memory, for the thousands of cases that a real one is too slow for. It keeps what each user could fetch, and
//! answers what Parlour and the people of such a case ask, as the specification says and Synapse does. What it does not know it
//! refuses, and remembers. The same cases run on a real one, and what everybody sees is held against each other
//! ([`crate::groups`]).

mod devices;
mod pushes;
mod rooms;
mod sync;
mod told;

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use parlour_domain::Clock;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use self::rooms::House;

/// The largest body.
const LARGEST: usize = 32 << 20;
/// So many events go to Parlour at once, as Synapse sends them.
const MOST_EVENTS: usize = 100;
/// How soon a transaction is sent again that was not taken.
const AGAIN: Duration = Duration::from_millis(50);

/// Who asks, as whom.
#[derive(Clone, Debug)]
struct Asker {
    user: String,
    device: Option<String>,
    /// When it says that what it sends was sent. Parlour's users may (Matrix v1.19 application-service §Timestamp massaging).
    sent_at: Option<u64>,
}

/// An answer that is no success: status, code.
#[derive(Debug)]
struct Refused(u16, &'static str);

type Answer = Result<Value, Refused>;

const FORBIDDEN: Refused = Refused(403, "M_FORBIDDEN");
const NOT_FOUND: Refused = Refused(404, "M_NOT_FOUND");
const BAD: Refused = Refused(400, "M_BAD_JSON");

struct Shared {
    house: Mutex<House>,
    /// How far everything has come.
    moved: watch::Sender<u64>,
    as_token: String,
    hs_token: String,
    /// Where Parlour takes transactions.
    parlour: String,
}

impl Shared {
    fn house(&self) -> MutexGuard<'_, House> {
        self.house.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something, and tells those who wait.
    fn does<T>(&self, work: impl FnOnce(&mut House) -> T) -> T {
        let (done, at) = {
            let mut house = self.house();
            (work(&mut house), house.at)
        };
        self.moved.send_if_modified(|moved| std::mem::replace(moved, at) != at);
        done
    }
}

/// A running homeserver; dropping it ends it.
pub struct FakeHomeserver {
    port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// How it and Parlour know each other.
pub struct Registration<'a> {
    /// The part of user ids after the colon.
    pub server_name: &'a str,
    /// Parlour's token.
    pub as_token: &'a str,
    /// Its own token.
    pub hs_token: &'a str,
    /// Parlour's own user.
    pub bot: &'a str,
    /// Where Parlour takes transactions, on this machine.
    pub parlour: u16,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl FakeHomeserver {
    /// One on a port of its own.
    ///
    /// # Panics
    /// When there is no port to be had.
    pub async fn start(registration: Registration<'_>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let shared = Arc::new(Shared {
            house: Mutex::new(House::new(registration.server_name, registration.bot, registration.clock)),
            moved: watch::Sender::new(0),
            as_token: registration.as_token.to_owned(),
            hs_token: registration.hs_token.to_owned(),
            parlour: format!("http://127.0.0.1:{}/_matrix/app/v1/transactions", registration.parlour),
        });
        let router = Router::new().fallback(answered).with_state(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.expect("it listens") });
        tasks.spawn(transactions(Arc::clone(&shared)));
        Self { port, shared, _tasks: tasks }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes an account.
    pub fn register(&self, user_id: &str, name: &str) {
        self.shared.does(|house| house.register(user_id, Some(name)));
    }

    /// What somebody's phone was told since this was asked last.
    pub fn pushed(&self, user_id: &str) -> Vec<Value> {
        self.shared.house().pushed(user_id)
    }

    /// What was asked that it does not know.
    pub fn unknown(&self) -> Vec<String> {
        self.shared.house().unknown.clone()
    }
}

/// Brings to Parlour what happens, in order, each transaction until it is taken.
async fn transactions(shared: Arc<Shared>) {
    let http = reqwest::Client::new();
    let mut moved = shared.moved.subscribe();
    for number in 1_u64.. {
        let events = loop {
            {
                let mut house = shared.house();
                let count = house.to_parlour.len().min(MOST_EVENTS);
                if count > 0 {
                    break house.to_parlour.drain(..count).collect::<Vec<_>>();
                }
            }
            if moved.changed().await.is_err() {
                return;
            }
        };
        let body = json!({ "events": events });
        loop {
            let url = format!("{}/{number}", shared.parlour);
            let sent = http.put(url).bearer_auth(&shared.hs_token).json(&body).send().await;
            if sent.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            sleep(AGAIN).await;
        }
    }
}

async fn answered(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST).await else { return refused(&BAD) };
    let Ok(url) = Url::parse(&format!("http://x{}", head.uri)) else { return refused(&BAD) };
    let query = |wanted: &str| {
        url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let path: Vec<String> = url.path_segments().into_iter().flatten().map(decoded).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let token = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let asker = if token == shared.as_token {
        let house = shared.house();
        Some(Asker {
            user: query("user_id").unwrap_or_else(|| house.bot.clone()),
            device: query("device_id").or_else(|| query("org.matrix.msc3202.device_id")),
            sent_at: query("ts").and_then(|at| at.parse().ok()),
        })
    } else {
        shared.house().tokens.get(token).cloned()
    };
    let call = Call { method: head.method.as_str(), path: &path, query: &query, body: &body };
    match (call.path, asker) {
        (["_matrix", "client", "versions"], _) => done(json!({ "versions": ["v1.12"] })),
        (["_matrix", "client", _, "login"], _) => told(shared.does(|house| house.login(&call.json()))),
        (["_matrix", "client", _, "media", "download", _, id, ..], Some(_)) => {
            match shared.house().media.get(*id) {
                Some(bytes) => (StatusCode::OK, bytes.clone()).into_response(),
                None => refused(&NOT_FOUND),
            }
        }
        (["_matrix", "client", _, "sync"], Some(asker)) => synced(&shared, &asker, &call).await,
        (_, Some(asker)) => told(shared.does(|house| house.answer(&asker, &call))),
        (_, None) => refused(&Refused(401, "M_UNKNOWN_TOKEN")),
    }
}

/// `GET /sync` (Matrix v1.19 client-server §Syncing): at once when there is news, or when the time is up.
async fn synced(shared: &Shared, asker: &Asker, call: &Call<'_>) -> Response {
    let wait = (call.query)("timeout").and_then(|wait| wait.parse().ok()).unwrap_or(0);
    let deadline = Instant::now() + Duration::from_millis(wait);
    let mut moved = shared.moved.subscribe();
    loop {
        let (answer, news) = shared.house().sync(asker, call);
        if news || Instant::now() >= deadline || timeout_at(deadline, moved.changed()).await.is_err() {
            return done(answer);
        }
    }
}

/// A request.
struct Call<'a> {
    method: &'a str,
    path: &'a [&'a str],
    query: &'a (dyn Fn(&str) -> Option<String> + Sync),
    body: &'a [u8],
}

impl Call<'_> {
    fn json(&self) -> Value {
        serde_json::from_slice(self.body).unwrap_or(Value::Null)
    }
}

impl House {
    /// What changes something or tells of it, without waiting.
    fn answer(&mut self, asker: &Asker, call: &Call<'_>) -> Answer {
        let body = call.json();
        let user = asker.user.as_str();
        match (call.method, call.path) {
            ("POST", ["_matrix", "client", _, "appservice", _, "ping"]) => Ok(json!({ "duration_ms": 1 })),
            ("GET", ["_matrix", "client", _, "account", "whoami"]) => {
                Ok(json!({ "user_id": user, "device_id": asker.device }))
            }
            ("POST", ["_matrix", "client", _, "register"]) => {
                let name = body["username"].as_str().ok_or(BAD)?;
                let id = format!("@{name}:{}", self.server_name);
                if self.users.contains_key(&id) {
                    return Err(Refused(400, "M_USER_IN_USE"));
                }
                self.register(&id, None);
                Ok(json!({ "user_id": id }))
            }
            ("POST", ["_matrix", "media", _, "upload"]) => {
                let id = self.next_id("media");
                self.media.insert(id.clone(), call.body.to_vec());
                Ok(json!({ "content_uri": format!("mxc://{}/{id}", self.server_name) }))
            }
            ("PUT", ["_matrix", "client", _, "profile", of, "displayname"]) if *of == user => {
                self.rename(user, body["displayname"].as_str().unwrap_or_default());
                Ok(json!({}))
            }
            ("GET", ["_matrix", "client", _, "profile", of]) => {
                let name = self.users.get(*of).ok_or(NOT_FOUND)?.name.clone();
                Ok(name.map_or(json!({}), |name| json!({ "displayname": name })))
            }
            ("POST", ["_matrix", "client", _, "user_directory", "search"]) => {
                Ok(self.directory(user, body["search_term"].as_str().unwrap_or_default()))
            }
            ("POST", ["_matrix", "client", _, "search"]) => {
                let term =
                    body["search_categories"]["room_events"]["search_term"].as_str().unwrap_or_default();
                Ok(self.search(user, term))
            }
            // What phones are told is told here as well; nobody has missed any.
            ("GET", ["_matrix", "client", _, "notifications"]) => Ok(json!({ "notifications": [] })),
            (_, ["_matrix", "client", _, "pushers", ..]) => self.pushers(asker, call),
            (_, ["_matrix", "client", _, "devices", ..]) => self.own_devices(asker, call),
            (_, ["_matrix", "client", _, "keys", ..] | ["_matrix", "client", _, "sendToDevice", ..]) => {
                self.keys(asker, call)
            }
            (_, ["_matrix", "client", _, "rooms" | "createRoom" | "joined_rooms" | "join", ..]) => {
                self.in_rooms(asker, call)
            }
            (_, ["_synapse", "admin", _, rest @ ..]) => self.administer(asker, call.method, rest, &body),
            _ => self.does_not_know(call),
        }
    }

    fn does_not_know(&mut self, call: &Call<'_>) -> Answer {
        self.unknown.push(format!("{} /{}", call.method, call.path.join("/")));
        Err(Refused(404, "M_UNRECOGNIZED"))
    }

    /// Synapse's admin API. Everybody who may write here was seen just now.
    fn administer(&mut self, asker: &Asker, method: &str, path: &[&str], body: &Value) -> Answer {
        if asker.user != self.bot {
            return Err(FORBIDDEN);
        }
        let now = self.now();
        match (method, path) {
            ("GET", ["users", _, "admin"]) => Ok(json!({ "admin": true })),
            ("POST", ["join", room]) => {
                let user = body["user_id"].as_str().ok_or(BAD)?.to_owned();
                self.joins(room, &user)?;
                Ok(json!({ "room_id": room }))
            }
            ("GET", ["users"]) => {
                let users = self.users.keys().map(|user| json!({ "name": user, "last_seen_ts": now }));
                Ok(json!({ "users": users.collect::<Vec<_>>(), "total": self.users.len() }))
            }
            ("GET", ["users", user, "devices"]) => {
                let devices = &self.users.get(*user).ok_or(NOT_FOUND)?.devices;
                let devices = devices.keys().map(|id| json!({ "device_id": id, "last_seen_ts": now }));
                Ok(json!({ "devices": devices.collect::<Vec<_>>() }))
            }
            ("GET", ["whois", user]) => {
                let seen = json!({ "sessions": [{ "connections": [{ "last_seen": now }] }] });
                Ok(json!({ "user_id": user, "devices": { "": seen } }))
            }
            _ => {
                self.unknown.push(format!("{method} /_synapse/admin/{}", path.join("/")));
                Err(Refused(404, "M_UNRECOGNIZED"))
            }
        }
    }
}

fn decoded(segment: &str) -> String {
    // A plus sign stands for itself in a path.
    let text = format!("x={}", segment.replace('+', "%2B"));
    let url = Url::parse(&format!("http://x/?{text}")).expect("a URL");
    url.query_pairs().next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn told(answer: Answer) -> Response {
    match answer {
        Ok(value) => done(value),
        Err(why) => refused(&why),
    }
}

fn done(value: Value) -> Response {
    written(StatusCode::OK, &value)
}

fn refused(Refused(status, code): &Refused) -> Response {
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    written(status, &json!({ "errcode": code, "error": "refused" }))
}

fn written(status: StatusCode, value: &Value) -> Response {
    let head = [("content-type", "application/json")];
    (status, head, Body::from(value.to_string())).into_response()
}
