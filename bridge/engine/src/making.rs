//! Making a conversation: a saga of steps that can each be repeated, so that a crash anywhere leaves nothing to be cleaned
//! up and nothing made twice. Its portals are made side by side, and several conversations too; who writes meanwhile is
//! not kept waiting, because each request is made under a turn ([`crate::turns`]).

use std::{collections::HashMap, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use parlour_domain::{ConversationId, Mode, PORTAL_EVENT, PortalId, PortalKind, Timestamp};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::sync::OnceCell;

use crate::{
    commit_point::CommitPoint,
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    homeserver::HomeserverError,
    intake::mode_in,
    keyed::Again,
    notices,
    portals::{mode, people_of, room_request},
    store::{Conversation, Participant, People, Portal},
    turns::{MAKING, Party},
};

/// So long the homeserver may take to make a room, by far, when nobody waits for it any more; with all turns of those who
/// make taken, it takes a second or two.
const LONGEST_MAKING_MILLIS: i64 = 10_000;
/// How soon it is looked again whether the homeserver has made a room.
const SOON: Duration = Duration::from_millis(500);
const AFTER_AN_ERROR: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How far the making of something has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is made.
    Done,
    /// It may be in the making by an earlier attempt: look again soon.
    Waiting,
}

/// What has become of an earlier attempt to make a room.
enum Earlier {
    No,
    Perhaps,
    Made(OwnedRoomId, Mode),
}

/// One run of the making of a conversation.
struct Job<'a> {
    conversation: &'a Conversation,
    people: &'a People,
    party: Party,
    /// When it began, before it was looked which rooms stand.
    begun: Timestamp,
    /// The rooms that earlier attempts have made, when we heard no answer.
    earlier: HashMap<PortalId, (OwnedRoomId, Mode)>,
    /// The owner's ghost, once somebody has asked for it.
    owners_ghost: OnceCell<OwnedUserId>,
}

impl Core {
    /// One look of a conversation's worker: makes what is missing of it. `failures`: how many looks before have failed.
    pub(crate) async fn make(&self, id: &ConversationId, failures: u32) -> (Again, u32) {
        if !self.may_work() {
            // When that ends, everybody is woken.
            return (Again::WhenWoken, 0);
        }
        let made = async {
            // What stands is set first: from then on what is said goes also to whom there is no room for yet.
            let stands = self.set_rooms(id).await;
            let made = match self.store.conversation(id).await? {
                Some(conversation) if !conversation.ready => self.make_portals(&conversation).await,
                _ => Ok(Progress::Done),
            };
            // Also when a room cannot be made.
            self.set_rooms(id).await?;
            stands?;
            made
        };
        match made.await {
            Ok(Progress::Done) => (Again::WhenWoken, 0),
            Ok(Progress::Waiting) => (Again::After(SOON), failures),
            Err(error) => {
                tracing::warn!(conversation = %id, %error, "the rooms of a conversation are not as they are to be yet");
                let pause = (AFTER_AN_ERROR * 2u32.saturating_pow(failures.min(16))).min(LONGEST_PAUSE);
                (Again::After(pause), failures.saturating_add(1))
            }
        }
    }

