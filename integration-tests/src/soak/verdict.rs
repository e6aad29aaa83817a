//! The judgement: what was accepted, against what clients read that have seen nothing of the run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use parlour::demo::client::{Client, Message, Reading};
use reqwest::Method;
use ruma::{EventId, OwnedRoomId, RoomId};
use serde_json::Value;

use super::{
    model::{Fate, Model, Sent, number},
    plan::{PEOPLE, TALKS},
};
use crate::room_path;

/// What was found in one conversation.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Accepted messages.
    pub accepted: usize,
    /// Ways that they had to go.
    pub legs: usize,
    /// Accepted messages that do not stand where they must, once for each such room.
    pub lost: usize,
    /// How many of them were edits.
    pub edits_lost: usize,
    /// How many of them were reactions.
    pub reactions_lost: usize,
    /// Repetitions.
    pub doubled: usize,
    /// Messages that stand behind a later one: one of the same sender, or one whose sending began after theirs had ended.
    pub out_of_order: usize,
    /// Messages that stand behind a later one of another sender, both having been sent at the same time. Which of the two
    /// is the earlier, not even the homeserver says always the same: by its stream, or by the depth of the events.
    pub overtaken: usize,
    /// Accepted messages of which the bot said that they were not delivered.
    pub refused: usize,
    /// Messages in rooms where they have no business.
    pub strayed: usize,
    /// Encrypted events that nothing explains.
    pub extra: usize,
    /// What each of these was, in words.
    pub details: Vec<String>,
}

impl Findings {
    /// Whether a message was lost, doubled or out of order.
    pub fn is_broken(&self) -> bool {
        self.lost + self.doubled + self.out_of_order > 0
    }

    /// Whether all is as it must be.
    pub fn is_clean(&self) -> bool {
        !self.is_broken() && self.refused + self.strayed + self.extra == 0
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.accepted += other.accepted;
        self.legs += other.legs;
        self.lost += other.lost;
        self.edits_lost += other.edits_lost;
        self.reactions_lost += other.reactions_lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.overtaken += other.overtaken;
        self.refused += other.refused;
        self.strayed += other.strayed;
        self.extra += other.extra;
        self.details.extend(other.details.iter().cloned());
        self
    }
}

/// How long a client that was away may take to read everything.
const READING: Duration = Duration::from_secs(60);
const EVERYTHING: usize = 100_000;

/// A room as one reader has it.
struct View {
    messages: Vec<Message>,
    /// Where each message stands first.
    first: HashMap<usize, usize>,
    /// How often it stands there.
    count: BTreeMap<usize, usize>,
}

impl View {
    async fn of(reader: &Client, room: &RoomId) -> Self {
        reader.wait_for_room(READING, |found| found.room_id == room).await.expect("the reader's room");
        reader.history(room, EVERYTHING).await.expect("a room's history");
        let legible =
            |seen: &[Message]| seen.iter().all(|m| !matches!(m.reading, Reading::Undecryptable { .. }));
        let read = reader.wait_until(room, READING, |seen| legible(seen).then(|| seen.to_vec())).await;
        let messages = match read {
            Ok(messages) => messages,
            Err(_) => reader.messages(room).await.expect("a room's messages"),
        };
        let (mut first, mut count) = (HashMap::new(), BTreeMap::new());
        for (place, message) in messages.iter().enumerate() {
            if let Some(number) = number(&message.body) {
                first.entry(number).or_insert(place);
                *count.entry(number).or_default() += 1;
            }
        }
        Self { messages, first, count }
    }
}

/// What is counted once, however many readers see it.
#[derive(Default)]
struct Seen {
    lost: BTreeSet<(OwnedRoomId, usize)>,
    doubled: BTreeMap<(OwnedRoomId, usize), usize>,
    out_of_order: BTreeMap<(OwnedRoomId, usize), bool>,
    strayed: BTreeSet<(OwnedRoomId, usize)>,
}

/// How often the bot has said of the conversation itself that something changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// In each room.
    pub everywhere: usize,
    /// In the hub besides.
    pub in_hub: usize,
    /// In the spoke of the last of its patients besides.
    pub in_last: usize,
}

