//! Teams (S3): staff who take part in conversations together.

use parlour::demo::client::Client;
use parlour_integration_tests::{LIMIT, Stage, read, say, token};
use reqwest::Method;
use serde_json::{Value, json};

use crate::taking_part::{caller, excluded, included, raw_put};

/// A team takes part like one of the staff: whoever comes into it has its conversations, whoever leaves it goes from all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_starter_has_the_teams_conversations_and_a_leaver_goes_from_all_in_one_act() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (sam, ann) = (stage.sign_in("sam").await, stage.sign_in("ann").await);
    let ask = async |by: &Client, method: Method, path: &str, body: Value| {
        stage.api(method, path, Some(&token(by)), Some(&body)).await
    };
    let ids =
        |names: &[&str]| names.iter().map(|name| stage.person(name).user_id.clone()).collect::<Vec<_>>();
    let wanted = json!({ "name": "Reception", "members": ids(&["kim"]) });
    let (status, answer) = ask(&kim, Method::POST, "/teams", wanted.clone()).await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("IO.PARLOUR.MANAGERS_ONLY")), "{answer}");
    assert_eq!(ask(&ann, Method::GET, "/teams", Value::Null).await.0, 404);
    let with_a_patient = json!({ "name": "Reception", "members": ids(&["ann"]) });
    assert_eq!(ask(&murphy, Method::POST, "/teams", with_a_patient).await.0, 400);
    let (status, team) = ask(&murphy, Method::POST, "/teams", wanted).await;
    assert_eq!((status, &team["name"]), (201, &json!("Reception")), "{team}");
    let team_id = team["id"].as_str().expect("an id");
    let (_, all) = ask(&kim, Method::GET, "/teams", Value::Null).await;
    assert_eq!(all, json!({ "teams": [team] }));

    let (one, other) = (
        stage.begin(&murphy, "teams", "two-way", &[], &["ann"]).await,
        stage.begin(&murphy, "more of teams", "two-way", &[], &["ann"]).await,
    );
    for talk in [&one, &other] {
        let path = format!("/conversations/{}/participants/{team_id}", talk.id());
        let (status, told) = ask(&murphy, Method::PUT, &path, Value::Null).await;
        assert_eq!((status, &told["teams"]), (200, &json!([team_id])), "{told}");
        kim.accept(&talk.hub(), LIMIT).await.expect("invited");
        say(&kim, &talk.hub(), "Kim here").await;
        read(&ann, &talk.spoke(stage.person("ann")), "Kim here").await;
    }
    // Of one of them nobody of the staff would be left but the team.
    excluded(&stage, &murphy, &other, "murphy").await;

    // Sam comes, Kim goes: in all of them, at once.
    let path = format!("/teams/{team_id}");
    let (status, told) = ask(&murphy, Method::PATCH, &path, json!({ "members": ids(&["sam"]) })).await;
    assert_eq!(
        (status, &told["members"][0]["user_id"]),
        (200, &json!(stage.person("sam").user_id)),
        "{told}"
    );
    for talk in [&one, &other] {
        sam.accept(&talk.hub(), LIMIT).await.expect("invited");
        sam.history(&talk.hub(), 100).await.expect("messages");
        read(&sam, &talk.hub(), "Kim here").await;
        say(&sam, &talk.hub(), "Sam here").await;
        read(&ann, &talk.spoke(stage.person("ann")), "Sam here").await;
        assert_eq!(raw_put(&kim, &talk.hub(), "late").await, 403);
    }
    let of_sam = caller(&stage, &sam).one(other.id()).await;
    assert_eq!(of_sam["owner"], json!(stage.person("sam").user_id), "{of_sam}");

    // Where nobody would be left, whoever asks takes part instead.
    assert_eq!(ask(&murphy, Method::PATCH, &path, json!({ "members": [] })).await.0, 200);
    if let Err(error) = murphy.accept(&other.hub(), LIMIT).await {
        panic!("{error}: {}", caller(&stage, &murphy).one(other.id()).await);
    }
    say(&ann, &other.spoke(stage.person("ann")), "who is left?").await;
    read(&murphy, &other.hub(), "who is left?").await;
    let of_murphy = caller(&stage, &murphy).one(other.id()).await;
    assert_eq!(of_murphy["owner"], json!(stage.person("murphy").user_id), "{of_murphy}");
    assert_eq!(of_murphy["staff"].as_array().expect("staff").len(), 1, "{of_murphy}");

    // A team that goes leaves those there who were named themselves.
    assert_eq!(ask(&murphy, Method::PATCH, &path, json!({ "members": ids(&["sam", "kim"]) })).await.0, 200);
    included(&stage, &murphy, &one, "kim").await;
    let path = format!("/conversations/{}/participants/{team_id}", one.id());
    let (_, told) = ask(&murphy, Method::DELETE, &path, Value::Null).await;
    let mut staff: Vec<_> =
        told["staff"].as_array().expect("staff").iter().map(|s| s["user_id"].clone()).collect();
    staff.sort_by_key(Value::to_string);
    let mut wanted: Vec<_> = ids(&["murphy", "kim"]).iter().map(|id| json!(id)).collect();
    wanted.sort_by_key(Value::to_string);
    assert_eq!((staff, &told["teams"]), (wanted, &json!([])), "{told}");
    for client in [murphy, kim, sam, ann] {
        client.stop().await;
    }
    stage.close().await;
}
