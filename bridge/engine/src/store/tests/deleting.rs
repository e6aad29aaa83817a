//! What a store promises of what is deleted, and of what edits and reacts.

use std::sync::Arc;

use parlour_domain::{Emoji, MessageId, Said};
use ruma::{OwnedUserId, UserId, owned_user_id, user_id};

use super::{
    super::{
        Deletion, InboxRow, Leg, LegContent, Outcome, Removal, SealedLeg, StoreError, testing::TestDatabase,
    },
    AT, World, arrived, decided, event_id, leg, message,
    repairs::{begin_repair, begin_repairs, next_is_sent, unreadable},
    said as said_by_murphy,
    sending::{is_sealed, next, next_in},
    waiting, words, world,
};
use crate::{Secret, notices::LegIds};

fn bot() -> OwnedUserId {
    owned_user_id!("@_parlour_bot:x")
}

fn ghost() -> &'static UserId {
    user_id!("@_parlour_1:x")
}

async fn at_hub(world: &World, event: &str) -> MessageId {
    let found = world.store.said_by(&world.hub.id, &event_id(event), user_id!("@u0:x")).await;
    found.expect("the record").expect("Dr Murphy's own").0
}

/// Dr Murphy says something about an earlier message of theirs, with one leg to Ann.
async fn said_about(world: &World, event: &str, said: Said, about: &MessageId) -> Result<(), StoreError> {
    world.store.accept(&[arrived(event)], None, AT).await.expect("kept");
    let row = waiting(world).await.pop().expect("a row");
    let outcome = said_by_murphy(world, event, said, Some(about), vec![leg(&world.anns)]);
    world.store.finish(&row, &outcome, None, AT).await
}

fn deletion(world: &World, message: &MessageId, redaction: Option<&str>) -> Deletion {
    Deletion {
        conversation: world.conversation.clone(),
        message: message.clone(),
        event_id: redaction.map(event_id),
        by: world.murphy.clone(),
        reason: Some("to the wrong patient".parse().expect("a reason")),
        bot: bot(),
        ids: Arc::new(LegIds::new(Secret::new("key".to_owned()))),
    }
}

/// Dr Murphy deletes a message by the practice API.
pub(super) async fn deletes(world: &World, message: &MessageId, at: parlour_domain::Timestamp) {
    world.store.delete(&deletion(world, message, None), at).await.expect("deleted");
}

/// Dr Murphy deletes what they said, by their own client.
async fn redacts(world: &World, event: &str, redaction: &str) {
    let message = at_hub(world, event).await;
    world.store.accept(&[arrived(redaction)], None, AT).await.expect("kept");
    let row = waiting(world).await.pop().expect("a row");
    let outcome = Outcome::Deleted(Box::new(deletion(world, &message, Some(redaction))));
    world.store.finish(&row, &outcome, None, AT).await.expect("decided");
}

/// The event that a leg deletes, and by whom if not by its writer's ghost.
fn deleted_by(leg: &Leg) -> (Option<String>, Option<OwnedUserId>) {
    let LegContent::Deletion { by, event, .. } = &leg.content else { panic!("a deletion") };
    (event.as_ref().map(ToString::to_string), by.clone())
}

async fn lands(world: &World, leg: &Leg, event: &str) {
    world.store.legs_have_landed(&[(leg.id.clone(), event_id(event))], AT).await.expect("landed");
}

pub(super) async fn what_is_deleted_is_not_sent_and_goes_where_it_stands(database: &TestDatabase) {
    let world = world(database).await;
    // Held for Ann, it is not sent.
    decided(&world, "$held").await;
    let held = next(&world).await.expect("a leg");
    world.store.legs_are_held(&[held.seq], AT).await.expect("held");
    redacts(&world, "$held", "$redaction1").await;
    assert!(!is_sealed(&world, &held, "{}", ghost()).await, "it was about to be encrypted");
    assert!(next(&world).await.is_none());
    // What Ann has goes, and is not sent again, also when that is being prepared just now.
    decided(&world, "$sent").await;
    next_is_sent(&world, ghost(), "$sent:ann").await;
    let (session, sent) = unreadable(&world, ghost()).await;
    assert_eq!(sent.len(), 1);
    redacts(&world, "$sent", "$redaction2").await;
    begin_repair(&world, &session, sent.into_iter().next().expect("a leg")).await;
    let goes = next(&world).await.expect("a leg");
    assert_eq!(deleted_by(&goes), (Some("$sent:ann".to_owned()), None));
    lands(&world, &goes, "$gone").await;
    assert!(next(&world).await.is_none(), "nothing of it goes out");
    assert!(unreadable(&world, ghost()).await.1.is_empty());
    assert!(next_in(&world, &world.hub).await.is_none(), "their own client has redacted it there");
    let known = world.store.message_at(&world.hub.id, &event_id("$sent")).await.expect("the record");
    assert!(known.is_some_and(|known| known.deleted), "it stays in the record");
    // Nobody else's; and once is enough.
    let other = world.store.said_by(&world.hub.id, &event_id("$sent"), user_id!("@u1:x")).await;
    assert!(other.expect("the record").is_none());
    let again = deletion(&world, &at_hub(&world, "$sent").await, None);
    assert!(world.store.delete(&again, AT).await.expect("nothing to do").is_empty());
    assert!(next(&world).await.is_none());
}

