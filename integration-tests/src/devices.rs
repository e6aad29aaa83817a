//! Patients' devices without a client: accounts, cross-signing identities, signed devices and one-time keys that are real to
//! everybody who encrypts for them. They read as little as can be: what was sent to them, and what stands in a room.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, stream};
use matrix_sdk_crypto::vodozemac::{
    Curve25519PublicKey, Ed25519SecretKey, base64_decode,
    megolm::{self, InboundGroupSession, MegolmMessage, SessionKey},
    olm::{Account, OlmMessage, Session, SessionConfig},
};
use parlour::demo::practice::DemoPerson;
use reqwest::Method;
use ruma::{CanonicalJsonValue, OwnedUserId, RoomId};
use serde_json::{Map, Value, json};

use crate::room_path;

/// So many people are equipped at once.
const AT_ONCE: usize = 8;

/// How each person is equipped.
#[derive(Clone, Copy, Debug)]
pub struct Equipment {
    /// Devices, all signed by the person's own identity.
    pub devices: usize,
    /// One-time keys of each device; each message that begins a session takes one.
    pub one_time_keys: usize,
}

/// Equips people who have an account and no device yet; the devices of each, in the order of the people.
///
/// # Panics
/// When the homeserver refuses.
pub async fn equip(
    http: &reqwest::Client,
    homeserver: &str,
    people: &[DemoPerson],
    how: Equipment,
) -> Vec<Vec<Device>> {
    let each = people.iter().map(|person| person_equipped(http, homeserver, person, how));
    stream::iter(each).buffered(AT_ONCE).collect().await
}

async fn person_equipped(
    http: &reqwest::Client,
    homeserver: &str,
    person: &DemoPerson,
    how: Equipment,
) -> Vec<Device> {
    let user = person.user_id.as_str();
    let [master, signing, users] = [(); 3].map(|()| Ed25519SecretKey::new());
    let mut identity = json!({
        "master_key": cross_signing(user, "master", &master),
        "self_signing_key": cross_signing(user, "self_signing", &signing),
        "user_signing_key": cross_signing(user, "user_signing", &users),
    });
    sign_as(&mut identity["self_signing_key"], user, &master);
    sign_as(&mut identity["user_signing_key"], user, &master);
    let mut devices = Vec::with_capacity(how.devices);
    for number in 0..how.devices {
        let mut device = Device::sign_in(http, homeserver, person, format!("MADE{number}")).await;
        if number == 0 {
            device.call(Method::POST, "keys/device_signing/upload", Some(&identity)).await;
        }
        device.publish(Some(&signing), how.one_time_keys).await;
        devices.push(device);
    }
    devices
}

/// A device whose keys are all there is of it.
pub struct Device {
    user_id: OwnedUserId,
    device_id: String,
    token: String,
    homeserver: String,
    http: reqwest::Client,
    account: Account,
    olm: Vec<Session>,
    /// What was sent to it, to tell what comes twice.
    taken: HashSet<Vec<u8>>,
    /// How often something came that had come before.
    repeated: usize,
    /// By room and session.
    room_keys: HashMap<(String, String), InboundGroupSession>,
    /// Up to where it has read what was sent to it.
    since: Option<String>,
}

