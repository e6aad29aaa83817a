//! Group privacy (S17), as a property: whatever happens in a group, nothing of another patient's reaches a patient, neither in words
//! nor in what they can fetch, nor by what happens to them at all. Random groups and actions; everything that reached the watched
//! patient is searched for everything of the others, and the same case happens again without one of them: what the watched patient
//! has seen must be the same.

mod person;
mod phones;
mod plan;
mod view;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use parlour_domain::{Clock as _, LEG_FIELD, Timestamp};
use reqwest::Method;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::{
    plan::{Act, File, OWNER, REACTION, STAFF, is_staff},
    view::{Names, asks_for_everything, asks_for_the_view, leaks, view},
};
pub use self::{
    plan::{Kind, Plan},
    view::Leak,
    world::World,
};
use crate::{LIMIT, pictures::jpeg};

/// How often it is looked whether something has come.
const LOOK: std::time::Duration = std::time::Duration::from_millis(5);

/// No case has more steps, and one more than the last is when it is looked at.
const LAST_STEP: usize = 20;

/// What a case came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What reached the watched patient and must not have.
    pub leaks: Vec<Leak>,
    /// What the watched patient has seen.
    pub view: Vec<String>,
}

/// A group in a world.
struct Group<'a> {
    world: &'a mut World,
    plan: &'a Plan,
    ghosts: Vec<Option<String>>,
    /// When it began, where time is told in steps.
    begun: Option<Timestamp>,
    conversation: String,
    hub: OwnedRoomId,
    spokes: BTreeMap<usize, OwnedRoomId>,
    /// Where the file of each step is.
    files: BTreeMap<usize, String>,
}

/// Has everybody write once, so that each has a ghost.
///
/// # Panics
/// When something does not come about.
pub async fn warm_up(world: &mut World) {
    let plan = Plan::everybody_writes();
    run(world, &plan, false).await;
}

/// Lets a case happen in a world, and looks at what reached the watched patient. Where it is
/// searched, the watched patient asks for all that there is to be asked for.
///
/// # Panics
/// When what must arrive does not.
pub async fn run(world: &mut World, plan: &Plan, is_searched: bool) -> Outcome {
    for person in &mut world.people {
        // What is left of the case before.
        person.receive().await;
        person.got.clear();
        person.timelines.clear();
    }
    world.pushed(plan.watched);
    let mut group = Group::begin(world, plan).await;
    for (number, step) in &plan.steps {
        group.is_at(*number + 1);
        group.happens(*number, step).await;
    }
    group.has_arrived().await;
    group.is_at(LAST_STEP);
    let outcome = group.looked_at(is_searched).await;
    for (_, step) in plan.steps.iter().filter(|(_, step)| matches!(step.act, Act::Renames(_))) {
        world.has_its_own_name(step.by).await;
    }
    outcome
}

/// Words to somebody, as clients write a mention: plain, formatted, and by account, of whom has one.
fn mention((ghost, name): (Option<&str>, &str), words: &str) -> Vec<(&'static str, Value)> {
    let to = ghost.map(|ghost| format!(" href=\"https://matrix.to/#/{ghost}\"")).unwrap_or_default();
    vec![
        ("body", format!("{name}: {words}").into()),
        ("format", "org.matrix.custom.html".into()),
        ("formatted_body", format!("<a{to}>{name}</a>: {words}").into()),
        ("m.mentions", json!({ "user_ids": ghost.into_iter().collect::<Vec<_>>() })),
    ]
}

/// By what an event could be told from others: its encryption session, and the leg that it is.
fn marks(seen: &view::Seen) -> Vec<String> {
    let contents = [Some(&seen.event["content"]), seen.plain.as_ref().map(|(_, content)| content)];
    let fields = contents.into_iter().flatten().filter_map(Value::as_object).flatten();
    let marks = fields.filter(|(field, _)| ["session_id", LEG_FIELD].contains(&field.as_str()));
    marks.filter_map(|(_, value)| Some(value.as_str()?.to_owned())).collect()
}

fn room_of(value: &Value) -> Option<OwnedRoomId> {
    RoomId::parse(value.as_str()?).ok()
}

