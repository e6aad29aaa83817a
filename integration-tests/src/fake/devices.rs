//! Devices: what they have published, and what lies in their inboxes (Matrix v1.19 client-server §End-to-end encryption,
//! §Send-to-device messaging).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Answer, Asker, BAD, Call, NOT_FOUND, pushes::Phone, rooms::House};

/// An account.
#[derive(Default)]
pub(super) struct User {
    pub(super) name: Option<String>,
    pub(super) devices: BTreeMap<String, Device>,
    /// By kind: master, self-signing, user-signing.
    identity: BTreeMap<&'static str, Value>,
    /// When its devices or its identity changed.
    pub(super) devices_at: u64,
    pub(super) phone: Option<Phone>,
}

/// A device.
#[derive(Default)]
pub(super) struct Device {
    keys: Option<Value>,
    pub(super) one_time_keys: BTreeMap<String, Value>,
    fallback: BTreeMap<String, Value>,
    fallback_used: bool,
    /// What was sent to it, each with its place in everything that happened.
    pub(super) inbox: Vec<(u64, Value)>,
}

const IDENTITY: [&str; 3] = ["master_key", "self_signing_key", "user_signing_key"];
const SIGNED: &str = "signed_curve25519";

impl User {
    pub(super) fn named(name: Option<&str>) -> Self {
        Self { name: name.map(str::to_owned), ..Self::default() }
    }
}

impl Device {
    pub(super) fn counts(&self) -> Value {
        json!({ SIGNED: self.one_time_keys.len() })
    }

    pub(super) fn unused_fallback(&self) -> Vec<&str> {
        if self.fallback.is_empty() || self.fallback_used { Vec::new() } else { vec![SIGNED] }
    }
}

impl House {
    fn device(&mut self, asker: &Asker) -> Result<&mut Device, super::Refused> {
        let device = asker.device.as_deref().ok_or(BAD)?;
        self.users.get_mut(&asker.user).and_then(|user| user.devices.get_mut(device)).ok_or(NOT_FOUND)
    }

    fn devices_change(&mut self, user: &str) {
        let at = self.moves();
        if let Some(known) = self.users.get_mut(user) {
            known.devices_at = at;
        }
    }

    pub(super) fn own_devices(&mut self, asker: &Asker, call: &Call<'_>) -> Answer {
        let known = self.users.get_mut(&asker.user).ok_or(NOT_FOUND)?;
        match (call.method, &call.path[4..]) {
            ("GET", []) => {
                let devices = known.devices.keys().map(|id| json!({ "device_id": id }));
                Ok(json!({ "devices": devices.collect::<Vec<_>>() }))
            }
            ("PUT", [device]) => {
                known.devices.entry((*device).to_owned()).or_default();
                Ok(json!({}))
            }
            ("DELETE", [device]) => {
                known.devices.remove(*device).ok_or(NOT_FOUND)?;
                let user = asker.user.clone();
                self.devices_change(&user);
                Ok(json!({}))
            }
            _ => self.does_not_know(call),
        }
    }

    /// Everything under `/keys`, and `/sendToDevice`.
    pub(super) fn keys(&mut self, asker: &Asker, call: &Call<'_>) -> Answer {
        let body = call.json();
        match (call.method, &call.path[3..]) {
            ("POST", ["keys", "upload"]) => self.uploaded(asker, &body),
            ("POST", ["keys", "device_signing", "upload"]) => {
                let known = self.users.get_mut(&asker.user).ok_or(NOT_FOUND)?;
                for kind in IDENTITY {
                    if body[kind].is_object() {
                        known.identity.insert(kind, body[kind].clone());
                    }
                }
                self.devices_change(&asker.user);
                Ok(json!({}))
            }
            ("POST", ["keys", "signatures", "upload"]) => {
                for (user, objects) in body.as_object().into_iter().flatten() {
                    for (name, object) in objects.as_object().into_iter().flatten() {
                        self.signed(user, name, &object["signatures"]);
                    }
                    self.devices_change(user);
                }
                Ok(json!({ "failures": {} }))
            }
            ("POST", ["keys", "query"]) => Ok(self.published(&asker.user, &body["device_keys"])),
            ("POST", ["keys", "claim"]) => Ok(self.claimed(&body["one_time_keys"])),
            ("PUT", ["sendToDevice", kind, _]) => {
                for (user, devices) in body["messages"].as_object().into_iter().flatten() {
                    for (device, content) in devices.as_object().into_iter().flatten() {
                        self.lies_in_the_inbox(&asker.user, kind, (user, device), content);
                    }
                }
                Ok(json!({}))
            }
            _ => self.does_not_know(call),
        }
    }

