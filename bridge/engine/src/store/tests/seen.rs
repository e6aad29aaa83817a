//! What a store promises of people's devices.

use parlour_domain::Timestamp;
use ruma::{OwnedUserId, device_id, owned_user_id};

use super::{
    super::{DeviceNews, Known, KnownDevice, Store, testing::TestDatabase},
    AT, World, decided,
    sending::next,
    world,
};
use crate::homeserver::DeviceSeen;

fn ann() -> OwnedUserId {
    owned_user_id!("@u1:x")
}

fn seen(device: &str, seen_at: Option<Timestamp>) -> DeviceSeen {
    DeviceSeen { device_id: device.into(), seen_at, dehydrated: false }
}

async fn known(store: &Store) -> Known {
    store.devices_known(&[ann()]).await.expect("read").remove(&ann()).unwrap_or_default()
}

fn later(millis: i64) -> Timestamp {
    AT.plus_millis(millis)
}

/// Name, when it was seen, whether it is gone, when it was heard of if it is fresh.
type Told<'a> = (&'a str, Option<Timestamp>, bool, Option<Timestamp>);

fn told(known: &Known) -> Vec<Told<'_>> {
    let told = |d: &KnownDevice| (d.seen_at, d.gone, d.fresh.then_some(d.heard_at));
    known
        .devices
        .iter()
        .map(|d| (d.device_id.as_str(), told(d)))
        .map(|(id, (s, g, f))| (id, s, g, f))
        .collect()
}

async fn news(world: &World) -> Vec<DeviceNews> {
    let mut news = world.store.device_news(10, AT).await.expect("read");
    news.sort_by(|a, b| a.user_id.cmp(&b.user_id));
    news
}

pub(super) async fn devices_are_known_as_the_homeserver_told(database: &TestDatabase) {
    let world = world(database).await;
    let store = &world.store;
    assert_eq!(known(store).await, Known::default());
    // What is there when they are asked for first is not new; and it is there, also where nothing else tells.
    store.devices_are(&ann(), &[seen("A", Some(AT)), seen("B", None)], AT).await.expect("kept");
    let found = known(store).await;
    assert_eq!((found.looked_at, found.news_at), (Some(AT), None));
    assert_eq!(told(&found), [("A", Some(AT), false, None), ("B", None, false, None)]);
    assert!(found.devices.iter().all(|device| device.heard_at == AT));
    assert!(found.device(device_id!("A")).is_some());
    assert_eq!(store.devices_known(&[owned_user_id!("@u0:x")]).await.expect("read").len(), 0);
    // What comes later is, since it was heard of; what goes stays as it was seen last.
    store.devices_may_have_changed(&[ann()], later(1)).await.expect("kept");
    assert_eq!(known(store).await.news_at, Some(later(1)));
    let both = [seen("B", Some(later(2))), seen("C", Some(later(2)))];
    store.devices_are(&ann(), &both, later(3)).await.expect("kept");
    let found = known(store).await;
    assert_eq!(found.looked_at, Some(later(3)));
    let wanted: [Told<'_>; 3] = [
        ("A", Some(AT), true, None),
        ("B", Some(later(2)), false, None),
        ("C", Some(later(2)), false, Some(later(1))),
    ];
    assert_eq!(told(&found), wanted);
    assert!(found.device(device_id!("A")).is_none());
    // Nobody is forgotten to have been seen, and whoever is new was there when they were heard of.
    let untold = [seen("B", None), seen("C", Some(later(2))), seen("D", None)];
    store.devices_are(&ann(), &untold, later(3)).await.expect("kept");
    let found = known(store).await;
    assert_eq!(told(&found)[1], wanted[1]);
    assert_eq!(told(&found)[3], ("D", None, false, Some(later(1))));
    store.devices_are(&ann(), &both, later(3)).await.expect("kept");
    let wanted: Vec<_> = wanted.into_iter().chain([("D", None, true, Some(later(1)))]).collect();
    // Said again, it is as new as before; dealt with, it is not new.
    store.devices_are(&ann(), &both, later(4)).await.expect("kept");
    assert_eq!(told(&known(store).await), wanted);
    let heard = DeviceNews { user_id: ann(), times: 1, at: later(1) };
    store.device_news_is_dealt_with(&heard, &["C".into()], &[]).await.expect("kept");
    let found = known(store).await;
    assert_eq!((told(&found)[2], found.news_at), (("C", Some(later(2)), false, None), None));
}