impl<'a> Group<'a> {
    async fn begin(world: &'a mut World, plan: &'a Plan) -> Self {
        let id = |place: usize| world.facts[place].user_id.clone();
        let wanted = json!({
            "name": plan.name, "mode": "two-way", "staff": (1..STAFF).map(id).collect::<Vec<_>>(),
            "patients": plan.first.iter().map(|place| id(*place)).collect::<Vec<_>>(),
        });
        let (status, told) =
            world.people[OWNER].ask_practice(Method::POST, "/conversations", Some(&wanted)).await;
        assert!([201, 202].contains(&status), "{told}");
        let conversation = told["id"].as_str().expect("an id").to_owned();
        let hub = RoomId::parse("!none").expect("an id");
        let begun = world.clock.as_ref().map(|clock| clock.now());
        let ghosts = world.ghosts().await;
        let (spokes, files) = (BTreeMap::new(), BTreeMap::new());
        let mut group = Self { world, plan, ghosts, begun, conversation, hub, spokes, files };
        group.world.settles(None).await;
        group.finds_rooms().await;
        group.world.people[plan.watched].receive().await;
        group
    }

    fn is_at(&self, step: usize) {
        if let Some(begun) = self.begun {
            self.world.is_at(begun, step);
        }
    }

    async fn finds_rooms(&mut self) {
        let path = format!("/conversations/{}", self.conversation);
        let told = self.world.people[OWNER].ask_practice(Method::GET, &path, None).await.1;
        self.hub = room_of(&told["hub_room_id"]).expect("a hub");
        for entry in told["patients"].as_array().expect("patients") {
            let place = self.world.facts.iter().position(|facts| entry["user_id"] == facts.user_id.as_str());
            if let (Some(place), Some(room)) = (place, room_of(&entry["room_id"])) {
                self.spokes.insert(place, room);
            }
        }
    }

    /// What was said and is still there has reached everybody whom it is for.
    async fn has_arrived(&mut self) {
        for whom in (0..STAFF).chain(self.plan.patients.iter().copied()) {
            let room = self.room_of(whom);
            let messages =
                self.plan.messages().into_iter().filter(|number| self.plan.is_seen_by(*number, whom));
            let words: Vec<_> = messages.map(|number| self.plan.words(number).to_owned()).collect();
            let edits = self.plan.edits().into_iter().filter(|(_, seen_by)| seen_by.contains(&whom));
            let edits: Vec<_> = edits.map(|(words, _)| words.to_owned()).collect();
            let deadline = Instant::now() + LIMIT;
            loop {
                self.world.people[whom].receive().await;
                let missing = room.as_ref().and_then(|room| {
                    let person = &self.world.people[whom];
                    let is_missing =
                        |words: &&String| !person.timeline(room).iter().any(|seen| seen.says(words));
                    let message = words.iter().find(|words| person.event_of(room, words).is_none());
                    let missing = message.or_else(|| edits.iter().find(is_missing)).cloned();
                    missing.or_else(|| self.lacks(whom, room))
                });
                let Some(missing) = missing else { break };
                assert!(Instant::now() < deadline, "{whom} does not see {missing}: {:#?}", self.plan);
                // No event tells of what is still to come.
                sleep(LOOK).await;
            }
        }
    }

    /// Waits until the watched one's phone was told of all that the watched one sees: what was read or deleted meanwhile it is not
    /// told of.
    async fn phone_is_told(&mut self) {
        let watched = self.plan.watched;
        let deadline = Instant::now() + LIMIT;
        loop {
            let told = self.world.pushed(watched);
            let patient = &mut self.world.people[watched];
            patient.got.extend(told.into_iter().map(|told| json!({ "pushed": told })));
            let Some(room) = self.spokes.get(&watched) else { return };
            let told: BTreeSet<&str> = patient
                .got
                .iter()
                .filter_map(|got| got["pushed"]["notification"]["event_id"].as_str())
                .collect();
            let missing = view::since_they_came(patient, room).find(|seen| {
                view::is_pushed(&seen.event, patient.user_id.as_str()) && !told.contains(seen.id())
            });
            let Some(missing) = missing else { return };
            assert!(Instant::now() < deadline, "the phone is not told of {missing:?}: {:#?}", self.plan);
            // No event tells of what is still to come.
            sleep(LOOK).await;
        }
    }

