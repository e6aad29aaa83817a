//! How far the making of a conversation and its messages have come, and who takes part in it, told as it changes: Server-Sent
//! Events (WHATWG HTML §9.2), for staff who take part. Numbers, and ids of messages and accounts; nobody's name.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use axum::{
    extract::{Path, State},
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use parlour_domain::{ConversationId, MessageId, Mode, PersonId};
use parlour_engine::{Making, Sending, TakingPart};
use ruma::{OwnedEventId, OwnedUserId};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use utoipa::ToSchema;

use super::{
    Edge,
    auth::{Caller, Token},
    conversations::own,
    error::Refused,
    openapi,
};

/// No more often than this is anything told.
const PAUSE: Duration = Duration::from_millis(250);
/// So often it is looked whether the caller may still hear it; and whether there is anything that nobody has told of.
const LOOK: Duration = Duration::from_secs(5);
const MOST_OF_A_PERSON: usize = 8;
const MOST: usize = 500;

/// The streams that are open: how many of whom, and the looks that those of a conversation share.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    open: Arc<Mutex<HashMap<PersonId, usize>>>,
    looks: Arc<Mutex<HashMap<ConversationId, Weak<Look>>>>,
}

/// How a conversation stands.
#[derive(Clone)]
struct Standing {
    making: Making,
    sending: Vec<Sending>,
    mode: Mode,
    switching: i64,
    people: TakingPart,
}

/// The last look at a conversation: however many listen to it, the database is asked once for all who want to know at the
/// same time.
#[derive(Default)]
struct Look(tokio::sync::Mutex<Option<(Instant, Standing)>>);

impl Look {
    /// How it stands now or stood at any time since it was `asked`.
    async fn since<F>(&self, asked: Instant, look: impl FnOnce() -> F) -> Result<Standing, Refused>
    where
        F: Future<Output = Result<Standing, Refused>>,
    {
        let mut last = self.0.lock().await;
        if let Some((began, standing)) = &*last
            && *began >= asked
        {
            return Ok(standing.clone());
        }
        let began = Instant::now();
        let standing = look().await?;
        *last = Some((began, standing.clone()));
        Ok(standing)
    }
}

/// One of them; dropped, it is closed.
struct Seat {
    streams: Streams,
    person: PersonId,
}

impl Streams {
    fn open(&self, person: &PersonId) -> Result<Seat, Refused> {
        let mut open = self.counts();
        let own = open.get(person).copied().unwrap_or_default();
        if own >= MOST_OF_A_PERSON || open.values().sum::<usize>() >= MOST {
            return Err(Refused::TooManyStreams);
        }
        open.insert(person.clone(), own + 1);
        Ok(Seat { streams: self.clone(), person: person.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<PersonId, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all streams of a conversation look by.
    fn look_at(&self, conversation: &ConversationId) -> Arc<Look> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = looks.get(conversation).and_then(Weak::upgrade) {
            return look;
        }
        looks.retain(|_, look| look.strong_count() > 0);
        let look = Arc::default();
        looks.insert(conversation.clone(), Arc::downgrade(&look));
        look
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.streams.counts();
        let left = open.get(&self.person).map_or(0, |own| own.saturating_sub(1));
        if left == 0 {
            open.remove(&self.person);
        } else {
            open.insert(self.person.clone(), left);
        }
    }
}

/// How far the making of a conversation has come.
#[derive(Serialize, ToSchema)]
pub(crate) struct Progress {
    /// So many rooms stand with everybody in them.
    made: i64,
    of: i64,
    /// Whether all do.
    ready: bool,
}

impl From<Making> for Progress {
    fn from(making: Making) -> Self {
        Self { made: making.made, of: making.of, ready: making.ready }
    }
}

/// Who may write.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModeNow {
    #[schema(schema_with = openapi::mode)]
    mode: Mode,
    /// How many rooms are not yet as they are to be.
    switching: i64,
}

/// Who takes part, by their accounts.
#[derive(Serialize, ToSchema)]
pub(crate) struct PeopleNow {
    #[schema(value_type = Option<String>)]
    owner: Option<OwnedUserId>,
    #[schema(value_type = Vec<String>)]
    staff: Vec<OwnedUserId>,
    /// Who of the staff writes in it besides the owner when it is one-way.
    #[schema(value_type = Vec<String>)]
    senders: Vec<OwnedUserId>,
    #[schema(value_type = Vec<String>)]
    patients: Vec<OwnedUserId>,
}

impl From<&TakingPart> for PeopleNow {
    fn from(people: &TakingPart) -> Self {
        let TakingPart { owner, staff, senders, patients } = people.clone();
        Self { owner, staff, senders, patients }
    }
}

/// How far a message has come.
#[derive(Serialize, ToSchema)]
pub(crate) struct SendingNow {
    /// Parlour's id.
    #[schema(value_type = String)]
    message: MessageId,
    /// The event that it is in the hub.
    #[schema(value_type = String)]
    event_id: OwnedEventId,
    /// In so many rooms it stands.
    sent: i64,
    /// In so many nobody has anything yet that could read it.
    held: i64,
    waiting: i64,
    /// For so many of them it was given up, and whoever wrote it was told.
    failed: i64,
    of: i64,
    /// How many people have read it, colleagues among them.
    read: i64,
    deleted: bool,
}

impl From<&Sending> for SendingNow {
    fn from(sending: &Sending) -> Self {
        let Sending { message, event_id, sent, held, waiting, failed, of, read, deleted } = sending.clone();
        Self { message, event_id, sent, held, waiting, failed, of, read, deleted }
    }
}

/// An event whose data is this.
fn event(name: &str, data: &impl Serialize) -> Result<Event, Refused> {
    Event::default().event(name).json_data(data).map_err(|error| Refused::Internal(error.into()))
}

/// What changes in a conversation, as it changes.
///
/// For staff who take part; for anybody else it is not there. First how it stands, then what changes. It ends when the caller's
/// rights end, and when Parlour stops: come again then.
#[utoipa::path(
    get,
    path = "/_parlour/v1/conversations/{id}/events",
    tag = "conversations",
    operation_id = "events",
    params(("id" = String, Path, description = "The conversation.")),
    responses((
        status = OK,
        body = String,
        content_type = "text/event-stream",
        description = "Server-Sent Events: `progress` with a `Progress`, `mode` with a `ModeNow`, `people` with a `PeopleNow`, \
                       `sending` with a `SendingNow`.",
    )),
)]
pub(crate) async fn events(
    Caller(caller): Caller,
    token: Token,
    State(edge): State<Arc<Edge>>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Refused> {
    let id = own(edge.engine.store(), &caller, &id).await?.id;
    if !caller.role.is_staff() {
        return Err(Refused::NotFound);
    }
    let seat = edge.streams.open(&caller.id)?;
    let changes = edge.engine.changes(&id);
    let shared = edge.streams.look_at(&id);
    let stopping = edge.stopping.clone();
    let mut listener = Listener {
        edge,
        token,
        id,
        changes,
        shared,
        stopping,
        told: Told::default(),
        next: VecDeque::new(),
        looked: Instant::now(),
        _seat: seat,
    };
    listener.look().await?;
    let events = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(event), listener))
    });
    // A proxy in between must not keep anything back.
    Ok(([("x-accel-buffering", "no")], Sse::new(events).keep_alive(KeepAlive::default())))
}

