//! What a store promises of conversations that are begun, and of how far things have come.

use parlour_domain::{Chance as _, ConversationId, Mode, NewConversation, PortalId};
use ruma::user_id;

use super::{
    super::{
        Begun, Making, Request,
        testing::{Counting, TestDatabase},
    },
    AT, World, arrived, event_id, leg, message,
    sending::next_in,
    waiting, world,
};

pub(super) async fn the_same_request_begins_one_conversation(database: &TestDatabase) {
    let world = world(database).await;
    let begin = async |owner: &parlour_domain::PersonId, key: Option<&'static str>, body: &'static str| {
        let id = ConversationId::from_bytes(Counting.bytes());
        let new = NewConversation {
            name: "Flu clinic".parse().expect("a name"),
            subject: None,
            mode: Mode::TwoWay,
            owner: owner.clone(),
            staff: [owner.clone()].into(),
            patients: [].into(),
            senders: [].into(),
        };
        let portals = [(PortalId::from_bytes(Counting.bytes()), None)];
        let request = key.map(|key| Request { key, body });
        (id.clone(), world.store.add_conversation(&id, &new, &portals, request, AT).await.expect("kept"))
    };
    let before = world.store.conversations().await.expect("read").len();
    let (first, begun) = begin(&world.murphy, Some("key"), "{1}").await;
    assert_eq!(begun, Begun::Now);
    assert_eq!(begin(&world.murphy, Some("key"), "{1}").await.1, Begun::Before(first));
    assert_eq!(begin(&world.murphy, Some("key"), "{2}").await.1, Begun::Otherwise);
    assert_eq!(begin(&world.ann, Some("key"), "{2}").await.1, Begun::Now, "another's key is another key");
    for _ in 0..2 {
        assert_eq!(begin(&world.murphy, None, "{1}").await.1, Begun::Now, "without a key each is one more");
    }
    assert_eq!(world.store.conversations().await.expect("read").len(), before + 4);
}

pub(super) async fn it_is_known_how_far_a_conversation_is_made(database: &TestDatabase) {
    let world = world(database).await;
    let making = async || world.store.making(&world.conversation).await.expect("read").expect("there");
    assert_eq!(making().await, Making { made: 0, of: 3, ready: false });
    let members = [user_id!("@u1:x").to_owned(), user_id!("@_parlour_1:x").to_owned()];
    for _ in 0..2 {
        for member in &members {
            world.store.joined(&world.anns.id, member).await.expect("joined, or already");
        }
        world.store.portal_is_ready(&world.anns.id, None).await.expect("ready, or already");
    }
    assert_eq!(making().await, Making { made: 1, of: 3, ready: false });
    for member in &members {
        assert!(world.store.has_joined(&world.anns.id, member).await.expect("read"));
    }
    let left = world.store.unready_portals(&world.conversation).await.expect("read");
    assert_eq!(left.len(), 2);
    assert_eq!(left[1].id, world.hub.id, "the hub comes last");
    for portal in left {
        world.store.portal_is_ready(&portal.id, None).await.expect("ready");
    }
    world.store.conversation_is_ready(&world.conversation).await.expect("ready");
    assert_eq!(making().await, Making { made: 3, of: 3, ready: true });
    let nowhere = ConversationId::from_bytes([0; 16]);
    assert_eq!(world.store.making(&nowhere).await.expect("read"), None);
    assert!(world.store.may_see(&world.conversation, &world.ann).await.expect("read"));
    assert!(!world.store.may_see(&nowhere, &world.ann).await.expect("read"));
}

/// How far messages have come: sent, held, waiting, failed, of; newest first.
async fn sending(world: &World) -> Vec<(String, [i64; 5])> {
    let sending = world.store.sending(&world.conversation).await.expect("read");
    sending
        .into_iter()
        .map(|s| (s.event_id.to_string(), [s.sent, s.held, s.waiting, s.failed, s.of]))
        .collect()
}

pub(super) async fn it_is_known_how_far_a_message_has_come(database: &TestDatabase) {
    let world = world(database).await;
    assert_eq!(sending(&world).await, []);
    let portals = world.store.portals(&world.conversation).await.expect("read");
    let bens = portals.iter().find(|p| p.id != world.anns.id && p.id != world.hub.id).expect("Ben's");
    world.store.accept(&[arrived("$a")], None, AT).await.expect("kept");
    let row = waiting(&world).await.pop().expect("a row");
    let legs = vec![leg(&world.anns), leg(bens)];
    world.store.finish(&row, &message(&world, "$a", legs.clone()), None, AT).await.expect("decided");
    assert_eq!(sending(&world).await, [("$a".to_owned(), [0, 0, 2, 0, 2])]);
    world.store.legs_have_landed(&[(legs[0].id.clone(), event_id("$landed"))], AT).await.expect("landed");
    let held = next_in(&world, bens).await.expect("a leg");
    world.store.legs_are_held(&[held.seq], AT).await.expect("held");
    assert_eq!(sending(&world).await, [("$a".to_owned(), [1, 1, 0, 0, 2])]);
    // What is done and long ago is told no more; what still waits is.
    for n in 0..20 {
        let event = format!("$more{n}");
        world.store.accept(&[arrived(&event)], None, AT).await.expect("kept");
        let row = waiting(&world).await.pop().expect("a row");
        let crate::store::Outcome::Relayed(mut more) = message(&world, &event, vec![leg(&world.anns)]) else {
            continue;
        };
        more.sent_at = AT.plus_millis(1 + n);
        let outcome = crate::store::Outcome::Relayed(more);
        world.store.finish(&row, &outcome, None, AT).await.expect("decided");
    }
    let told = sending(&world).await;
    assert_eq!((told.len(), &told[0].0, told[0].1), (20, &"$more19".to_owned(), [0, 0, 1, 0, 1]));
}