    /// A reaction or a deletion that has not reached somebody whom it is for.
    fn lacks(&self, whom: usize, room: &RoomId) -> Option<String> {
        let person = &self.world.people[whom];
        let message = |number: usize| person.event_of(room, self.plan.words(number)).map(view::Seen::id);
        let reaction = self.plan.reactions_for(whom).into_iter().find(|(by, to)| {
            let own = self.world.facts[*by].user_id.to_string();
            let sender = if self.room_of(*by).as_deref() == Some(room) {
                Some(&own)
            } else {
                self.ghosts[*by].as_ref()
            };
            let is_there = |to: &str| sender.is_some_and(|sender| person.is_reacted_to(room, to, sender));
            message(*to).is_some_and(|to| !is_there(to))
        });
        let stays = |number: &usize| message(*number).is_some_and(|event| !person.is_deleted(room, event));
        let reaction = reaction.map(|(by, to)| format!("the reaction of {by} to {to}"));
        reaction.or_else(|| {
            self.plan.deleted().into_iter().find(stays).map(|number| format!("that {number} is deleted"))
        })
    }

    fn room(&self, whom: usize) -> OwnedRoomId {
        self.room_of(whom).expect("a room")
    }

    /// The room of somebody; a patient who has never taken part has none.
    fn room_of(&self, whom: usize) -> Option<OwnedRoomId> {
        if is_staff(whom) { Some(self.hub.clone()) } else { self.spokes.get(&whom).cloned() }
    }

    /// The message of a step as somebody sees it.
    fn seen(&self, number: usize, whom: usize) -> String {
        let words = self.plan.words(number);
        let found = self.world.people[whom].event_of(&self.room(whom), words);
        let found = found
            .unwrap_or_else(|| panic!("{whom} does not see the message of step {number}: {:#?}", self.plan));
        found.id().to_owned()
    }

    async fn happens(&mut self, number: usize, step: &plan::Step) {
        let by = step.by;
        self.world.people[by].receive().await;
        let event = match &step.act {
            Act::Says { words, file, answers, mentions, .. } => {
                let mut content = self.content(by, words, *answers, *mentions);
                if let Some(file) = file {
                    self.hangs_on(number, by, file, &mut content).await;
                }
                let room = self.room(by);
                // Nobody hears of it across the bridge.
                self.world.people[by].types(&room, true).await;
                let event = self.world.people[by].says(&room, &content).await;
                self.world.people[by].types(&room, false).await;
                Some(event)
            }
            Act::Edits { what, words, mentions } => {
                let event = self.seen(*what, by);
                let mut content = json!({
                    "msgtype": "m.text", "body": format!("* {words}"),
                    "m.new_content": { "msgtype": "m.text", "body": words },
                    "m.relates_to": { "rel_type": "m.replace", "event_id": event },
                });
                if let Some(mentioned) = mentions {
                    for (field, value) in mention(self.called(*mentioned), words) {
                        content["m.new_content"][field] = value.clone();
                        content[field] = value;
                    }
                }
                let room = self.room(by);
                Some(self.world.people[by].says(&room, &content).await)
            }
            Act::Reacts(to) => {
                let key = if by == self.plan.other { self.plan.reaction_of_the_other } else { REACTION };
                let relation =
                    json!({ "rel_type": "m.annotation", "event_id": self.seen(*to, by), "key": key });
                let room = self.room(by);
                Some(
                    self.world.people[by]
                        .puts(&room, "send/m.reaction", &json!({ "m.relates_to": relation }))
                        .await,
                )
            }
            Act::Deletes(what) => {
                let (event, room) = (self.seen(*what, by), self.room(by));
                Some(self.world.people[by].puts(&room, &format!("redact/{event}"), &json!({})).await)
            }
            Act::Reads(what) => {
                let event = self.seen(*what, by);
                let path = crate::room_path(&self.room(by), &format!("receipt/m.read/{event}"));
                let (status, told) = self.world.people[by].ask(Method::POST, &path, Some(&json!({}))).await;
                assert_eq!(status, 200, "{told}");
                self.world.has_read(by, &event).await;
                None
            }
            Act::Renames(name) => Some(self.renames(by, name).await),
            Act::Excludes(whom) | Act::Includes(whom) => {
                let method = if matches!(step.act, Act::Excludes(_)) { Method::DELETE } else { Method::PUT };
                let user_id = self.world.facts[*whom].user_id.clone();
                let path = format!("/conversations/{}/participants/{user_id}", self.conversation);
                let (status, told) = self.world.people[OWNER].ask_practice(method, &path, None).await;
                assert!([200, 202].contains(&status), "{told}");
                self.world.settles(None).await;
                self.finds_rooms().await;
                None
            }
        };
        self.world.settles(event.as_deref()).await;
        // Everything that ever reaches the watched one counts, also what is soon replaced.
        self.world.people[self.plan.watched].receive().await;
        self.phone_is_told().await;
    }

