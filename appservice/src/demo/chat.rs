//! A small line client: what one person sees of a conversation, with lane and shield, and what they type.

use std::{collections::BTreeMap, io::Write, pin::pin, time::Duration};

use matrix_sdk::deserialized_responses::RawAnySyncOrStrippedState;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, UserId, events::StateEventType,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _},
    signal::ctrl_c,
};

use super::client::{Client, ClientError, Message, Reading, RoomSummary, Shield};

/// How long a room may take to come, and one's own last line to be echoed at the end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events fetched when a room is entered, and lines shown of them.
const FETCHED: usize = 60;
const SHOWN_AT_FIRST: usize = 20;
/// The state event that says what a room is in Parlour.
const PORTAL: &str = "io.parlour.portal";
const HELP: &str = "/reply N text, /rooms, /room N, /quit; everything else is sent";

/// Lets one person read and write in a room (by default the first by name) until `/quit`, the input's end or
/// Ctrl-C; then the client is stopped. Times are in UTC.
///
/// # Errors
/// When there is no room, or input or output break. What goes wrong with one line is printed, and the chat
/// goes on.
pub async fn chat(
    client: Client,
    room: Option<OwnedRoomId>,
    input: impl AsyncBufRead + Unpin,
    output: impl Write,
) -> Result<(), ClientError> {
    let outcome = talk(&client, room, input, output).await;
    client.stop().await;
    outcome
}

async fn talk(
    client: &Client,
    room: Option<OwnedRoomId>,
    input: impl AsyncBufRead + Unpin,
    output: impl Write,
) -> Result<(), ClientError> {
    let wanted = |found: &RoomSummary| room.as_ref().is_none_or(|id| *id == found.room_id);
    let mut first = client.wait_for_room(PATIENCE, wanted).await?;
    if room.is_none()
        && let Some(by_name) = sorted_rooms(client).await.into_iter().next()
    {
        first = by_name;
    }
    let mut chat = Chat::new(client, first.room_id.clone(), output);
    chat.enter(first).await?;
    chat.accept_invitations().await?;
    let mut updates = client.updates();
    let mut lines = input.lines();
    let mut interrupt = pin!(ctrl_c());
    loop {
        tokio::select! {
            line = lines.next_line() => match line.map_err(ClientError::Terminal)? {
                Some(line) if line.trim() == "/quit" => break,
                Some(line) => chat.obey(line.trim()).await?,
                None => break,
            },
            changed = updates.changed() => match changed {
                Ok(()) => {
                    chat.accept_invitations().await?;
                    chat.show_news().await?;
                }
                Err(_) => break,
            },
            _ = &mut interrupt => return Ok(()),
        }
    }
    chat.last_words().await
}

/// What kind of room it is, for the lane column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hub,
    Spoke,
    Other,
}

/// A line on the screen; its number is its place.
struct Line {
    event: OwnedEventId,
    state: &'static str,
}

struct Chat<'a, O> {
    client: &'a Client,
    room: OwnedRoomId,
    kind: Kind,
    names: BTreeMap<OwnedUserId, String>,
    lines: Vec<Line>,
    last_sent: Option<OwnedEventId>,
    output: O,
}

impl<'a, O: Write> Chat<'a, O> {
    fn new(client: &'a Client, room: OwnedRoomId, output: O) -> Self {
        let (names, lines) = (BTreeMap::new(), Vec::new());
        Self { client, room, kind: Kind::Other, names, lines, last_sent: None, output }
    }

    /// Shows a room and its last messages.
    async fn enter(&mut self, room: RoomSummary) -> Result<(), ClientError> {
        self.room = room.room_id.clone();
        self.kind = kind(self.client, &room).await;
        self.names.clear();
        self.lines.clear();
        self.last_sent = None;
        self.print(&format!("--- {} ({HELP})", title(&room)))?;
        let messages = self.client.history(&self.room, FETCHED).await?;
        let skipped = messages.len().saturating_sub(SHOWN_AT_FIRST);
        for message in &messages[..skipped] {
            self.lines.push(Line { event: message.event_id.clone(), state: state(&message.reading) });
        }
        self.show(&messages).await
    }

    /// Staff who are included later are invited: this client accepts for them.
    async fn accept_invitations(&mut self) -> Result<(), ClientError> {
        match self.client.accept_all().await {
            Ok(names) => names.iter().try_for_each(|name| {
                self.print(&format!("--- You take part in \"{name}\" from now on: /rooms"))
            }),
            Err(error) => self.print(&format!("!  an invitation could not be accepted: {error}")),
        }
    }