/// Judges one conversation. `readers` are clients of all people, in their order, that have not
/// looked on.
pub async fn judge(model: &Model, talk: usize, readers: &[Client], bot: Told) -> Findings {
    let all = model.messages();
    let rooms = &model.talks[talk];
    let cast = &TALKS[talk];
    let reader = |name: &str| &readers[PEOPLE.iter().position(|person| *person == name).unwrap_or(0)];
    let mut views = BTreeMap::new();
    let mut in_hub = Vec::new();
    for name in cast.staff {
        in_hub.push(View::of(reader(name), &rooms.hub).await);
    }
    views.insert(rooms.hub.clone(), in_hub);
    for (name, spoke) in cast.patients.iter().zip(&rooms.spokes) {
        views.insert(spoke.clone(), vec![View::of(reader(name), spoke).await]);
    }
    // What nobody knows of was accepted if it stands in its own room.
    let stands =
        |number: usize, room: &OwnedRoomId| views[room].iter().any(|view| view.count.contains_key(&number));
    let accepted: BTreeMap<usize, &Sent> = all
        .iter()
        .enumerate()
        .filter(|(number, sent)| {
            sent.talk == talk
                && match sent.fate {
                    Fate::Accepted(_) => true,
                    Fate::Unknown | Fate::Sending => stands(*number, &sent.from),
                    Fate::Forbidden => false,
                }
        })
        .collect();
    let (told, lanes) = notices(&views, &accepted);
    let mut seen = Seen::default();
    for (room, views) in &views {
        for view in views {
            check_presence(room, view, &accepted, &mut seen);
        }
    }
    seen.lost.retain(|(_, number)| !told.contains_key(number));
    let hub = &views[&rooms.hub];
    for spoke in &rooms.spokes {
        check_order(spoke, &hub[0], &views[spoke][0], &rooms.hub, &accepted, &mut seen);
        for view in hub {
            check_order(&rooms.hub, &views[spoke][0], view, spoke, &accepted, &mut seen);
        }
    }
    let reactions = check_reactions(model, &views, &accepted, cast.staff[0], reader).await;
    let mut findings = Findings {
        accepted: accepted.len(),
        legs: accepted.values().map(|sent| sent.targets.len()).sum(),
        lost: seen.lost.len() + reactions.lost,
        edits_lost: seen.lost.iter().filter(|(_, number)| accepted[number].edits.is_some()).count(),
        reactions_lost: reactions.lost,
        doubled: seen.doubled.values().sum::<usize>() + reactions.doubled,
        details: reactions.details,
        out_of_order: seen.out_of_order.values().filter(|at_once| !**at_once).count(),
        overtaken: seen.out_of_order.values().filter(|at_once| **at_once).count(),
        refused: told.len(),
        strayed: seen.strayed.len(),
        ..Findings::default()
    };
    for (room, views) in &views {
        let of_room =
            |sent: &&&Sent| sent.from == *room || sent.targets.contains(room) || sent.perhaps.contains(room);
        let owed = accepted.values().filter(of_room).count();
        let mut switches = bot.everywhere;
        if *room == rooms.hub {
            switches += bot.in_hub;
        } else if rooms.spokes.last() == Some(room) {
            switches += bot.in_last;
        }
        let notices = if *room == rooms.hub { lanes } else { 0 };
        let told = told.values().filter(|(where_to, _)| where_to == room).count();
        let name = if *room == rooms.hub { "hub" } else { "spoke" };
        let owner =
            reader(if *room == rooms.hub { cast.staff[0] } else { patient_of(cast.patients, rooms, room) });
        let there = encrypted_events(owner, room).await;
        let explained = owed + notices + told + switches;
        if there > explained {
            findings.extra += there - explained;
            findings.details.push(format!("{}: {there} encrypted events in the {name} {room}, {owed} messages, {notices} + {told} + {switches} notices", cast.name));
        }
        for view in views {
            let unread = view.messages.iter().filter(|m| matches!(m.reading, Reading::Undecryptable { .. }));
            for message in unread {
                findings.details.push(format!(
                    "{}: {} in {room} cannot be read: {:?}",
                    cast.name, message.event_id, message.reading
                ));
            }
        }
    }
    let say = |what: &str, room: &OwnedRoomId, number: usize| {
        let sent = accepted.get(&number);
        let by = sent.map_or("?", |sent| PEOPLE[sent.author]);
        let fate = sent.map(|sent| &sent.fate);
        let to = if *room == rooms.hub {
            "the hub".to_owned()
        } else {
            format!("{}'s spoke", patient_of(cast.patients, rooms, room))
        };
        format!("{}: #{number} of {by} ({fate:?}) {what} in {to} {room}", cast.name)
    };
    findings.details.extend(seen.lost.iter().map(|(room, number)| say("is lost", room, *number)));
    findings.details.extend(
        seen.doubled
            .iter()
            .map(|((room, number), more)| say(&format!("stands {} times", more + 1), room, *number)),
    );
    let out_of_order = seen.out_of_order.iter().filter(|(_, at_once)| !**at_once);
    findings.details.extend(out_of_order.map(|((room, number), _)| say("is out of order", room, *number)));
    findings.details.extend(seen.strayed.iter().map(|(room, number)| say("has no business", room, *number)));
    findings.details.extend(
        told.iter().map(|(number, (room, words))| say(&format!("was refused ({words})"), room, *number)),
    );
    findings
}