    /// Makes a message the caption of a file.
    async fn hangs_on(&mut self, number: usize, by: usize, file: &File, content: &mut Value) {
        let (kind, name, mimetype, bytes) = match file {
            File::Letter(within) => ("m.file", "letter.txt", "text/plain", within.as_bytes().to_vec()),
            File::Picture(behind) => ("m.image", "photo.jpg", "image/jpeg", jpeg(behind)),
        };
        let file = self.world.people[by].uploads(&bytes).await;
        let media = file["url"].as_str().and_then(|url| url.rsplit('/').next()).expect("a place");
        self.files.insert(number, media.to_owned());
        content["msgtype"] = kind.into();
        content["filename"] = name.into();
        content["info"] = json!({ "mimetype": mimetype, "size": bytes.len() });
        content["file"] = file;
    }

    /// The ghost of somebody, and what it is called.
    fn called(&self, whom: usize) -> (Option<&str>, &str) {
        (self.ghosts[whom].as_deref(), &self.world.facts[whom].name)
    }

    fn content(&self, by: usize, words: &str, answers: Option<usize>, mentions: Option<usize>) -> Value {
        let mut content = json!({ "msgtype": "m.text", "body": words, "formatted_body": words });
        for (field, value) in mentions.into_iter().flat_map(|whom| mention(self.called(whom), words)) {
            content[field] = value;
        }
        if let Some(answered) = answers {
            let (event, room) = (self.seen(answered, by), self.room(by));
            let said = self.plan.words(answered);
            let person = &self.world.people[by];
            let seen = person.event_of(&room, said).expect("it was seen");
            let sender = seen.event["sender"].as_str().unwrap_or_default();
            content["m.relates_to"] = json!({ "m.in_reply_to": { "event_id": event } });
            // As clients quoted until 2024.
            let [plain, formatted] = ["body", "formatted_body"]
                .map(|field| content[field].as_str().unwrap_or_default().to_owned());
            content["body"] = format!("> <{sender}> {said}\n\n{plain}").into();
            content["formatted_body"] = format!(
                "<mx-reply><blockquote><a href=\"https://matrix.to/#/{room}/{event}\">In reply to</a> \
                 <a href=\"https://matrix.to/#/{sender}\">{sender}</a><br>{said}</blockquote></mx-reply>{formatted}"
            )
            .into();
        }
        content["format"] = "org.matrix.custom.html".into();
        content
    }

    /// Somebody calls themselves otherwise; the event that tells their room.
    async fn renames(&mut self, by: usize, name: &str) -> String {
        let (room, person) = (self.room(by), &mut self.world.people[by]);
        let path = format!("/_matrix/client/v3/profile/{}/displayname", person.user_id);
        let (status, told) = person.ask(Method::PUT, &path, Some(&json!({ "displayname": name }))).await;
        assert_eq!(status, 200, "{told}");
        let deadline = Instant::now() + LIMIT;
        loop {
            person.receive().await;
            let told = person.timeline(&room).iter().rev().find(|seen| {
                seen.event["type"] == "m.room.member" && seen.event["content"]["displayname"] == name
            });
            if let Some(told) = told {
                return told.id().to_owned();
            }
            assert!(Instant::now() < deadline, "nobody is told of another name");
            sleep(LOOK).await;
        }
    }

