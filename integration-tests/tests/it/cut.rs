//! A connection cut between a request and its answer, for every kind of request: whatever did or did not happen
//! meanwhile, the conversation is made, and what is said in it arrives once and in order.
//!
//! For each kind, a patient who is new takes part in a new conversation, by new sessions, so that every kind occurs. Of
//! the requests of that kind, one is answered to nobody, and the next never arrives.

use std::sync::{Arc, Mutex, PoisonError};

use parlour::demo::{client::Client, talk};
use parlour_engine::CommitPoint;
use parlour_integration_tests::{
    LIMIT, Talk,
    books::Books,
    proxy::Fate,
    read,
    requests::{is_transaction, point_of},
    say,
    trial::Trial,
    witness,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::killed::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_parlour-under-test");
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// Where requests of a kind are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CutIn {
    /// In this file.
    Here,
    /// In the file of another scene, because it occurs only there.
    Scene(Scene),
    /// Nowhere: no Parlour that runs asks it. It must not occur here.
    Nowhere,
}

/// Where requests of a kind are cut; none for what is no request.
fn cut_in(point: CommitPoint) -> Option<CutIn> {
    match point {
        CommitPoint::Ping
        | CommitPoint::Register
        | CommitPoint::MakeDevice
        | CommitPoint::SetName
        | CommitPoint::UploadKeys
        | CommitPoint::UploadIdentity
        | CommitPoint::UploadSignatures
        | CommitPoint::QueryKeys
        | CommitPoint::ClaimKeys
        | CommitPoint::SendToDevices
        | CommitPoint::SendEvent
        | CommitPoint::Join
        | CommitPoint::CreateRoom
        | CommitPoint::ReadState
        | CommitPoint::ReadRooms
        | CommitPoint::ReadHistory
        | CommitPoint::ReadInbox
        | CommitPoint::ReadSeen
        | CommitPoint::WhoAmI => Some(CutIn::Here),
        CommitPoint::Redact => Some(CutIn::Scene(Scene::Repair)),
        CommitPoint::SetState => Some(CutIn::Scene(Scene::Switching)),
        CommitPoint::Kick | CommitPoint::Invite => Some(CutIn::Scene(Scene::TakingPart)),
        CommitPoint::SendReceipt => Some(CutIn::Scene(Scene::Reading)),
        CommitPoint::ReadDevices | CommitPoint::EndDevice => Some(CutIn::Scene(Scene::Restored)),
        CommitPoint::Download | CommitPoint::Upload => Some(CutIn::Scene(Scene::Files)),
        // Whoever makes the demo's accounts, or looks whether the homeserver is stopped before a backup is put in place.
        CommitPoint::Administer => Some(CutIn::Nowhere),
        CommitPoint::TransactionKept
        | CommitPoint::CaughtUp
        | CommitPoint::EventDecided
        | CommitPoint::LegSealed
        | CommitPoint::LegLanded
        | CommitPoint::LegHeld
        | CommitPoint::LegPutOff
        | CommitPoint::LegFailed
        | CommitPoint::LegVoid
        | CommitPoint::ReceiptsKept
        | CommitPoint::ReadsCounted
        | CommitPoint::ReceiptsShown
        | CommitPoint::MessageDeleted
        | CommitPoint::OutboxWoken
        | CommitPoint::RepairWished
        | CommitPoint::RepairNamed
        | CommitPoint::RepairBegun
        | CommitPoint::DevicesKnown
        | CommitPoint::MachineSaved
        | CommitPoint::MachineRenewed
        | CommitPoint::DeviceRenewed
        | CommitPoint::RestoreNoticed
        | CommitPoint::Recovered
        | CommitPoint::PersonKept
        | CommitPoint::OurUserChosen
        | CommitPoint::OurUserReady
        | CommitPoint::ConversationKept
        | CommitPoint::PortalAttempted
        | CommitPoint::PortalMade
        | CommitPoint::PortalReady
        | CommitPoint::ConversationReady
        | CommitPoint::ModeKept
        | CommitPoint::ParticipantsKept
        | CommitPoint::PortalSet
        | CommitPoint::MemberCame
        | CommitPoint::MemberGone
        | CommitPoint::DatabaseTaken
        | CommitPoint::Probed
        | CommitPoint::SettingKept => None,
    }
}

/// The kinds that are cut in one place.
fn all_cut_in(place: CutIn) -> Vec<CommitPoint> {
    CommitPoint::ALL.iter().copied().filter(|point| cut_in(*point) == Some(place)).collect()
}