    /// Shows what is new, and again what has become readable or was redacted.
    async fn show_news(&mut self) -> Result<(), ClientError> {
        let messages = self.client.messages(&self.room).await?;
        self.show(&messages).await
    }

    async fn show(&mut self, messages: &[Message]) -> Result<(), ClientError> {
        for message in messages {
            let now = state(&message.reading);
            let number = match self.lines.iter().position(|line| line.event == message.event_id) {
                Some(place) if self.lines[place].state == now => continue,
                Some(place) => {
                    self.lines[place].state = now;
                    place + 1
                }
                None => {
                    self.lines.push(Line { event: message.event_id.clone(), state: now });
                    self.lines.len()
                }
            };
            let name = self.name(&message.sender).await;
            let lane = self.lane(message, messages).await;
            let text = match (&message.reading, message.content["filename"].as_str()) {
                (Reading::Undecryptable { why }, _) => why.clone(),
                (_, Some(file)) if file != message.body => format!("[{file}] {}", message.body),
                (_, Some(file)) => format!("[{file}]"),
                (_, None) => message.body.clone(),
            };
            let time = clock(message.sent_at);
            self.print(&format!("{number:>3}  {time}  {name}{lane}  {now}   {}", clean(&text)))?;
        }
        Ok(())
    }

    /// Does what a line says: a command, or text to send.
    async fn obey(&mut self, line: &str) -> Result<(), ClientError> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let outcome = match command {
            "" => Ok(()),
            "/rooms" => return self.list_rooms().await,
            "/room" => return self.change_room(rest).await,
            "/reply" => self.reply(rest).await,
            _ if command.starts_with('/') => Err(format!("there is no {command}: {HELP}")),
            _ => self.sent(self.client.send_text(&self.room, line).await),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => self.print(&format!("!  {}", clean(&error))),
        }
    }

    async fn reply(&mut self, rest: &str) -> Result<(), String> {
        let (number, text) = rest.split_once(' ').ok_or("/reply needs a number and a text")?;
        let target = place(number).and_then(|place| self.lines.get(place));
        let target = target.ok_or_else(|| format!("there is no message {number}"))?;
        self.sent(self.client.reply(&self.room, &target.event, text.trim()).await)
    }

    fn sent(&mut self, outcome: Result<OwnedEventId, ClientError>) -> Result<(), String> {
        self.last_sent = Some(outcome.map_err(|error| format!("not sent: {error}"))?);
        Ok(())
    }

    async fn list_rooms(&mut self) -> Result<(), ClientError> {
        for (place, room) in sorted_rooms(self.client).await.iter().enumerate() {
            let here = if room.room_id == self.room { "*" } else { " " };
            self.print(&format!("{:>3}{here} {}", place + 1, title(room)))?;
        }
        Ok(())
    }

    async fn change_room(&mut self, number: &str) -> Result<(), ClientError> {
        let mut rooms = sorted_rooms(self.client).await;
        match place(number).filter(|place| *place < rooms.len()) {
            Some(place) => self.enter(rooms.swap_remove(place)).await,
            None => self.print(&format!("!  there is no room {number}: /rooms shows them")),
        }
    }

    /// At the end of the input: one's own last line is shown too, once the homeserver has it.
    async fn last_words(&mut self) -> Result<(), ClientError> {
        if let Some(last) = self.last_sent.take() {
            self.client.wait_for(&self.room, PATIENCE, |message| message.event_id == last).await?;
            self.show_news().await?;
        }
        Ok(())
    }

    /// Whom a message reaches, as far as this room tells: in a hub, an answer to one patient stays with that
    /// patient, and so does what answers that answer.
    async fn lane(&mut self, message: &Message, all: &[Message]) -> String {
        let target = match self.kind {
            Kind::Other => return String::new(),
            Kind::Spoke if message.sender == self.client.user_id() => "practice".to_owned(),
            Kind::Spoke => "you".to_owned(),
            Kind::Hub if is_ours(&message.sender) => "staff".to_owned(),
            Kind::Hub => match patient_answered(message, all) {
                Some(patient) => format!("{} only", self.name(&patient).await),
                None => "everyone".to_owned(),
            },
        };
        format!(" → {target}")
    }

    async fn name(&mut self, user: &UserId) -> String {
        if let Some(name) = self.names.get(user) {
            return name.clone();
        }
        let name = clean(&self.client.display_name(&self.room, user).await);
        self.names.insert(user.to_owned(), name.clone());
        name
    }

    fn print(&mut self, line: &str) -> Result<(), ClientError> {
        writeln!(self.output, "{line}").and_then(|()| self.output.flush()).map_err(ClientError::Terminal)
    }
}

