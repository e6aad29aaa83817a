//! What a store promises of what is sent again.

use parlour_domain::{LegId, Said, Timestamp};
use ruma::{UserId, user_id};

use super::{
    super::{
        DeviceNews, Landed, LegContent, NewLeg, Repair, Says, SentLeg, UnreadableSession, Why,
        testing::TestDatabase,
    },
    AT, World, decided, event_id, leg,
    sending::{is_sealed, next},
    world,
};

/// The next leg was sent as this event, in the session `session`.
pub(super) async fn next_is_sent(world: &World, by: &UserId, event: &str) {
    next_lands(world, by, event, AT).await;
}

pub(super) async fn next_lands(world: &World, by: &UserId, event: &str, at: Timestamp) {
    let leg = next(world).await.expect("a leg");
    assert!(is_sealed(world, &leg, "{}", by).await);
    world.store.legs_have_landed(&[(leg.id.clone(), event_id(event))], at).await.expect("landed");
}

/// The session `name` of what `by` has sent to Ann.
fn session(world: &World, by: &UserId, name: &str) -> UnreadableSession {
    let session = world.store.session_name(name);
    let (ours, portal) = (by.to_owned(), world.anns.id.clone());
    UnreadableSession { why: Why::Wedged, landed: Landed::EVER, ours, portal, session }
}

async fn sent_in(world: &World, of: &UnreadableSession) -> Vec<SentLeg> {
    world.store.sent_in(&world.anns, of).await.expect("read")
}

/// What is to be sent again of what `by` has sent to Ann.
pub(super) async fn unreadable(world: &World, by: &UserId) -> (UnreadableSession, Vec<SentLeg>) {
    let session = session(world, by, "session");
    let sent = sent_in(world, &session).await;
    (session, sent)
}

/// Sends one leg again, as `LegIds::again` has it; the ids of the two legs.
pub(super) async fn begin_repair(world: &World, of: &UnreadableSession, sent: SentLeg) -> [LegId; 2] {
    begin_repairs(world, of, vec![sent]).await.pop().expect("one")
}

/// The same of many.
pub(super) async fn begin_repairs(
    world: &World,
    of: &UnreadableSession,
    sent: Vec<SentLeg>,
) -> Vec<[LegId; 2]> {
    let repairs: Vec<_> = sent
        .into_iter()
        .map(|sent| {
            let says = [sent.says.clone(), Says::Redaction(sent.event.clone(), sent.by.clone())];
            let [again, redaction] = says.map(|says| NewLeg { says, ..leg(&world.anns) });
            Repair { of: sent, again, redaction }
        })
        .collect();
    assert!(!world.store.is_on_its_way(of).await.expect("read"));
    for _ in 0..2 {
        world
            .store
            .begin_repairs(of, &world.conversation, &repairs, true, AT)
            .await
            .expect("begun, or already");
    }
    assert!(world.store.unreadable_sessions().await.expect("read").is_empty());
    repairs.into_iter().map(|repair| [repair.again.id, repair.redaction.id]).collect()
}

pub(super) async fn a_message_is_sent_again_and_stands_for_itself(database: &TestDatabase) {
    let world = world(database).await;
    decided(&world, "$a").await;
    let ghost = user_id!("@_parlour_1:x");
    next_is_sent(&world, ghost, "$lost").await;
    // Dr Murphy, Ann, Ben.
    for (reader, wanted) in [("@u0:x", 0), ("@u1:x", 1), ("@u2:x", 0)] {
        let reader = UserId::parse(reader).expect("a user");
        let between = world.store.portals_between(ghost, &reader).await.expect("read");
        assert_eq!(between, std::slice::from_ref(&world.anns.id)[..wanted], "{reader}");
    }
    assert!(sent_in(&world, &session(&world, ghost, "other")).await.is_empty());
    let (session, mut sent) = unreadable(&world, ghost).await;
    let reader = user_id!("@u1:x");
    assert!(world.store.repair_is_wished(ghost, reader).await.expect("wished"));
    assert!(!world.store.repair_is_wished(ghost, reader).await.expect("wished"), "it is no news");
    assert_eq!(world.store.repairs_wished().await.expect("read"), [(ghost.to_owned(), reader.to_owned())]);
    let named = std::slice::from_ref(&session);
    world.store.sessions_are_unreadable(ghost, reader, named).await.expect("named");
    assert!(world.store.repairs_wished().await.expect("read").is_empty());
    assert_eq!(world.store.unreadable_sessions().await.expect("read"), named);
    let lost = sent.pop().expect("one message");
    assert!(sent.is_empty());
    assert_eq!((&*lost.event, lost.sent_at), (&*event_id("$lost"), AT));
    let message = lost.message.clone();
    let at_anns = async || {
        let status = world.store.status_of(message.as_ref().expect("a message")).await.expect("read");
        let way = status.ways.into_iter().find(|way| way.patient.as_ref() == Some(&world.ann)).expect("hers");
        (way.landed_at, way.event_id)
    };
    assert_eq!(at_anns().await, (Some(AT), Some(event_id("$lost"))));
    let [again, redaction] = begin_repair(&world, &session, lost).await;
    assert!(unreadable(&world, ghost).await.1.is_empty(), "it is being sent again");
    assert_eq!(at_anns().await, (Some(AT), Some(event_id("$lost"))), "it stands there until then");
    let found = next(&world).await.expect("a leg");
    assert_eq!(found.id, again);
    assert!(
        matches!(found.content, LegContent::Message { said: Said::Message(said), .. } if said.body() == "Bring your card.")
    );
    next_lands(&world, ghost, "$again", Timestamp::from_millis(AT.millis() + 5)).await;
    assert_eq!(
        at_anns().await,
        (Some(AT), Some(event_id("$again"))),
        "when it was sent is when it was first"
    );
    let found = next(&world).await.expect("a leg");
    assert_eq!(found.id, redaction);
    let LegContent::Redaction { by, event } = found.content else { panic!("the redaction") };
    assert_eq!((&*by, &*event), (ghost, &*event_id("$lost")));
    world.store.legs_have_landed(&[(redaction.clone(), event_id("$redaction"))], AT).await.expect("landed");
    assert!(next(&world).await.is_none());
    // Whoever answers either event answers the message.
    for event in ["$lost", "$again"] {
        let known = world.store.message_at(&world.anns.id, &event_id(event)).await.expect("read");
        assert_eq!(known.map(|known| known.id), message, "{event}");
    }
    assert!(world.store.message_at(&world.anns.id, &event_id("$redaction")).await.expect("read").is_none());
}

