//! `parlour`, built as the tests are: faults can be switched on (`PARLOUR_FAULT`, with commas between), the ghosts can be looked
//! after more often (`PARLOUR_CARE`, in milliseconds), and the tests can have it end at a commit point (`PARLOUR_CONTROL`, then
//! one order a line on standard input, one answer a line on standard output). What is to be obeyed from the start on is in
//! `PARLOUR_FIRST_ORDER`.

use std::{
    io::{BufRead as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use parlour::run::Extras;
use parlour_engine::{
    CommitPoint, Fault,
    failpoints::{self, Place, Side},
};

fn main() -> ExitCode {
    if let Ok(order) = std::env::var("PARLOUR_FIRST_ORDER") {
        answer(&order);
    }
    if std::env::var_os("PARLOUR_CONTROL").is_some() {
        std::thread::spawn(obey);
    }
    let faults = std::env::var("PARLOUR_FAULT").unwrap_or_default();
    let faults = faults.split(',').filter_map(Fault::named).collect();
    let care = std::env::var("PARLOUR_CARE").ok().and_then(|millis| millis.parse().ok());
    let care = care.map(Duration::from_millis);
    parlour::command_line::main_with(Extras { faults, care, ..Extras::default() })
}

/// Answers one order after the other. When the input ends, whoever started this is gone, and so is this.
fn obey() {
    for order in std::io::stdin().lock().lines() {
        let Ok(order) = order else { break };
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{}", answer(&order)).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    std::process::exit(0);
}

/// `record`, `end before N`, `end after POINT N`, `recorded`.
fn answer(order: &str) -> String {
    let words: Vec<_> = order.split_whitespace().collect();
    match &words[..] {
        ["record"] => {
            failpoints::record(None);
            "recording".to_owned()
        }
        ["end", side, place @ ..] => {
            let side = if *side == "before" { Side::Before } else { Side::After };
            failpoints::record(place_of(place).map(|place| (place, side)));
            "armed".to_owned()
        }
        ["recorded"] => failpoints::recorded().iter().map(|point| point.name()).collect::<Vec<_>>().join(" "),
        _ => "what?".to_owned(),
    }
}

/// `N`, or `POINT N`.
fn place_of(words: &[&str]) -> Option<Place> {
    match words {
        [number] => number.parse().ok().map(Place::Number),
        [name, number] => {
            let point = CommitPoint::ALL.iter().find(|point| point.name() == *name)?;
            number.parse().ok().map(|number| Place::Through(*point, number))
        }
        _ => None,
    }
}