fn patient_of<'a>(patients: &[&'a str], rooms: &super::model::Rooms, room: &OwnedRoomId) -> &'a str {
    rooms.spokes.iter().position(|spoke| spoke == room).map_or("", |place| patients[place])
}

/// The bot's words: messages of which it says that they were not delivered, with where and how; and how often it has
/// to explain lanes: once, if a reply went to one patient of several.
fn notices(
    views: &BTreeMap<OwnedRoomId, Vec<View>>,
    accepted: &BTreeMap<usize, &Sent>,
) -> (BTreeMap<usize, (OwnedRoomId, String)>, usize) {
    let by_event: HashMap<_, _> = accepted
        .iter()
        .filter_map(|(number, sent)| match &sent.fate {
            Fate::Accepted(event_id) => Some((event_id, *number)),
            Fate::Sending | Fate::Unknown | Fate::Forbidden => None,
        })
        .collect();
    let mut told = BTreeMap::new();
    for (room, views) in views {
        for message in views.iter().flat_map(|view| &view.messages) {
            if message.msgtype == "m.notice"
                && message.body.starts_with("Not delivered")
                && let Some(number) = message.in_reply_to.as_ref().and_then(|event_id| by_event.get(event_id))
            {
                told.insert(*number, (room.clone(), message.body.clone()));
            }
        }
    }
    let narrowed = |sent: &Sent| {
        views.len() > 2 && views[&sent.from].len() > 1 && sent.targets.len() == 1 && sent.edits.is_none()
    };
    let lanes = usize::from(accepted.values().copied().any(narrowed));
    (told, lanes)
}

/// Each accepted message stands once where it was written and once in each target, and nowhere else.
fn check_presence(room: &OwnedRoomId, view: &View, accepted: &BTreeMap<usize, &Sent>, seen: &mut Seen) {
    for (number, sent) in accepted {
        let owed = !sent.deleted && (sent.from == *room || sent.targets.contains(room));
        let there = view.count.get(number).copied().unwrap_or(0);
        let key = (room.clone(), *number);
        match (owed, there) {
            (true, 0) => drop(seen.lost.insert(key)),
            (true, 1) | (false, 0) => {}
            (false, 1) if !sent.deleted && sent.perhaps.contains(room) => {}
            (true, _) => {
                let most = seen.doubled.entry(key).or_default();
                *most = (*most).max(there - 1);
            }
            (false, _) => drop(seen.strayed.insert(key)),
        }
    }
    for number in view.count.keys().filter(|number| !accepted.contains_key(number)) {
        seen.strayed.insert((room.clone(), *number));
    }
}

