//! The soak: random traffic of several people while Parlour and the homeserver are killed at random and answers are cut.
//! A model that never asks Parlour says what must arrive; clients that have not looked on say what did.

mod cuts;
mod killing;
mod model;
mod plan;
mod table;
mod traffic;
mod verdict;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parlour::demo::client::Client;
use parlour_engine::Fault;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use self::{
    cuts::Cuts,
    killing::Killer,
    model::{Model, Rooms},
    plan::{CHANGED, PEOPLE, SWITCHED, TALKS},
    traffic::{Changer, Orders, Switcher, Writer, look_on, place},
    verdict::{Told, judge},
};
pub use self::{plan::HomeserverKills, table::Report};
use crate::{crowd::Caller, token, trial::Trial};

/// What a run is told.
#[derive(Clone)]
pub struct Settings {
    /// The binary `parlour-under-test`.
    pub program: String,
    /// A PostgreSQL URL, or none for SQLite.
    pub database: Option<String>,
    /// Legs that must have been accepted.
    pub legs: usize,
    /// Kills that must have happened.
    pub kills: usize,
    /// What the plan is made from.
    pub seed: u64,
    /// A promise broken on purpose.
    pub fault: Option<String>,
    /// How the homeserver fares.
    pub homeserver: HomeserverKills,
    /// Whether the folder stays when something was found.
    pub keep: bool,
}

impl Settings {
    /// What lines that tell how far it is begin with: several runs may be under way.
    fn name(&self) -> String {
        self.fault.as_ref().map_or("soak".to_owned(), |fault| format!("soak, {fault}"))
    }
}

/// How long nothing may arrive before what is missing counts as lost: longer than the homeserver waits between its
/// attempts to deliver a transaction.
const NOTHING_COMES: Duration = Duration::from_secs(25);
/// The same where something is broken on purpose, so that it is missed.
const NOTHING_COMES_OF_IT: Duration = Duration::from_secs(10);
/// How long the last switch may take.
const PATIENCE_WITH_SWITCHES: Duration = Duration::from_secs(60);
/// How long Parlour may go on with nothing to be seen of it.
const QUIET: Duration = Duration::from_secs(20);
const PROGRESS: Duration = Duration::from_secs(5);

