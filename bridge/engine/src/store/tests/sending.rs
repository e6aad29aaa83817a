//! What a store promises of what is to be sent.

use parlour_domain::PortalId;
use ruma::{UserId, owned_user_id, user_id};

use super::{
    super::{Leg, Portal, SealedLeg, testing::TestDatabase},
    AT, World, arrived, decided, leg, message, waiting, world,
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
        session_id: Some("session".to_owned()),
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
