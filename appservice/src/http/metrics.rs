//! What monitoring is told: numbers and codes, nothing about anybody (OpenMetrics, which Prometheus reads).

use std::sync::Arc;

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use parlour_domain::Timestamp;
use parlour_engine::Engine;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Edge, error::Refused};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The label of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// `GET /metrics`: how full the queues are now, and what was counted since the start.
pub(crate) async fn metrics(State(edge): State<Arc<Edge>>) -> Result<Response, Refused> {
    let registry = gathered(&edge.engine, edge.clock.now()).await;
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Refused::Internal(error.into()))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

async fn gathered(engine: &Engine, now: Timestamp) -> Registry {
    // Without a database there are no figures of the queues, and all the more must the rest be told.
    let figures = engine.figures().await.ok();
    let counts = engine.counts();
    let mut registry = Registry::with_prefix("parlour");
    let mut gauge = |name: &str, help: &str, value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    gauge("receiving", "1 while messages travel, else 0", i64::from(engine.travels()));
    if let Some(figures) = figures {
        let age = figures.oldest_waiting.map_or(0, |since| (now.millis() - since.millis()).max(0) / 1000);
        gauge("inbox_waiting", "Events that wait to be handled", number(figures.inbox));
        gauge("legs_waiting", "Legs that wait to be sent, without held ones", number(figures.waiting));
        gauge("legs_held", "Legs that wait until somebody can read them", number(figures.held));
        gauge("oldest_leg_seconds", "For how long the oldest waiting leg has waited; 0 when none does", age);
    }
    gauge(
        "machines_awake",
        "Olm machines in memory",
        i64::try_from(engine.machines_awake().await).unwrap_or(i64::MAX),
    );
    let mut counter = |name: &str, help: &str, value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter("legs_sent", "Legs that the homeserver took since the start", counts.sends());
    counter("legs_retried", "Attempts to send a leg that failed since the start", counts.retries());
    counter("legs_given_up", "Legs given up since the start", counts.failures());
    let refusals: Family<Code, Counter> = Family::default();
    for (code, count) in counts.refusals() {
        refusals.get_or_create(&Code { code }).inc_by(count);
    }
    registry.register("refusals", "Messages refused since the start, by code", refusals);
    registry
}