/// Cuts requests of every kind that a scene has to cut, one after the other of its kind: as `fates` say.
pub(crate) fn cut_for(scene: Scene, fates: [Fate; 2], trial: &Trial) -> Vec<Plan> {
    let kinds = all_cut_in(CutIn::Scene(scene));
    assert!(!kinds.is_empty(), "{scene:?} cuts nothing");
    let plans: Vec<_> =
        kinds.into_iter().map(|kind| Plan::of(fates.map(|fate| (Some(kind), fate)).to_vec())).collect();
    let judges = plans.clone();
    trial.to_homeserver.judge(move |method, path| {
        let Some(point) = point_of(method, path) else { return Fate::Pass };
        let fates = judges.iter().map(|plan| plan.fate(Some(point)));
        fates.fold(Fate::Pass, |fate, other| if fate == Fate::Pass { other } else { fate })
    });
    plans
}

/// Waits until everything was cut, and lets all pass from then on.
pub(crate) async fn all_are_cut(plans: &[Plan], trial: &Trial) {
    let deadline = Instant::now() + LIMIT;
    while !plans.iter().all(Plan::is_done) {
        assert!(Instant::now() < deadline, "{plans:?}: {}", trial.last_words());
        sleep(LOOK).await;
    }
    trial.to_homeserver.pass_all();
}

#[test]
fn every_kind_of_request_says_where_it_is_cut() {
    for point in CommitPoint::ALL {
        assert_eq!(cut_in(*point).is_some(), point.name().starts_with("hs."), "{}", point.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_request_or_answer_loses_and_doubles_nothing() {
    let here = all_cut_in(CutIn::Here).into_iter();
    let kinds: Vec<_> = here.map(Cut::Request).chain([Cut::Transaction, Cut::CallBack]).collect();
    let mut trial = Trial::open(PROGRAM, None, kinds.len(), None).await;
    let (murphy, reader) = (trial.sign_in("murphy", "first").await, trial.sign_in("murphy", "fresh").await);
    reader.pause().await;
    let mut hubs = Vec::new();
    for (number, cut) in kinds.iter().enumerate() {
        let begun = Instant::now();
        let patient = format!("number{}", number + 1);
        hubs.push(one_kind(&mut trial, &murphy, &patient, *cut).await);
        println!("{}: {:.1} s", cut.name(), begun.elapsed().as_secs_f64());
    }
    reader.resume().await;
    for hub in hubs {
        assert_eq!(witness::others_words(&reader, &hub, 2).await, ["two", "four"]);
        let counts: Vec<_> = witness::ciphertexts(&reader, &hub).await.into_values().collect();
        assert_eq!(counts, [2, 2]);
    }
    for client in [murphy, reader] {
        client.stop().await;
    }
    trial.close().await;
}

/// What is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Requests of this kind.
    Request(CommitPoint),
    /// The homeserver's transactions.
    Transaction,
    /// The homeserver's call when it was asked to call.
    CallBack,
}

impl Cut {
    fn name(self) -> &'static str {
        match self {
            Self::Request(point) => point.name(),
            Self::Transaction => "a transaction",
            Self::CallBack => "the call of the homeserver",
        }
    }
}

/// What becomes of the next request of a kind; none is what the homeserver asks.
type Step = (Option<CommitPoint>, Fate);

/// What is still to be cut, in this order.
#[derive(Clone, Debug)]
pub(crate) struct Plan(Arc<Mutex<Vec<Step>>>);

impl Plan {
    fn of(steps: Vec<Step>) -> Self {
        Self(Arc::new(Mutex::new(steps)))
    }

    /// What becomes of a request of this kind: the first step that is for it, and comes next, is taken.
    fn fate(&self, point: Option<CommitPoint>) -> Fate {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match steps.first() {
            Some((wanted, _)) if *wanted == point => steps.remove(0).1,
            _ => Fate::Pass,
        }
    }

    /// Whether everything was cut.
    pub(crate) fn is_done(&self) -> bool {
        self.left().is_empty()
    }

    fn left(&self) -> Vec<Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Cuts one kind twice while a new patient's conversation is made and held; its hub.
async fn one_kind(trial: &mut Trial, murphy: &Client, patient: &str, cut: Cut) -> ruma::OwnedRoomId {
    let (theirs, fresh) = (trial.sign_in(patient, "first").await, trial.sign_in(patient, "fresh").await);
    fresh.pause().await;
    trial.kill_parlour().await;
    Books::of(&trial.data, None).forget_sessions().await;
    let plan = arm(trial, cut);
    trial.start_parlour().await;
    drop(trial.to_homeserver.seen());
    let talk = begin(trial, murphy, patient, cut).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person(patient)));
    for (from, here, to, there, words) in [
        (murphy, &hub, &theirs, &spoke, "one"),
        (&theirs, &spoke, murphy, &hub, "two"),
        (murphy, &hub, &theirs, &spoke, "three"),
        (&theirs, &spoke, murphy, &hub, "four"),
    ] {
        say(from, here, words).await;
        read(to, there, words).await;
    }
    let deadline = Instant::now() + LIMIT;
    while !plan.is_done() {
        // Whether somebody is there to read is asked again beside the messages.
        assert!(Instant::now() < deadline, "{}: {:?} was not cut", cut.name(), plan.left());
        sleep(LOOK).await;
    }
    trial.quiet().await;
    trial.to_homeserver.pass_all();
    trial.to_parlour.pass_all();
    for request in trial.to_homeserver.seen() {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let point = point_of(method, path).unwrap_or_else(|| panic!("{request} is of no kind"));
        assert_eq!(cut_in(point), Some(CutIn::Here), "{request} does occur");
    }
    fresh.resume().await;
    assert_eq!(witness::others_words(&fresh, &spoke, 2).await, ["one", "three"], "{}", cut.name());
    let counts = witness::ciphertexts(&fresh, &spoke).await;
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2, 2], "{}: {counts:?}", cut.name());
    for client in [theirs, fresh] {
        client.stop().await;
    }
    hub
}

