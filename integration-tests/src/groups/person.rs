//! A person's device that keeps everything that ever reached it: each answer of the homeserver and of the practice API, and what
//! could be decrypted of it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};

use matrix_sdk_crypto::{
    AttachmentDecryptor, AttachmentEncryptor, DecryptionSettings, EncryptionSettings, EncryptionSyncChanges,
    OlmMachine, TrustRequirement,
    types::{
        events::room::encrypted::EncryptedEvent,
        requests::{AnyOutgoingRequest, ToDeviceRequest},
    },
};
use reqwest::Method;
use ruma::{
    DeviceId, OwnedUserId, RoomId, TransactionId, UserId,
    api::{
        IncomingResponse as _, OutgoingRequest, SupportedVersions,
        auth_scheme::{AuthScheme, SendAccessToken},
        client::{keys, sync::sync_events::DeviceLists, to_device::send_event_to_device},
        path_builder::PathBuilder,
    },
    events::{AnyMessageLikeEventContent, AnyToDeviceEvent},
    serde::Raw,
};
use serde_json::{Value, json};

use crate::room_path;

const RECEIVING: DecryptionSettings =
    DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted };
/// What is asked for at each look: all of it.
const FILTER: &str = r#"{"room":{"timeline":{"limit":1000}},"presence":{"not_types":["*"]}}"#;

/// An event of a room's timeline.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As it came.
    pub event: Value,
    /// Its type and content, decrypted where it was encrypted; none while it cannot be.
    pub plain: Option<(String, Value)>,
}

impl Seen {
    /// Its id.
    pub fn id(&self) -> &str {
        self.event["event_id"].as_str().unwrap_or_default()
    }

    /// Whether these are its words, behind whatever it quotes.
    pub fn says(&self, words: &str) -> bool {
        let contains = |content: &Value| content["body"].as_str().is_some_and(|body| body.ends_with(words));
        self.plain
            .as_ref()
            .is_some_and(|(_, content)| contains(content) || contains(&content["m.new_content"]))
    }
}

/// A person with one device.
pub struct Person {
    /// Their account.
    pub user_id: OwnedUserId,
    /// Their token.
    pub token: String,
    /// Everything that reached them since that was last forgotten.
    pub got: Vec<Value>,
    /// Timelines, by room.
    pub timelines: BTreeMap<String, Vec<Seen>>,
    http: reqwest::Client,
    url: String,
    api: String,
    versions: SupportedVersions,
    olm: OlmMachine,
    since: Option<String>,
    members: BTreeMap<String, BTreeSet<OwnedUserId>>,
    sent: u64,
}

