//! The listeners: who may ask what, and how it is answered.

mod auth;
mod body;
mod conversations;
mod error;
mod events;
mod internal;
mod messages;
mod metrics;
mod openapi;
mod page;
mod participants;
mod practice;
mod status;
mod teams;

use std::sync::Arc;

use axum::{Router, routing};
use parlour_domain::Clock;
use parlour_engine::{Engine, Secret};
use tokio::sync::watch;

use crate::config::{Config, Practice};
pub use page::SignIn;

/// What the listeners work with.
pub struct Edge {
    pub(crate) engine: Arc<Engine>,
    pub(crate) hs_token: Secret,
    pub(crate) practice: Practice,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) homeserver_url: String,
    pub(crate) sign_ins: Vec<SignIn>,
    pub(crate) callers: auth::Callers,
    pub(crate) streams: events::Streams,
    /// Whether Parlour stops.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Edge {
    /// From the engine and its configuration.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        config: &Config,
        sign_ins: Vec<SignIn>,
        clock: Arc<dyn Clock>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            engine,
            hs_token: config.homeserver.hs_token.clone(),
            practice: config.practice.clone(),
            clock: Arc::clone(&clock),
            homeserver_url: config.homeserver.public_url.clone(),
            sign_ins,
            callers: auth::Callers::new(clock),
            streams: events::Streams::default(),
            stopping,
        }
    }
}

/// For people: the page and the practice API.
pub fn public(edge: &Arc<Edge>) -> Router {
    openapi::routes()
        .route("/", routing::get(page::page))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .with_state(Arc::clone(edge))
}

/// For the homeserver and for monitoring.
pub fn internal(edge: &Arc<Edge>) -> Router {
    Router::new()
        .route("/_matrix/app/v1/transactions/{id}", routing::put(internal::transaction))
        .route("/_matrix/app/v1/users/{id}", routing::get(internal::not_known))
        .route("/_matrix/app/v1/rooms/{id}", routing::get(internal::not_known))
        .route("/_matrix/app/v1/ping", routing::post(internal::ping))
        .route("/health/live", routing::get(internal::live))
        .route("/health/ready", routing::get(internal::ready))
        .route("/metrics", routing::get(metrics::metrics))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .with_state(Arc::clone(edge))
}
