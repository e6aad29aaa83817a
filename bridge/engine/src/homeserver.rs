//! The homeserver's client API, used as one of our users through the application service's token.

mod seen;

use std::{borrow::Cow, time::Duration};

use ruma::{
    EventId, MxcUri, OwnedDeviceId, OwnedMxcUri, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::{
        AppserviceUserIdentity, IncomingResponse, OutgoingRequest, OutgoingRequestAppserviceExt,
        SupportedVersions,
        auth_scheme::{AuthScheme, SendAccessToken},
        path_builder::PathBuilder,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

pub use seen::DeviceSeen;

use crate::{
    commit_point::{CommitPoint, through},
    secret::Secret,
};

/// Why the homeserver did not do it.
#[derive(Debug, thiserror::Error)]
pub enum HomeserverError {
    /// No answer: not there, cut off, or too slow.
    #[error("the homeserver does not answer")]
    Unreachable(#[source] reqwest::Error),
    /// A Matrix error (Matrix v1.19 client-server §Standard error response).
    #[error("the homeserver answered {status} {code}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its `errcode`.
        code: String,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// It has another one-time key under the id of one that was uploaded: Synapse has no code for this, only a sentence.
    #[error("the homeserver has another one-time key under this id")]
    KeyClash,
    /// An answer, or a request of ours, that makes no sense.
    #[error("the homeserver's answer to {0} makes no sense")]
    Nonsense(&'static str),
}

impl HomeserverError {
    /// Whether the same request may succeed later without anything else being done.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            // What an operator has to mend passes too: nothing is given up over it.
            Self::Refused { status, code, .. } => {
                *status == 429
                    || *status >= 500
                    || matches!(
                        &**code,
                        "M_UNKNOWN_TOKEN"
                            | "M_MISSING_TOKEN"
                            | "M_RESOURCE_LIMIT_EXCEEDED"
                            | "M_LIMIT_EXCEEDED"
                    )
            }
            // An operator has to mend it.
            Self::KeyClash => true,
            Self::Nonsense(_) => false,
        }
    }

    /// Whether it is this `errcode`.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

/// Acting as one of our users: the identity that a request asserts
/// (Matrix v1.19 application-service §Identity assertion; device: MSC4190).
#[derive(Clone, Debug)]
pub struct Intent {
    /// The user.
    pub user_id: OwnedUserId,
    /// Their device, for requests that a device makes.
    pub device_id: Option<OwnedDeviceId>,
}

impl Intent {
    /// As this user, and no device of theirs.
    #[must_use]
    pub fn user(user_id: &UserId) -> Self {
        Self { user_id: user_id.to_owned(), device_id: None }
    }

    fn identity(&self) -> AppserviceUserIdentity<'_> {
        let mut identity = AppserviceUserIdentity::new(&self.user_id);
        identity.device_id = self.device_id.as_deref();
        identity
    }
}

/// The homeserver, spoken to with the application service's token.
#[derive(Clone, Debug)]
pub struct Homeserver {
    http: reqwest::Client,
    base: String,
    token: Secret,
    versions: SupportedVersions,
}

#[derive(Deserialize)]
struct MatrixError {
    #[serde(default)]
    errcode: String,
    #[serde(default)]
    error: String,
    retry_after_ms: Option<u64>,
}

const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

impl Homeserver {
    /// The homeserver at `base` (scheme, host and port).
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(base: &str, token: Secret) -> Result<Self, HomeserverError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(REQUEST_LIMIT)
            .build()
            .map_err(HomeserverError::Unreachable)?;
        // The versions whose stable paths we use; what may be missing is probed where it is needed.
        let versions = SupportedVersions::from_parts(
            &["v1.1", "v1.10", "v1.11", "v1.12"].map(str::to_owned),
            &std::collections::BTreeMap::new(),
        );
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token, versions })
    }

    /// Makes a request of the client API as one of our users.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn request<R>(
        &self,
        point: CommitPoint,
        intent: &Intent,
        request: R,
    ) -> Result<R::IncomingResponse, HomeserverError>
    where
        R: OutgoingRequest,
        for<'a> R::Authentication: AuthScheme<Input<'a> = SendAccessToken<'a>>,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = Cow<'a, SupportedVersions>>,
    {
        let request: http::Request<Vec<u8>> = request
            .try_into_http_request_with_identity(
                &self.base,
                SendAccessToken::Always(self.token.reveal()),
                intent.identity(),
                Cow::Borrowed(&self.versions),
            )
            .map_err(|_| HomeserverError::Nonsense("a request of ours"))?;
        let request = reqwest::Request::try_from(request).map_err(HomeserverError::Unreachable)?;
        let body =
            self.answer(point, reqwest::RequestBuilder::from_parts(self.http.clone(), request)).await?;
        R::IncomingResponse::try_from_http_response(http::Response::new(body))
            .map_err(|_| HomeserverError::Nonsense("a request of the client API"))
    }

    /// Makes a request whose shape stands in no crate (`/register`, the admin API); `path` begins with a slash.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn call(
        &self,
        point: CommitPoint,
        intent: Option<&Intent>,
        method: http::Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, HomeserverError> {
        let mut url = url::Url::parse(&format!("{}{path}", self.base))
            .map_err(|_| HomeserverError::Nonsense("a path of ours"))?;
        if let Some(intent) = intent {
            let mut query = url.query_pairs_mut();
            query.append_pair("user_id", intent.user_id.as_str());
            if let Some(device_id) = &intent.device_id {
                query.append_pair("device_id", device_id.as_str());
            }
        }
        let mut request = self.http.request(method.clone(), url).bearer_auth(self.token.reveal());
        if method != http::Method::GET {
            request = request.json(body);
        }
        let body = self.answer(point, request).await?;
        serde_json::from_slice(&body).map_err(|_| HomeserverError::Nonsense("a request of the admin API"))
    }

    /// Has the homeserver call us, as it does for transactions (Matrix v1.19 application-service §Pinging).
    ///
    /// # Errors
    /// When it cannot be reached, or cannot reach us, or either token is wrong.
    pub async fn ping(&self, user_id: &UserId) -> Result<(), HomeserverError> {
        let path = format!("/_matrix/client/v1/appservice/{}/ping", crate::REGISTRATION_ID);
        let bot = Intent::user(user_id);
        self.call(CommitPoint::Ping, Some(&bot), http::Method::POST, &path, &json!({})).await.map(drop)
    }

    /// Whether it answers at all (Matrix v1.19 client-server §GET /versions).
    pub async fn answers(&self) -> bool {
        let url = format!("{}/_matrix/client/versions", self.base);
        self.answer(CommitPoint::Administer, self.http.get(url).timeout(ANSWER_LIMIT)).await.is_ok()
    }

    /// Who a person's access token belongs to (`/account/whoami`); none when the homeserver does not know it.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn whoami(&self, token: &Secret) -> Result<Option<OwnedUserId>, HomeserverError> {
        let url = format!("{}/_matrix/client/v3/account/whoami", self.base);
        match self.answer(CommitPoint::WhoAmI, self.http.get(url).bearer_auth(token.reveal())).await {
            Ok(body) => {
                let answer: Value = serde_json::from_slice(&body)
                    .map_err(|_| HomeserverError::Nonsense("/account/whoami"))?;
                let user_id = answer["user_id"].as_str().and_then(|id| UserId::parse(id).ok());
                user_id.map(Some).ok_or(HomeserverError::Nonsense("/account/whoami"))
            }
            Err(HomeserverError::Refused { status: 401 | 403, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Joins a local account, or a ghost, to a room where `admin` has the power to invite: Synapse's admin API. Said
    /// again, nothing happens: Synapse refuses to join who is in the room, so a refusal is held against the room.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn join(&self, admin: &Intent, room: &RoomId, user: &UserId) -> Result<(), HomeserverError> {
        let path = format!("/_synapse/admin/v1/join/{}", encoded(room.as_str()));
        let body = json!({ "user_id": user });
        let joined = self.call(CommitPoint::Join, Some(admin), http::Method::POST, &path, &body).await;
        match joined {
            Err(error) if error.is("M_FORBIDDEN") && !self.has_joined(admin, room, user).await? => Err(error),
            Err(error) if !error.is("M_FORBIDDEN") => Err(error),
            _ => Ok(()),
        }
    }

    /// Invites somebody into a room (Matrix v1.19 client-server §POST /rooms/{roomId}/invite). Said again, nothing happens: a
    /// refusal is held against the room.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn invite(&self, by: &Intent, room: &RoomId, user: &UserId) -> Result<(), HomeserverError> {
        let path = format!("/_matrix/client/v3/rooms/{}/invite", encoded(room.as_str()));
        let body = json!({ "user_id": user });
        let invited = self.call(CommitPoint::Invite, Some(by), http::Method::POST, &path, &body).await;
        match invited {
            Err(error) if error.is("M_FORBIDDEN") && !self.has_joined(by, room, user).await? => Err(error),
            Err(error) if !error.is("M_FORBIDDEN") => Err(error),
            _ => Ok(()),
        }
    }

    /// A file that lies with the homeserver (Matrix v1.19 client-server §GET /media/download); none when it has more bytes than
    /// this. One that is not there yet is not waited for.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn download(
        &self,
        by: &Intent,
        file: &MxcUri,
        most_bytes: u64,
    ) -> Result<Option<Vec<u8>>, HomeserverError> {
        let (server, id) = file.parts().map_err(|_| HomeserverError::Nonsense("the address of a file"))?;
        let [server, id] = [server.as_str(), id].map(encoded);
        let url = format!(
            "{}/_matrix/client/v1/media/download/{server}/{id}?allow_redirect=false&timeout_ms=0&user_id={}",
            self.base,
            encoded(by.user_id.as_str())
        );
        let request = self.http.get(url).bearer_auth(self.token.reveal());
        through(CommitPoint::Download, async {
            let mut response = request.send().await.map_err(HomeserverError::Unreachable)?;
            if !response.status().is_success() {
                let status = response.status();
                let body = response.bytes().await.map_err(HomeserverError::Unreachable)?;
                return Err(refused(status.as_u16(), &body));
            }
            let mut bytes = Vec::new();
            while let Some(part) = response.chunk().await.map_err(HomeserverError::Unreachable)? {
                if (bytes.len() + part.len()) as u64 > most_bytes {
                    return Ok(None);
                }
                bytes.extend_from_slice(&part);
            }
            Ok(Some(bytes))
        })
        .await
    }

    /// Puts a file on the homeserver (Matrix v1.19 client-server §POST /media/v3/upload): its address.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn upload(&self, by: &Intent, file: Vec<u8>) -> Result<OwnedMxcUri, HomeserverError> {
        let mut request = ruma::api::client::media::create_content::v3::Request::new(file);
        request.content_type = Some("application/octet-stream".to_owned());
        Ok(self.request(CommitPoint::Upload, by, request).await?.content_uri)
    }

    /// Puts somebody out of a room (Matrix v1.19 client-server §POST /rooms/{roomId}/kick). Said again, nothing happens: a
    /// refusal is held against the room.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn kick(&self, by: &Intent, room: &RoomId, user: &UserId) -> Result<(), HomeserverError> {
        let path = format!("/_matrix/client/v3/rooms/{}/kick", encoded(room.as_str()));
        let body = json!({ "user_id": user });
        let kicked = self.call(CommitPoint::Kick, Some(by), http::Method::POST, &path, &body).await;
        match kicked {
            Err(error) if error.is("M_FORBIDDEN") && self.has_joined(by, room, user).await? => Err(error),
            Err(error) if !error.is("M_FORBIDDEN") => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether somebody is in a room, as one of our users who is in it sees it.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn has_joined(
        &self,
        intent: &Intent,
        room: &RoomId,
        user: &UserId,
    ) -> Result<bool, HomeserverError> {
        Ok(self.membership(intent, room, user).await?.is_some_and(|membership| membership == "join"))
    }

    /// How somebody stands to a room: `join`, `invite`, `leave`, `ban`; none when they never were in it (Matrix v1.19
    /// client-server §m.room.member).
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn membership(
        &self,
        intent: &Intent,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Option<String>, HomeserverError> {
        let event = format!("m.room.member/{}", encoded(user.as_str()));
        let member = self.state(intent, room, &event).await?;
        Ok(member.and_then(|content| Some(content["membership"].as_str()?.to_owned())))
    }

    /// A state event's content; none when there is none. The path is its type, and its state key after a slash when
    /// that is not empty.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn state(
        &self,
        intent: &Intent,
        room: &RoomId,
        event: &str,
    ) -> Result<Option<Value>, HomeserverError> {
        let path = format!("/_matrix/client/v3/rooms/{}/state/{event}", encoded(room.as_str()));
        match self.call(CommitPoint::ReadState, Some(intent), http::Method::GET, &path, &Value::Null).await {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.is("M_NOT_FOUND") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The content of the power levels under which an event was taken into its room; none when it is not there
    /// (Matrix v1.19 client-server §GET /rooms/{roomId}/context/{eventId}).
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn levels_at(
        &self,
        intent: &Intent,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Option<Value>, HomeserverError> {
        let [room, event] = [room.as_str(), event.as_str()].map(encoded);
        let path = format!("/_matrix/client/v3/rooms/{room}/context/{event}?limit=0");
        let asked =
            self.call(CommitPoint::ReadState, Some(intent), http::Method::GET, &path, &Value::Null).await;
        let mut around = match asked {
            Err(error) if error.is("M_NOT_FOUND") => return Ok(None),
            around => around?,
        };
        let state = around["state"].as_array_mut().ok_or(HomeserverError::Nonsense("/context"))?;
        let levels = state.iter_mut().find(|event| event["type"] == "m.room.power_levels");
        Ok(levels.map(|levels| levels["content"].take()))
    }

    /// Who is in a room, or invited into it (Matrix v1.19 client-server §GET /rooms/{roomId}/members).
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn members(&self, intent: &Intent, room: &RoomId) -> Result<Vec<OwnedUserId>, HomeserverError> {
        let path =
            format!("/_matrix/client/v3/rooms/{}/members?not_membership=leave", encoded(room.as_str()));
        let asked = self.call(CommitPoint::ReadState, Some(intent), http::Method::GET, &path, &Value::Null);
        let members = asked.await?;
        let events = members["chunk"].as_array().ok_or(HomeserverError::Nonsense("/members"))?;
        let is_in =
            |event: &&Value| matches!(event["content"]["membership"].as_str(), Some("join" | "invite"));
        let members = events.iter().filter(is_in).filter_map(|event| event["state_key"].as_str());
        Ok(members.filter_map(|user_id| UserId::parse(user_id).ok()).collect())
    }

    /// The rooms that one of our users is in.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn joined_rooms(&self, intent: &Intent) -> Result<Vec<OwnedRoomId>, HomeserverError> {
        let request = ruma::api::client::membership::joined_rooms::v3::Request::new();
        Ok(self.request(CommitPoint::ReadRooms, intent, request).await?.joined_rooms)
    }

    async fn answer(
        &self,
        point: CommitPoint,
        request: reqwest::RequestBuilder,
    ) -> Result<bytes::Bytes, HomeserverError> {
        through(point, self.answered(request)).await
    }

    async fn answered(&self, request: reqwest::RequestBuilder) -> Result<bytes::Bytes, HomeserverError> {
        let response = request.send().await.map_err(HomeserverError::Unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(HomeserverError::Unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        Err(refused(status.as_u16(), &body))
    }
}

/// What an answer says that is a refusal.
fn refused(status: u16, body: &[u8]) -> HomeserverError {
    let error: MatrixError = serde_json::from_slice(body).unwrap_or(MatrixError {
        errcode: String::new(),
        error: String::new(),
        retry_after_ms: None,
    });
    if status == 400 && error.error.starts_with("One time key") && error.error.contains("already exists") {
        return HomeserverError::KeyClash;
    }
    HomeserverError::Refused {
        status,
        code: error.errcode,
        retry_after: error.retry_after_ms.map(Duration::from_millis),
    }
}

/// One segment of a path.
pub(crate) fn encoded(segment: &str) -> String {
    url::form_urlencoded::byte_serialize(segment.as_bytes()).collect::<String>().replace('+', "%20")
}