    fn uploaded(&mut self, asker: &Asker, body: &Value) -> Answer {
        let device = self.device(asker)?;
        let is_new = body["device_keys"].is_object();
        if is_new {
            device.keys = Some(body["device_keys"].clone());
        }
        for (id, key) in body["one_time_keys"].as_object().into_iter().flatten() {
            device.one_time_keys.insert(id.clone(), key.clone());
        }
        if let Some(fallback) = body["fallback_keys"].as_object().filter(|keys| !keys.is_empty()) {
            device.fallback = fallback.clone().into_iter().collect();
            device.fallback_used = false;
        }
        let counts = device.counts();
        if is_new {
            self.devices_change(&asker.user);
        }
        Ok(json!({ "one_time_key_counts": counts }))
    }

    fn signed(&mut self, user: &str, name: &str, signatures: &Value) {
        let Some(known) = self.users.get_mut(user) else { return };
        let of_device = known.devices.get_mut(name).and_then(|device| device.keys.as_mut());
        let is_named =
            |key: &Value| key["keys"].as_object().is_some_and(|keys| keys.values().any(|key| key == name));
        let Some(object) = of_device.or_else(|| known.identity.values_mut().find(|key| is_named(key))) else {
            return;
        };
        for (signer, theirs) in signatures.as_object().into_iter().flatten() {
            for (key, signature) in theirs.as_object().into_iter().flatten() {
                object["signatures"][signer][key] = signature.clone();
            }
        }
    }

    fn published(&self, asker: &str, of: &Value) -> Value {
        let mut told = json!({ "device_keys": {}, "master_keys": {}, "self_signing_keys": {}, "user_signing_keys": {},
            "failures": {} });
        for user in of.as_object().into_iter().flatten().map(|(user, _)| user) {
            let Some(known) = self.users.get(user) else { continue };
            let devices =
                known.devices.iter().filter_map(|(id, device)| Some((id.clone(), device.keys.clone()?)));
            told["device_keys"][user] = Value::Object(devices.collect());
            for kind in IDENTITY.iter().filter(|kind| **kind != "user_signing_key" || user == asker) {
                if let Some(key) = known.identity.get(kind) {
                    told[format!("{kind}s")][user] = key.clone();
                }
            }
        }
        told
    }

    fn claimed(&mut self, wanted: &Value) -> Value {
        let mut told = Map::new();
        for (user, devices) in wanted.as_object().into_iter().flatten() {
            let Some(known) = self.users.get_mut(user) else { continue };
            let mut keys = Map::new();
            for (id, _) in devices.as_object().into_iter().flatten() {
                let Some(device) = known.devices.get_mut(id) else { continue };
                let key = match device.one_time_keys.pop_first() {
                    Some(key) => Some(key),
                    None => {
                        device.fallback_used = true;
                        device.fallback.clone().pop_first()
                    }
                };
                if let Some((name, key)) = key {
                    keys.insert(id.clone(), json!({ name: key }));
                }
            }
            told.insert(user.clone(), Value::Object(keys));
        }
        // Whose keys were taken is to be told.
        self.moves();
        json!({ "one_time_keys": told, "failures": {} })
    }

    fn lies_in_the_inbox(&mut self, sender: &str, kind: &str, (user, device): (&str, &str), content: &Value) {
        let at = self.moves();
        let Some(known) = self.users.get_mut(user) else { return };
        let event = json!({ "type": kind, "sender": sender, "content": content });
        for (_, place) in known.devices.iter_mut().filter(|(id, _)| device == "*" || *id == device) {
            place.inbox.push((at, event.clone()));
        }
    }
}
