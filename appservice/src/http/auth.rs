//! Who asks: permission is the extractor's type.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::FromRequestParts,
    http::{header::AUTHORIZATION, request::Parts},
};
use parlour_domain::{Clock, Person, Timestamp};
use parlour_engine::Secret;
use ruma::OwnedUserId;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Edge, error::Refused};

/// The bearer token of a request.
fn bearer(parts: &Parts) -> Result<Secret, Refused> {
    let value =
        parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or(Refused::NoToken)?;
    let (scheme, token) = value.split_once(' ').ok_or(Refused::NoToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > 4_096 {
        return Err(Refused::NoToken);
    }
    Ok(Secret::new(token.to_owned()))
}

/// The homeserver asks: it showed the `hs_token`.
pub(crate) struct TheHomeserver;

impl FromRequestParts<Arc<Edge>> for TheHomeserver {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, edge: &Arc<Edge>) -> Result<Self, Refused> {
        let token = bearer(parts)?;
        // Digests are compared, so that the time tells nothing of the token, its length included.
        let [shown, wanted] = [&token, &edge.hs_token].map(|token| Sha256::digest(token.reveal()));
        if bool::from(shown.ct_eq(&wanted)) { Ok(Self) } else { Err(Refused::NotTheHomeserver) }
    }
}

/// A person of the practice asks: the homeserver knows their access token.
pub(crate) struct Caller(pub(crate) Person);

impl FromRequestParts<Arc<Edge>> for Caller {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, edge: &Arc<Edge>) -> Result<Self, Refused> {
        Token(bearer(parts)?).caller(edge).await
    }
}

/// The token that somebody has shown, to be looked up again where an answer goes on for long.
pub(crate) struct Token(Secret);

impl FromRequestParts<Arc<Edge>> for Token {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, _: &Arc<Edge>) -> Result<Self, Refused> {
        bearer(parts).map(Self)
    }
}

impl Token {
    /// Whose it is now.
    ///
    /// # Errors
    /// Nobody's whom the practice knows; or the homeserver or the database fails.
    pub(crate) async fn caller(&self, edge: &Edge) -> Result<Caller, Refused> {
        let user_id = match edge.callers.known(&self.0) {
            Some(user_id) => user_id,
            None => {
                let found = edge.engine.homeserver().whoami(&self.0).await?;
                let user_id = found.ok_or(Refused::UnknownToken)?;
                edge.callers.learn(&self.0, &user_id);
                user_id
            }
        };
        let person = edge.engine.store().person_of(&user_id).await?;
        person.map(Caller).ok_or(Refused::UnknownPerson)
    }
}

/// Whose tokens were checked a short time ago, by the tokens' digests.
pub(crate) struct Callers {
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<[u8; 32], (OwnedUserId, Timestamp)>>,
}

/// How long a checked token is believed: as long as one who signed out can still ask.
const BELIEVED_MILLIS: i64 = 20_000;
const MOST_KNOWN: usize = 10_000;

impl Callers {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, known: Mutex::default() }
    }

    fn known(&self, token: &Secret) -> Option<OwnedUserId> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (user_id, until) = known.get(&digest(token))?;
        (self.clock.now() < *until).then(|| user_id.clone())
    }

    fn learn(&self, token: &Secret, user_id: &OwnedUserId) {
        let now = self.clock.now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < MOST_KNOWN {
            known.insert(digest(token), (user_id.clone(), now.plus_millis(BELIEVED_MILLIS)));
        }
    }
}

fn digest(token: &Secret) -> [u8; 32] {
    Sha256::digest(token.reveal()).into()
}
