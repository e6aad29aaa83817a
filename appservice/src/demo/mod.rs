//! `parlour demo`: everything on one machine, with made-up people, to try the product.

pub mod chat;
pub mod check;
pub mod client;
pub mod homeserver;
pub mod practice;
pub mod python;
pub mod report;
pub mod say;
pub mod talk;
pub mod world;

use std::{
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
};

use parlour_domain::Role;
use serde_json::{Map, Value, json};

use practice::{DemoPerson, State};
use report::{DemoError, Report};
use say::{AsJson, ToAPerson, json_line, line};
use world::{Place, World};

use crate::run::{Extras, asked_to_stop};

/// What `parlour demo` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder that keeps everything.
    #[arg(long, global = true, default_value = "parlour-demo")]
    data: PathBuf,
    /// The port of the page; the homeserver takes the second after it, and Parlour's inside the third.
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65_532))]
    port: u16,
    /// Forgets everything of the folder first.
    #[arg(long)]
    reset: bool,
    /// One JSON line a state, for programs.
    #[arg(long)]
    json: bool,
    /// Tries everything with real clients in a folder of its own, prints what was seen, and stops.
    #[arg(long, conflicts_with_all = ["data", "port", "reset", "json"])]
    check: bool,
    #[command(subcommand)]
    with: Option<With>,
}

#[derive(clap::Subcommand)]
enum With {
    /// Writes and reads as one of the demo's people, in this terminal.
    Chat {
        /// Who: a word of the name, `murphy` or `ann` for instance.
        name: String,
    },
}

/// Runs `parlour demo`.
pub async fn main(arguments: Arguments) -> ExitCode {
    let outcome = match &arguments.with {
        Some(With::Chat { name }) => {
            let outcome = chat_as(&arguments.data, name).await;
            if outcome.is_ok() {
                // A read from the terminal may still wait for its line; nothing is left to be done.
                std::process::exit(0);
            }
            outcome
        }
        None if arguments.check => match check::check().await {
            Ok(verdict) => return verdict.exit_code(),
            Err(error) => Err(error),
        },
        None => demo(&arguments).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if arguments.json => {
            json_line(&json!({ "state": "failed", "message": error.to_string() }));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(arguments: &Arguments) -> Result<(), DemoError> {
    let report: &dyn Report = if arguments.json { &AsJson } else { &ToAPerson::new() };
    let data = std::path::absolute(&arguments.data)
        .map_err(|source| DemoError::Folder { path: arguments.data.clone(), source })?;
    // One for the whole time: a signal between two of them would be nobody's.
    let mut asked = pin!(asked_to_stop());
    let mut world = tokio::select! {
        world = start(&data, arguments, report) => world?,
        // Stopped half way: what was started ends with this process, and the next start goes on.
        () = &mut asked => return Ok(()),
    };
    let outcome = tokio::select! {
        () = &mut asked => Ok(()),
        gone = world.homeserver.exited() => Err(gone),
    };
    if !arguments.json {
        line("Stopping.");
    }
    world.stop().await;
    outcome
}

async fn start(data: &Path, arguments: &Arguments, report: &dyn Report) -> Result<World, DemoError> {
    let (place, extras) = (Place::at(data.to_owned(), arguments.port), Extras::default());
    let mut world = if arguments.reset {
        World::start_anew(place, extras, report).await?
    } else {
        World::start(place, extras, report).await?
    };
    talk::first_conversation(&mut world, report).await?;
    ready(&world, arguments.json).await?;
    Ok(world)
}

/// Says that everything stands, where, and who can sign in.
async fn ready(world: &World, json: bool) -> Result<(), DemoError> {
    if json {
        json_line(&ready_line(world).await?);
        return Ok(());
    }
    line(&format!("\nReady.\n\n  Open                 {}", world.public_url()));
    line(&format!("  Point a client at    {}\n", world.homeserver_url()));
    line("  Name                   Role      User                              Password");
    for person in &world.people {
        let role = person.role.as_str();
        line(&format!("  {:<22} {:<9} {:<33} {}", person.name, role, person.user_id, person.password));
    }
    line("\n  A client that asks to verify its session takes the password as the recovery passphrase.");
    line("  Talk from two other terminals:  parlour demo chat murphy  and  parlour demo chat ann");
    line("  (from the source tree: cargo run -- demo chat murphy)");
    line(&format!("\nCtrl-C stops everything; what was written stays in {}", world.place.data.display()));
    Ok(())
}

async fn ready_line(world: &World) -> Result<Value, DemoError> {
    let side = |is_staff: bool| -> Vec<Value> {
        let people = world.people.iter().filter(|person| person.role.is_staff() == is_staff);
        people.map(|p| json!({ "name": p.name, "user_id": p.user_id, "password": p.password })).collect()
    };
    let store = world.parlour.engine().store();
    let engine_error = parlour_engine::EngineError::from;
    let mut conversations = Vec::new();
    for conversation in store.conversations().await.map_err(engine_error)? {
        let portals = store.portals(&conversation.id).await.map_err(engine_error)?;
        let participants = store.participants(&conversation.id).await.map_err(engine_error)?;
        let spokes: Map<String, Value> = participants
            .iter()
            .filter(|participant| participant.person.role == Role::Patient)
            .filter_map(|participant| {
                let id = Some(&participant.person.id);
                let spoke = portals.iter().find(|portal| portal.patient.as_ref() == id)?;
                Some((participant.person.user_id.to_string(), json!(spoke.room_id)))
            })
            .collect();
        conversations.push(json!({
            "id": conversation.id,
            "name": conversation.name.as_str(),
            "mode": conversation.mode.as_str(),
            "hub_room_id": portals.iter().find(|portal| portal.patient.is_none()).map(|hub| &hub.room_id),
            "spokes": spokes,
        }));
    }
    Ok(json!({
        "state": "ready",
        "homeserver_url": world.homeserver_url(),
        "public_url": world.public_url(),
        "staff": side(true),
        "patients": side(false),
        "conversations": conversations,
    }))
}

/// One of the demo's people, in this terminal.
async fn chat_as(data: &Path, wanted: &str) -> Result<(), DemoError> {
    let state = State::read(data)?.ok_or_else(|| DemoError::NotStarted(data.to_owned()))?;
    let meant: Vec<&DemoPerson> = state.people.iter().filter(|person| person.is_meant_by(wanted)).collect();
    let [person] = meant[..] else {
        let names: Vec<_> = state.people.iter().map(|person| &*person.name).collect();
        return Err(DemoError::Nobody { wanted: wanted.to_owned(), names: names.join(", ") });
    };
    let store = world::client_store(data, person);
    let _only_one = only_one(&store, &person.name)?;
    eprintln!("Signing in as {} …", person.name);
    let client = talk::sign_in(&state.homeserver_url, person, &store).await?;
    let input = tokio::io::BufReader::new(tokio::io::stdin());
    Ok(chat::chat(client, None, input, std::io::stdout()).await?)
}

/// Two processes on one client's keys would spoil them.
fn only_one(store: &Path, name: &str) -> Result<std::fs::File, DemoError> {
    let at = |source| DemoError::Folder { path: store.to_owned(), source };
    std::fs::create_dir_all(store).map_err(at)?;
    let file = std::fs::File::create(store.join("lock")).map_err(at)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(DemoError::AlreadyHere(name.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(at(source)),
    }
}