pub(super) async fn what_is_on_its_way_when_it_is_deleted_goes_when_it_is_there(database: &TestDatabase) {
    let world = world(database).await;
    decided(&world, "$a").await;
    let under_way = next(&world).await.expect("a leg");
    assert!(is_sealed(&world, &under_way, "{}", ghost()).await);
    redacts(&world, "$a", "$redaction").await;
    // It may stand there: what is to be redacted is known when it has been sent.
    let first = next(&world).await.expect("a leg");
    assert_eq!(first.id, under_way.id);
    lands(&world, &first, "$a:ann").await;
    assert_eq!(deleted_by(&next(&world).await.expect("a leg")).0.as_deref(), Some("$a:ann"));
}

pub(super) async fn what_waits_for_its_turn_when_it_is_deleted_is_not_sent(database: &TestDatabase) {
    let world = world(database).await;
    for event in ["$a", "$b"] {
        decided(&world, event).await;
    }
    let leg = next(&world).await.expect("a leg");
    assert!(is_sealed(&world, &leg, "{}", ghost()).await);
    assert!(
        !world.store.may_be_taken_back(&leg) && !world.store.is_taken_back(leg.seq).await.expect("asked")
    );
    redacts(&world, "$a", "$redaction").await;
    assert!(world.store.may_be_taken_back(&leg) && world.store.is_taken_back(leg.seq).await.expect("asked"));
    assert!(!world.store.is_taken_back(leg.seq).await.expect("asked"), "once");
    // There is nothing that could be redacted.
    let void = next(&world).await.expect("a leg");
    assert!(matches!(void.content, LegContent::Deletion { .. }) && void.content.is_void());
    world.store.leg_is_void(void.seq).await.expect("void");
    let other = next(&world).await.expect("a leg");
    assert!(
        !world.store.may_be_taken_back(&other) && !world.store.is_taken_back(other.seq).await.expect("asked")
    );
}

pub(super) async fn what_stands_behind_what_is_held_is_held(database: &TestDatabase) {
    let world = world(database).await;
    let figures = async || {
        let figures = world.store.figures().await.expect("figures");
        (figures.waiting, figures.held)
    };
    for event in ["$a", "$b"] {
        decided(&world, event).await;
    }
    assert_eq!(figures().await, (2, 0));
    let held = next(&world).await.expect("a leg");
    world.store.legs_are_held(&[held.seq], AT).await.expect("held");
    assert_eq!(figures().await, (0, 2), "what stands there");
    decided(&world, "$c").await;
    assert_eq!(figures().await, (0, 3), "and what comes");
    // In order they go, and what is deleted waits for nobody.
    next_is_sent(&world, ghost(), "$a:ann").await;
    redacts(&world, "$a", "$redaction").await;
    let goes = next(&world).await.expect("a leg");
    assert_eq!(deleted_by(&goes).0.as_deref(), Some("$a:ann"));
    lands(&world, &goes, "$gone").await;
    for event in ["$b:ann", "$c:ann"] {
        next_is_sent(&world, ghost(), event).await;
    }
    assert_eq!(figures().await, (0, 0));
    // Behind what can be read now, and is on its way, nothing is held.
    decided(&world, "$d").await;
    let held = next(&world).await.expect("a leg");
    world.store.legs_are_held(&[held.seq], AT).await.expect("held");
    assert!(is_sealed(&world, &held, "{}", ghost()).await);
    decided(&world, "$e").await;
    assert_eq!(figures().await, (2, 0));
}

