//! Catching up: what was said and came by no transaction.
//!
//! Transactions alone are not to be relied on. Synapse 1.163 keeps what it is about to send in memory and has written down
//! that it is done with it: killed, it never sends it. And it gives back what waited for an application service one
//! transaction at a time, and when it finds none left takes the service for reachable: a transaction that it makes between
//! the one and the other it neither sends nor looks for, until another one fails. So:
//!
//! - Up to some place in the bot's `/sync` everything is known, for certain. After every break, two seconds later, and
//!   every ten seconds, the bot asks for everything that was said since, and goes on from there ([`Core::catch_up`]). While
//!   the homeserver has much to do for us, which would be told anew as well, it asks every thirty.
//! - After a break no transaction is taken before that, so that nothing overtakes what it brings.
//! - A transaction whose number is not the next is refused once ([`Sequence`]): the homeserver then sends the oldest that it
//!   has, which is the one it had lost sight of.

use matrix_sdk_crypto::store::CryptoStore as _;
use parlour_domain::Chance;
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId,
    api::client::{
        filter::{Filter, FilterDefinition, RoomEventFilter},
        room::get_room_event,
        sync::sync_events,
    },
    events::AnySyncTimelineEvent,
    serde::Raw,
};
use serde_json::{Value, value::RawValue};

use crate::{
    commit_point::CommitPoint,
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    ghosts::bot_user_id,
    homeserver::{HomeserverError, Intent},
    intake::arrived,
    store::Arrived,
};

/// How many events of a room one look brings at least. A room with more is read back.
const MOST_OF_A_ROOM: u32 = 100;

/// What is to be done with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is taken.
    Take,
    /// It is refused once: one before it may be missing.
    Refuse,
}

/// The numbers of the homeserver's transactions, as far as they tell whether one is missing. They come from one sequence
/// for all its application services, and begin anew when its database is rebuilt, so they are a hint and no proof: no
/// transaction is refused twice, and where refusing brings nothing, it ends.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    last: Option<i64>,
    refused: Option<i64>,
    in_vain: u32,
}

/// How often in a row refusing may bring nothing before it ends: another application service uses this homeserver.
const MOST_IN_VAIN: u32 = 3;

impl Sequence {
    /// Goes on from the number that was taken last.
    pub(crate) fn after(last: Option<i64>) -> Self {
        Self { last, ..Self::default() }
    }

    /// What is to be done with the transaction of this number.
    pub(crate) fn judge(&mut self, number: i64) -> Verdict {
        let is_next = self.last.is_none_or(|last| number <= last + 1);
        if is_next || self.in_vain >= MOST_IN_VAIN {
            return Verdict::Take;
        }
        if self.refused == Some(number) {
            // The oldest that there is: nothing was missing.
            self.in_vain += 1;
            return Verdict::Take;
        }
        self.refused = Some(number);
        Verdict::Refuse
    }

    /// The transaction of this number was taken.
    pub(crate) fn taken(&mut self, number: i64) {
        if self.refused.is_some_and(|refused| number < refused) {
            // One had been missing.
            self.in_vain = 0;
        }
        if self.refused.is_some_and(|refused| number >= refused) {
            self.refused = None;
        }
        if self.last.is_some_and(|last| number == last + 1) {
            // Numbers follow each other: gaps mean something.
            self.in_vain = 0;
        }
        self.last = Some(number);
    }
}

/// How the homeserver stands to what it has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It goes on from there.
    GoesOn,
    /// It counts from this lower place, and has what it had.
    Lower(String),
    /// It was put back from a copy.
    WentBack,
}

/// What a homeserver has of the legs that landed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastLegs {
    /// They are in their rooms.
    Stand,
    /// One is not, and its room is there.
    Gone,
    /// None has landed in a room that is there.
    Unknown,
}

/// Of so many portals.
const LAST_LEGS: i64 = 5;

/// What catching up has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaughtUp {
    /// So many events that mattered had come by no transaction; they are taken in.
    Missed(usize),
    /// Nothing is taken in: the homeserver stands at a lower place.
    Lower,
}

