//! `parlour demo --check`: the brief, executed. Everything is started in a folder of its own, driven with real
//! clients, and one row is printed for each promise, with what people's own clients saw.

mod rows;
mod scene;

use std::{path::Path, process::ExitCode};

use super::{
    practice::DemoPerson,
    report::{DemoError, Report},
    say::{ToAPerson, line},
    world::{Place, World},
};
use crate::run::Extras;
use scene::{Known, Scene};

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise was kept; the evidence.
    Pass(String),
    /// It was not; what was seen instead.
    Fail(String),
    /// It could not be tried; why. Skipped is not passed.
    Skipped(String),
}

/// One promise of the brief, tried.
#[derive(Clone, Debug)]
pub struct Row {
    /// The requirement.
    pub requirement: &'static str,
    /// The promise.
    pub promise: &'static str,
    /// The name of the fault that makes exactly this row fail.
    pub fault: &'static str,
    /// What became of it.
    pub outcome: Outcome,
}

/// All rows of a check.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// In the order in which they were tried.
    pub rows: Vec<Row>,
}

impl Verdict {
    /// 0 when all rows passed, 1 when one failed, 3 when none failed but one was skipped.
    #[must_use]
    pub fn code(&self) -> u8 {
        let any = |wanted: fn(&Outcome) -> bool| self.rows.iter().any(|row| wanted(&row.outcome));
        if self.rows.is_empty() || any(|outcome| matches!(outcome, Outcome::Fail(_))) {
            1
        } else if any(|outcome| matches!(outcome, Outcome::Skipped(_))) {
            3
        } else {
            0
        }
    }

    /// [`Verdict::code`] as the process's.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// The source tree, whose top level C5 asks for: where this binary was built from.
const HOUSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Checks everything in a temporary folder on free ports, and prints each row as it is known.
///
/// # Errors
/// When the world or a client cannot be started: then there is no row to print.
pub async fn check() -> Result<Verdict, DemoError> {
    let report = ToAPerson::new();
    let verdict = check_with(Extras::default(), Path::new(HOUSE), &report, &|row| line(&shown(row))).await?;
    let passed = verdict.rows.iter().filter(|row| matches!(row.outcome, Outcome::Pass(_))).count();
    line(&format!("\n{passed} of {} rows passed.", verdict.rows.len()));
    Ok(verdict)
}

/// Checks a world that was told `extras`; each row is handed to `print` as soon as it is known.
///
/// # Errors
/// As [`check`].
pub async fn check_with(
    extras: Extras,
    house: &Path,
    report: &dyn Report,
    print: &(dyn Fn(&Row) + Sync),
) -> Result<Verdict, DemoError> {
    let folder =
        tempfile::tempdir().map_err(|source| DemoError::Folder { path: std::env::temp_dir(), source })?;
    let world = World::start(Place::anywhere(folder.path().join("world"))?, extras, report).await?;
    let outcome = check_world(&world, house, report, print).await;
    world.stop().await;
    outcome
}

async fn check_world(
    world: &World,
    house: &Path,
    report: &dyn Report,
    print: &(dyn Fn(&Row) + Sync),
) -> Result<Verdict, DemoError> {
    report.step("clients", "Signing people in.");
    let person = |person: &DemoPerson| Known {
        user_id: person.user_id.clone(),
        name: person.name.clone(),
        password: person.password.clone(),
    };
    let people = world.people.iter().map(person).collect();
    let clients = world.place.data.join("clients");
    let scene = Scene::open(&world.homeserver_url(), &world.public_url(), people, &clients, house).await?;
    let mut verdict = Verdict::default();
    for attempt in rows::all(&scene) {
        let row = attempt.await;
        print(&row);
        verdict.rows.push(row);
    }
    scene.close().await;
    Ok(verdict)
}

fn shown(row: &Row) -> String {
    let (outcome, words) = match &row.outcome {
        Outcome::Pass(evidence) => ("pass", evidence),
        Outcome::Fail(seen) => ("FAIL", seen),
        Outcome::Skipped(why) => ("SKIP", why),
    };
    format!("{:<4} {:<52} {outcome}\n       {words}", row.requirement, row.promise)
}