pub(super) async fn what_is_deleted_waits_for_nobody_who_could_read(database: &TestDatabase) {
    let world = world(database).await;
    decided(&world, "$a").await;
    next_is_sent(&world, ghost(), "$a:ann").await;
    decided(&world, "$b").await;
    let held = next(&world).await.expect("a leg");
    world.store.legs_are_held(&[held.seq], AT).await.expect("held");
    redacts(&world, "$a", "$redaction").await;
    let goes = next(&world).await.expect("a leg");
    assert_eq!(deleted_by(&goes).0.as_deref(), Some("$a:ann"));
    lands(&world, &goes, "$gone").await;
    assert_eq!(next(&world).await.expect("a leg").id, held.id, "it waits still");
}

pub(super) async fn an_edit_goes_with_its_message_and_none_follows(database: &TestDatabase) {
    let world = world(database).await;
    decided(&world, "$a").await;
    next_is_sent(&world, ghost(), "$a:ann").await;
    let message = at_hub(&world, "$a").await;
    said_about(&world, "$e", Said::Edit(words("Bring your cards.")), &message).await.expect("decided");
    let edit = next(&world).await.expect("a leg");
    let LegContent::Message { said: Said::Edit(said), about, .. } = &edit.content else { panic!("an edit") };
    assert_eq!((said.body(), about.as_deref()), ("Bring your cards.", Some(&*event_id("$a:ann"))));
    next_is_sent(&world, ghost(), "$e:ann").await;
    // Whoever answers the edit answers the message.
    let known = world.store.message_at(&world.hub.id, &event_id("$e")).await.expect("the record");
    assert_eq!(known.expect("known").id, message);
    // A manager deletes: everything goes by the bot, also where it was written.
    let by_another = Deletion { by: world.ann.clone(), ..deletion(&world, &message, None) };
    let portals = world.store.delete(&by_another, AT).await.expect("deleted");
    assert_eq!(portals.len(), 4);
    for (portal, wanted) in [(&world.anns, ["$a:ann", "$e:ann"]), (&world.hub, ["$a", "$e"])] {
        for event in wanted {
            let goes = next_in(&world, portal).await.expect("a leg");
            assert_eq!(deleted_by(&goes), (Some(event.to_owned()), Some(bot())));
            lands(&world, &goes, &format!("{}-gone", event.replace(':', "-"))).await;
        }
        assert!(next_in(&world, portal).await.is_none());
    }
    let late = said_about(&world, "$late", Said::Edit(words("x")), &message).await;
    assert!(late.is_err_and(|error| matches!(error, StoreError::Overtaken) && error.may_pass()));
}

pub(super) async fn a_reaction_is_about_what_stands_there(database: &TestDatabase) {
    let world = world(database).await;
    let thumb = || Said::Reaction(Emoji::new("👍").expect("an emoji"));
    decided(&world, "$a").await;
    next_is_sent(&world, ghost(), "$a:ann").await;
    let message = at_hub(&world, "$a").await;
    said_about(&world, "$r", thumb(), &message).await.expect("decided");
    let reaction = next(&world).await.expect("a leg");
    assert!(!reaction.content.is_void());
    let sealed = SealedLeg {
        leg: &reaction,
        ciphertext: "{}".to_owned(),
        session_id: None,
        sender: owned_user_id!("@_parlour_2:x"),
    };
    assert!(world.store.legs_are_sealed(&[sealed]).await.expect("kept").contains(&reaction.seq));
    assert!(world.store.may_stand(&reaction.id).await.expect("read"), "nobody encrypts it");
    lands(&world, &reaction, "$r:ann").await;
    // It stands with its message: when that is sent again, so is it, and by whoever reacted.
    let (session, sent) = unreadable(&world, ghost()).await;
    let again: Vec<_> = sent.iter().map(|sent| (sent.event.as_str(), sent.by.as_str())).collect();
    assert_eq!(again, [("$a:ann", ghost().as_str()), ("$r:ann", "@_parlour_2:x")]);
    begin_repairs(&world, &session, sent).await;
    next_is_sent(&world, ghost(), "$a2:ann").await;
    let void = next(&world).await.expect("a leg");
    lands(&world, &void, "$void").await;
    let again = next(&world).await.expect("a leg");
    let LegContent::Message { said: Said::Reaction(_), about, .. } = &again.content else { panic!("it") };
    assert_eq!(about.as_deref(), Some(&*event_id("$a2:ann")));
    // What it is about is not there: there is nothing to send.
    decided(&world, "$b").await;
    let second = at_hub(&world, "$b").await;
    said_about(&world, "$s", thumb(), &second).await.expect("decided");
    redacts(&world, "$b", "$redaction").await;
    lands(&world, &again, "$r2:ann").await;
    lands(&world, &next(&world).await.expect("the redaction"), "$void2").await;
    let void = next(&world).await.expect("a leg");
    assert!(void.content.is_void());
    world.store.leg_is_void(void.seq).await.expect("kept");
    assert!(next(&world).await.is_none());
    // What stands about something deleted stays as it is: its event was not replaced.
    decided(&world, "$c").await;
    next_is_sent(&world, ghost(), "$c:ann").await;
    let third = at_hub(&world, "$c").await;
    said_about(&world, "$t", thumb(), &third).await.expect("decided");
    let leg = next(&world).await.expect("a leg");
    lands(&world, &leg, "$t:ann").await;
    redacts(&world, "$c", "$redaction2").await;
    let (_, sent) = unreadable(&world, ghost()).await;
    assert!(!sent.iter().any(|sent| sent.event == "$t:ann" || sent.event == "$c:ann"));
}