    /// What reached the watched patient.
    async fn looked_at(mut self, is_searched: bool) -> Outcome {
        let ghosts = self.ghosts.clone();
        let watched = self.plan.watched;
        let others: Vec<usize> = (STAFF..self.world.people.len()).filter(|place| *place != watched).collect();
        let named = others.iter().map(|place| &self.world.facts[*place]);
        let names: Vec<_> = named
            .flat_map(|facts| {
                [facts.name.clone(), facts.own_name.clone(), facts.user_id.localpart().to_owned()]
            })
            .collect();
        let room = self.spokes[&watched].clone();
        // What has come last.
        self.world.people[watched].receive().await;
        self.phone_is_told().await;
        let patient = &mut self.world.people[watched];
        if is_searched {
            asks_for_everything(patient, &room, &self.conversation, &names).await;
        } else {
            asks_for_the_view(patient, &room, &self.conversation).await;
        }
        let portals = self.world.portals(&self.conversation).await;
        let mut secrets: Vec<(String, String)> =
            self.plan.secrets().into_iter().map(|word| ("words of another's".to_owned(), word)).collect();
        let mut add = |what: &str, secret: &str| secrets.push((what.to_owned(), secret.to_owned()));
        for place in &others {
            let facts = &self.world.facts[*place];
            add("a patient's account", facts.user_id.localpart());
            // The word of it that nobody else is called.
            add("a patient's name", facts.name.split(' ').next_back().unwrap_or_default());
            add("what a patient calls themselves", &facts.own_name);
            if let Some(number) = &facts.number {
                add("a patient's number", number);
            }
        }
        // Their own as well: it lives where they are not.
        for ghost in ghosts[STAFF..].iter().flatten() {
            add("a patient's ghost", ghost.trim_start_matches('@').split(':').next().unwrap_or_default());
        }
        for place in &others {
            if let Some(id) = self.world.known(&self.world.facts[*place].user_id.clone()).await {
                secrets.push(("a patient's id".to_owned(), id.to_string()));
            }
            let device = self.world.people[*place].device().into_iter();
            secrets.extend(device.map(|known| ("a patient's device".to_owned(), known)));
        }
        let mut add = |what: &str, secret: &str| secrets.push((what.to_owned(), secret.to_owned()));
        for (portal, other) in portals.iter().filter(|(_, other)| *other != room.as_str()) {
            add("another portal", portal);
            add("another room", other);
        }
        for (_, media) in self.files.iter().filter(|(number, _)| self.plan.is_file_of_others(**number)) {
            add("a file elsewhere", media);
        }
        let own = self.world.people[watched].timeline(&room);
        let own_marks: BTreeSet<String> = own.iter().flat_map(marks).collect();
        let own: BTreeSet<&str> = own.iter().map(view::Seen::id).collect();
        for place in (0..STAFF).chain(others.iter().copied()) {
            for (other, timeline) in &self.world.people[place].timelines {
                if portals.iter().any(|(_, known)| known == other) {
                    for event in timeline.iter().map(view::Seen::id).filter(|id| !own.contains(id)) {
                        add("an event elsewhere", event);
                    }
                    let marks: BTreeSet<String> = timeline.iter().flat_map(marks).collect();
                    marks.difference(&own_marks).for_each(|mark| add("a session or a leg elsewhere", mark));
                }
            }
        }
        let mut leaks =
            if is_searched { leaks(&self.world.people[watched].got, &secrets) } else { Vec::new() };
        for person in self.world.people.iter().filter(|_| is_searched) {
            leaks.extend(view::typing_ghosts(person));
        }
        let mut of = BTreeMap::from([
            (room.to_string(), "<room>".to_owned()),
            (self.conversation.clone(), "<conversation>".to_owned()),
        ]);
        of.extend(portals.iter().map(|(portal, _)| (portal.clone(), "<portal>".to_owned())));
        for (place, facts) in self.world.facts.iter().enumerate() {
            of.insert(facts.user_id.to_string(), format!("<person {place}>"));
            of.insert(facts.name.clone(), format!("<name {place}>"));
            of.insert(facts.own_name.clone(), format!("<own name {place}>"));
            if let Some(ghost) = &ghosts[place] {
                of.insert(ghost.clone(), format!("<ghost {place}>"));
            }
        }
        let view = view(
            &self.world.people[watched],
            &room,
            &self.conversation,
            &mut Names { of, begun: self.begun.filter(|_| self.world.compares_times) },
        );
        Outcome { leaks, view }
    }
}
