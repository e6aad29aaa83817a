//! Patients' devices without a client: accounts, cross-signing identities, signed devices and one-time keys that are real to
//! everybody who encrypts for them. Nobody ever reads with them.

use futures_util::{StreamExt as _, stream};
use matrix_sdk_crypto::vodozemac::{Curve25519PublicKey, Curve25519SecretKey, Ed25519SecretKey};
use parlour::demo::practice::DemoPerson;
use reqwest::Method;
use ruma::CanonicalJsonValue;
use serde_json::{Map, Value, json};

/// So many people are equipped at once.
const AT_ONCE: usize = 8;

/// How each person is equipped.
#[derive(Clone, Copy, Debug)]
pub struct Equipment {
    /// Devices, all signed by the person's own identity.
    pub devices: usize,
    /// One-time keys of each device; each message that begins a session takes one.
    pub one_time_keys: usize,
}

/// Equips people who have an account and no device yet.
pub async fn equip(http: &reqwest::Client, homeserver: &str, people: &[DemoPerson], how: Equipment) {
    let each = people.iter().map(|person| person_equipped(http, homeserver, person, how));
    stream::iter(each).buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn person_equipped(http: &reqwest::Client, homeserver: &str, person: &DemoPerson, how: Equipment) {
    let user = person.user_id.as_str();
    let [master, signing, users] = [(); 3].map(|()| Ed25519SecretKey::new());
    let mut identity = json!({
        "master_key": cross_signing(user, "master", &master),
        "self_signing_key": cross_signing(user, "self_signing", &signing),
        "user_signing_key": cross_signing(user, "user_signing", &users),
    });
    let name = master.public_key().to_base64();
    sign(&mut identity["self_signing_key"], user, &name, &master);
    sign(&mut identity["user_signing_key"], user, &name, &master);
    for number in 0..how.devices {
        let device = format!("BENCH{number}");
        let login = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": person.password,
            "device_id": device,
        });
        let answer = call(http, homeserver, "login", None, &login).await;
        let token = answer["access_token"].as_str().expect("a token");
        if number == 0 {
            call(http, homeserver, "keys/device_signing/upload", Some(token), &identity).await;
        }
        let (one_time_keys, own) = (how.one_time_keys, Ed25519SecretKey::new());
        let keys = json!({
            "device_keys": device_keys(user, &device, &own, &signing),
            "one_time_keys": one_time_keys_of(user, &device, &own, one_time_keys),
        });
        call(http, homeserver, "keys/upload", Some(token), &keys).await;
    }
}

/// Asks the homeserver's client API as a person.
async fn call(
    http: &reqwest::Client,
    homeserver: &str,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> Value {
    let mut request = http.request(Method::POST, format!("{homeserver}/_matrix/client/v3/{path}")).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status();
    let answer: Value = answer.json().await.expect("JSON");
    assert!(status.is_success(), "{path}: {status} {answer}");
    answer
}

/// Matrix v1.19 client-server §Cross-signing.
fn cross_signing(user: &str, usage: &str, key: &Ed25519SecretKey) -> Value {
    let public = key.public_key().to_base64();
    json!({ "user_id": user, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

/// Signed by the device itself and by its owner's identity.
fn device_keys(user: &str, device: &str, own: &Ed25519SecretKey, signing: &Ed25519SecretKey) -> Value {
    let curve = Curve25519PublicKey::from(&Curve25519SecretKey::new());
    let mut keys = json!({
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{device}"): curve.to_base64(),
            format!("ed25519:{device}"): own.public_key().to_base64(),
        },
    });
    sign(&mut keys, user, device, own);
    sign(&mut keys, user, &signing.public_key().to_base64(), signing);
    keys
}

fn one_time_keys_of(user: &str, device: &str, own: &Ed25519SecretKey, count: usize) -> Value {
    let keys = (0..count).map(|number| {
        let public = Curve25519PublicKey::from(&Curve25519SecretKey::new());
        let mut key = json!({ "key": public.to_base64() });
        sign(&mut key, user, device, own);
        (format!("signed_curve25519:{number:06}"), key)
    });
    Value::Object(keys.collect::<Map<_, _>>())
}

/// Matrix v1.19 appendices §Signing JSON: without the signatures that are there already.
fn sign(object: &mut Value, user: &str, key_name: &str, key: &Ed25519SecretKey) {
    let fields = object.as_object_mut().expect("an object");
    let mut signatures = fields.remove("signatures").unwrap_or_else(|| json!({ user: {} }));
    let canonical = CanonicalJsonValue::try_from(object.clone()).expect("canonical JSON").to_string();
    signatures[user][format!("ed25519:{key_name}")] = json!(key.sign(canonical.as_bytes()).to_base64());
    object["signatures"] = signatures;
}