impl Core {
    /// How the homeserver stands to what it has told. When its database was put back from a copy, legs that landed are gone from
    /// rooms that are there. It may stand at a lower place than it did; but it counts on from there, and the place that is known
    /// may be older than the copy. Asked from a place that it has not come to yet, Synapse 1.163 answers as from where it is.
    /// And for a device it takes everything up to there as fetched, so this is asked before any inbox is looked into. A lower
    /// place alone is no proof: what it failed to keep counts until it starts anew.
    ///
    /// # Errors
    /// When homeserver or database fail.
    pub(crate) async fn how_it_stands(&self) -> Result<Standing, CryptoError> {
        let Some(bot) = bot_user_id(&self.settings.server_name) else { return Ok(Standing::GoesOn) };
        // Of the two that are remembered, either may be the later one.
        let inbox = self.store.machine_store(&bot).next_batch_token().await?;
        let places = self.store.caught_up_to().await?.into_iter().chain(inbox);
        let later = places.reduce(|one, other| if is_before(&one, &other) { other } else { one });
        let Some(since) = later else { return Ok(Standing::GoesOn) };
        // Where it is, and nothing of what it has: a look at each room would keep whoever waits for us waiting.
        let mut filter = everything_said(1, &*self.ghosts.chance);
        filter.room.rooms = Some(Vec::new());
        let mut request = sync_events::v3::Request::new();
        request.since = Some(since.clone());
        request.filter = Some(sync_events::v3::Filter::FilterDefinition(filter));
        let bot = Intent::user(&bot);
        let place = match self.homeserver.request(CommitPoint::ReadInbox, &bot, request).await {
            Ok(answer) => answer.next_batch,
            // There is no such place, or no such user yet. It shows itself where they are needed.
            Err(HomeserverError::Refused { status: 400 | 403, .. }) => return Ok(Standing::GoesOn),
            Err(error) => return Err(error.into()),
        };
        let is_lower = is_before(&place, &since);
        Ok(match self.last_legs(&bot).await? {
            LastLegs::Gone => Standing::WentBack,
            LastLegs::Unknown if is_lower => Standing::WentBack,
            LastLegs::Stand if is_lower => Standing::Lower(place),
            LastLegs::Unknown | LastLegs::Stand => Standing::GoesOn,
        })
    }

    /// What the homeserver has of the legs that landed last in each of a few portals: in one alone, it may have been in a room
    /// that is younger than the copy.
    async fn last_legs(&self, bot: &Intent) -> Result<LastLegs, CryptoError> {
        let mut found = LastLegs::Unknown;
        for (room_id, event_id) in self.store.landed_last(LAST_LEGS).await? {
            match self.leg_is_there(bot, room_id, event_id).await? {
                Some(true) => found = LastLegs::Stand,
                Some(false) => return Ok(LastLegs::Gone),
                None => {}
            }
        }
        Ok(found)
    }