/// Somebody who listens.
struct Listener {
    edge: Arc<Edge>,
    token: Token,
    id: ConversationId,
    changes: watch::Receiver<()>,
    shared: Arc<Look>,
    stopping: watch::Receiver<bool>,
    told: Told,
    next: VecDeque<Event>,
    /// When the rights were looked at last.
    looked: Instant,
    _seat: Seat,
}

/// What was told last.
#[derive(Default)]
struct Told {
    making: Option<Making>,
    sending: Vec<Sending>,
    mode: Option<(Mode, i64)>,
    people: Option<TakingPart>,
}

impl Listener {
    /// The next event; none when there is no more to be told.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.next.pop_front() {
                return Some(event);
            }
            let soonest = Instant::now() + PAUSE;
            let (changes, stopping) = (&mut self.changes, &mut self.stopping);
            tokio::select! {
                changed = changes.changed() => changed.ok()?,
                _ = stopping.wait_for(|stopping| *stopping) => return None,
                () = sleep_until(self.looked + LOOK) => {}
            }
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return None,
                () = sleep_until(soonest) => {}
            }
            if self.looked.elapsed() >= LOOK {
                self.looked = Instant::now();
                if !self.may_listen().await {
                    return None;
                }
            }
            let mut stopping = self.stopping.clone();
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return None,
                // Where the database fails, whoever listens comes again.
                looked = self.look() => looked.ok()?,
            }
        }
    }

    /// Whether the caller may still hear it. What cannot be found out is a no.
    async fn may_listen(&self) -> bool {
        let Ok(Caller(caller)) = self.token.caller(&self.edge).await else { return false };
        let takes_part = self.edge.engine.store().may_see(&self.id, &caller.id).await;
        caller.role.is_staff() && takes_part.unwrap_or(false)
    }

    /// Looks how it stands, and puts down what is to be told.
    async fn look(&mut self) -> Result<(), Refused> {
        self.changes.mark_unchanged();
        let (store, id) = (self.edge.engine.store(), &self.id);
        let look = || async move {
            let making = store.making(id).await?.ok_or(Refused::NotFound)?;
            let mode = store.conversation(id).await?.ok_or(Refused::NotFound)?.mode;
            let switching = store.not_set(id).await?;
            let people = store.taking_part(id).await?;
            Ok(Standing { making, sending: store.sending(id).await?, mode, switching, people })
        };
        let standing = self.shared.since(Instant::now(), look).await?;
        self.next.extend(self.told.news(standing)?);
        Ok(())
    }
}

