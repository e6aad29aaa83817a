//! What something that was said is about, and whom it reaches.

use parlour_domain::{
    Person, PortalKind, Refusal, Said,
    rules::{self, About, Lane, LaneFacts, NamingFacts, Pointed, Reach, Relation},
    without_formatted_fallback,
};
use ruma::{EventId, OwnedEventId};
use serde_json::Value;

use crate::{
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    ghosts::{BOT, NAMESPACE},
    store::{People, Portal, Recorded},
};

/// The longest id of an event (Matrix v1.19 §Size limits).
const MOST_ID_BYTES: usize = 255;

/// What a relation points at: nothing, something unknown, or a message of the record.
pub(super) struct Place {
    /// What it answers, edits or reacts to.
    pub(super) answers: Option<Option<Recorded>>,
    /// The root of its thread.
    pub(super) thread: Option<Option<Recorded>>,
}

impl Place {
    /// Whether what is said may be said of what it is about.
    pub(super) fn may_hold(&self, said: &Said, sender: &Person, by_all: bool) -> Result<(), Refusal> {
        let about = self.answers.as_ref().and_then(Option::as_ref);
        let about = about.map(|about| About { writer: &about.writer, deleted: about.deleted });
        match said {
            Said::Edit(_) | Said::Caption(_) if by_all => Ok(()),
            Said::Message(_) | Said::Attachment(_) => Ok(()),
            Said::Edit(_) | Said::Caption(_) => rules::may_edit(&sender.id, about),
            Said::Reaction(_) => rules::may_react(about),
        }
    }
}

impl Core {
    /// What is said, as it stands in the place of what it is about, if it does.
    pub(super) async fn in_its_place(
        &self,
        said: Said,
        place: &Place,
    ) -> Result<Result<Said, Refusal>, CryptoError> {
        let about = place.answers.as_ref().and_then(Option::as_ref);
        let file = match about.filter(|_| said.is_edit()) {
            Some(about) => self.store.file_of(&about.id).await?,
            None => None,
        };
        Ok(rules::in_its_place(said, file.as_ref()))
    }

    /// What a relation points at, in terms of the record.
    pub(super) async fn place(
        &self,
        home: &Portal,
        sender: &Person,
        relation: Relation<'_>,
    ) -> Result<Place, CryptoError> {
        let (mut answers, mut thread) = pointed_at(relation);
        // Who answers their own file, or the bot's question about it, says something of it, and to whom the file is to go. A
        // file answers earlier ones only.
        let mut before = i64::MAX;
        while matches!(relation, Relation::Answer { .. })
            && let Some(Some(event)) = &answers
            && let Some(file) = self.store.wordless_at(home, &sender.user_id, event).await?
            && file.seq < before
            && let Some(content) = self.content_of_kept(&file).await?
        {
            before = file.seq;
            let (of_file, in_thread) = pointed_at(Relation::of(&content));
            (answers, thread) = (of_file, thread.or(in_thread));
        }
        let known = async |pointed: Option<Option<OwnedEventId>>| match pointed {
            Some(Some(event_id)) => Ok(Some(self.store.message_at(&home.id, &event_id).await?)),
            Some(None) => Ok(Some(None)),
            None => Ok::<_, CryptoError>(None),
        };
        Ok(Place { answers: known(answers).await?, thread: known(thread).await? })
    }

    /// Whom it reaches: what edits a message or reacts to it goes where that went.
    pub(super) fn lane(
        &self,
        home: &Portal,
        people: &People,
        place: &Place,
        file_waits_for_one: bool,
    ) -> Result<Lane, Refusal> {
        if home.kind() == PortalKind::Spoke || faulty!(self.settings, LanesIgnored) {
            return Ok(Lane::Everybody);
        }
        let reach =
            |known: &Option<Recorded>| known.as_ref().map_or(Reach::Unknown, |known| known.reach.clone());
        rules::lane(&LaneFacts {
            spokes: people.roster().spokes,
            gone: people.former_patients().map(|person| person.id.clone()).collect(),
            answers: place.answers.as_ref().map(reach),
            thread: place.thread.as_ref().map(reach),
            file_waits_for_one,
        })
    }

    /// Whether what is said may name whom it names, where it goes.
    pub(super) async fn may_name(
        &self,
        home: &Portal,
        people: &People,
        lane: &Lane,
        (said, content): (&Said, &Value),
    ) -> Result<Result<(), Refusal>, CryptoError> {
        if home.kind() == PortalKind::Spoke || faulty!(self.settings, LanesIgnored) {
            return Ok(Ok(()));
        }
        let ghost = match lane {
            Lane::Only(patient) => self.store.ghost_of(patient).await?,
            Lane::Everybody => None,
        };
        let (words, file) = match said {
            Said::Message(words) | Said::Edit(words) => (Some(words), None),
            Said::Attachment(attachment) => (attachment.caption.as_ref(), Some(&*attachment.name)),
            Said::Caption(attachment) => (attachment.caption.as_ref(), None),
            Said::Reaction(_) => (None, None),
        };
        let texts = words.into_iter().flat_map(|words| [Some(words.body()), words.html()]).flatten();
        let texts: Vec<_> = texts.chain(file).collect();
        let contents = [content, &content["m.new_content"]];
        let links = contents.iter().filter_map(|content| content["formatted_body"].as_str());
        let links: Vec<_> = links.map(without_formatted_fallback).collect();
        let mentions = contents.map(|content| content["m.mentions"]["user_ids"].as_array());
        let mentions: Vec<_> = mentions.into_iter().flatten().flatten().filter_map(Value::as_str).collect();
        // Names that colleagues here share are no patient's; a patient who has gone is named all the same.
        let staff = people.staff().map(|staff| &staff.person);
        let patients = people.patients().map(|patient| &patient.person).chain(people.former_patients());
        let everybody: Vec<_> = staff.chain(patients).collect();
        Ok(rules::may_name(
            lane,
            &NamingFacts {
                texts: &texts,
                links: &links.iter().map(String::as_str).collect::<Vec<_>>(),
                mentions: &mentions,
                people: &everybody,
                their_ghost: ghost.as_ref().map(|ghost| ghost.localpart()),
                namespace: NAMESPACE,
                bot: BOT,
            },
        ))
    }
}

/// What a relation answers, or is about, and the root of its thread.
type PointedAt = (Option<Option<OwnedEventId>>, Option<Option<OwnedEventId>>);

fn pointed_at(relation: Relation<'_>) -> PointedAt {
    let (answers, thread) = match relation {
        Relation::Answer { answers, thread } => (answers, thread),
        Relation::Edit(about) | Relation::Reaction(about) => (Some(about), None),
        Relation::None | Relation::Other => (None, None),
    };
    (answers.map(event_of), thread.map(event_of))
}

/// The event that is pointed at. What no homeserver takes as an id is in no record, and a database may not even take the question.
fn event_of(pointed: Pointed<'_>) -> Option<OwnedEventId> {
    let sane = |id: &&str| id.len() <= MOST_ID_BYTES && !id.chars().any(char::is_control);
    EventId::parse(pointed.event_id().filter(sane)?).ok()
}
