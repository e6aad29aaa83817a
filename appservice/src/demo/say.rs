//! How the demo speaks: to a person, or as one JSON line a state.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};

use super::report::Report;

/// Speaks to a person, with the time that has passed. On a terminal the steps of one state share a line.
pub struct ToAPerson {
    started: Instant,
    on_a_terminal: bool,
    last: Mutex<&'static str>,
}

impl ToAPerson {
    /// The clock starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), on_a_terminal: std::io::stdout().is_terminal(), last: Mutex::new("") }
    }
}

impl Default for ToAPerson {
    fn default() -> Self {
        Self::new()
    }
}

impl Report for ToAPerson {
    fn step(&self, state: &'static str, words: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let up = if self.on_a_terminal && *last == state { "\x1b[1A\x1b[2K" } else { "" };
        *last = state;
        line(&format!("{up}{:5.1}s  {words}", self.started.elapsed().as_secs_f32()));
    }
}

/// One JSON line a state.
pub struct AsJson;

impl Report for AsJson {
    fn step(&self, state: &'static str, words: &str) {
        json_line(&json!({ "state": state, "message": words }));
    }
}

/// Says nothing: for tests.
pub struct Silent;

impl Report for Silent {
    fn step(&self, _: &'static str, _: &str) {}
}

/// One JSON line.
pub fn json_line(value: &Value) {
    line(&value.to_string());
}

/// One line, at once, also into a pipe; whoever reads may have gone.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
