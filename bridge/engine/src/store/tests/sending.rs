//! What a store promises of what is to be sent.

use parlour_domain::PortalId;
use ruma::{UserId, owned_user_id, user_id};

use super::{
    super::{Leg, NewLeg, Outcome, Portal, Says, SealedLeg, testing::TestDatabase},
    AT, World, arrived, decided, event_id, leg, message,
    repairs::{begin_repair, next_is_sent, unreadable},
    waiting, world,
};

/// The next leg to Ann.
pub(super) async fn next(world: &World) -> Option<Leg> {
    next_in(world, &world.anns).await
}

/// The next leg in a portal.
pub(super) async fn next_in(world: &World, portal: &Portal) -> Option<Leg> {
    let mut legs = world.store.next_legs(std::slice::from_ref(&portal.id)).await.expect("the outbox");
    legs.pop().map(|(_, leg)| leg.expect("it opens"))
}

/// A leg was encrypted, in the session `session`; whether it is news.
pub(super) async fn is_sealed(world: &World, leg: &Leg, ciphertext: &str, by: &UserId) -> bool {
    let sealed = SealedLeg {
        leg,
        ciphertext: ciphertext.to_owned(),
        session_id: "session".to_owned(),
        sender: by.to_owned(),
    };
    world.store.legs_are_sealed(&[sealed]).await.expect("kept").contains(&leg.seq)
}

pub(super) async fn the_next_leg_of_each_portal_is_found_at_once(database: &TestDatabase) {
    let world = world(database).await;
    let legs: Vec<_> = [&world.anns, &world.hub, &world.anns].map(leg).into();
    world.store.accept(&[arrived("$a")], None, AT).await.expect("kept");
    let row = waiting(&world).await.pop().expect("a row");
    world.store.finish(&row, &message(&world, "$a", legs.clone()), None, AT).await.expect("decided");
    let nobody = (1..=300).map(|n: u16| {
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        PortalId::from_bytes(bytes)
    });
    // More than fit into one statement, those that have something among the last.
    let portals: Vec<_> = nobody.chain([world.anns.id.clone(), world.hub.id.clone()]).collect();
    let next = world.store.next_legs(&portals).await.expect("the outbox");
    let mut next: Vec<_> =
        next.into_iter().map(|(portal, leg)| (portal, leg.expect("it opens").id)).collect();
    next.sort_by_key(|(portal, _)| *portal == world.hub.id);
    let wanted = [(world.anns.id.clone(), legs[0].id.clone()), (world.hub.id.clone(), legs[1].id.clone())];
    assert_eq!(next, wanted, "the oldest of each");
    assert!(world.store.next_legs(&[]).await.expect("the outbox").is_empty());
}

pub(super) async fn a_leg_is_sent_as_the_bytes_that_were_kept(database: &TestDatabase) {
    let world = world(database).await;
    decided(&world, "$a").await;
    let leg = next(&world).await.expect("a leg");
    let ghost = user_id!("@_parlour_1:x");
    assert!(is_sealed(&world, &leg, "{\"ciphertext\":1}", ghost).await);
    assert!(!is_sealed(&world, &leg, "{\"ciphertext\":2}", ghost).await, "it is sealed once");
    let leg = next(&world).await.expect("a leg");
    assert_eq!(leg.sealed, Some(("{\"ciphertext\":1}".to_owned(), owned_user_id!("@_parlour_1:x"))));
}

pub(super) async fn what_is_withdrawn_is_neither_sent_nor_sent_again(database: &TestDatabase) {
    let world = world(database).await;
    let ghost = user_id!("@_parlour_1:x");
    let withdraw = async |event: &str, redaction: &str| {
        world.store.accept(&[arrived(redaction)], None, AT).await.expect("kept");
        let row = waiting(&world).await.pop().expect("a row");
        let message = world.store.message_by(&world.hub.id, &event_id(event), user_id!("@u0:x")).await;
        let outcome = Outcome::Withdrawn {
            message: message.expect("the record").expect("Dr Murphy's own"),
            event_id: event_id(redaction),
            code: "DEL-1",
            notice: Box::new(NewLeg {
                says: Says::Notice("Not taken back.".to_owned(), None),
                ..leg(&world.hub)
            }),
        };
        world.store.finish(&row, &outcome, None, AT).await.expect("decided");
        next_in(&world, &world.hub).await.is_some()
    };
    // Held for Ann, it has reached nobody, and nobody needs to be told.
    decided(&world, "$held").await;
    let held = next(&world).await.expect("a leg");
    world.store.legs_are_held(&[held.seq]).await.expect("held");
    assert!(!withdraw("$held", "$redaction1").await);
    assert!(!is_sealed(&world, &held, "{}", ghost).await, "it was about to be encrypted");
    assert!(next(&world).await.is_none());
    // One that Ann has cannot be taken back; but it is not sent again, also when that is being prepared just now.
    decided(&world, "$sent").await;
    next_is_sent(&world, ghost, "$sent:ann").await;
    let (session, sent) = unreadable(&world, ghost).await;
    assert_eq!(sent.len(), 1);
    assert!(withdraw("$sent", "$redaction2").await, "its writer is told");
    begin_repair(&world, &session, sent.into_iter().next().expect("a leg")).await;
    assert!(next(&world).await.is_none(), "nothing of it goes out");
    assert!(unreadable(&world, ghost).await.1.is_empty());
    // Nobody else's.
    let other = world.store.message_by(&world.hub.id, &event_id("$sent"), user_id!("@u1:x")).await;
    assert!(other.expect("the record").is_none());
}