    /// Makes what is missing of a conversation: rooms, people, the ghosts that are there from the beginning. The hub
    /// comes last, so that as a rule nobody writes before everybody can read; what is written before waits. What fails in
    /// one portal keeps no other from being made.
    async fn make_portals(&self, conversation: &Conversation) -> Result<Progress, CryptoError> {
        // Read first: what the people are then is no older.
        let portals = self.store.unready_portals(&conversation.id).await?;
        let people = self.store.people_in(&conversation.id).await?;
        let unready: Vec<_> = portals.iter().map(|portal| portal.id.clone()).collect();
        let party = Party::Making(conversation.id.clone());
        let begun = self.clock.now();
        let earlier = self.made_before(&portals, &party).await?;
        let owners_ghost = OnceCell::new();
        let job = Job { conversation, people: &people, party, begun, earlier, owners_ghost };
        let (spokes, hub): (Vec<_>, Vec<_>) =
            portals.into_iter().partition(|portal| portal.kind() == PortalKind::Spoke);
        let (mut outcome, mut progress) = (Ok(()), Progress::Done);
        for portals in [spokes, hub] {
            let mut waiting = portals.into_iter();
            let make = |portal| self.make_portal(&job, portal).map(Some).left_future();
            // Who is excluded, or a switch, does not wait until all is made. What fails here is tried again in the end.
            let set = || self.set_rooms_but(&conversation.id, &unready).map(|_| None).right_future();
            let mut in_hand: FuturesUnordered<_> = waiting.by_ref().take(MAKING).map(make).collect();
            let mut is_setting = false;
            while let Some(done) = in_hand.next().await {
                let Some(made) = done else {
                    is_setting = false;
                    continue;
                };
                match made {
                    Ok(Progress::Done) => {}
                    Ok(Progress::Waiting) => progress = Progress::Waiting,
                    Err(error) => outcome = Err(error),
                }
                in_hand.extend(waiting.next().map(make));
                if !in_hand.is_empty() && !std::mem::replace(&mut is_setting, true) {
                    in_hand.push(set());
                }
            }
            // Whether those who are in it now are there to read is found out before anybody writes.
            self.looks.news.notify_one();
        }
        outcome?;
        if progress == Progress::Done {
            let ready = self.store.conversation_is_ready(&conversation.id).await?;
            self.changed(&conversation.id);
            if !ready {
                return Ok(Progress::Waiting);
            }
        }
        Ok(progress)
    }

    async fn make_portal(&self, job: &Job<'_>, mut portal: Portal) -> Result<Progress, CryptoError> {
        let made = self.portal_made(job, &mut portal).await;
        if let Err(error) = &made {
            tracing::warn!(
                conversation = %portal.conversation, portal = %portal.id, %error,
                "a portal is not made yet"
            );
        }
        self.changed(&portal.conversation);
        self.wake_senders(&[portal.id]);
        made
    }

    /// The steps of one portal, in order.
    async fn portal_made(&self, job: &Job<'_>, portal: &mut Portal) -> Result<Progress, CryptoError> {
        if !self.may_work() {
            return Ok(Progress::Waiting);
        }
        if portal.room_id.is_none() {
            portal.room_id = self.make_room(job, portal).await?;
        }
        let Some(room_id) = portal.room_id.clone() else { return Ok(Progress::Waiting) };
        for person in people_of(portal, job.people) {
            let owner = person.person.id == job.conversation.owner;
            // Perhaps they are to come no more: then all is looked at anew.
            if self.store.portal(&portal.id).await?.revision != portal.revision {
                return Ok(Progress::Waiting);
            }
            if faulty!(self.settings, OwnerOnly) && person.person.role.is_staff() && !owner {
                continue;
            }
            self.join_person(&job.party, portal, &room_id, &person.person.user_id).await?;
        }
        if let Some(ghost) = self.first_ghost(job, portal).await? {
            self.join_person(&job.party, portal, &room_id, &ghost).await?;
        }
        // Who cannot write hears so before they try. Where a room was switched since it was made, that is said.
        let made = self.store.portal(&portal.id).await?;
        let from_the_beginning = made.mode == Some(Mode::OneWay) && made.mode_since.millis() == 0;
        let word = (from_the_beginning && job.people.is_open(portal)).then(|| {
            let words = notices::one_way(portal.kind()).to_owned();
            self.leg_ids.once("one-way", &portal.id, words, self.clock.now())
        });
        self.store.portal_is_ready(&portal.id, word.as_ref()).await?;
        Ok(Progress::Done)
    }

    /// Joins somebody to a room that stands. It is written down at once: who leaves right after is not counted in again.
    pub(crate) async fn join_person(
        &self,
        party: &Party,
        portal: &Portal,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), CryptoError> {
        if self.store.has_joined(&portal.id, user_id).await? {
            return Ok(());
        }
        let bot = self.ghosts.bot().await?;
        let joined = self.homeserver.join(bot.intent(), room_id, user_id);
        self.turns.take(party, joined).await?;
        Ok(self.store.joined(&portal.id, user_id).await?)
    }