/// A whole run.
pub async fn run(settings: &Settings) -> Report {
    let began = Instant::now();
    let (fault, name) = (settings.fault.as_deref(), settings.name());
    let patience = if fault.is_none() { NOTHING_COMES } else { NOTHING_COMES_OF_IT };
    let mut trial = Trial::open(&settings.program, settings.database.clone(), 0, fault).await;
    let (looking_on, readers) = sign_in(&trial).await;
    let model = Arc::new(Model::new(begin(&trial, &looking_on).await));
    for (person, called) in PEOPLE.iter().enumerate() {
        look_on(&looking_on[person], &model, looked_at(&model, called), &name);
    }
    let orders = watch::Sender::new(Orders { legs: 0, homeserver: true, stop: false });
    let mut writers = everybody(&looking_on, &model, &orders, &trial.public_url(), settings);
    say_everywhere(&model, &mut writers, "good morning").await;
    arrive(&model, NOTHING_COMES).await;
    assert_eq!(model.progress().in_flight, 0, "the first messages arrive");
    eprintln!("{name}: everybody has said good morning after {:.0?}", began.elapsed());

    let traffic = Instant::now();
    let before = model.progress().legs;
    let cuts = Cuts::new(settings.seed);
    cuts.judge(&trial.to_homeserver);
    cuts.judge(&trial.to_parlour);
    let telling = tell(Arc::clone(&model), name.clone());
    let mut writing = JoinSet::new();
    for writer in writers {
        writing.spawn(writer.write());
    }
    let switching = fault.is_none().then(|| switcher(&trial, &looking_on, &model, &orders));
    let switching = switching.map(|switcher| tokio::spawn(switcher.switch(settings.seed)));
    let changing = fault.is_none().then(|| changer(&trial, &looking_on, &model, &orders));
    let changing = changing.map(|changer| tokio::spawn(changer.change(settings.seed)));
    let kills = plan::kills(settings.seed, settings.legs, settings.kills, settings.homeserver);
    let mut killed = Vec::new();
    let share = settings.legs / settings.kills.max(1);
    for (number, kill) in kills.iter().enumerate() {
        // There is always something left to be written for the next kill, and not the whole for the first.
        let so_far = before + (number + 2) * share;
        orders.send_modify(|orders| orders.legs = orders.legs.max(so_far));
        let mut killer = Killer {
            trial: &mut trial,
            model: &model,
            cuts: &cuts,
            orders: &orders,
            before,
            share,
            patience,
        };
        let done = tokio::select! {
            done = killer.kill(kill) => done,
            ended = writing.join_next() => panic!("a writer ended: {ended:?}"),
        };
        eprintln!(
            "{name}: kill {} of {}: {}, {} legs in flight{}",
            number + 1,
            settings.kills,
            kill.kind.words(),
            done.in_flight,
            done.recovery.map(|took| format!(", relaying again after {took:.1?}")).unwrap_or_default(),
        );
        killed.push(done);
    }
    let wanted = before + settings.legs;
    orders.send_modify(|orders| orders.legs = wanted);
    drop(timeout(patience * 4, model.wait_until(|now| now.legs >= wanted)).await);
    orders.send_modify(|orders| orders.stop = true);
    while let Some(ended) = writing.join_next().await {
        ended.expect("a writer ends well");
    }
    trial.to_homeserver.pass_all();
    trial.to_parlour.pass_all();
    let mut switches = 0;
    if let Some(switching) = switching {
        switches =
            timeout(PATIENCE_WITH_SWITCHES, switching).await.expect("it is switched").expect("it ends well");
    }
    let mut changes = 0;
    if let Some(changing) = changing {
        changes = timeout(PATIENCE_WITH_SWITCHES, changing)
            .await
            .expect("they are included")
            .expect("it ends well");
    }
    arrive(&model, patience).await;
    let mut writers = everybody(&looking_on, &model, &orders, &trial.public_url(), settings);
    // What came in before these was handled before them.
    say_everywhere(&model, &mut writers, "good night").await;
    arrive(&model, patience).await;
    let at_rest = rest(&trial).await;
    drop(telling);
    let traffic = traffic.elapsed();

    eprintln!("{name}: clients that have not looked on read everything");
    join_all(readers.iter().map(Client::resume)).await;
    let mut findings = Vec::new();
    for (talk, cast) in TALKS.iter().enumerate() {
        let told = match talk {
            SWITCHED => Told { everywhere: switches, ..Told::default() },
            // That somebody goes and comes, in the hub; to themselves besides that they may write again.
            CHANGED => Told { in_hub: 2 * changes, in_last: 3 * changes, ..Told::default() },
            _ => Told::default(),
        };
        findings.push((cast.name, judge(&model, talk, &readers, told).await));
    }
    for reader in readers {
        reader.stop().await;
    }
    drop(writers);
    drop(looking_on);
    let unknown = model.messages().iter().filter(|sent| sent.fate == model::Fate::Unknown).count();
    let mut report = Report {
        settings: settings.clone(),
        findings,
        killed,
        cuts: cuts.counted(),
        reactions: model.reactions().len(),
        edits: model.messages().iter().filter(|sent| sent.edits.is_some()).count(),
        deletions_by_api: model.deletions_by_api(),
        deletions: model.messages().iter().filter(|sent| sent.deleted && sent.edits.is_none()).count(),
        forbidden: model.messages().iter().filter(|sent| sent.fate == model::Fate::Forbidden).count(),
        switches,
        changes,
        unknown,
        at_rest,
        false_alarms: trial.log().matches("put back from a copy").count(),
        traffic,
        whole: Duration::ZERO,
        kept: None,
    };
    if settings.keep && !report.is_clean() {
        report.kept = Some(trial.close_and_keep().await);
    } else {
        trial.close().await;
    }
    report.whole = began.elapsed();
    report
}

/// The promises about edits, reactions and deletions: they can be broken all at once, for each shows itself in its own way.
pub const OF_WHAT_IS_SAID_OF_IT: [Fault; 3] = [Fault::EditsLost, Fault::ReactionsLost, Fault::DeletionsStay];

/// Everybody, ready to write.
fn everybody(
    clients: &[Arc<Client>],
    model: &Arc<Model>,
    orders: &watch::Sender<Orders>,
    public_url: &str,
    settings: &Settings,
) -> Vec<Writer> {
    let fault = settings.fault.as_deref();
    let is_of_it = |name: &str| OF_WHAT_IS_SAID_OF_IT.iter().any(|fault| fault.name() == name);
    let plain = fault.is_some_and(|names| !names.split(',').all(is_of_it));
    let chance = (settings.seed, fault.is_some(), plain);
    let people = clients.iter().enumerate();
    people
        .map(|(person, client)| {
            Writer::new(person, Arc::clone(client), Arc::clone(model), orders.subscribe(), public_url, chance)
        })
        .collect()
}

/// Who switches the conversation that is switched.
fn switcher(
    trial: &Trial,
    clients: &[Arc<Client>],
    model: &Model,
    orders: &watch::Sender<Orders>,
) -> Switcher {
    let owner = TALKS[SWITCHED].staff[0];
    let owner = PEOPLE.iter().position(|name| *name == owner).unwrap_or(0);
    let caller = Caller::new(&trial.public_url(), &token(&clients[owner]));
    Switcher { caller, conversation: model.talks[SWITCHED].id.clone(), orders: orders.subscribe() }
}

