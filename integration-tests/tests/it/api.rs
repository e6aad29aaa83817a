//! The practice API: each route as a stranger, as another patient, as staff outside, and as who may.

use parlour_integration_tests::{Stage, read, say, token};
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
        (
            "a sender who is not in it",
            with("senders", json!([stage.person("sam").user_id])),
            400,
            "IO.PARLOUR.NOBODY_LIKE_THAT",
        ),
        ("a patient as a sender", with("senders", json!([ann])), 400, "IO.PARLOUR.NOBODY_LIKE_THAT"),
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

/// A schema, with what it refers to in its place.
fn found<'a>(api: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            found(api, api.pointer(reference.trim_start_matches('#')).expect("it is described"))
        }
        None => schema,
    }
}

/// The parts that an object is made of.
fn parts<'a>(api: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let schema = found(api, schema);
    match schema["allOf"].as_array() {
        Some(all) => all.iter().flat_map(|part| parts(api, part)).collect(),
        None => vec![schema],
    }
}

/// Whether a value is what a schema says, and nothing that it does not say.
fn fits(api: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = found(api, schema);
    if let Some(any) = schema["oneOf"].as_array() {
        let wrong: Vec<_> = any.iter().map_while(|schema| fits(api, schema, value).err()).collect();
        return if wrong.len() < any.len() { Ok(()) } else { Err(format!("none of: {}", wrong.join("; "))) };
    }
    let parts = parts(api, schema);
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let type_is = |part: &&Value| match &part["type"] {
        Value::Array(types) => types.contains(&json!(is)),
        one => one == is,
    };
    if !parts.iter().all(type_is) {
        return Err(format!("{value} is {is}, not as in {schema}"));
    }
    match (value, schema["enum"].as_array()) {
        (Value::String(_), Some(words)) if !words.contains(value) => {
            Err(format!("{value} is none of {words:?}"))
        }
        (Value::Array(items), _) => items.iter().try_for_each(|item| fits(api, &schema["items"], item)),
        (Value::Object(fields), _) => {
            let needed = parts.iter().flat_map(|part| part["required"].as_array().into_iter().flatten());
            for name in needed.filter_map(Value::as_str) {
                fields.get(name).ok_or_else(|| format!("no `{name}` in {value}"))?;
            }
            fields.iter().try_for_each(|(name, field)| {
                let described = parts.iter().find_map(|part| part["properties"].get(name));
                let schema = described.ok_or_else(|| format!("`{name}` is not described"))?;
                fits(api, schema, field).map_err(|why| format!("`{name}`: {why}"))
            })
        }
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_what_is_described() {
    let stage = Stage::open().await;
    let murphy = stage.sign_in("murphy").await;
    let ann = stage.sign_in("ann").await;
    let talk = stage.begin(&murphy, "Ann Byrne, smear", "two-way", &[], &["ann"]).await;
    let (in_hub, in_spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let said = say(&murphy, &in_hub, "Your result is here").await;
    let seen = read(&ann, &in_spoke, "Your result is here").await;
    let (_, api) = stage.api(Method::GET, "/openapi.json", None, None).await;
    let mut asked = std::collections::BTreeSet::new();
    let patient = |name: &str| stage.person(name).user_id.to_string();
    let [conversations, one, teams] = ["/conversations", "/conversations/{id}", "/teams"];
    let [message, status] = ["", "/status"].map(|end| format!("{one}/messages/{{event_id}}{end}"));
    let participant = format!("{one}/participants/{{participant}}");
    let new = json!({ "name": "n", "mode": "one-way", "patients": [patient("ben")] });
    let of_staff = json!({ "name": "n", "mode": "two-way" });
    let mut staff_only = String::new();
    for (client, method, route, with, body, wanted) in [
        (&murphy, Method::POST, conversations, vec![], Some(new), 201),
        (&murphy, Method::POST, conversations, vec![], Some(of_staff), 201),
        (&murphy, Method::GET, conversations, vec![], None, 200),
        (&ann, Method::GET, conversations, vec![], None, 200),
        (&murphy, Method::GET, one, vec![talk.id()], None, 200),
        (&ann, Method::GET, one, vec![talk.id()], None, 200),
        (&ann, Method::GET, one, vec!["none"], None, 404),
        (&murphy, Method::PATCH, one, vec![talk.id()], Some(json!({ "mode": "one-way" })), 200),
        (&murphy, Method::PATCH, one, vec![talk.id()], Some(json!({})), 400),
        (&murphy, Method::PUT, &participant, vec![talk.id(), &patient("ben")], None, 200),
        (&murphy, Method::PUT, &participant, vec!["of staff", &patient("ben")], None, 409),
        (&ann, Method::DELETE, &participant, vec![talk.id(), &patient("ann")], None, 200),
        (&murphy, Method::GET, &status, vec![talk.id(), said.as_str()], None, 200),
        (&ann, Method::GET, &status, vec![talk.id(), seen.event_id.as_str()], None, 200),
        (&murphy, Method::DELETE, &message, vec![talk.id(), said.as_str()], None, 200),
        (&murphy, Method::GET, teams, vec![], None, 200),
        (&murphy, Method::POST, teams, vec![], Some(json!({ "name": "Reception" })), 201),
        (&murphy, Method::GET, "/practice", vec![], None, 200),
        (&murphy, Method::GET, "/status", vec![], None, 200),
    ] {
        let mut path = route.to_owned();
        for value in with {
            let (from, to) = (path.find('{').expect("a place"), path.find('}').expect("its end"));
            path.replace_range(from..=to, if value == "of staff" { &staff_only } else { value });
        }
        let (found, answer) = stage.api(method.clone(), &path, Some(&token(client)), body.as_ref()).await;
        // What takes longer is written down. Whether the rooms stand is told with it; whether all are set may have changed since.
        let is_late = match method {
            Method::POST => answer["ready"] == false,
            Method::PATCH | Method::PUT | Method::DELETE => found == 202,
            _ => false,
        };
        let wanted = if wanted < 300 && is_late { 202 } else { wanted };
        assert_eq!(found, wanted, "{method} {path}: {answer}");
        if method == Method::POST && answer["patients"] == json!([]) {
            answer["id"].as_str().expect("an id").clone_into(&mut staff_only);
        }
        let operation = &api["paths"][format!("/_parlour/v1{route}")][method.as_str().to_lowercase()];
        let described =
            operation["responses"].get(found.to_string()).unwrap_or(&operation["responses"]["default"]);
        let schema = &described["content"]["application/json"]["schema"];
        fits(&api, schema, &answer).unwrap_or_else(|why| panic!("{method} {path}, {found}: {why}"));
        asked.insert((found, schema.to_string()));
    }
    assert!(asked.len() > 9, "{asked:?}");
    assert!(
        fits(&api, &json!({ "$ref": "#/components/schemas/Status" }), &json!({ "status": "x" })).is_err()
    );
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
