//! The gateway that the homeserver tells phones through (Matrix v1.19 push gateway).

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Json, Router, extract::State, routing::post};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

type Told = Arc<Mutex<Vec<Value>>>;

const PATH: &str = "/_matrix/push/v1/notify";

/// A running gateway; dropping it ends it.
pub(super) struct Gateway {
    port: u16,
    told: Told,
    _task: JoinSet<()>,
}

impl Gateway {
    /// One on a port of its own.
    ///
    /// # Panics
    /// When there is no port to be had.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let told = Told::default();
        let router = Router::new().route(PATH, post(takes)).with_state(Arc::clone(&told));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.expect("it listens") });
        Self { port, told, _task: task }
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// What the phone of this key was told since this was asked last.
    pub(super) fn pushed(&self, key: &str) -> Vec<Value> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.extract_if(.., |told| told["notification"]["devices"][0]["pushkey"] == key).collect()
    }
}

async fn takes(State(told): State<Told>, Json(push): Json<Value>) -> Json<Value> {
    told.lock().unwrap_or_else(PoisonError::into_inner).push(push);
    Json(json!({ "rejected": [] }))
}
