//! What operators are told: health, figures, status; and the sentences when Parlour cannot start.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use parlour_integration_tests::{Stage, read, refusal, say, send};
use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

const PARLOUR: &str = env!("CARGO_BIN_EXE_parlour-under-test");

#[tokio::test(flavor = "multi_thread")]
async fn figures_and_status_tell_how_it_goes_and_nothing_about_anybody() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "Zirconium clinic", "two-way", &[], &["ann", "ben"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "quadrilateral").await;
    read(&ann, &spoke, "quadrilateral").await;
    let image = json!({ "msgtype": "m.image", "body": "x.png" });
    let image = send(&ann, &spoke, "m.room.message", image).await;
    refusal(&ann, &spoke, &image).await;

    let url = format!("http://127.0.0.1:{}/metrics", stage.world.place.internal);
    let answer = reqwest::get(&url).await.expect("an answer");
    let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = answer.text().await.expect("text");
    for line in [
        "parlour_receiving 1",
        "parlour_inbox_waiting 0",
        "parlour_legs_waiting 0",
        // Ben has never signed in.
        "parlour_legs_held 1",
        "parlour_oldest_leg_seconds 0",
        "parlour_legs_given_up_total 0",
        "parlour_refusals_total{code=\"KIND-1\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let sent = text.lines().find_map(|line| line.strip_prefix("parlour_legs_sent_total ")).expect("sends");
    assert!(sent.parse::<u32>().expect("a number") >= 2, "the message to Ann, and the refusal: {sent}");
    for person in &stage.world.people {
        let secrets = [person.name.as_str(), person.user_id.localpart(), person.id.as_str()];
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
    }
    assert!(!text.contains("Zirconium") && !text.contains(talk.id()) && !text.contains('!'), "{text}");

    let (code, status) = stage.api(Method::GET, "/status", None, None).await;
    let wanted =
        json!({ "status": "connected", "homeserver": true, "bridge": true, "oldest_leg_seconds": null });
    assert_eq!((code, status), (200, wanted));
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

fn write(file: &Path, text: &str, mode: u32) {
    std::fs::write(file, text).expect("written");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).expect("set");
}

/// Starts Parlour where no homeserver is: it runs until it is stopped, or says why not.
async fn run(folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--signal=TERM", "2", PARLOUR, "run", "--config"]).arg(folder.join("parlour.toml"));
    command.envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output()).await;
    output.expect("in time").expect("it runs")
}

/// The one sentence of a Parlour that did not start.
async fn sentence(folder: &Path, variables: &[(&str, &str)]) -> String {
    let output = run(folder, variables).await;
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!((output.status.code(), words.lines().count()), (Some(1), 1), "{words}");
    words
}

/// GNU `timeout` ended it: it ran.
const RAN: Option<i32> = Some(124);

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_made_once_and_guarded() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path();
    let configuration = format!(
        "[practice]\nname = \"Riverside\"\n[homeserver]\nurl = \"http://127.0.0.1:1\"\npublic_url = \"http://127.0.0.1:1\"\n\
         server_name = \"riverside.example\"\nas_token = \"{0}\"\nhs_token = \"{0}\"\n\
         [listen]\npublic = \"127.0.0.1:0\"\ninternal = \"127.0.0.1:0\"\n",
        "0123456789abcdef".repeat(4),
    );
    write(&folder.join("parlour.toml"), &configuration, 0o600);
    let key = folder.join("master.key");

    assert_eq!(run(folder, &[]).await.status.code(), RAN);
    let mode = |file: &Path| std::fs::metadata(file).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&folder.join("data"))), (0o600, 0o700));
    let made = std::fs::read_to_string(&key).expect("the key");
    assert_eq!(made.trim().len(), 64);
    assert_eq!(run(folder, &[]).await.status.code(), RAN, "a second start takes the same key");
    assert_eq!(std::fs::read_to_string(&key).expect("the key"), made);

    write(&key, &made, 0o644);
    assert!(sentence(folder, &[]).await.contains("chmod 600"));
    write(&key, "not a key", 0o600);
    assert!(sentence(folder, &[]).await.contains("64 hexadecimal digits"));
    std::fs::remove_file(&key).expect("lost");
    assert!(sentence(folder, &[]).await.contains("is not there"));
    assert!(!key.exists(), "no other key is made for a database that has one");
    let other = "ab".repeat(32);
    assert!(
        sentence(folder, &[("PARLOUR__MASTER_KEY", &other)]).await.contains("does not open this database")
    );
    let right = [("PARLOUR__MASTER_KEY", made.trim())];
    assert_eq!(run(folder, &right).await.status.code(), RAN, "the variable stands in for the file");
    assert!(!key.exists());
}