impl Device {
    async fn sign_in(
        http: &reqwest::Client,
        homeserver: &str,
        person: &DemoPerson,
        device_id: String,
    ) -> Self {
        let mut device = Self {
            user_id: person.user_id.clone(),
            device_id,
            token: String::new(),
            homeserver: homeserver.to_owned(),
            http: http.clone(),
            account: Account::new(),
            olm: Vec::new(),
            taken: HashSet::new(),
            repeated: 0,
            room_keys: HashMap::new(),
            since: None,
        };
        let login = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": device.user_id },
            "password": person.password,
            "device_id": device.device_id,
        });
        let answer = device.call(Method::POST, "login", Some(&login)).await;
        device.token = answer["access_token"].as_str().expect("a token").to_owned();
        device
    }

    /// A device that nobody has signed but itself.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn unsigned(
        http: &reqwest::Client,
        homeserver: &str,
        person: &DemoPerson,
        one_time_keys: usize,
    ) -> Self {
        let mut device = Self::sign_in(http, homeserver, person, "MADE".to_owned()).await;
        device.publish(None, one_time_keys).await;
        device
    }

    /// Signs it out: it is there no longer.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn sign_out(self) {
        self.call(Method::POST, "logout", Some(&json!({}))).await;
    }

    /// Uploads its keys, signed by itself and by its owner's identity, if there is one.
    async fn publish(&mut self, signing: Option<&Ed25519SecretKey>, one_time_keys: usize) {
        let (user, device) = (self.user_id.as_str(), &*self.device_id);
        let mut keys = json!({
            "user_id": user,
            "device_id": device,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("curve25519:{device}"): self.account.curve25519_key().to_base64(),
                format!("ed25519:{device}"): self.account.ed25519_key().to_base64(),
            },
        });
        self.sign(&mut keys);
        if let Some(signing) = signing {
            sign_as(&mut keys, user, signing);
        }
        let one_time_keys = self.new_one_time_keys(one_time_keys);
        let keys = json!({ "device_keys": keys, "one_time_keys": one_time_keys });
        self.call(Method::POST, "keys/upload", Some(&keys)).await;
    }

    /// Uploads more one-time keys.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn publish_one_time_keys(&mut self, count: usize) {
        let keys = json!({ "one_time_keys": self.new_one_time_keys(count) });
        self.call(Method::POST, "keys/upload", Some(&keys)).await;
    }

    fn new_one_time_keys(&mut self, count: usize) -> Value {
        self.account.generate_one_time_keys(count);
        let keys = self.account.one_time_keys().into_iter().map(|(id, public)| {
            let mut key = json!({ "key": public.to_base64() });
            self.sign(&mut key);
            (format!("signed_curve25519:{}", id.to_base64()), key)
        });
        let keys = keys.collect::<Map<_, _>>();
        self.account.mark_keys_as_published();
        Value::Object(keys)
    }

    fn sign(&self, object: &mut Value) {
        let user = self.user_id.as_str();
        signed(object, user, &self.device_id, |text| self.account.sign(text).to_base64());
    }

    /// What others than its owner have said in a room, in order, by the keys that were sent to this device and no other.
    /// What it cannot read is told as such.
    ///
    /// # Panics
    /// When the homeserver refuses, or something was sent to it that is not well encrypted.
    pub async fn reads(&mut self, room: &RoomId) -> Vec<String> {
        self.take_what_was_sent().await;
        let filter = json!({ "types": ["m.room.encrypted"] }).to_string();
        let (mut words, mut from) = (Vec::new(), None::<String>);
        loop {
            let mut query =
                vec![("dir", "f".to_owned()), ("limit", "500".to_owned()), ("filter", filter.clone())];
            query.extend(from.map(|from| ("from", from)));
            let url = reqwest::Url::parse_with_params("http://x/", &query).expect("a URL");
            let path = room_path(room, &format!("messages?{}", url.query().unwrap_or_default()));
            let page = self.call(Method::GET, path.trim_start_matches("/_matrix/client/v3/"), None).await;
            for event in page["chunk"].as_array().expect("events") {
                if event["sender"] != self.user_id.as_str() {
                    words.push(self.words_of(event));
                }
            }
            match page["end"].as_str() {
                Some(end) => from = Some(end.to_owned()),
                None => return words,
            }
        }
    }

    /// How often something was sent to it again, of what it has taken in.
    pub fn repeated(&self) -> usize {
        self.repeated
    }

    /// Takes in all that was sent to it and that it has not read.
    async fn take_what_was_sent(&mut self) {
        loop {
            let since = self.since.as_ref().map(|since| format!("&since={since}")).unwrap_or_default();
            let answer = self.call(Method::GET, &format!("sync?timeout=0{since}"), None).await;
            self.since = answer["next_batch"].as_str().map(str::to_owned);
            let sent = answer["to_device"]["events"].as_array().map_or(&[][..], Vec::as_slice);
            if sent.is_empty() {
                return;
            }
            for event in sent.iter().filter(|event| event["type"] == "m.room.encrypted") {
                self.take(event);
            }
        }
    }

    /// Takes in what was sent to it, which is a room's session. The same ciphertext opens once.
    fn take(&mut self, event: &Value) {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let message = &event["content"]["ciphertext"][self.account.curve25519_key().to_base64()];
        let kind = message["type"].as_u64().and_then(|kind| usize::try_from(kind).ok()).expect("a kind");
        let body = base64_decode(text(&message["body"])).expect("base64");
        if !self.taken.insert(body.clone()) {
            self.repeated += 1;
            return;
        }
        let message = OlmMessage::from_parts(kind, &body).expect("an Olm message");
        let opened = self.olm.iter_mut().find_map(|session| session.decrypt(&message).ok());
        let opened = opened.unwrap_or_else(|| {
            let OlmMessage::PreKey(message) = &message else { panic!("a session that nobody has begun") };
            let theirs = text(&event["content"]["sender_key"]);
            let theirs = Curve25519PublicKey::from_base64(&theirs).expect("a key");
            let begun = self.account.create_inbound_session(SessionConfig::version_1(), theirs, message);
            let begun = begun.expect("a session");
            self.olm.push(begun.session);
            begun.plaintext
        });
        let opened: Value = serde_json::from_slice(&opened).expect("JSON");
        assert_eq!((&opened["sender"], &opened["recipient"]), (&event["sender"], &json!(self.user_id)));
        if opened["type"] == "m.room_key" {
            let [room, session, key] =
                ["room_id", "session_id", "session_key"].map(|field| text(&opened["content"][field]));
            let key = SessionKey::from_base64(&key).expect("a session's key");
            let key = InboundGroupSession::new(&key, megolm::SessionConfig::version_1());
            self.room_keys.insert((room, session), key);
        }
    }

    /// What an event of a room says.
    fn words_of(&mut self, event: &Value) -> String {
        let content = &event["content"];
        let name = [&event["room_id"], &content["session_id"]]
            .map(|value| value.as_str().unwrap_or_default().to_owned());
        let [room, session] = name;
        let Some(key) = self.room_keys.get_mut(&(room, session)) else { return "(unreadable)".to_owned() };
        let message = MegolmMessage::from_base64(content["ciphertext"].as_str().expect("a ciphertext"));
        let opened = key.decrypt(&message.expect("a Megolm message")).expect("decrypted");
        let opened: Value = serde_json::from_slice(&opened.plaintext).expect("JSON");
        assert_eq!(opened["room_id"], event["room_id"]);
        opened["content"]["body"].as_str().expect("words").to_owned()
    }

    /// Asks the homeserver's client API.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let mut request = self.http.request(method, format!("{}/_matrix/client/v3/{path}", self.homeserver));
        if let Some(body) = body {
            request = request.json(body);
        }
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let answer: Value = answer.json().await.expect("JSON");
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }
}

/// Matrix v1.19 client-server §Cross-signing.
fn cross_signing(user: &str, usage: &str, key: &Ed25519SecretKey) -> Value {
    let public = key.public_key().to_base64();
    json!({ "user_id": user, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

/// Signs as a part of somebody's identity, whose name is its key.
fn sign_as(object: &mut Value, user: &str, key: &Ed25519SecretKey) {
    signed(object, user, &key.public_key().to_base64(), |text| key.sign(text).to_base64());
}

/// Matrix v1.19 appendices §Signing JSON: without the signatures that are there already.
fn signed(object: &mut Value, user: &str, key_name: &str, sign: impl FnOnce(&[u8]) -> String) {
    let fields = object.as_object_mut().expect("an object");
    let mut signatures = fields.remove("signatures").unwrap_or_else(|| json!({ user: {} }));
    let canonical = CanonicalJsonValue::try_from(object.clone()).expect("canonical JSON").to_string();
    signatures[user][format!("ed25519:{key_name}")] = json!(sign(canonical.as_bytes()));
    object["signatures"] = signatures;
}
