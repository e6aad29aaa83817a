//! The command line of the one binary.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use parlour_engine::DatabaseUrl;

use tracing_subscriber::EnvFilter;

use crate::{
    backup,
    config::Config,
    registration::registration,
    run::{Extras, Parlour, asked_to_stop},
};

/// Secure messages between a practice and its patients, on Matrix.
#[derive(Parser)]
#[command(name = "parlour", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts everything on this machine with made-up people, to try it: homeserver, Parlour, one conversation.
    #[cfg(feature = "demo")]
    Demo(crate::demo::Arguments),
    /// Runs Parlour beside your homeserver.
    Run {
        /// The configuration.
        #[arg(long, default_value = "parlour.toml")]
        config: PathBuf,
        #[command(flatten)]
        database: Database,
    },
    /// Copies everything that a practice needs to go on elsewhere into a new folder, while it runs: Parlour's database, the
    /// homeserver's, its media and its signing key. The master key is not among it.
    Backup {
        /// The configuration.
        #[arg(long, default_value = "parlour.toml")]
        config: PathBuf,
        #[command(flatten)]
        database: Database,
        /// The folder for the backup, which must not be there yet.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Puts a backup in the place of what is there. Stop Parlour and the homeserver first.
    Restore {
        /// The configuration.
        #[arg(long, default_value = "parlour.toml")]
        config: PathBuf,
        #[command(flatten)]
        database: Database,
        /// The folder of the backup.
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
    },
    /// Prints the application service registration for your homeserver. It holds secrets.
    Registration {
        /// The configuration.
        #[arg(long, default_value = "parlour.toml")]
        config: PathBuf,
    },
}

/// Which database, if not the configuration's.
#[derive(clap::Args)]
struct Database {
    /// The database, instead of the configuration's: sqlite:FILE or postgres://HOST/DATABASE. Arguments can be read by
    /// everybody on the machine: with a password it belongs into the configuration or into PARLOUR__DATABASE_URL.
    // Text, so that what is wrong with it is said without saying it.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

impl Database {
    /// The configuration, with this database if one was named.
    fn of(self, config: &std::path::Path) -> Result<Config, String> {
        let mut config = Config::read(config).map_err(|error| error.to_string())?;
        if let Some(text) = self.database_url {
            let url: DatabaseUrl =
                text.parse().map_err(|error| format!("--database-url cannot be used: {error}"))?;
            config.database_url = Some(match url {
                DatabaseUrl::Sqlite(file) => {
                    DatabaseUrl::Sqlite(std::path::absolute(&file).map_err(|error| error.to_string())?)
                }
                url => url,
            });
        }
        Ok(config)
    }
}

/// Runs what the process's arguments ask for; its exit code.
#[must_use]
pub fn main() -> ExitCode {
    main_with(Extras::default())
}

/// As [`main`], with what only tests tell a running Parlour.
#[must_use]
pub fn main_with(extras: Extras) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run_arguments(extras)),
        Err(error) => {
            eprintln!("parlour: it cannot start ({error}).");
            ExitCode::FAILURE
        }
    }
}

async fn run_arguments(extras: Extras) -> ExitCode {
    let arguments = Arguments::parse();
    let quiet = match &arguments.command {
        #[cfg(feature = "demo")]
        Command::Demo(_) => "error,matrix_sdk=off,matrix_sdk_crypto=off,matrix_sdk_base=off",
        _ => "info,matrix_sdk_crypto=error",
    };
    let filter = EnvFilter::try_from_env("PARLOUR_LOG").unwrap_or_else(|_| EnvFilter::new(quiet));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let outcome = match arguments.command {
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => return crate::demo::main(arguments).await,
        Command::Run { config, database } => match database.of(&config) {
            Ok(config) => run(&config, extras).await,
            Err(sentence) => Err(sentence),
        },
        Command::Backup { config, database, to } => match database.of(&config) {
            Ok(config) => backup::backup(&config, &to, &tell).await.map_err(|error| error.to_string()),
            Err(sentence) => Err(sentence),
        },
        Command::Restore { config, database, from } => match database.of(&config) {
            Ok(config) => backup::restore(&config, &from, &tell).await.map_err(|error| error.to_string()),
            Err(sentence) => Err(sentence),
        },
        Command::Registration { config } => {
            Config::read(&config).map(|config| print!("{}", registration(&config))).map_err(|e| e.to_string())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("parlour: {sentence}.");
            ExitCode::FAILURE
        }
    }
}

fn tell(step: &str) {
    println!("{step}");
}

async fn run(config: &Config, extras: Extras) -> Result<(), String> {
    let parlour = Parlour::start(config, extras).await.map_err(|error| error.to_string())?;
    tracing::info!(public = %config.listen.public, internal = %config.listen.internal, "started");
    asked_to_stop().await;
    parlour.stop().await;
    Ok(())
}