    /// Whether a leg that landed is in its room; unknown where the room is not there: it may be younger than the copy, or it was
    /// deleted.
    async fn leg_is_there(
        &self,
        bot: &Intent,
        room_id: OwnedRoomId,
        event_id: OwnedEventId,
    ) -> Result<Option<bool>, CryptoError> {
        let is_missing = |error: &HomeserverError| error.is("M_NOT_FOUND") || error.is("M_FORBIDDEN");
        let request = get_room_event::v3::Request::new(room_id.clone(), event_id);
        match self.homeserver.request(CommitPoint::ReadHistory, bot, request).await {
            Ok(_) => return Ok(Some(true)),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error.into()),
        }
        match self.homeserver.state(bot, &room_id, "m.room.create").await {
            Ok(created) => Ok(created.map(|_| false)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The homeserver counts from a lower place, and was not put back: what is remembered of places is forgotten, and the rooms
    /// are read back instead.
    ///
    /// # Errors
    /// When homeserver or database fail; it can be said again.
    pub(crate) async fn begin_from(&self, place: &str) -> Result<(), CryptoError> {
        tracing::warn!(
            "the homeserver counts events from a lower place than before: the rooms are read back"
        );
        if let Some(bot) = bot_user_id(&self.settings.server_name) {
            self.store.machine_store(&bot).forget_place().await?;
        }
        // Without the place nothing tells whose devices have changed: who wakes asks for all.
        self.ghosts.machines.put_all_to_sleep().await;
        self.read_all_back().await?;
        // It may lack what nobody has said, but rooms were set to.
        self.store.all_are_to_be_set(self.clock.now()).await?;
        Ok(self.store.caught_up(place).await?)
    }

    /// Asks for everything that was said since the place up to which everything is known, takes in what is not known, in the
    /// order of each room, and goes on from there.
    ///
    /// The first time, before anything is sent, it also tells whether the database is older than the world: where a leg
    /// stands in a room that the database has never encrypted ([`Core::take_in`]).
    ///
    /// # Errors
    /// When homeserver or database fail; asking again is safe. [`StoreError::Older`].
    pub(crate) async fn catch_up(&self) -> Result<CaughtUp, CryptoError> {
        let _one_at_a_time = self.catching_up.lock().await;
        let bot = self.ghosts.bot().await?;
        let Some(since) = self.store.caught_up_to().await? else {
            // From the beginning there is nothing to catch up with; what is said from here on is.
            if let Some(place) = bot.place().await? {
                self.store.caught_up(&place).await?;
            }
            return Ok(CaughtUp::Missed(0));
        };
        let mut request = sync_events::v3::Request::new();
        request.since = Some(since.clone());
        let filter = everything_said(MOST_OF_A_ROOM, &*self.ghosts.chance);
        request.filter = Some(sync_events::v3::Filter::FilterDefinition(filter));
        // Not as its device: what is in that one's inbox would count as taken.
        let as_nobody = Intent::user(&bot.intent().user_id);
        let answer = match self.homeserver.request(CommitPoint::ReadInbox, &as_nobody, request).await {
            // A place that this homeserver has never been at: its database is another.
            Err(HomeserverError::Refused { status: 400, .. }) => {
                self.read_all_back().await?;
                self.store.caught_up_to_nothing().await?;
                return Ok(CaughtUp::Missed(0));
            }
            answer => answer?,
        };
        if is_before(&answer.next_batch, &since) {
            // The next look into the inbox begins as after a break, and deals with it.
            self.nothing_is_received();
            return Ok(CaughtUp::Lower);
        }
        let mut missed = 0;
        for (room_id, room) in answer.rooms.join {
            let unknown = self.unknown_among(&room_id, &room.timeline.events).await?;
            let blind = [faulty!(self.settings, NoEcho), faulty!(self.settings, AnswerFirst)].contains(&true);
            if unknown.is_empty() || blind {
                continue;
            }
            if room.timeline.limited
                && let Some(portal) = self.store.portal_in(&room_id).await?
            {
                self.read_back_from(&portal, room.timeline.prev_batch).await?;
            }
            missed += unknown.iter().filter(|event| event.matters || event.echo.is_some()).count();
            self.take_in(&unknown).await?;
        }
        if answer.next_batch != since {
            self.store.caught_up(&answer.next_batch).await?;
        }
        Ok(CaughtUp::Missed(missed))
    }

    /// What is not known of a room's events as `/sync` gives them.
    async fn unknown_among(
        &self,
        room_id: &RoomId,
        events: &[Raw<AnySyncTimelineEvent>],
    ) -> Result<Vec<Arrived>, CryptoError> {
        let ours = |user_id: &ruma::UserId| self.ghosts.is_ours(user_id);
        let mut unknown = Vec::new();
        for event in events {
            // Here an event does not say which room it is in.
            let mut value: Value = event.deserialize_as_unchecked()?;
            let Some(fields) = value.as_object_mut() else { continue };
            fields.insert("room_id".to_owned(), room_id.as_str().into());
            let raw: Box<RawValue> = serde_json::value::to_raw_value(&value)?;
            let mut event = arrived(&raw, &ours);
            if faulty!(self.settings, NewTransactionId) {
                event.echo = None;
            }
            if !self.store.knows_event(&event.dedup_key).await? {
                unknown.push(event);
            }
        }
        Ok(unknown)
    }
}

/// Whether a place in `/sync` comes before another one in the order of all events, as far as it can be told: Synapse's
/// begin with the number of an event (`s12_…`, or `m12~…` where several processes write).
fn is_before(place: &str, other: &str) -> bool {
    let number = |place: &str| -> Option<u64> {
        place.strip_prefix(['s', 'm'])?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    number(place).zip(number(other)).is_some_and(|(number, other)| number < other)
}

/// Timelines only: no state, no receipts, no account data. No question is asked twice: for two minutes Synapse 1.163 would
/// answer it as before, also where the database was put back meanwhile and asks from the same place once more. So a limit of
/// what does not come at all is a matter of chance.
fn everything_said(limit: u32, chance: &dyn Chance) -> FilterDefinition {
    let [one, two, three, four, ..] = chance.bytes();
    let mut filter = FilterDefinition::default();
    filter.presence = Filter::ignore_all();
    filter.presence.limit = Some(u32::from_be_bytes([one, two, three, four]).into());
    filter.account_data = Filter::ignore_all();
    filter.room.timeline.limit = Some(limit.into());
    filter.room.state = RoomEventFilter::ignore_all();
    filter.room.ephemeral = RoomEventFilter::ignore_all();
    filter.room.account_data = RoomEventFilter::ignore_all();
    filter
}

#[cfg(test)]
mod tests {
    use super::{
        Sequence,
        Verdict::{Refuse, Take},
        is_before,
    };

    #[test]
    fn a_place_is_before_another_where_its_first_number_is_lower() {
        for (place, other, wanted) in [
            ("s9_4_0", "s10_1_0", true),
            ("s10_1_0", "s9_4_0", false),
            ("s10_1_0", "s10_4_0", false),
            ("m9~1.12_4", "s10_4", true),
            ("of another homeserver", "s10_4", false),
            ("s9_4", "s_of another homeserver", false),
        ] {
            assert_eq!(is_before(place, other), wanted, "{place}, {other}");
        }
    }

    #[test]
    fn what_may_be_missing_is_waited_for_once() {
        let run = |last, numbers: &[i64]| {
            let mut sequence = Sequence::after(last);
            let judged = numbers.iter().map(|number| {
                let verdict = sequence.judge(*number);
                if verdict == Take {
                    sequence.taken(*number);
                }
                verdict
            });
            judged.collect::<Vec<_>>()
        };
        for (name, last, numbers, wanted) in [
            ("the first ever", None, &[7, 8, 9][..], vec![Take, Take, Take]),
            ("one after the other", Some(6), &[7, 8], vec![Take, Take]),
            ("again after a lost answer", Some(6), &[7, 7, 8], vec![Take, Take, Take]),
            ("one is missing, and comes", Some(6), &[8, 7, 8, 9], vec![Refuse, Take, Take, Take]),
            ("none is missing", Some(6), &[9, 9, 10], vec![Refuse, Take, Take]),
            ("the homeserver's database is rebuilt", Some(600), &[1, 2, 3], vec![Take, Take, Take]),
            (
                "another service uses the sequence",
                Some(0),
                &[2, 2, 4, 4, 6, 6, 8, 10],
                vec![Refuse, Take, Refuse, Take, Refuse, Take, Take, Take],
            ),
            (
                "gaps now and then",
                Some(0),
                &[2, 2, 3, 5, 5, 6, 8, 8, 9, 11],
                vec![Refuse, Take, Take, Refuse, Take, Take, Refuse, Take, Take, Refuse],
            ),
            (
                "refusing was in vain, then it was not",
                Some(0),
                &[2, 2, 4, 4, 6, 5, 6, 8, 8],
                vec![Refuse, Take, Refuse, Take, Refuse, Take, Take, Refuse, Take],
            ),
        ] {
            assert_eq!(run(last, numbers), wanted, "{name}");
        }
    }
}