pub(super) async fn an_event_that_was_left_behind_goes_as_well(database: &TestDatabase) {
    let world = world(database).await;
    decided(&world, "$a").await;
    next_is_sent(&world, ghost(), "$a:ann").await;
    let (session, sent) = unreadable(&world, ghost()).await;
    begin_repairs(&world, &session, sent).await;
    next_is_sent(&world, ghost(), "$a2:ann").await;
    // Its redaction is given up.
    let void = next(&world).await.expect("a leg");
    world.store.leg_has_failed(&void, &world.conversation, "SEND-1", None, AT).await.expect("given up");
    redacts(&world, "$a", "$redaction").await;
    let mut gone = Vec::new();
    while let Some(leg) = next(&world).await {
        gone.push(match &leg.content {
            LegContent::Deletion { event, .. } => event.clone().expect("it stands there"),
            LegContent::Redaction { event, .. } => event.clone(),
            _ => panic!("nothing else goes out"),
        });
        lands(&world, &leg, &format!("$gone{}", gone.len())).await;
    }
    gone.sort();
    assert_eq!(gone, [event_id("$a2:ann"), event_id("$a:ann")]);
}

pub(super) async fn what_waits_and_is_removed_is_not_handled(database: &TestDatabase) {
    let world = world(database).await;
    let removal = |event: &str| {
        let ids = LegIds::new(Secret::new("key".to_owned()));
        let voids = vec![ids.void(&event_id(event), &world.hub.id, bot(), AT)];
        let reason = Some("not for patients".parse().expect("a reason"));
        Removal { portal: &world.hub, event_id: event_id(event), by: world.murphy.clone(), reason, voids }
    };
    world.store.accept(&[arrived("$file"), arrived("$words")], None, AT).await.expect("kept");
    let [file, text] = <[InboxRow; 2]>::try_from(waiting(&world).await).expect("two rows");
    assert!(world.store.remove(&removal("$words"), AT).await.expect("removed"));
    assert!(!world.store.remove(&removal("$words"), AT).await.expect("asked"), "once is enough");
    assert_eq!(waiting(&world).await.len(), 1);
    // Whoever was about to hand it on does not; nor what was to go ahead of it.
    let outcome = |event| message(&world, event, vec![leg(&world.anns)]);
    assert!(world.store.finish(&text, &outcome("$words"), None, AT).await.is_err());
    let ahead = world.store.finish_ahead_of(Some(&text), &file, &outcome("$file"), None, AT).await;
    assert!(matches!(ahead, Err(StoreError::Overtaken)), "{ahead:?}");
    assert!(next(&world).await.is_none(), "nothing goes out");
    let void = next_in(&world, &world.hub).await.expect("a leg");
    assert!(matches!(&void.content, LegContent::Redaction { event, .. } if *event == event_id("$words")));
    // What has become a message of the record is deleted as one.
    world.store.finish(&file, &outcome("$file"), None, AT).await.expect("decided");
    let late = world.store.remove(&removal("$file"), AT).await;
    assert!(matches!(late, Err(StoreError::Overtaken)), "{late:?}");
}
