//! Errors as Matrix writes them: a status, a code, one sentence (Matrix v1.19 client-server §Standard error response).

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use parlour_domain::{ChangeError, DeleteError, NewConversationError, TakingPartError, TeamError};
use parlour_engine::{EngineError, HomeserverError, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

use super::conversations::Wanted;

/// What is answered when a request is not done.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct Answer {
    /// Which of the reasons it is, for programs.
    #[schema(value_type = String, examples("M_NOT_FOUND", "IO.PARLOUR.NOT_YOURS"))]
    errcode: &'static str,
    /// What is wrong, in one sentence, for people.
    error: String,
    /// The conversation that may be begun instead, with `IO.PARLOUR.STAFF_ONLY_CONVERSATION` (JOIN-5).
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<Wanted>,
}

/// Why a request is not done, named after the reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("there is no such path")]
    UnknownPath,
    #[error("this path does not know this method")]
    WrongMethod,
    #[error("an access token is needed: `Authorization: Bearer …`")]
    NoToken,
    #[error("this access token is not known; sign in again")]
    UnknownToken,
    #[error("this token is not the homeserver's")]
    NotTheHomeserver,
    #[error("you have an account, but the practice does not know you")]
    UnknownPerson,
    #[error("the body is too large")]
    TooLarge,
    #[error("the body is not JSON")]
    NotJson,
    #[error("{0}")]
    BadJson(String),
    #[error("there is nothing like that here")]
    NotFound,
    #[error("`{0}` names somebody whom the practice does not know")]
    NobodyLikeThat(&'static str),
    #[error(transparent)]
    Conversation(#[from] NewConversationError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Delete(#[from] DeleteError),
    #[error(transparent)]
    TakingPart(#[from] TakingPartError),
    #[error(transparent)]
    Team(#[from] TeamError),
    #[error("{}", TakingPartError::StaffOnly)]
    StaffOnly(Box<Wanted>),
    #[error("`Idempotency-Key` must be given once, with 1 to 255 visible characters")]
    BadKey,
    #[error("this `Idempotency-Key` was used for another request; choose a new one")]
    KeyReused,
    #[error("too many event streams are open; close one, or try again later")]
    TooManyStreams,
    #[error("an earlier transaction may be missing; send the oldest again")]
    OutOfOrder,
    #[error("what was said before this is asked for; try again")]
    CatchingUp,
    #[error("the homeserver does not do its part just now; try again")]
    Homeserver(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("something went wrong here; try again")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.into())
    }
}

impl From<HomeserverError> for Refused {
    fn from(error: HomeserverError) -> Self {
        Self::Homeserver(error.into())
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => error.into(),
            EngineError::Intake(parlour_engine::IntakeError::NotJson) => Self::NotJson,
            EngineError::Intake(error) => Self::BadJson(error.to_string()),
            EngineError::Crypto(error) => Self::Homeserver(error.into()),
            EngineError::CatchingUp => Self::CatchingUp,
            EngineError::OutOfOrder => Self::OutOfOrder,
            EngineError::OtherRequest => Self::KeyReused,
            EngineError::TakingPart(error) => error.into(),
        }
    }
}

impl Refused {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::UnknownPath => (StatusCode::NOT_FOUND, "M_UNRECOGNIZED"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED"),
            Self::NoToken => (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
            Self::UnknownToken => (StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN"),
            Self::NotTheHomeserver => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
            Self::UnknownPerson => (StatusCode::FORBIDDEN, "IO.PARLOUR.UNKNOWN_PERSON"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
            Self::NotJson => (StatusCode::BAD_REQUEST, "M_NOT_JSON"),
            Self::BadJson(_) => (StatusCode::BAD_REQUEST, "M_BAD_JSON"),
            Self::NotFound => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
            Self::NobodyLikeThat(_) => (StatusCode::BAD_REQUEST, "IO.PARLOUR.NOBODY_LIKE_THAT"),
            Self::Conversation(NewConversationError::CallerIsNotStaff) => {
                (StatusCode::FORBIDDEN, "IO.PARLOUR.STAFF_ONLY")
            }
            Self::Conversation(NewConversationError::WrongSide) => {
                (StatusCode::BAD_REQUEST, "IO.PARLOUR.WRONG_SIDE")
            }
            Self::Conversation(NewConversationError::TooMany) => {
                (StatusCode::BAD_REQUEST, "IO.PARLOUR.TOO_MANY")
            }
            Self::Conversation(NewConversationError::SenderElsewhere) => {
                (StatusCode::BAD_REQUEST, "IO.PARLOUR.NOBODY_LIKE_THAT")
            }
            Self::Change(ChangeError::NotYours) => (StatusCode::FORBIDDEN, "IO.PARLOUR.NOT_YOURS"),
            Self::Delete(DeleteError::NotYours) => (StatusCode::FORBIDDEN, "IO.PARLOUR.NOT_YOURS"),
            Self::Delete(DeleteError::NoReason) => (StatusCode::BAD_REQUEST, "IO.PARLOUR.NO_REASON"),
            Self::TakingPart(TakingPartError::NotYours) => (StatusCode::FORBIDDEN, "IO.PARLOUR.NOT_YOURS"),
            Self::StaffOnly(_) | Self::TakingPart(TakingPartError::StaffOnly) => {
                (StatusCode::CONFLICT, "IO.PARLOUR.STAFF_ONLY_CONVERSATION")
            }
            Self::TakingPart(TakingPartError::LastOfStaff) => {
                (StatusCode::CONFLICT, "IO.PARLOUR.LAST_OF_STAFF")
            }
            Self::TakingPart(TakingPartError::TooMany) => (StatusCode::BAD_REQUEST, "IO.PARLOUR.TOO_MANY"),
            Self::Team(TeamError::NotAManager) => (StatusCode::FORBIDDEN, "IO.PARLOUR.MANAGERS_ONLY"),
            Self::Team(TeamError::NotStaff) => (StatusCode::BAD_REQUEST, "IO.PARLOUR.WRONG_SIDE"),
            Self::Team(TeamError::TooMany) => (StatusCode::BAD_REQUEST, "IO.PARLOUR.TOO_MANY"),
            Self::BadKey => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
            Self::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "IO.PARLOUR.KEY_REUSED"),
            Self::TooManyStreams => (StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED"),
            Self::OutOfOrder => (StatusCode::SERVICE_UNAVAILABLE, "IO.PARLOUR.OUT_OF_ORDER"),
            Self::CatchingUp => (StatusCode::SERVICE_UNAVAILABLE, "IO.PARLOUR.CATCHING_UP"),
            Self::Homeserver(_) => (StatusCode::BAD_GATEWAY, "IO.PARLOUR.HOMESERVER"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN"),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        if let Self::Homeserver(reason) | Self::Internal(reason) = &self {
            tracing::error!(%reason, code, "a request failed");
        }
        let error = self.to_string();
        let instead = match self {
            Self::StaffOnly(instead) => Some(*instead),
            _ => None,
        };
        (status, Json(Answer { errcode: code, error, instead })).into_response()
    }
}

pub(crate) async fn unknown_path() -> Refused {
    Refused::UnknownPath
}

pub(crate) async fn wrong_method() -> Refused {
    Refused::WrongMethod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn book_and_code_say_the_same() {
        let book = include_str!("../../../docs/rules.md");
        let refusals: [Refused; 13] = [
            NewConversationError::CallerIsNotStaff.into(),
            NewConversationError::WrongSide.into(),
            NewConversationError::TooMany.into(),
            NewConversationError::SenderElsewhere.into(),
            ChangeError::NotYours.into(),
            DeleteError::NotYours.into(),
            DeleteError::NoReason.into(),
            TakingPartError::NotYours.into(),
            TakingPartError::StaffOnly.into(),
            TakingPartError::LastOfStaff.into(),
            TeamError::NotAManager.into(),
            TeamError::NotStaff.into(),
            TeamError::TooMany.into(),
        ];
        let said: Vec<_> =
            refusals.iter().map(|refused| (refused.status_and_code().1, refused.to_string())).collect();
        let part = book.split("\n## ").find(|part| part.starts_with("What the practice API refuses"));
        let rows: Vec<_> = part
            .expect("the part")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"))
            .filter_map(|row| {
                let (code, rest) = row.split_once("` | ")?;
                Some((code, rest.split_once(" | ")?.1.to_owned()))
            })
            .collect();
        for row in &rows {
            assert!(said.contains(row), "nobody is told: {row:?}");
        }
        for told in &said {
            assert!(rows.contains(told), "it is not in the book: {told:?}");
        }
    }
}