impl Person {
    /// Signs in on a new device, with a new identity that has signed it.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn sign_in(url: &str, api: &str, user_id: &UserId, password: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let device: String = std::iter::repeat_with(|| rand::random_range('A'..='Z')).take(10).collect();
        let login = json!({
            "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user_id },
            "password": password, "device_id": device,
        });
        let answer = http.post(format!("{url}/_matrix/client/v3/login")).json(&login).send().await;
        let answer: Value = answer.expect("an answer").json().await.expect("JSON");
        let token = answer["access_token"].as_str().expect("a token").to_owned();
        let device_id = <&DeviceId>::from(device.as_str());
        let mut person = Self {
            user_id: user_id.to_owned(),
            got: Vec::new(),
            timelines: BTreeMap::new(),
            http,
            url: url.to_owned(),
            api: api.to_owned(),
            versions: SupportedVersions::from_parts(&["v1.11".to_owned()], &BTreeMap::new()),
            olm: OlmMachine::new(user_id, device_id).await,
            since: None,
            members: BTreeMap::new(),
            sent: 0,
            token,
        };
        person.publish(password).await;
        person
    }

    async fn publish(&mut self, password: &str) {
        let requests = self.olm.bootstrap_cross_signing(false).await.expect("an identity");
        if let Some(upload) = requests.upload_keys_req {
            self.send_out(upload.request_id(), upload.request()).await;
        }
        let signing = &requests.upload_signing_keys_req;
        let mut identity = json!({
            "master_key": signing.master_key, "self_signing_key": signing.self_signing_key,
            "user_signing_key": signing.user_signing_key,
        });
        let path = "/_matrix/client/v3/keys/device_signing/upload";
        let (status, told) = self.ask(Method::POST, path, Some(&identity)).await;
        if status == 401 {
            identity["auth"] = json!({
                "type": "m.login.password", "identifier": { "type": "m.id.user", "user": self.user_id },
                "password": password, "session": told["session"],
            });
            let (status, told) = self.ask(Method::POST, path, Some(&identity)).await;
            assert_eq!(status, 200, "{told}");
        }
        let signatures = requests.upload_signatures_req;
        let answer = self.makes(signatures).await;
        self.olm.mark_request_as_sent(&TransactionId::new(), &answer).await.expect("known");
        self.flush().await;
        self.receive().await;
    }

    /// Asks the homeserver for something; status and body, which count as having reached the person.
    pub async fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.url);
        self.asked(method, url, body).await
    }

    /// Asks the practice API for something; status and body, which count as having reached the person.
    pub async fn ask_practice(&mut self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("{}/_parlour/v1{path}", self.api);
        self.asked(method, url, body).await
    }

    async fn asked(&mut self, method: Method, url: String, body: Option<&Value>) -> (u16, Value) {
        let asked = url.clone();
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.expect("an answer");
        let (status, value) = (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null));
        self.got.push(json!({ "asked": asked, "status": status, "body": value }));
        (status, value)
    }

    /// Makes a request of the client API; its answer counts as having reached the person.
    async fn makes<R>(&mut self, request: R) -> R::IncomingResponse
    where
        R: OutgoingRequest,
        for<'a> R::Authentication: AuthScheme<Input<'a> = SendAccessToken<'a>>,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = Cow<'a, SupportedVersions>>,
    {
        let (token, versions) = (SendAccessToken::Always(&self.token), Cow::Borrowed(&self.versions));
        let request: http::Request<Vec<u8>> =
            request.try_into_http_request(&self.url, token, versions).expect("a request");
        let asked = request.uri().to_string();
        let request = reqwest::Request::try_from(request).expect("a request");
        let answer = self.http.execute(request).await.expect("an answer");
        let status = answer.status();
        let body = answer.bytes().await.expect("an answer");
        assert!(status.is_success(), "{asked}: {status}: {}", String::from_utf8_lossy(&body));
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        self.got.push(json!({ "asked": asked, "status": status.as_u16(), "body": value }));
        R::IncomingResponse::try_from_http_response(http::Response::new(body)).expect("an answer")
    }

    async fn flush(&mut self) {
        loop {
            let requests = self.olm.outgoing_requests().await.expect("requests");
            if requests.is_empty() {
                return;
            }
            for request in requests {
                self.send_out(request.request_id(), request.request()).await;
            }
        }
    }

    async fn send_out(&mut self, id: &TransactionId, request: &AnyOutgoingRequest) {
        match request {
            AnyOutgoingRequest::KeysUpload(upload) => {
                let answer = self.makes(upload.clone()).await;
                self.olm.mark_request_as_sent(id, &answer).await.expect("known");
            }
            AnyOutgoingRequest::KeysQuery(query) => {
                let mut request = keys::get_keys::v3::Request::new();
                request.device_keys = query.device_keys.clone();
                let answer = self.makes(request).await;
                self.olm.mark_request_as_sent(id, &answer).await.expect("known");
            }
            AnyOutgoingRequest::KeysClaim(claim) => {
                let answer = self.makes(claim.clone()).await;
                self.olm.mark_request_as_sent(id, &answer).await.expect("known");
            }
            AnyOutgoingRequest::ToDeviceRequest(message) => self.goes_to_devices(message).await,
            AnyOutgoingRequest::SignatureUpload(upload) => {
                let answer = self.makes(upload.clone()).await;
                self.olm.mark_request_as_sent(id, &answer).await.expect("known");
            }
            AnyOutgoingRequest::RoomMessage(_) => {}
        }
    }

    async fn goes_to_devices(&mut self, message: &ToDeviceRequest) {
        let (kind, id) = (message.event_type.clone(), message.txn_id.clone());
        let request = send_event_to_device::v3::Request::new_raw(kind, id, message.messages.clone());
        let answer = self.makes(request).await;
        self.olm.mark_request_as_sent(&message.txn_id, &answer).await.expect("known");
    }

    /// Takes in what is new, without waiting for anything.
    pub async fn receive(&mut self) {
        let mut query = vec![("timeout", "0"), ("filter", FILTER)];
        if let Some(since) = &self.since {
            query.push(("since", since));
        }
        let url = reqwest::Url::parse_with_params(&format!("{}/_matrix/client/v3/sync", self.url), query);
        let (status, news) = self.asked(Method::GET, url.expect("a URL").into(), None).await;
        assert_eq!(status, 200, "{news}");
        self.since = news["next_batch"].as_str().map(str::to_owned);
        self.take_in(&news).await;
        self.flush().await;
        for kind in ["join", "leave"] {
            for (room, news) in news["rooms"][kind].as_object().into_iter().flatten() {
                self.happened(room, news).await;
            }
        }
        // What could not be read before may be readable now.
        let mut timelines = std::mem::take(&mut self.timelines);
        for (room, timeline) in &mut timelines {
            for seen in timeline.iter_mut().filter(|seen| seen.plain.is_none()) {
                seen.plain = self.opened(room, &seen.event).await;
                self.got.extend(
                    seen.plain.as_ref().map(|(kind, content)| json!({ "type": kind, "content": content })),
                );
            }
        }
        self.timelines = timelines;
    }

    async fn take_in(&mut self, news: &Value) {
        let raw = |event: &Value| {
            Raw::<AnyToDeviceEvent>::from_json(serde_json::value::to_raw_value(event).expect("JSON"))
        };
        let events = news["to_device"]["events"]
            .as_array()
            .map_or(Vec::new(), |events| events.iter().map(raw).collect());
        let devices: DeviceLists = serde_json::from_value(news["device_lists"].clone()).unwrap_or_default();
        let counts = serde_json::from_value(news["device_one_time_keys_count"].clone()).unwrap_or_default();
        let unused: Option<Vec<_>> =
            serde_json::from_value(news["device_unused_fallback_key_types"].clone()).ok();
        let changes = EncryptionSyncChanges {
            to_device_events: events,
            changed_devices: &devices,
            one_time_keys_counts: &counts,
            unused_fallback_keys: unused.as_deref(),
            next_batch_token: self.since.clone(),
        };
        let (events, _) = self.olm.receive_sync_changes(changes, &RECEIVING).await.expect("taken in");
        for event in &events {
            let mut got: Value = serde_json::from_str(event.to_raw().json().get()).expect("JSON");
            got["to_a_device"] = true.into();
            self.got.push(got);
        }
    }

    async fn happened(&mut self, room: &str, news: &Value) {
        let state = news["state"]["events"].as_array().into_iter().flatten();
        let timeline: Vec<_> = news["timeline"]["events"].as_array().into_iter().flatten().collect();
        for event in state.chain(timeline.iter().copied()).filter(|event| event["type"] == "m.room.member") {
            let Some(Ok(user_id)) = event["state_key"].as_str().map(UserId::parse) else { continue };
            let members = self.members.entry(room.to_owned()).or_default();
            match event["content"]["membership"].as_str() {
                Some("join" | "invite") => members.insert(user_id),
                _ => members.remove(&user_id),
            };
        }
        for event in timeline {
            let plain = self.opened(room, event).await;
            if event["type"] == "m.room.encrypted" {
                self.got.extend(
                    plain.as_ref().map(|(kind, content)| json!({ "type": kind, "content": content })),
                );
            }
            let seen = Seen { event: event.clone(), plain };
            self.timelines.entry(room.to_owned()).or_default().push(seen);
        }
    }

    async fn opened(&self, room: &str, event: &Value) -> Option<(String, Value)> {
        if event["type"] != "m.room.encrypted" || event["unsigned"]["redacted_because"].is_object() {
            return Some((event["type"].as_str()?.to_owned(), event["content"].clone()));
        }
        let raw = Raw::<EncryptedEvent>::from_json(serde_json::value::to_raw_value(event).ok()?);
        let room = RoomId::parse(room).ok()?;
        let opened = self.olm.decrypt_room_event(&raw, &room, &RECEIVING).await.ok()?;
        let mut opened: Value = opened.event.deserialize_as_unchecked().ok()?;
        Some((opened["type"].as_str()?.to_owned(), opened["content"].take()))
    }

    /// Sends a message, encrypted; its event.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn says(&mut self, room: &RoomId, content: &Value) -> String {
        let members: Vec<_> = self.members.get(room.as_str()).into_iter().flatten().cloned().collect();
        self.olm.update_tracked_users(members.iter().map(|user| &**user)).await.expect("tracked");
        self.flush().await;
        let missing =
            self.olm.get_missing_sessions(members.iter().map(|user| &**user)).await.expect("sessions");
        if let Some((id, claim)) = missing {
            self.send_out(&id, &AnyOutgoingRequest::KeysClaim(claim)).await;
        }
        let users = members.iter().map(|user| &**user);
        let shares =
            self.olm.share_room_key(room, users, EncryptionSettings::default()).await.expect("shared");
        for share in shares {
            self.goes_to_devices(&share).await;
        }
        let raw = Raw::<AnyMessageLikeEventContent>::from_json(
            serde_json::value::to_raw_value(content).expect("JSON"),
        );
        let sealed = self.olm.encrypt_room_event_raw(room, "m.room.message", &raw).await.expect("encrypted");
        let sealed: Value = sealed.content.deserialize_as_unchecked().expect("JSON");
        self.puts(room, "send/m.room.encrypted", &sealed).await
    }

    /// Puts a file on the homeserver, encrypted; the `file` of a message.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn uploads(&self, mut plain: &[u8]) -> Value {
        let (mut sealed, mut sealing) = (Vec::new(), AttachmentEncryptor::new(&mut plain));
        sealing.read_to_end(&mut sealed).expect("sealed");
        let mut file = serde_json::to_value(sealing.finish()).expect("JSON");
        let url = format!("{}/_matrix/media/v3/upload", self.url);
        let sent = self.http.post(url).bearer_auth(&self.token).body(sealed).send().await;
        let told: Value = sent.expect("an answer").json().await.expect("JSON");
        file["url"] = told["content_uri"].clone();
        assert!(file["url"].is_string(), "{told}");
        file
    }

    /// Fetches the file of each message in a room and opens it: what is in it has reached the person.
    ///
    /// # Panics
    /// When the homeserver refuses one, or it cannot be opened.
    pub async fn fetches_files(&mut self, room: &RoomId) {
        let files = self.timeline(room).iter().filter_map(|seen| {
            let file = &seen.plain.as_ref()?.1["file"];
            file.is_object().then(|| (seen.id().to_owned(), file.clone()))
        });
        for (event, file) in files.collect::<Vec<_>>() {
            let media =
                file["url"].as_str().and_then(|url| url.strip_prefix("mxc://")).expect("a file's place");
            let url = format!("{}/_matrix/client/v1/media/download/{media}", self.url);
            let answer = self.http.get(url).bearer_auth(&self.token).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{media}");
            let sealed = answer.bytes().await.expect("bytes");
            let (mut sealed, mut plain) = (&*sealed, Vec::new());
            let keys = serde_json::from_value(file).expect("keys");
            let mut opening = AttachmentDecryptor::new(&mut sealed, keys).expect("keys");
            opening.read_to_end(&mut plain).expect("it opens");
            self.got.push(json!({ "file_of": event, "body": String::from_utf8_lossy(&plain) }));
        }
    }

    /// Is writing in a room, or no longer.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn types(&mut self, room: &RoomId, is_writing: bool) {
        let path = room_path(room, &format!("typing/{}", self.user_id));
        let body = if is_writing {
            json!({ "typing": true, "timeout": 60_000 })
        } else {
            json!({ "typing": false })
        };
        let (status, told) = self.ask(Method::PUT, &path, Some(&body)).await;
        assert_eq!(status, 200, "{told}");
    }

    /// Sends an event as it is; `rest` is the path between the room and the transaction's id.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn puts(&mut self, room: &RoomId, rest: &str, content: &Value) -> String {
        self.sent += 1;
        let path = room_path(room, &format!("{rest}/t{}", self.sent));
        let (status, told) = self.ask(Method::PUT, &path, Some(content)).await;
        assert_eq!(status, 200, "{rest}: {told}");
        told["event_id"].as_str().expect("an event").to_owned()
    }

    /// Whether somebody has reacted to an event.
    pub fn is_reacted_to(&self, room: &RoomId, event: &str, by: &str) -> bool {
        self.timeline(room).iter().any(|seen| {
            seen.event["type"] == "m.reaction"
                && seen.event["sender"] == by
                && seen.event["content"]["m.relates_to"]["event_id"] == event
        })
    }

    /// Whether an event was deleted after it had come.
    pub fn is_deleted(&self, room: &RoomId, event: &str) -> bool {
        self.timeline(room)
            .iter()
            .any(|seen| seen.event["type"] == "m.room.redaction" && seen.event["content"]["redacts"] == event)
    }

    /// By what its device is known: its keys, and its id.
    pub fn device(&self) -> [String; 3] {
        let keys = self.olm.identity_keys();
        [keys.curve25519.to_base64(), keys.ed25519.to_base64(), self.olm.device_id().to_string()]
    }

    /// What is known of a room's timeline.
    pub fn timeline(&self, room: &RoomId) -> &[Seen] {
        self.timelines.get(room.as_str()).map_or(&[], Vec::as_slice)
    }

    /// The message with these words, as it stands in this room, and no edit of it.
    pub fn event_of(&self, room: &RoomId, words: &str) -> Option<&Seen> {
        let is_edit = |seen: &Seen| {
            seen.plain.as_ref().is_some_and(|(_, content)| content["m.relates_to"]["rel_type"] == "m.replace")
        };
        self.timeline(room).iter().find(|seen| seen.says(words) && !is_edit(seen))
    }
}
