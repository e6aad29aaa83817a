//! `cargo run -p parlour-integration-tests --bin soak`: random traffic while processes are killed at random.

use std::{
    hash::{BuildHasher as _, RandomState},
    process::ExitCode,
};

use clap::Parser;
use futures_util::{StreamExt as _, stream};
use parlour_engine::Fault;
use parlour_integration_tests::soak::{HomeserverKills, OF_WHAT_IS_SAID_OF_IT, Settings, program, run};
use parlour_test_postgres::Postgres;

/// So many runs with a promise broken at once.
const AT_ONCE: usize = 3;

/// Has several staff and patients write to each other while Parlour and the homeserver are killed at random and answers
/// are cut, and compares what was accepted with what clients read that have not looked on.
///
/// Build what it kills first: `cargo build -p parlour-integration-tests --bins`.
#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    /// Legs that must have been accepted.
    #[arg(long, default_value_t = 300)]
    legs: usize,
    /// Kills that must have happened.
    #[arg(long, default_value_t = 12)]
    kills: usize,
    /// What the plan is made from: the same seed, the same plan.
    #[arg(long)]
    seed: Option<u64>,
    /// Parlour's database is PostgreSQL.
    #[arg(long)]
    postgres: bool,
    /// A promise that Parlour breaks on purpose; or several, with commas between.
    #[arg(long)]
    fault: Option<String>,
    /// One run for each promise that can be broken on purpose, and one for all those about what is said of a message; it goes well
    /// when each is found. What shows itself at many messages gets a third of the legs and kills.
    #[arg(long, conflicts_with = "fault")]
    mutants: bool,
    /// The homeserver never forgets transaction ids.
    #[arg(long)]
    never_forget: bool,
    /// The homeserver is not killed, Parlour instead.
    #[arg(long)]
    spare_homeserver: bool,
    /// Leave the folder behind when something was found.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Dropped, a run ends everything that it started.
    let outcome = tokio::select! {
        outcome = soak(arguments) => outcome,
        _ = tokio::signal::ctrl_c() => Err("stopped".to_owned()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("soak: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Whether it went well.
async fn soak(arguments: Arguments) -> Result<bool, String> {
    if arguments.kills == 0 {
        return Err("at least one kill is needed.".to_owned());
    }
    let program = program()?;
    let named =
        arguments.fault.as_deref().map(|names| names.split(',').collect::<Vec<_>>()).unwrap_or_default();
    if let Some(fault) = named.iter().find(|name| Fault::named(name).is_none()) {
        return Err(format!("there is no fault {fault}."));
    }
    let seed = arguments.seed.unwrap_or_else(|| RandomState::new().hash_one("seed") % 1_000_000);
    let postgres = if arguments.postgres {
        Some(Postgres::start()?.ok_or("PostgreSQL is not installed.")?)
    } else {
        None
    };
    let homeserver = match (arguments.spare_homeserver, arguments.never_forget) {
        (true, _) => HomeserverKills::None,
        (false, true) => HomeserverKills::Remembering,
        (false, false) => HomeserverKills::Forgetting,
    };
    let settings = |fault: Option<String>| -> Result<Settings, String> {
        Ok(Settings {
            program: program.clone(),
            database: postgres.as_ref().map(Postgres::create_database).transpose()?,
            legs: arguments.legs,
            kills: arguments.kills,
            seed,
            fault,
            homeserver,
            keep: arguments.keep,
        })
    };
    println!("seed {seed}");
    if !arguments.mutants {
        let report = run(&settings(arguments.fault.clone())?).await;
        println!("{report}");
        return Ok(report.is_clean());
    }
    let mut runs = Vec::new();
    let alone = Fault::OF_THE_SOAK.iter().filter(|fault| !OF_WHAT_IS_SAID_OF_IT.contains(fault));
    for faults in alone.map(std::slice::from_ref).chain([&OF_WHAT_IS_SAID_OF_IT[..]]) {
        let names = faults.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(",");
        let mut settings = settings(Some(names.clone()))?;
        if !faults.iter().any(|fault| matches!(fault, Fault::NewTransactionId | Fault::NoEcho)) {
            // Killing Parlour is enough to see these, and quicker.
            settings.homeserver = HomeserverKills::None;
        }
        if !faults.iter().any(|fault| matches!(fault, Fault::AnswerFirst | Fault::NoEcho)) {
            // Where the others lose one at a kill, these show themselves at many messages.
            settings.legs = settings.legs.div_ceil(3);
            settings.kills = settings.kills.div_ceil(3);
        }
        runs.push(async move { (faults, names, run(&settings).await) });
    }
    let mut all = true;
    let mut lines = Vec::new();
    // Most of a run is waiting.
    let mut reports = stream::iter(runs).buffered(AT_ONCE);
    while let Some((faults, names, report)) = reports.next().await {
        println!("\n{names}:{report}");
        for fault in faults {
            let caught = report.shows(*fault);
            all &= caught;
            let found = if caught { "caught" } else { "NOT CAUGHT" };
            lines.push(format!("{:<20}{found}: {}", fault.name(), report.in_short()));
        }
    }
    println!("\n{}", lines.join("\n"));
    Ok(all)
}
