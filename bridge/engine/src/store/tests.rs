//! What a store promises, tried on both databases.

mod deleting;
mod participants;
mod progress;
mod reading;
mod repairs;
mod seen;
mod sending;
mod whole;

use std::sync::Arc;

use parlour_domain::{
    Chance as _, ConversationId, Form, LegId, MessageId, Mode, NewConversation, Person, PersonId, PortalId,
    Role, Said, Timestamp, Words, rules::Reach,
};
use ruma::{EventId, OwnedEventId, UserId, owned_room_id, owned_user_id, user_id};

use super::{
    Arrived, InboxRow, LegContent, MegolmIndex, NewLeg, OurUser, Outcome, Portal, Recorded, RelayedMessage,
    Says, Store, StoreError,
    database::Backend,
    inbox::Touched,
    testing::{Counting, TestDatabase},
};

use deleting::{
    a_reaction_is_about_what_stands_there, an_edit_goes_with_its_message_and_none_follows,
    an_event_that_was_left_behind_goes_as_well, what_is_deleted_is_not_sent_and_goes_where_it_stands,
    what_is_deleted_waits_for_nobody_who_could_read,
    what_is_on_its_way_when_it_is_deleted_goes_when_it_is_there, what_stands_behind_what_is_held_is_held,
    what_waits_and_is_removed_is_not_handled, what_waits_for_its_turn_when_it_is_deleted_is_not_sent,
};
use participants::{
    a_conversation_has_an_owner_and_somebody_of_the_staff, a_new_patient_has_a_spoke_that_is_made,
    a_team_takes_part_as_it_is_when_that_becomes_true, what_was_to_be_set_meanwhile_still_is,
    who_is_excluded_does_not_take_part_until_they_are_included,
};
use progress::{
    it_is_known_how_far_a_conversation_is_made, it_is_known_how_far_a_message_has_come,
    the_same_request_begins_one_conversation,
};
use reading::{
    a_receipt_covers_what_stands_before_it_once, what_is_handled_late_is_read_all_the_same,
    what_was_deleted_before_was_not_read,
};
use repairs::{
    a_message_is_sent_again_and_stands_for_itself, next_is_sent, next_lands,
    the_bots_words_are_sent_again_as_well, what_cannot_be_sent_again_is_not_voided,
    what_is_never_read_is_not_sent_for_ever, what_is_on_its_way_is_looked_for_once_more,
    what_nobody_got_is_told_by_when_it_landed,
};
use seen::{
    a_dehydrated_device_was_there_until_it_was_missed, a_device_that_nobody_told_of_is_news,
    devices_are_known_as_the_homeserver_told, news_of_devices_stays_until_it_is_dealt_with,
    whoever_is_waited_for_is_named_with_the_portal,
};
use sending::{
    a_leg_is_sent_as_the_bytes_that_were_kept, next, the_next_leg_of_each_portal_is_found_at_once,
};

use whole::{
    one_process_has_a_database, only_its_own_master_key_opens_a_database,
    people_come_back_as_they_were_written, what_a_database_cannot_take_does_not_pass,
    whoever_was_replaced_writes_no_more,
};

/// Each promise, once on each database.
macro_rules! on_both {
    ($($name:ident)+) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let database = super::TestDatabase::sqlite();
                super::$name(&database).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(database) = super::TestDatabase::new(super::Backend::Postgres) {
                    super::$name(&database).await;
                }
            })+
        }
    };
}

