//! `cargo bench`: how long things take, each beside what is required; messages and rooms beside a bare homeserver that does the
//! same. docs/performance.md tells what the rows mean.
#![expect(clippy::expect_used, reason = "a bench ends where something is not as it must be")]

mod figures;
mod http1;
mod machine;
mod practice;
mod replay;
mod rows;
mod say;
mod table;
mod tap;

use std::{process::ExitCode, time::Duration};

use clap::Parser;

use self::{
    machine::Busy,
    rows::{ALL, Context, Sizes},
    say::say,
    table::Table,
};

/// Measures how long things take, and prints each beside what is required.
#[derive(Parser)]
#[command(name = "house")]
struct Arguments {
    /// For programs: one JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Rounds of each side.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// These rows only, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Little of everything, to see whether it works; its numbers say nothing.
    #[arg(long)]
    quick: bool,
    /// Ends with exit code 1 when something is over its limit.
    #[arg(long)]
    check: bool,
    /// On a machine that others use too: waits before each measurement until they let it be, at most so many seconds.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait_for_others: u64,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.only.iter().find(|name| ALL.iter().all(|row| row.name != **name)) {
        let names = ALL.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        eprintln!("bench: there is no row {unknown}; there are {names}.");
        return ExitCode::FAILURE;
    }
    let _ = practice::WAIT_FOR_OTHERS.set(Duration::from_secs(arguments.wait_for_others));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> ExitCode {
    let sizes = if arguments.quick { Sizes::quick() } else { Sizes::whole(arguments.rounds) };
    let (busy, mut context) = (Busy::now(), Context::new(sizes));
    let mut table = Table::default();
    for row in ALL {
        if arguments.only.is_empty() || arguments.only.iter().any(|name| name == row.name) {
            say!("{}", row.name);
            let outcome = (row.measure)(&mut context).await;
            eprint!("{outcome}");
            table.add(outcome);
        }
    }
    context.close().await;
    let machine = machine::described(practice::synapse(), busy.others_since());
    if arguments.json {
        println!("{}", table.json(&machine));
    } else {
        println!("{}\n{table}", machine::in_a_line(&machine));
    }
    if arguments.check && !table.is_ok() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