impl Told {
    /// What is new about how it stands.
    fn news(&mut self, standing: Standing) -> Result<Vec<Event>, Refused> {
        let Standing { making, sending: under_way, mode, switching, people } = standing;
        let mut news = Vec::new();
        if self.making != Some(making) {
            news.push(event("progress", &Progress::from(making))?);
            self.making = Some(making);
        }
        if self.mode != Some((mode, switching)) {
            news.push(event("mode", &ModeNow { mode, switching })?);
            self.mode = Some((mode, switching));
        }
        if self.people.as_ref() != Some(&people) {
            news.push(event("people", &PeopleNow::from(&people))?);
            self.people = Some(people);
        }
        // Oldest first, as they were written.
        for message in under_way.iter().rev().filter(|message| !self.sending.contains(message)) {
            news.push(event("sending", &SendingNow::from(message))?);
        }
        self.sending = under_way;
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_so_many_streams_and_no_more_until_one_is_closed() {
        let streams = Streams::default();
        let [ann, ben] = [1, 2].map(|n| PersonId::from_bytes([n; 16]));
        let mut seats: Vec<_> =
            (0..MOST_OF_A_PERSON).map(|_| streams.open(&ann).unwrap_or_else(|_| panic!("a seat"))).collect();
        assert!(streams.open(&ann).is_err(), "one too many");
        let other = streams.open(&ben).unwrap_or_else(|_| panic!("a seat of another's"));
        seats.pop();
        seats.push(streams.open(&ann).unwrap_or_else(|_| panic!("a seat that is free")));
        drop((seats, other));
        assert!(streams.counts().is_empty());
    }

    #[tokio::test]
    async fn those_who_look_at_the_same_time_look_once() {
        let (streams, looks) = (Streams::default(), std::cell::Cell::new(0));
        let [one, other] = [1, 2].map(|n| ConversationId::from_bytes([n; 16]));
        let [here, too, there] = [&one, &one, &other].map(|id| streams.look_at(id));
        assert!(Arc::ptr_eq(&here, &too) && !Arc::ptr_eq(&here, &there));
        let look = || async {
            looks.set(looks.get() + 1);
            tokio::task::yield_now().await;
            let making = Making { made: looks.get(), of: 9, ready: false };
            let people = TakingPart::default();
            Ok(Standing { making, sending: Vec::new(), mode: Mode::TwoWay, switching: 0, people })
        };
        let asked = Instant::now();
        let all = futures_util::future::join_all((0..50).map(|_| here.since(asked, look))).await;
        assert!(all.into_iter().all(|standing| standing.is_ok_and(|standing| standing.making.made == 1)));
        assert_eq!(looks.get(), 1);
        // Whoever asks later hears how it stands later.
        let later = too.since(Instant::now(), look).await;
        assert!(later.is_ok_and(|standing| standing.making.made == 2));
        drop((here, too));
        streams.look_at(&other);
        streams.look_at(&ConversationId::from_bytes([3; 16]));
        assert_eq!(streams.looks.lock().expect("no panic").len(), 2, "nobody looks at the first any more");
    }

    #[test]
    fn only_what_is_new_is_told() {
        let mut told = Told::default();
        let making = |made| Making { made, of: 3, ready: made == 3 };
        let message = |n: u8, sent| Sending {
            message: MessageId::from_bytes([n; 16]),
            event_id: ruma::EventId::parse(format!("$e{n}:x")).expect("an id"),
            sent,
            held: 0,
            waiting: 2 - sent,
            failed: 0,
            of: 2,
            read: 0,
            deleted: false,
        };
        let read = |message: Sending| Sending { read: 1, ..message };
        let two_way = (Mode::TwoWay, 0);
        for (name, made, (mode, switching), count, sending, news) in [
            ("how it stands", 0, two_way, 1, vec![message(1, 0)], 4),
            ("nothing new", 0, two_way, 1, vec![message(1, 0)], 0),
            ("a room", 1, two_way, 1, vec![message(1, 0)], 1),
            ("a leg, and another message", 1, two_way, 1, vec![message(2, 0), message(1, 1)], 2),
            ("one that is done is told of no more", 1, two_way, 1, vec![message(2, 0)], 0),
            ("one was read", 1, two_way, 1, vec![read(message(2, 0))], 1),
            ("it is switched", 1, (Mode::OneWay, 3), 1, vec![read(message(2, 0))], 1),
            ("in all rooms", 1, (Mode::OneWay, 0), 1, vec![read(message(2, 0))], 1),
            ("somebody comes", 1, (Mode::OneWay, 0), 2, vec![read(message(2, 0))], 1),
        ] {
            let user_ids = ["@ann:x", "@ben:x"].map(|id| ruma::UserId::parse(id).expect("an id"));
            let people = TakingPart { patients: user_ids[..count].to_vec(), ..TakingPart::default() };
            let standing = Standing { making: making(made), sending, mode, switching, people };
            assert_eq!(told.news(standing).map(|events| events.len()).ok(), Some(news), "{name}");
        }
    }
}
