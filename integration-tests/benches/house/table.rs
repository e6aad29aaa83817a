//! What was measured beside what is required, for people and for programs.

use std::fmt;

use serde_json::{Value, json};

/// One measured value and the most that it may be.
pub struct Entry {
    /// The row that it belongs to.
    pub row: &'static str,
    /// What it is.
    pub what: String,
    /// What was measured.
    pub measured: f64,
    /// The most that it may be.
    pub limit: f64,
    /// In what.
    pub unit: &'static str,
}

/// What a row came to.
#[derive(Default)]
pub struct Outcome {
    /// Its values.
    pub entries: Vec<Entry>,
    /// What lies behind them, a line each.
    pub notes: Vec<String>,
}

/// All rows.
#[derive(Default)]
pub struct Table {
    outcomes: Vec<Outcome>,
}

impl Entry {
    /// Whether it is no more than it may be.
    pub fn is_ok(&self) -> bool {
        self.measured <= self.limit
    }
}

impl Outcome {
    /// One more value.
    pub fn entry(
        &mut self,
        row: &'static str,
        what: impl Into<String>,
        measured: f64,
        limit: f64,
        unit: &'static str,
    ) {
        self.entries.push(Entry { row, what: what.into(), measured, limit, unit });
    }

    /// One more line of what lies behind them.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl Table {
    /// One more row.
    pub fn add(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Whether nothing is more than it may be.
    pub fn is_ok(&self) -> bool {
        self.outcomes.iter().flat_map(|outcome| &outcome.entries).all(Entry::is_ok)
    }

    /// For programs.
    pub fn json(&self, machine: &Value) -> Value {
        let entry = |entry: &Entry| {
            json!({
                "row": entry.row, "what": entry.what, "measured": entry.measured, "limit": entry.limit,
                "unit": entry.unit, "ok": entry.is_ok(),
            })
        };
        let entries = self.outcomes.iter().flat_map(|outcome| outcome.entries.iter().map(entry));
        let notes: Vec<_> = self.outcomes.iter().flat_map(|outcome| &outcome.notes).collect();
        json!({ "machine": machine, "entries": entries.collect::<Vec<_>>(), "notes": notes, "ok": self.is_ok() })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            let value = |value: f64| format!("{} {}", rounded(value), entry.unit);
            let (measured, limit) = (value(entry.measured), value(entry.limit));
            let verdict = if entry.is_ok() { "ok" } else { "over" };
            let (row, what) = (entry.row, &entry.what);
            writeln!(f, "{row:<10}{what:<68}{measured:>14}{limit:>14}  {verdict}")?;
        }
        for note in &self.notes {
            writeln!(f, "{:<10}  {note}", "")?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10}{:<68}{:>14}{:>14}", "row", "what", "measured", "at most")?;
        for outcome in &self.outcomes {
            write!(f, "{outcome}")?;
        }
        Ok(())
    }
}

fn rounded(value: f64) -> String {
    match value {
        whole if whole.fract() == 0.0 => format!("{whole:.0}"),
        large if large >= 100.0 => format!("{large:.0}"),
        small => format!("{small:.2}"),
    }
}