fn arm(trial: &Trial, cut: Cut) -> Plan {
    let both = |point: Option<CommitPoint>| vec![(point, Fate::CutAnswer), (point, Fate::CutRequest)];
    match cut {
        Cut::Request(point) => {
            let mut steps = both(Some(point));
            // These are asked only where it is not known whether a room was made.
            if matches!(point, CommitPoint::ReadRooms | CommitPoint::ReadState) {
                steps.insert(0, (Some(CommitPoint::CreateRoom), Fate::CutAnswer));
            }
            if point == CommitPoint::ReadHistory {
                // Read where it is not known whether a leg stands there; and no echo may tell before.
                steps.insert(0, (Some(CommitPoint::SendEvent), Fate::CutAnswer));
            }
            let plan = Plan::of(steps);
            let judge = plan.clone();
            let silent = plan.clone();
            trial.to_parlour.judge(move |method, path| {
                let waits =
                    silent.left().first().is_some_and(|(next, _)| *next == Some(CommitPoint::ReadHistory));
                let is_echo = is_transaction(&format!("{method} {path}"));
                if waits && is_echo { Fate::CutRequest } else { Fate::Pass }
            });
            trial.to_homeserver.judge(move |method, path| match point_of(method, path) {
                Some(point) => judge.fate(Some(point)),
                None => Fate::Pass,
            });
            plan
        }
        Cut::Transaction | Cut::CallBack => {
            let plan = Plan::of(both(None));
            let judge = plan.clone();
            let wanted = matches!(cut, Cut::Transaction);
            trial.to_parlour.judge(move |method, path| {
                let is_wanted = is_transaction(&format!("{method} {path}")) == wanted;
                if is_wanted { judge.fate(None) } else { Fate::Pass }
            });
            plan
        }
    }
}

/// Begins a conversation, and waits until it is complete.
async fn begin(trial: &Trial, murphy: &Client, patient: &str, cut: Cut) -> Talk {
    let name = format!("cut {}", cut.name());
    let wanted = json!({ "name": name, "mode": "two-way", "patients": [trial.person(patient).user_id] });
    let deadline = Instant::now() + LIMIT;
    // Who asks is looked up first: where that fails, nothing is begun, and the caller hears so.
    while let Err(error) = talk::begin(&trial.public_url(), murphy, &wanted).await {
        assert!(matches!(cut, Cut::Request(CommitPoint::WhoAmI)), "{}: {error}", cut.name());
        assert!(Instant::now() < deadline, "{error}");
    }
    loop {
        let url = format!("{}/_parlour/v1/conversations", trial.public_url());
        let token = parlour_integration_tests::token(murphy);
        let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await.expect("an answer");
        let all: Value = answer.json().await.expect("JSON");
        let all = all["conversations"].as_array().expect("conversations");
        let same: Vec<_> = all.iter().filter(|conversation| conversation["name"] == *name).collect();
        assert_eq!(same.len(), 1, "{name}");
        if same[0]["ready"] == true {
            return Talk { told: same[0].clone() };
        }
        assert!(Instant::now() < deadline, "{name}: {}", trial.last_words());
        sleep(LOOK).await;
    }
}