    /// The ghost that is in a portal from the beginning: the owner's in each spoke, and a single patient's in the hub.
    /// The others come when they first speak.
    async fn first_ghost(&self, job: &Job<'_>, portal: &Portal) -> Result<Option<OwnedUserId>, CryptoError> {
        let ghost = async |person: &Participant| {
            let machine = self.ghosts.of(&person.person).await?;
            Ok::<_, CryptoError>(machine.intent().user_id.clone())
        };
        if portal.kind() == PortalKind::Hub {
            let mut patients = job.people.patients();
            return match (patients.next(), patients.next()) {
                (Some(only), None) => ghost(only).await.map(Some),
                _ => Ok(None),
            };
        }
        let owner = job.people.staff().find(|p| p.person.id == job.conversation.owner);
        let Some(owner) = owner else { return Ok(None) };
        // All spokes ask for the same one.
        Ok(Some(job.owners_ghost.get_or_try_init(|| ghost(owner)).await?.clone()))
    }

    /// The portal's room; none while an earlier attempt may still be making it.
    async fn make_room(&self, job: &Job<'_>, portal: &Portal) -> Result<Option<OwnedRoomId>, CryptoError> {
        let (room_id, mode) = match job.earlier(portal) {
            Earlier::Made(room_id, mode) => (room_id, mode),
            Earlier::Perhaps => return Ok(None),
            Earlier::No => {
                let request = room_request(&self.settings, job.conversation, portal, job.people);
                let bot = self.ghosts.bot().await?;
                let path = "/_matrix/client/v3/createRoom";
                // Written down when it is its turn, so that what is written down is when the homeserver began.
                let asked = async {
                    if let Err(error) = self.store.portal_is_attempted(&portal.id, self.clock.now()).await {
                        return Ok(Err(error));
                    }
                    let (point, post) = (CommitPoint::CreateRoom, http::Method::POST);
                    self.homeserver.call(point, Some(bot.intent()), post, path, &request).await.map(Ok)
                };
                let answer = self.turns.take(&job.party, asked).await;
                if answer.as_ref().is_err_and(HomeserverError::is_passing) {
                    // It may be at it until now.
                    self.store.portal_is_attempted(&portal.id, self.clock.now()).await?;
                }
                let answer = answer??;
                let room_id = answer["room_id"].as_str().and_then(|id| OwnedRoomId::try_from(id).ok());
                (room_id.ok_or(HomeserverError::Nonsense(path))?, mode(job.conversation, portal, job.people))
            }
        };
        self.store.portal_is_made(&portal.id, &room_id, mode).await?;
        Ok(Some(room_id))
    }

    /// The rooms that earlier attempts have made for these portals, when we heard no answer: a room says itself whose it
    /// is. It is looked for once for all of them.
    async fn made_before(
        &self,
        portals: &[Portal],
        party: &Party,
    ) -> Result<HashMap<PortalId, (OwnedRoomId, Mode)>, CryptoError> {
        let mut made = HashMap::new();
        if !portals.iter().any(|portal| portal.room_id.is_none() && portal.attempted.is_some()) {
            return Ok(made);
        }
        let bot = self.ghosts.bot().await?;
        // What becomes known after this is in the list of the homeserver already, or not yet in either.
        let rooms = self.turns.take(party, self.homeserver.joined_rooms(bot.intent())).await?;
        let known = self.store.rooms().await?;
        for room_id in rooms.into_iter().filter(|room_id| !known.contains(room_id)) {
            let says = self.homeserver.state(bot.intent(), &room_id, PORTAL_EVENT);
            let says = self.turns.take(party, says).await?;
            let portal = says.and_then(|content| content["portal"].as_str()?.parse().ok());
            let Some(portal) = portal else { continue };
            // It was made with this mode: it is set to another only when its room is known.
            let levels = self.homeserver.state(bot.intent(), &room_id, "m.room.power_levels");
            if let Some(levels) = self.turns.take(party, levels).await? {
                made.insert(portal, (room_id, mode_in(&levels)));
            }
        }
        Ok(made)
    }
}

impl Job<'_> {
    /// What became of an earlier attempt to make a portal's room. The homeserver may still be at it, if that was just
    /// now: it goes on when whoever asked is gone.
    fn earlier(&self, portal: &Portal) -> Earlier {
        let Some(attempted) = portal.attempted else { return Earlier::No };
        if let Some((room_id, mode)) = self.earlier.get(&portal.id) {
            return Earlier::Made(room_id.clone(), *mode);
        }
        let ago = self.begun.millis() - attempted.millis();
        // What seems to lie ahead was before the clock was set back.
        if (0..LONGEST_MAKING_MILLIS).contains(&ago) { Earlier::Perhaps } else { Earlier::No }
    }
}