on_both! {
    an_event_is_kept_once_whatever_transaction_it_comes_in
    writers_side_by_side_share_no_place_in_the_order
    what_becomes_of_an_event_is_one_commit
    the_next_leg_of_each_portal_is_found_at_once
    an_echo_settles_its_leg_with_its_transaction
    an_echo_that_comes_before_its_leg_settles_it_when_it_comes
    a_leg_is_sent_as_the_bytes_that_were_kept
    what_is_deleted_is_not_sent_and_goes_where_it_stands
    what_is_on_its_way_when_it_is_deleted_goes_when_it_is_there
    what_waits_for_its_turn_when_it_is_deleted_is_not_sent
    what_waits_and_is_removed_is_not_handled
    what_stands_behind_what_is_held_is_held
    what_is_deleted_waits_for_nobody_who_could_read
    an_edit_goes_with_its_message_and_none_follows
    a_reaction_is_about_what_stands_there
    an_event_that_was_left_behind_goes_as_well
    a_receipt_covers_what_stands_before_it_once
    what_is_handled_late_is_read_all_the_same
    what_was_deleted_before_was_not_read
    a_message_is_sent_again_and_stands_for_itself
    what_is_never_read_is_not_sent_for_ever
    what_is_on_its_way_is_looked_for_once_more
    what_cannot_be_sent_again_is_not_voided
    what_nobody_got_is_told_by_when_it_landed
    devices_are_known_as_the_homeserver_told
    a_dehydrated_device_was_there_until_it_was_missed
    a_device_that_nobody_told_of_is_news
    news_of_devices_stays_until_it_is_dealt_with
    whoever_is_waited_for_is_named_with_the_portal
    who_is_excluded_does_not_take_part_until_they_are_included
    a_conversation_has_an_owner_and_somebody_of_the_staff
    a_new_patient_has_a_spoke_that_is_made
    a_team_takes_part_as_it_is_when_that_becomes_true
    what_was_to_be_set_meanwhile_still_is
    a_clock_that_was_set_back_renews_all_the_same
    a_homeserver_that_is_back_is_known_until_it_is_dealt_with
    the_bots_words_are_sent_again_as_well
    ghosts_are_looked_after_in_turn
    a_place_in_a_session_is_one_events
    what_a_database_cannot_take_does_not_pass
    whoever_was_replaced_writes_no_more
    people_come_back_as_they_were_written
    one_process_has_a_database
    only_its_own_master_key_opens_a_database
    figures_count_what_waits
    the_same_request_begins_one_conversation
    it_is_known_how_far_a_conversation_is_made
    it_is_known_how_far_a_message_has_come
}

const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn event_id(text: &str) -> OwnedEventId {
    EventId::parse(text).expect("an event id")
}

/// A conversation of Dr Murphy's with Ann and Ben, its rooms made.
struct World {
    store: Store,
    conversation: ConversationId,
    murphy: PersonId,
    ann: PersonId,
    hub: Portal,
    anns: Portal,
}

async fn world(database: &TestDatabase) -> World {
    let store = database.open().await.expect("a store");
    let mut ids = Vec::new();
    for (n, (name, role)) in
        [("Dr Murphy", Role::Manager), ("Ann Byrne", Role::Patient), ("Ben Carey", Role::Patient)]
            .iter()
            .enumerate()
    {
        let person = Person {
            id: PersonId::from_bytes(Counting.bytes()),
            user_id: ruma::UserId::parse(format!("@u{n}:x")).expect("a user"),
            role: *role,
            name: name.parse().expect("a name"),
            record_number: None,
        };
        store.put_person(&person).await.expect("kept");
        ids.push(person.id);
    }
    let [murphy, ann, ben] = <[PersonId; 3]>::try_from(ids).expect("three");
    let conversation = ConversationId::from_bytes(Counting.bytes());
    let new = NewConversation {
        name: "Flu clinic".parse().expect("a name"),
        subject: None,
        mode: Mode::TwoWay,
        owner: murphy.clone(),
        staff: [murphy.clone()].into(),
        patients: [ann.clone(), ben.clone()].into(),
        senders: [].into(),
    };
    let portals: Vec<_> = [None, Some(ann.clone()), Some(ben)]
        .map(|patient| (PortalId::from_bytes(Counting.bytes()), patient))
        .into();
    store.add_conversation(&conversation, &new, &portals, None, AT).await.expect("kept");
    for (n, (portal, _)) in portals.iter().enumerate() {
        let room = ruma::RoomId::parse(format!("!r{n}:x")).expect("a room");
        store.portal_is_made(portal, &room, Mode::TwoWay).await.expect("made");
    }
    let hub = store.portal(&portals[0].0).await.expect("the hub");
    let anns = store.portal(&portals[1].0).await.expect("a spoke");
    World { store, conversation, murphy, ann, hub, anns }
}