pub(super) async fn a_dehydrated_device_was_there_until_it_was_missed(database: &TestDatabase) {
    let world = world(database).await;
    let dehydrated = DeviceSeen { dehydrated: true, ..seen("D", None) };
    world.store.devices_are(&ann(), &[dehydrated], AT).await.expect("kept");
    assert!(known(&world.store).await.devices[0].dehydrated);
    for at in [later(1), later(2)] {
        world.store.devices_are(&ann(), &[], at).await.expect("kept");
        assert_eq!(told(&known(&world.store).await), [("D", Some(later(1)), true, None)]);
    }
}

pub(super) async fn news_of_devices_stays_until_it_is_dealt_with(database: &TestDatabase) {
    let world = world(database).await;
    let store = &world.store;
    let heard = |times: i64, at: Timestamp| DeviceNews { user_id: ann(), times, at };
    store.devices_may_have_changed(&[owned_user_id!("@stranger:x")], AT).await.expect("no matter");
    assert_eq!(news(&world).await, []);
    // Whoever is in a portal and was never asked for is news; so is whose devices have changed.
    store.joined(&world.anns.id, &ann()).await.expect("kept");
    assert_eq!(news(&world).await, [heard(0, AT)]);
    store.devices_may_have_changed(&[ann(), owned_user_id!("@_parlour_1:x")], later(1)).await.expect("kept");
    store.devices_may_have_changed(&[ann()], later(2)).await.expect("kept");
    assert_eq!(news(&world).await, [heard(2, later(2))]);
    store.devices_are(&ann(), &[], later(3)).await.expect("kept");
    assert_eq!(news(&world).await, [heard(2, later(2))]);
    // What is heard meanwhile is not dealt with.
    store.devices_may_have_changed(&[ann()], later(4)).await.expect("kept");
    store.device_news_is_dealt_with(&heard(2, later(2)), &[], &[]).await.expect("kept");
    assert_eq!(news(&world).await, [heard(1, later(4))]);
    store.device_news_is_dealt_with(&heard(1, later(4)), &[], &[]).await.expect("kept");
    assert_eq!(news(&world).await, []);
}

pub(super) async fn a_device_that_nobody_told_of_is_news(database: &TestDatabase) {
    let world = world(database).await;
    world.store.devices_are(&ann(), &[seen("A", Some(AT))], AT).await.expect("kept");
    assert_eq!(news(&world).await, []);
    let both = [seen("A", Some(AT)), seen("B", Some(later(1)))];
    world.store.devices_are(&ann(), &both, later(2)).await.expect("kept");
    let heard = DeviceNews { user_id: ann(), times: 1, at: later(2) };
    assert_eq!(news(&world).await, std::slice::from_ref(&heard));
    assert_eq!(told(&known(&world.store).await)[1], ("B", Some(later(1)), false, Some(later(2))));
    world.store.device_news_is_dealt_with(&heard, &["B".into()], &[]).await.expect("kept");
    world.store.devices_are(&ann(), &both, later(3)).await.expect("kept");
    assert_eq!(news(&world).await, [], "it is known now");
    // What was heard of long ago is not when another one came.
    let three = [&both[..], &[seen("C", None)]].concat();
    world.store.devices_are(&ann(), &three, later(4)).await.expect("kept");
    assert_eq!(told(&known(&world.store).await)[2], ("C", None, false, Some(later(4))));
}

pub(super) async fn whoever_is_waited_for_is_named_with_the_portal(database: &TestDatabase) {
    let world = world(database).await;
    decided(&world, "$a").await;
    assert_eq!(world.store.waited_for().await.expect("read"), []);
    let leg = next(&world).await.expect("a leg");
    world.store.legs_are_held(&[leg.seq], AT).await.expect("held");
    assert_eq!(world.store.waited_for().await.expect("read"), [(ann(), world.anns.id.clone())]);
}