/// Who includes and excludes whoever comes and goes.
fn changer(
    trial: &Trial,
    clients: &[Arc<Client>],
    model: &Arc<Model>,
    orders: &watch::Sender<Orders>,
) -> Changer {
    let cast = &TALKS[CHANGED];
    let owner = PEOPLE.iter().position(|name| *name == cast.staff[0]).unwrap_or(0);
    let whom = cast.patients[cast.patients.len() - 1];
    Changer {
        caller: Caller::new(&trial.public_url(), &token(&clients[owner])),
        conversation: model.talks[CHANGED].id.clone(),
        whom: trial.person(whom).user_id.clone(),
        model: Arc::clone(model),
        orders: orders.subscribe(),
    }
}

/// Everybody, twice: a client that writes and looks on, and one that is off until the end.
async fn sign_in(trial: &Trial) -> (Vec<Arc<Client>>, Vec<Client>) {
    let mut looking_on = Vec::new();
    for client in join_all(PEOPLE.iter().map(|name| trial.sign_in(name, "looks-on"))).await {
        looking_on.push(Arc::new(client));
    }
    let readers = join_all(PEOPLE.iter().map(|name| trial.sign_in(name, "reads"))).await;
    join_all(readers.iter().map(Client::pause)).await;
    (looking_on, readers)
}

async fn begin(trial: &Trial, clients: &[Arc<Client>]) -> Vec<Rooms> {
    let mut talks = Vec::new();
    for cast in &TALKS {
        let owner = PEOPLE.iter().position(|name| *name == cast.staff[0]).unwrap_or(0);
        let talk = trial.begin(&clients[owner], cast.name, &cast.staff[1..], cast.patients).await;
        let spokes = cast.patients.iter().map(|name| talk.spoke(trial.person(name))).collect();
        let rooms = Rooms { id: talk.id().to_owned(), hub: talk.hub(), spokes };
        let hubs = cast.staff.iter().map(|name| (name, &rooms.hub));
        for (name, room) in hubs.chain(cast.patients.iter().zip(&rooms.spokes)) {
            let person = PEOPLE.iter().position(|person| person == name).unwrap_or(0);
            let joined = clients[person].wait_for_room(crate::LIMIT, |found| found.room_id == *room).await;
            joined.expect("in the room");
        }
        talks.push(rooms);
    }
    talks
}

/// The rooms that a person's client looks on in: the first of the staff in the hub, each patient in their own.
fn looked_at(model: &Model, name: &str) -> Vec<ruma::OwnedRoomId> {
    let talks = TALKS.iter().enumerate();
    let looks = talks.filter(|(_, cast)| cast.staff[0] == name || cast.patients.contains(&name));
    looks.map(|(talk, _)| place(model, talk, name).0).collect()
}

/// Everybody says something in each conversation.
async fn say_everywhere(model: &Model, writers: &mut [Writer], words: &str) {
    let saying = writers.iter_mut().map(|writer| async move {
        let name = PEOPLE[writer.person];
        for (talk, cast) in TALKS.iter().enumerate() {
            if cast.staff.contains(&name) || cast.patients.contains(&name) {
                let (room, targets) = place(model, talk, name);
                writer.say(talk, room, targets, None, words).await;
            }
        }
    });
    join_all(saying).await;
}

/// Waits until everything was seen, or nothing has come for long.
async fn arrive(model: &Model, patience: Duration) {
    loop {
        let last_seen = model.progress().last_seen;
        let news = model.wait_until(|now| now.in_flight == 0 || now.last_seen != last_seen);
        if timeout(patience, news).await.is_err() || model.progress().in_flight == 0 {
            return;
        }
    }
}

/// Waits until Parlour has nothing left to do; whether it came to that.
async fn rest(trial: &Trial) -> bool {
    let deadline = Instant::now() + QUIET;
    while Instant::now() < deadline {
        let figures = trial.metrics().await;
        let waits = |name: &str| figures.as_ref().is_none_or(|figures| figures.get(name) != Some(&0.0));
        if !waits("parlour_inbox_waiting") && !waits("parlour_legs_waiting") {
            return true;
        }
        // Parlour tells of no such moment by itself.
        sleep(Duration::from_millis(100)).await;
    }
    false
}

/// Says every few seconds how far the run is, until it is dropped.
fn tell(model: Arc<Model>, name: String) -> JoinSet<()> {
    let mut telling = JoinSet::new();
    telling.spawn(async move {
        let mut ticks = interval(PROGRESS);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let now = model.progress();
            eprintln!("{name}: {} messages, {} legs, {} in flight", now.accepted, now.legs, now.in_flight);
        }
    });
    telling
}

/// The binary that is killed: it lies beside the soak's own.
///
/// # Errors
/// A sentence, when it was not built.
pub fn program() -> Result<String, String> {
    let beside: PathBuf = std::env::current_exe()
        .map_err(|error| format!("the soak's own place is not known: {error}"))?
        .with_file_name("parlour-under-test");
    if beside.is_file() {
        return Ok(beside.to_string_lossy().into_owned());
    }
    Err(format!(
        "{} is missing: build it with `cargo build -p parlour-integration-tests --bins`.",
        beside.display()
    ))
}