/// What went from one room into another stands there in the same order. For what stands behind a later one: whether the
/// two were only sent at the same time by different people.
fn check_order(
    room: &OwnedRoomId,
    source: &View,
    target: &View,
    from: &OwnedRoomId,
    accepted: &BTreeMap<usize, &Sent>,
    seen: &mut Seen,
) {
    let mut arrived: Vec<_> = target
        .first
        .iter()
        .filter_map(|(number, place)| {
            let sent = accepted.get(number).filter(|sent| sent.from == *from)?;
            Some((*place, *source.first.get(number)?, *number, *sent))
        })
        .collect();
    arrived.sort_unstable_by_key(|(place, ..)| *place);
    for (at, (_, place, number, sent)) in arrived.iter().enumerate() {
        let before = arrived[..at].iter().filter(|(_, other, ..)| other > place);
        let ended = sent.accepted_at;
        let at_once = before.map(|(.., other)| {
            other.author != sent.author && ended.is_none_or(|ended| other.begun_at < ended)
        });
        if let Some(at_once) = at_once.reduce(|a, b| a && b) {
            *seen.out_of_order.entry((room.clone(), *number)).or_insert(true) &= at_once;
        }
    }
}

/// What became of the reactions of one conversation: each stands once in each room where it must, under its message.
async fn check_reactions<'a>(
    model: &Model,
    views: &BTreeMap<OwnedRoomId, Vec<View>>,
    accepted: &BTreeMap<usize, &Sent>,
    owner: &str,
    reader: impl Fn(&str) -> &'a Client,
) -> Findings {
    let mut findings = Findings::default();
    // How many there must be, and how many there may be more.
    let mut wanted: BTreeMap<(&OwnedRoomId, usize), (usize, usize)> = BTreeMap::new();
    let all = model.reactions();
    for reacted in all.iter().filter(|reacted| accepted.contains_key(&reacted.to)) {
        for target in &reacted.targets {
            wanted.entry((target, reacted.to)).or_default().0 += 1;
        }
        for target in &reacted.perhaps {
            wanted.entry((target, reacted.to)).or_default().1 += 1;
        }
    }
    for ((room, number), (wanted, perhaps)) in wanted {
        let Some(view) = views.get(room).and_then(|views| views.first()) else { continue };
        let message = view.first.get(&number).map(|place| &view.messages[*place]);
        let Some(message) = message else { continue };
        // Everybody may look into the hub by the client of whoever owns it.
        let rooms = model.talks.iter().find(|rooms| rooms.hub == *room || rooms.spokes.contains(room));
        let (talk, spoke) = rooms.map_or((0, None), |rooms| {
            let talk = model.talks.iter().position(|other| other.id == rooms.id).unwrap_or(0);
            (talk, rooms.spokes.iter().position(|spoke| spoke == room))
        });
        let client = reader(spoke.map_or(owner, |spoke| TALKS[talk].patients[spoke]));
        let there = ours_under(client, room, &message.event_id).await;
        findings.lost += wanted.saturating_sub(there);
        findings.doubled += there.saturating_sub(wanted + perhaps);
        if !(wanted..=wanted + perhaps).contains(&there) {
            findings.details.push(format!("#{number} in {room}: {there} reactions instead of {wanted}"));
        }
    }
    findings
}

/// How many reactions of Parlour's users stand under an event, by the homeserver.
async fn ours_under(client: &Client, room: &RoomId, event: &EventId) -> usize {
    let path = room_path(room, &format!("relations/{event}/m.annotation?limit=100"));
    let path = path.replacen("/v3/", "/v1/", 1);
    let (status, page) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    assert_eq!(status, 200, "{page}");
    let events = page["chunk"].as_array().map_or(&[][..], Vec::as_slice);
    let is_ours =
        |event: &&Value| event["sender"].as_str().is_some_and(|sender| sender.starts_with("@_parlour_"));
    events.iter().filter(is_ours).count()
}

/// How many encrypted events stand in a room, by the homeserver.
async fn encrypted_events(reader: &Client, room: &RoomId) -> usize {
    let (mut from, mut count) = (String::new(), 0);
    loop {
        let path = room_path(room, &format!("messages?dir=b&limit=500{from}"));
        let (status, page) = reader.http().call(Method::GET, &path, None).await.expect("an answer");
        assert_eq!(status, 200, "{page}");
        let events = page["chunk"].as_array().map_or(&[][..], Vec::as_slice);
        count += events.iter().filter(|event| event["type"] == "m.room.encrypted").count();
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => return count,
        }
    }
}