/// Whether a user is a ghost of the bridge, or its bot.
fn is_ours(user: &UserId) -> bool {
    user.localpart().starts_with("_parlour_")
}

/// What a message answers, or says other words for.
fn about(message: &Message) -> Option<&OwnedEventId> {
    message.in_reply_to.as_ref().or(message.replaces.as_ref())
}

/// The patient's ghost at the end of a chain of answers.
fn patient_answered(message: &Message, all: &[Message]) -> Option<OwnedUserId> {
    let mut answered = about(message)?;
    // A chain is never longer than the messages that there are.
    for _ in all {
        let other = all.iter().find(|other| other.event_id == *answered)?;
        if is_ours(&other.sender) {
            return Some(other.sender.clone());
        }
        answered = about(other)?;
    }
    None
}

async fn sorted_rooms(client: &Client) -> Vec<RoomSummary> {
    let mut rooms = client.rooms().await;
    rooms.sort_by(|a, b| (&a.name, &a.room_id).cmp(&(&b.name, &b.room_id)));
    rooms
}

async fn kind(client: &Client, room: &RoomSummary) -> Kind {
    let Some(room) = client.matrix().get_room(&room.room_id) else { return Kind::Other };
    let content = match room.get_state_event(StateEventType::from(PORTAL), "").await {
        Ok(Some(RawAnySyncOrStrippedState::Sync(event))) => event.get_field::<Value>("content"),
        _ => return Kind::Other,
    };
    match content.ok().flatten().unwrap_or_default()["kind"].as_str() {
        Some("hub") => Kind::Hub,
        Some("spoke") => Kind::Spoke,
        _ => Kind::Other,
    }
}

fn title(room: &RoomSummary) -> String {
    let name = room.name.as_deref().unwrap_or(room.room_id.as_str());
    let topic = room.topic.as_ref().map(|topic| format!(": {topic}")).unwrap_or_default();
    clean(&format!("{name}{topic}"))
}

/// How a message stands, in a word or two; a line is shown again when this changes.
fn state(reading: &Reading) -> &'static str {
    match reading {
        Reading::Readable { lax: Shield::None, .. } => "✓ no shield",
        Reading::Readable { lax: Shield::Grey(_), .. } => "! grey shield",
        Reading::Readable { lax: Shield::Red(_), .. } => "✗ red shield",
        Reading::Undecryptable { .. } => "✗ cannot be read",
        Reading::Redacted => "- deleted",
        Reading::Plain => "✗ not encrypted",
    }
}

fn place(number: &str) -> Option<usize> {
    number.trim().parse::<usize>().ok()?.checked_sub(1)
}

/// Hours and minutes, UTC.
fn clock(at: MilliSecondsSinceUnixEpoch) -> String {
    let minutes = u64::from(at.get()) / 60_000;
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

/// Text of others for one line of a terminal: no control characters, so no escape sequences either.
fn clean(text: &str) -> String {
    let visible = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.trim().chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use ruma::{EventId, MilliSecondsSinceUnixEpoch, OwnedUserId, uint};
    use serde_json::Value;

    use super::{Message, Reading, clean, clock, patient_answered, place};

    fn message(id: &str, sender: &str, answers: Option<&str>, replaces: Option<&str>) -> Message {
        let event_id = |id: &str| EventId::parse(id).expect("an event id");
        Message {
            event_id: event_id(id),
            sender: OwnedUserId::try_from(sender).expect("a user id"),
            sent_at: MilliSecondsSinceUnixEpoch(uint!(0)),
            kind: "m.room.message".to_owned(),
            msgtype: "m.text".to_owned(),
            body: String::new(),
            in_reply_to: answers.map(event_id),
            replaces: replaces.map(event_id),
            content: Value::Null,
            reading: Reading::Plain,
        }
    }

    #[test]
    fn what_answers_a_patient_and_what_changes_that_stay_with_them() {
        let (staff, ann) = ("@murphy:x", "@_parlour_ann:x");
        let all = [
            message("$asked", ann, None, None),
            message("$answer", staff, Some("$asked"), None),
            message("$changed", staff, None, Some("$answer")),
            message("$to_all", staff, None, None),
            message("$to_all_changed", staff, None, Some("$to_all")),
        ];
        let answered = all.iter().map(|message| patient_answered(message, &all).is_some());
        assert_eq!(answered.collect::<Vec<_>>(), [false, true, true, false, false]);
    }

    #[test]
    fn lines_are_safe_and_short() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\n"), "a [2Jb c");
        assert_eq!(clock(MilliSecondsSinceUnixEpoch(uint!(50_580_000))), "14:03");
        assert_eq!((place("1"), place("0"), place("x")), (Some(0), None, None));
    }
}
