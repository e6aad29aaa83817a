//! `kill -9` before and after each commit point, the whole closed list of them: which test ends Parlour where, and the tests
//! that are about something else than traffic ([`crate::crash`]) and the making of conversations ([`crate::making`]).
//!
//! Each of them kills before and after what it is about, starts again, and has the next message arrive. In the end every
//! message stands once and in order, counted by clients that have read nothing before, and as ciphertexts.

mod copied;
mod deleting;
mod demo;
mod fan_out;
mod files;
mod jobs;
mod reading;
mod repair;
mod restored;
mod starting;
mod switching;
mod taking_part;
mod waiting;

use std::{collections::BTreeSet, path::PathBuf};

use parlour_engine::CommitPoint;
use parlour_integration_tests::{LIMIT, trial::Trial};

/// A test that ends Parlour again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// `crash.rs`: messages travel.
    Traffic,
    /// `making.rs`: a conversation and new ghosts are made.
    Making,
    /// `killed/waiting.rs`: something waits for a reader, the homeserver, or the database.
    Waiting,
    /// `killed/repair.rs`: what a phone could not read is sent again.
    Repair,
    /// `killed/restored.rs`: a backup was put in place.
    Restored,
    /// `killed/copied.rs`: a copy that nobody has marked was put in place.
    Copied,
    /// `killed/starting.rs`: Parlour begins in an empty database.
    Starting,
    /// `killed/starting.rs` on PostgreSQL: a process takes the database.
    Taking,
    /// `killed/switching.rs`: a conversation becomes one-way, and two-way again.
    Switching,
    /// `killed/files.rs`: files are looked at.
    Files,
    /// `killed/taking_part.rs`: people are included and excluded.
    TakingPart,
    /// `killed/deleting.rs`: what was said is changed, reacted to and deleted.
    Deleting,
    /// `killed/reading.rs`: somebody reads.
    Reading,
    /// `killed/demo.rs`: the demo makes its people.
    Demo,
}

/// Which test ends Parlour before and after a commit point. Whoever adds a point says it here.
fn scene_of(point: CommitPoint) -> Scene {
    match point {
        CommitPoint::TransactionKept
        | CommitPoint::EventDecided
        | CommitPoint::LegSealed
        | CommitPoint::LegLanded
        | CommitPoint::MachineSaved
        | CommitPoint::QueryKeys
        | CommitPoint::ClaimKeys
        | CommitPoint::SendToDevices
        | CommitPoint::SendEvent => Scene::Traffic,
        CommitPoint::OurUserChosen
        | CommitPoint::OurUserReady
        | CommitPoint::ConversationKept
        | CommitPoint::PortalAttempted
        | CommitPoint::PortalMade
        | CommitPoint::PortalReady
        | CommitPoint::ConversationReady
        | CommitPoint::Register
        | CommitPoint::MakeDevice
        | CommitPoint::SetName
        | CommitPoint::UploadKeys
        | CommitPoint::UploadIdentity
        | CommitPoint::UploadSignatures
        | CommitPoint::Join
        | CommitPoint::CreateRoom
        | CommitPoint::WhoAmI => Scene::Making,
        CommitPoint::LegHeld
        | CommitPoint::LegPutOff
        | CommitPoint::LegFailed
        | CommitPoint::OutboxWoken
        | CommitPoint::DevicesKnown
        | CommitPoint::ReadSeen
        | CommitPoint::MemberCame
        | CommitPoint::MemberGone
        | CommitPoint::ReadState
        | CommitPoint::Probed => Scene::Waiting,
        CommitPoint::RepairWished
        | CommitPoint::RepairNamed
        | CommitPoint::RepairBegun
        | CommitPoint::Redact => Scene::Repair,
        CommitPoint::MachineRenewed
        | CommitPoint::DeviceRenewed
        | CommitPoint::Recovered
        | CommitPoint::ReadDevices
        | CommitPoint::EndDevice
        | CommitPoint::ReadRooms
        | CommitPoint::ReadHistory => Scene::Restored,
        CommitPoint::RestoreNoticed => Scene::Copied,
        CommitPoint::CaughtUp | CommitPoint::SettingKept | CommitPoint::Ping | CommitPoint::ReadInbox => {
            Scene::Starting
        }
        CommitPoint::DatabaseTaken => Scene::Taking,
        CommitPoint::ModeKept | CommitPoint::PortalSet | CommitPoint::SetState => Scene::Switching,
        CommitPoint::ParticipantsKept | CommitPoint::Kick | CommitPoint::Invite => Scene::TakingPart,
        CommitPoint::Download | CommitPoint::Upload => Scene::Files,
        CommitPoint::ReceiptsKept
        | CommitPoint::ReadsCounted
        | CommitPoint::ReceiptsShown
        | CommitPoint::SendReceipt => Scene::Reading,
        CommitPoint::LegVoid | CommitPoint::MessageDeleted => Scene::Deleting,
        CommitPoint::PersonKept | CommitPoint::Administer => Scene::Demo,
    }
}

/// Before and after each point of a scene, as an order names them.
pub(crate) fn places_of(scene: Scene) -> Vec<String> {
    let points = CommitPoint::ALL.iter().filter(|point| scene_of(**point) == scene);
    points.flat_map(|point| ["before", "after"].map(|side| format!("{side} {}", point.name()))).collect()
}

/// Where Parlour was ended, as side and point.
#[derive(Debug, Default)]
pub(crate) struct Killed(BTreeSet<String>);

impl Killed {
    /// Everywhere that others have counted.
    pub(crate) fn at<'a>(places: impl IntoIterator<Item = &'a String>) -> Self {
        Self(places.into_iter().cloned().collect())
    }

    /// Parlour, which runs, ends at a place while something is done.
    async fn during(&mut self, trial: &mut Trial, place: &str, work: impl AsyncFnOnce(&Trial)) {
        trial.order(&format!("end {place} 1")).await;
        work(trial).await;
        self.ended(trial, place).await;
    }

    /// Parlour, which does not run, is started, and ends at a place, at the passage of this number.
    async fn at_start(&mut self, trial: &mut Trial, place: &str, passage: usize) {
        trial.spawn_parlour_ordered(&format!("end {place} {passage}")).await;
        self.ended(trial, place).await;
    }

    async fn ended(&mut self, trial: &mut Trial, place: &str) {
        let ended = trial.parlour_ends(LIMIT).await;
        assert!(ended, "it does not end {place}: {}", trial.last_words());
        assert_eq!(trial.ended_at().as_deref(), Some(place), "{}", trial.last_words());
        self.0.insert(place.to_owned());
    }

    /// Every point that is this scene's was killed at, before and after.
    pub(crate) fn is_all_of(&self, scene: Scene) {
        let places = places_of(scene);
        assert!(!places.is_empty(), "{scene:?} has no point");
        let missing: Vec<_> = places.iter().filter(|place| !self.0.contains(*place)).collect();
        assert!(missing.is_empty(), "{scene:?}: never {missing:?}");
        println!("{scene:?}: killed at {} places: {:?}", self.0.len(), self.0);
    }
}

/// A practice on SQLite, or on PostgreSQL at this URL.
async fn practice(database: Option<String>, more_patients: usize) -> Trial {
    Trial::open(crate::crash::PROGRAM, database, more_patients, None).await
}

/// The file of Parlour's database, and what SQLite keeps beside it.
fn database_files(trial: &Trial) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| trial.data.join("parlour").join(format!("parlour.db{end}")))
}
