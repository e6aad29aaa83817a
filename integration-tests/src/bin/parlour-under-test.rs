//! `parlour`, built as the tests are: a fault can be switched on (`PARLOUR_FAULT`), and the tests can have it end at a
//! commit point (`PARLOUR_CONTROL`, then one order a line on standard input, one answer a line on standard output).

use std::{
    io::{BufRead as _, Write as _},
    process::ExitCode,
};

use parlour::run::Extras;
use parlour_engine::{
    CommitPoint, Fault,
    failpoints::{self, Place, Side},
};

fn main() -> ExitCode {
    if std::env::var_os("PARLOUR_CONTROL").is_some() {
        std::thread::spawn(obey);
    }
    let fault = std::env::var("PARLOUR_FAULT").ok().and_then(|name| Fault::named(&name));
    parlour::command_line::main_with(Extras { fault, ..Extras::default() })
}

/// `record`, `end before N`, `end after POINT N`, `recorded`. When the input ends, whoever started this is gone, and so is this.
fn obey() {
    for order in std::io::stdin().lock().lines() {
        let Ok(order) = order else { break };
        let words: Vec<_> = order.split_whitespace().collect();
        let answer = match &words[..] {
            ["record"] => {
                failpoints::record(None);
                "recording".to_owned()
            }
            ["end", side, place @ ..] => {
                let side = if *side == "before" { Side::Before } else { Side::After };
                failpoints::record(place_of(place).map(|place| (place, side)));
                "armed".to_owned()
            }
            ["recorded"] => {
                failpoints::recorded().iter().map(|point| point.name()).collect::<Vec<_>>().join(" ")
            }
            _ => "what?".to_owned(),
        };
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    std::process::exit(0);
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