fn arrived(id: &str) -> Arrived {
    Arrived {
        dedup_key: id.to_owned(),
        room_id: Some(owned_room_id!("!r0:x")),
        matters: true,
        echo: None,
        event: format!("{{\"event_id\":\"{id}\"}}"),
    }
}

async fn waiting(world: &World) -> Vec<InboxRow> {
    world.store.waiting(&world.conversation, 0).await.expect("rows")
}

fn leg(portal: &Portal) -> NewLeg {
    NewLeg {
        id: LegId::from_bytes(Counting.bytes()),
        portal: portal.id.clone(),
        says: Says::TheMessage,
        sent_at: AT,
    }
}

fn words(body: &str) -> Words {
    Words::new(Form::Text, body, None).expect("words")
}

fn message(world: &World, event: &str, legs: Vec<NewLeg>) -> Outcome {
    said(world, event, Said::Message(words("Bring your card.")), None, legs)
}

/// Dr Murphy says something in the hub, perhaps about something said before.
fn said(world: &World, event: &str, said: Said, about: Option<&MessageId>, legs: Vec<NewLeg>) -> Outcome {
    Outcome::Relayed(Box::new(RelayedMessage {
        id: MessageId::from_bytes(Counting.bytes()),
        conversation: world.conversation.clone(),
        portal: world.hub.id.clone(),
        event_id: event_id(event),
        sender: world.murphy.clone(),
        sent_at: AT,
        said,
        about: about.cloned(),
        lane: None,
        legs,
        closed: None,
        tells_lanes: None,
        addressed: None,
    }))
}

/// A message of Dr Murphy's, decided, with one leg to Ann.
async fn decided(world: &World, event: &str) -> NewLeg {
    world.store.accept(&[arrived(event)], None, AT).await.expect("kept");
    let row = waiting(world).await.pop().expect("a row");
    let leg = leg(&world.anns);
    let outcome = message(world, event, vec![leg.clone()]);
    world.store.finish(&row, &outcome, None, AT).await.expect("decided");
    leg
}

async fn an_event_is_kept_once_whatever_transaction_it_comes_in(database: &TestDatabase) {
    let world = world(database).await;
    let touched =
        world.store.accept(&[arrived("$a"), arrived("$b"), arrived("$a")], None, AT).await.expect("kept");
    assert_eq!(touched.conversations, std::slice::from_ref(&world.conversation));
    let touched = world.store.accept(&[arrived("$b"), arrived("$c")], None, AT).await.expect("kept");
    assert_eq!(touched.conversations, std::slice::from_ref(&world.conversation));
    let touched = world.store.accept(&[arrived("$c")], None, AT).await.expect("kept");
    assert_eq!(touched, Touched::default());
    let events: Vec<_> = waiting(&world).await.into_iter().map(|row| row.event).collect();
    assert_eq!(events, ["$a", "$b", "$c"].map(|id| format!("{{\"event_id\":\"{id}\"}}")));
}

