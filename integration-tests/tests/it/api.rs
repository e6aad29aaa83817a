//! The practice API: each route as a stranger, as another patient, as staff outside, and as who may.

use parlour_integration_tests::{Stage, token};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn each_route_by_who_asks() {
    let stage = Stage::open().await;
    let murphy = stage.sign_in("murphy").await;
    let clients = [stage.sign_in("kim").await, stage.sign_in("ann").await, stage.sign_in("ben").await];
    let [kim, ann, ben] = &clients;
    let talk = stage.begin(&murphy, "Ann Byrne, smear", "two-way", &[], &["ann"]).await;
    let wanted = json!({ "name": "mine", "mode": "two-way" });
    let one = format!("/conversations/{}", talk.id());
    let none = "/conversations/00000000000000000000000000000000";
    let [murphys, kims, anns, bens] = [&murphy, kim, ann, ben].map(token);
    for (name, method, path, token, body, status, errcode) in [
        ("no token, list", Method::GET, "/conversations", None, None, 401, "M_MISSING_TOKEN"),
        ("no token, one", Method::GET, &one, None, None, 401, "M_MISSING_TOKEN"),
        ("no token, begin", Method::POST, "/conversations", None, Some(&wanted), 401, "M_MISSING_TOKEN"),
        ("stranger, list", Method::GET, "/conversations", Some("nobody"), None, 401, "M_UNKNOWN_TOKEN"),
        ("stranger, one", Method::GET, &one, Some("nobody"), None, 401, "M_UNKNOWN_TOKEN"),
        (
            "stranger, begin",
            Method::POST,
            "/conversations",
            Some("nobody"),
            Some(&wanted),
            401,
            "M_UNKNOWN_TOKEN",
        ),
        ("another patient, one", Method::GET, &one, Some(&*bens), None, 404, "M_NOT_FOUND"),
        (
            "patient, begin",
            Method::POST,
            "/conversations",
            Some(&*anns),
            Some(&wanted),
            403,
            "IO.PARLOUR.STAFF_ONLY",
        ),
        ("staff outside, one", Method::GET, &one, Some(&*kims), None, 404, "M_NOT_FOUND"),
        ("nothing like that", Method::GET, none, Some(&*murphys), None, 404, "M_NOT_FOUND"),
        ("no id at all", Method::GET, "/conversations/..%2f", Some(&*murphys), None, 404, "M_NOT_FOUND"),
        ("no such method", Method::DELETE, &one, Some(&*murphys), None, 405, "M_UNRECOGNIZED"),
        ("no such path", Method::GET, "/patients", Some(&*murphys), None, 404, "M_UNRECOGNIZED"),
    ] {
        let (found, answer) = stage.api(method, path, token, body).await;
        assert_eq!((found, &answer["errcode"]), (status, &json!(errcode)), "{name}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|words| words.len() > 10), "{name}: {answer}");
    }
    for (name, client) in [("another patient", ben), ("staff outside", kim)] {
        let (status, answer) = stage.api(Method::GET, "/conversations", Some(&token(client)), None).await;
        assert_eq!((status, &answer), (200, &json!({ "conversations": [] })), "{name}");
    }
    let spoke = talk.spoke(stage.person("ann"));
    let shown =
        json!({ "id": talk.id(), "subject": null, "mode": "two-way", "room_id": spoke, "takes_part": true });
    let (_, own) = stage.api(Method::GET, &one, Some(&anns), None).await;
    assert_eq!(own, shown, "a patient sees this and nothing else");
    let (_, list) = stage.api(Method::GET, "/conversations", Some(&anns), None).await;
    assert_eq!(list, json!({ "conversations": [shown] }));
    let (_, whole) = stage.api(Method::GET, &one, Some(&murphys), None).await;
    assert_eq!(whole, talk.told, "staff in it see it whole");
    assert_eq!(whole["owner"], stage.person("murphy").user_id.as_str());
    for client in clients.into_iter().chain([murphy]) {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_begun_is_refused_by_name() {
    let stage = Stage::open().await;
    let murphy = stage.sign_in("murphy").await;
    let token = token(&murphy);
    let (ann, kim) = (&stage.person("ann").user_id, &stage.person("kim").user_id);
    let good = json!({ "name": "n", "mode": "one-way", "staff": [kim], "patients": [ann] });
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body.to_string()
    };
    for (name, body, status, errcode) in [
        ("no JSON", "{".to_owned(), 400, "M_NOT_JSON"),
        ("no name", json!({ "mode": "two-way" }).to_string(), 400, "M_BAD_JSON"),
        ("an empty name", with("name", json!(" ")), 400, "M_BAD_JSON"),
        ("a long name", with("name", json!("x".repeat(121))), 400, "M_BAD_JSON"),
        ("two lines", with("subject", json!("a\nb")), 400, "M_BAD_JSON"),
        ("an unknown mode", with("mode", json!("three-way")), 400, "M_BAD_JSON"),
        ("an unknown key", with("colour", json!(1)), 400, "M_BAD_JSON"),
        ("staff among patients", with("patients", json!([kim])), 400, "IO.PARLOUR.WRONG_SIDE"),
        ("a patient among staff", with("staff", json!([ann])), 400, "IO.PARLOUR.WRONG_SIDE"),
        ("nobody", with("staff", json!(["@x:demo.parlour.local"])), 400, "IO.PARLOUR.NOBODY_LIKE_THAT"),
        ("no user id", with("staff", json!(["x"])), 400, "M_BAD_JSON"),
        ("too much", "x".repeat(600 << 10), 413, "M_TOO_LARGE"),
    ] {
        let url = format!("{}/_parlour/v1/conversations", stage.world.public_url());
        let request = reqwest::Client::new().post(url).bearer_auth(&token).body(body);
        let answer = request.send().await.expect("an answer");
        let found = answer.status().as_u16();
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!((found, &answer["errcode"]), (status, &json!(errcode)), "{name}: {answer}");
    }
    let (_, list) = stage.api(Method::GET, "/conversations", Some(&token), None).await;
    assert_eq!(list, json!({ "conversations": [] }), "nothing was half made");
    murphy.stop().await;
    stage.close().await;
}
