//! The demo makes its people: accounts at the homeserver, and rows in Parlour's database. Ended anywhere, its next start
//! goes on.

use std::process::Stdio;

use parlour_engine::failpoints;
use parlour_integration_tests::{Stage, read, say, witness};
use tokio::{process::Command, time::Instant};

use super::{Killed, Scene, places_of};
use crate::{command_line::free_ports, crash::PROGRAM};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_the_demo_makes_its_people_leaves_nobody_out() {
    let begun = Instant::now();
    let folder = tempfile::tempdir().expect("a folder");
    let (data, port) = (folder.path().join("world"), free_ports(3).to_string());
    let mut ended = Vec::new();
    for place in places_of(Scene::Demo) {
        // Not the first person, so that some are there and some are not.
        let child = Command::new(PROGRAM)
            .args(["demo", "--json", "--port", &port, "--data"])
            .arg(&data)
            .env("PARLOUR_FIRST_ORDER", format!("end {place} 2"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(2 * parlour_integration_tests::LIMIT, child).await;
        let output = output.expect("it ends").expect("it runs");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = words.lines().last().and_then(|line| line.strip_prefix(failpoints::ENDS));
        assert_eq!(last.map(|at| at.trim().to_lowercase()), Some(place.clone()), "{words}");
        ended.push(place);
    }
    let stage = Stage::open_in(folder).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let people = stage.world.people.iter();
    let patients: Vec<_> = people.filter(|person| !person.role.is_staff()).map(|p| p.name.as_str()).collect();
    // Everybody is known, or nobody could begin it.
    let talk = stage.begin(&murphy, "everybody", "two-way", &[], &patients).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;
    say(&ann, &spoke, "good morning").await;
    read(&murphy, &hub, "good morning").await;
    for (client, room, words) in [(&murphy, &hub, "good morning"), (&ann, &spoke, "hello")] {
        assert_eq!(witness::others_words(client, room, 1).await, [words]);
        let counts: Vec<_> = witness::ciphertexts(client, room).await.into_values().collect();
        assert_eq!(counts, [1, 1]);
    }
    Killed::at(&ended).is_all_of(Scene::Demo);
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