async fn writers_side_by_side_share_no_place_in_the_order(database: &TestDatabase) {
    let world = Arc::new(world(database).await);
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..24 {
        let world = Arc::clone(&world);
        writers.spawn(async move {
            let events = [arrived(&format!("$a{n}")), arrived(&format!("$b{n}"))];
            world.store.accept(&events, None, AT).await.expect("kept");
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer ends well");
    }
    let rows = waiting(&world).await;
    assert_eq!(rows.len(), 48);
    for n in 0..24 {
        let at =
            |id: String| rows.iter().position(|row| row.event.contains(&format!("\"{id}\""))).expect("kept");
        assert_eq!(at(format!("$a{n}")) + 1, at(format!("$b{n}")), "what came together stands together");
    }
}

async fn what_becomes_of_an_event_is_one_commit(database: &TestDatabase) {
    let world = world(database).await;
    world.store.accept(&[arrived("$a")], None, AT).await.expect("kept");
    let row = waiting(&world).await.pop().expect("a row");
    let (first, second) = (leg(&world.anns), leg(&world.anns));
    let outcome = message(&world, "$a", vec![first.clone()]);
    world.store.finish(&row, &outcome, None, AT).await.expect("decided");
    assert!(waiting(&world).await.is_empty());
    let sent = next(&world).await.expect("a leg");
    assert_eq!(sent.id, first.id);
    assert!(
        matches!(sent.content, LegContent::Message { said: Said::Message(said), .. } if said.body() == "Bring your card.")
    );
    // Decided a second time, nothing of it is kept: neither the message nor its leg.
    let again = message(&world, "$again", vec![second.clone()]);
    let error = world.store.finish(&row, &again, None, AT).await.expect_err("it is done");
    assert!(matches!(error, StoreError::WrongNumber { table: "inbox", rows: 0 }), "{error}");
    assert!(world.store.message_at(&world.hub.id, &event_id("$again")).await.expect("the record").is_none());
    assert_eq!(world.store.portals_waiting().await.expect("portals"), std::slice::from_ref(&world.anns.id));
    let found = world.store.message_at(&world.hub.id, &event_id("$a")).await.expect("the record");
    assert!(matches!(found, Some(Recorded { reach: Reach::Everybody, deleted: false, .. })));
    world.store.legs_have_landed(&[(first.id.clone(), event_id("$landed"))], AT).await.expect("landed");
    assert!(next(&world).await.is_none());
}

async fn an_echo_settles_its_leg_with_its_transaction(database: &TestDatabase) {
    let world = world(database).await;
    let leg = decided(&world, "$a").await;
    let echo =
        Arrived { echo: Some((leg.id.clone(), event_id("$landed"))), matters: false, ..arrived("$landed") };
    let touched = world.store.accept(std::slice::from_ref(&echo), None, AT).await.expect("kept");
    assert_eq!(touched.portals, std::slice::from_ref(&world.anns.id));
    assert!(touched.conversations.is_empty());
    assert!(next(&world).await.is_none());
    assert!(world.store.message_at(&world.anns.id, &event_id("$landed")).await.expect("mapped").is_some());
    // Said again, by the answer or by another echo, it changes nothing.
    world.store.legs_have_landed(&[(leg.id.clone(), event_id("$other"))], AT).await.expect("no news");
    let touched = world.store.accept(&[echo], None, AT).await.expect("kept");
    assert_eq!(touched, Touched::default());
    assert!(world.store.message_at(&world.anns.id, &event_id("$other")).await.expect("the record").is_none());
}

async fn an_echo_that_comes_before_its_leg_settles_it_when_it_comes(database: &TestDatabase) {
    let world = world(database).await;
    let leg = leg(&world.anns);
    let echo =
        Arrived { echo: Some((leg.id.clone(), event_id("$landed"))), matters: false, ..arrived("$landed") };
    world.store.accept(&[echo, arrived("$a")], None, AT).await.expect("kept");
    let row = waiting(&world).await.pop().expect("a row");
    world.store.finish(&row, &message(&world, "$a", vec![leg.clone()]), None, AT).await.expect("decided");
    assert!(next(&world).await.is_none(), "it is not sent again");
    assert!(world.store.message_at(&world.anns.id, &event_id("$landed")).await.expect("mapped").is_some());
}

async fn a_clock_that_was_set_back_renews_all_the_same(database: &TestDatabase) {
    let world = world(database).await;
    let fresh = OurUser {
        user_id: owned_user_id!("@_parlour_1:x"),
        person: Some(world.murphy.clone()),
        device_id: "D".into(),
        ready: false,
        former_device: None,
    };
    world.store.our_user_or(&fresh).await.expect("chosen");
    for at in [AT, Timestamp::from_millis(AT.millis() - 1000)] {
        world.store.is_restored(at).await.expect("noticed");
        assert_eq!(world.store.restored_at().await.expect("read"), Some(at));
        assert_eq!(world.store.users_before(at).await.expect("read").len(), 1);
        world.store.renew_device(&fresh.user_id, "E".into(), at).await.expect("renewed");
        assert!(world.store.users_before(at).await.expect("read").is_empty());
        world.store.recovered(&[], None).await.expect("recovered");
        assert_eq!(world.store.restored_at().await.expect("read"), None);
    }
}

async fn a_homeserver_that_is_back_is_known_until_it_is_dealt_with(database: &TestDatabase) {
    let world = world(database).await;
    let ghost = user_id!("@_parlour_1:x");
    let landed_last = async || world.store.landed_last(5).await.expect("read");
    assert_eq!(landed_last().await, []);
    decided(&world, "$a").await;
    next_is_sent(&world, ghost, "$0").await;
    let last = [(owned_room_id!("!r1:x"), event_id("$0"))];
    assert_eq!(landed_last().await, last);
    world.store.caught_up("s9").await.expect("kept");
    world.store.recovered(&[], Some("s1")).await.expect("recovered");
    assert_eq!(landed_last().await, last, "it never went back");
    assert_eq!(world.store.caught_up_to().await.expect("read").as_deref(), Some("s9"), "it never went back");
    assert!(!world.store.homeserver_is_back().await.expect("read"));
    for _ in 0..2 {
        world.store.publish_again(AT).await.expect("kept");
        assert!(world.store.homeserver_is_back().await.expect("read"));
    }
    world.store.recovered(&[], Some("s1")).await.expect("recovered");
    assert!(!world.store.homeserver_is_back().await.expect("read"));
    assert_eq!(world.store.caught_up_to().await.expect("read").as_deref(), Some("s1"));
    assert_eq!(landed_last().await, [], "it is lost, and that is dealt with");
    decided(&world, "$b").await;
    next_is_sent(&world, ghost, "$1").await;
    decided(&world, "$c").await;
    // In their order, whatever the clock says, and one of each portal.
    next_lands(&world, ghost, "$2", Timestamp::from_millis(AT.millis() - 1)).await;
    assert_eq!(landed_last().await, [(owned_room_id!("!r1:x"), event_id("$2"))]);
}

async fn ghosts_are_looked_after_in_turn(database: &TestDatabase) {
    let world = world(database).await;
    let mut made = Vec::new();
    for (user_id, person, ready) in [
        ("@_parlour_bot:x", None, true),
        ("@_parlour_1:x", Some(world.murphy.clone()), true),
        ("@_parlour_2:x", Some(world.ann.clone()), false),
    ] {
        let user_id = UserId::parse(user_id).expect("a user");
        let fresh = OurUser {
            user_id: user_id.clone(),
            person,
            device_id: "D".into(),
            ready: false,
            former_device: None,
        };
        world.store.our_user_or(&fresh).await.expect("chosen");
        if ready {
            world.store.our_user_is_ready(&user_id).await.expect("ready");
        }
        made.push(user_id);
    }
    let after = async |user_id: &str| -> Vec<_> {
        let ghosts = world.store.ghosts_after(user_id, 20).await.expect("read");
        ghosts.into_iter().map(|ghost| ghost.user_id).collect()
    };
    assert_eq!(after("").await, made[1..2], "neither the bot nor one that is not there yet");
    assert!(after("@_parlour_1:x").await.is_empty());
}

async fn a_place_in_a_session_is_one_events(database: &TestDatabase) {
    let world = world(database).await;
    world.store.accept(&[arrived("$a")], None, AT).await.expect("kept");
    let row = waiting(&world).await.pop().expect("a row");
    let index = MegolmIndex { session_id: "session".to_owned(), index: 7 };
    assert_eq!(world.store.event_at(&index).await.expect("read"), None);
    world.store.finish(&row, &Outcome::Nothing, Some((&index, &event_id("$a"))), AT).await.expect("decided");
    assert_eq!(world.store.event_at(&index).await.expect("read"), Some(event_id("$a")));
    let other = MegolmIndex { index: 8, ..index };
    assert_eq!(world.store.event_at(&other).await.expect("read"), None);
}

async fn figures_count_what_waits(database: &TestDatabase) {
    let world = world(database).await;
    assert_eq!(world.store.figures().await.expect("figures"), super::Figures::default());
    decided(&world, "$a").await;
    world.store.accept(&[arrived("$b")], None, AT).await.expect("kept");
    let figures = world.store.figures().await.expect("figures");
    assert_eq!((figures.inbox, figures.waiting, figures.held, figures.oldest_waiting), (1, 1, 0, Some(AT)));
    let leg = next(&world).await.expect("a leg");
    world.store.legs_are_held(&[leg.seq], AT).await.expect("held");
    let figures = world.store.figures().await.expect("figures");
    assert_eq!((figures.waiting, figures.held, figures.oldest_waiting), (0, 1, None));
}