pub(super) async fn what_is_never_read_is_not_sent_for_ever(database: &TestDatabase) {
    let world = world(database).await;
    decided(&world, "$a").await;
    let ghost = user_id!("@_parlour_1:x");
    next_is_sent(&world, ghost, "$0").await;
    for time in 1..=3 {
        let (session, mut sent) = unreadable(&world, ghost).await;
        let [_, redaction] = begin_repair(&world, &session, sent.pop().expect("one message")).await;
        assert!(sent.is_empty(), "the last event alone stands for it");
        next_is_sent(&world, ghost, &format!("${time}")).await;
        let gone = event_id(&format!("$gone{time}"));
        world.store.legs_have_landed(&[(redaction.clone(), gone.clone())], AT).await.expect("landed");
    }
    assert!(unreadable(&world, ghost).await.1.is_empty());
}

pub(super) async fn what_is_on_its_way_is_looked_for_once_more(database: &TestDatabase) {
    let world = world(database).await;
    let ghost = user_id!("@_parlour_1:x");
    decided(&world, "$a").await;
    next_is_sent(&world, ghost, "$0").await;
    decided(&world, "$b").await;
    let (session, sent) = unreadable(&world, ghost).await;
    let reader = user_id!("@u1:x");
    let named = std::slice::from_ref(&session);
    world.store.sessions_are_unreadable(ghost, reader, named).await.expect("named");
    assert_eq!(sent.len(), 1);
    assert!(world.store.is_on_its_way(&session).await.expect("read"), "the second may land in it");
    world.store.begin_repairs(&session, &world.conversation, &[], false, AT).await.expect("begun");
    assert_eq!(world.store.unreadable_sessions().await.expect("read"), named);
    next_is_sent(&world, ghost, "$1").await;
    assert!(!world.store.is_on_its_way(&session).await.expect("read"));
    assert_eq!(unreadable(&world, ghost).await.1.len(), 2);
    assert_eq!(
        world.store.last_session(ghost, &world.anns.id).await.expect("read"),
        Some(session.session.clone())
    );
    world.store.begin_repairs(&session, &world.conversation, &[], true, AT).await.expect("begun");
    assert!(world.store.unreadable_sessions().await.expect("read").is_empty());
}

pub(super) async fn what_cannot_be_sent_again_is_not_voided(database: &TestDatabase) {
    let world = world(database).await;
    let ghost = user_id!("@_parlour_1:x");
    decided(&world, "$a").await;
    next_is_sent(&world, ghost, "$0").await;
    let (session, mut sent) = unreadable(&world, ghost).await;
    begin_repair(&world, &session, sent.pop().expect("one message")).await;
    let again = next(&world).await.expect("the words again");
    world.store.leg_has_failed(&again, &world.conversation, "SEND-1", None, AT).await.expect("given up");
    assert!(next(&world).await.is_none(), "the event stays that others could read");
}

pub(super) async fn the_bots_words_are_sent_again_as_well(database: &TestDatabase) {
    let world = world(database).await;
    let bot = user_id!("@_parlour_bot:x");
    let words =
        |text: &str| NewLeg { says: Says::Notice(text.to_owned(), Some(event_id("$a"))), ..leg(&world.anns) };
    let mut tx = world.store.begin().await.expect("begun");
    world.store.add(&mut tx, &[words("Not delivered.")], None, AT).await.expect("added");
    world.store.commit(tx, crate::CommitPoint::EventDecided).await.expect("kept");
    next_is_sent(&world, bot, "$lost").await;
    let (session, mut sent) = unreadable(&world, bot).await;
    let [again, redaction] = begin_repair(&world, &session, sent.pop().expect("the notice")).await;
    let found = next(&world).await.expect("a leg");
    assert_eq!(found.id, again);
    let LegContent::Notice { body, about } = found.content else { panic!("the bot's words") };
    assert_eq!((&*body, about), ("Not delivered.", Some(event_id("$a"))));
    next_is_sent(&world, bot, "$again").await;
    let found = next(&world).await.expect("a leg");
    assert_eq!(found.id, redaction);
    assert!(matches!(found.content, LegContent::Redaction { by, event } if by == bot && event == "$lost"));
    world.store.legs_have_landed(&[(redaction.clone(), event_id("$redaction"))], AT).await.expect("landed");
    assert!(next(&world).await.is_none());
}

pub(super) async fn what_nobody_got_is_told_by_when_it_landed(database: &TestDatabase) {
    let world = world(database).await;
    let (ghost, ann, ben) = (user_id!("@_parlour_1:x"), user_id!("@u1:x"), user_id!("@u2:x"));
    let at = |minutes: i64| AT.plus_millis(minutes * 60_000);
    for (event, landed) in [("$0", at(0)), ("$1", at(1)), ("$2", at(2))] {
        decided(&world, event).await;
        next_lands(&world, ghost, &format!("{event}:ann"), landed).await;
    }
    decided(&world, "$3").await;
    let after = async |reader: &UserId, after: Option<Timestamp>| {
        world.store.sent_to_after(reader, after).await.expect("read")
    };
    let name = world.store.session_name("session");
    let wanted =
        |first: Timestamp| vec![(ghost.to_owned(), world.anns.id.clone(), name.clone(), Some(first))];
    assert_eq!(after(ann, None).await, wanted(at(0)));
    assert_eq!(after(ann, Some(at(0))).await, wanted(at(1)), "not what landed at that moment");
    assert_eq!(after(ann, Some(at(2))).await, [], "what is not encrypted went nowhere");
    assert_eq!(after(ben, None).await, [], "nothing went to him");
    // What is on its way may be in it, too.
    let leg = next(&world).await.expect("a leg");
    assert!(is_sealed(&world, &leg, "{}", ghost).await);
    let on_its_way = vec![(ghost.to_owned(), world.anns.id.clone(), name.clone(), None)];
    assert_eq!(after(ann, Some(at(2))).await, on_its_way);
    world.store.legs_have_landed(&[(leg.id.clone(), event_id("$3:ann"))], at(3)).await.expect("landed");

    let mut of = session(&world, ghost, "session");
    of.why = Why::DeadDevice;
    for (landed, wanted) in [
        (Landed::EVER, 4),
        (Landed::EVER.after(at(0)), 3),
        (Landed::EVER.after(at(0)).until(at(2)), 2),
        (Landed::EVER.until(at(0)), 1),
        (Landed::EVER.after(at(3)), 0),
    ] {
        of.landed = landed;
        assert_eq!(sent_in(&world, &of).await.len(), wanted, "{landed:?}");
        let held = (0..4).filter(|minute| landed.holds(at(*minute))).count();
        assert_eq!(held, wanted, "{landed:?}");
    }
    // Written down with the news that it answers; twice, it is all of both. What is wished for another reason is another.
    world.store.devices_may_have_changed(&[ann.to_owned()], at(5)).await.expect("kept");
    let news = DeviceNews { user_id: ann.to_owned(), times: 1, at: at(5) };
    for landed in [Landed::EVER.after(at(1)).until(at(2)), Landed::EVER.after(at(0)).until(at(1))] {
        of.landed = landed;
        let dealt = std::slice::from_ref(&of);
        world.store.device_news_is_dealt_with(&news, &[], dealt).await.expect("kept");
    }
    of.landed = Landed::EVER.after(at(0)).until(at(2));
    let wedged = session(&world, ghost, "session");
    world.store.sessions_are_unreadable(ghost, ann, std::slice::from_ref(&wedged)).await.expect("named");
    let mut found = world.store.unreadable_sessions().await.expect("read");
    found.sort_by_key(|session| session.why.as_str());
    assert_eq!(found, [of.clone(), wedged.clone()]);
    world.store.begin_repairs(&of, &world.conversation, &[], true, AT).await.expect("begun");
    assert_eq!(world.store.unreadable_sessions().await.expect("read"), [wedged]);
}
