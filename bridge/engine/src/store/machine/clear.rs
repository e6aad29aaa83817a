//! What machines keep, in clear, so that tests can search files for it (feature `faults`).

use matrix_sdk_crypto::{OlmMachine, store::CryptoStore as _, vodozemac::base64_decode};
use parlour_domain::Timestamp;
use serde_json::Value;

use crate::{
    crypto::CryptoError,
    store::{Store, StoreError, machine::VALUES},
};

/// Where in an exported session key the secret begins: behind a version and an index.
const RATCHET: usize = 5;
const RATCHET_BYTES: usize = 128;
const KEY_BYTES: usize = 32;

impl Store {
    /// The private keys of all users of ours: of cross-signing, of the account and its one-time keys, of the sessions to
    /// decrypt with. Each with a word that says what it is.
    ///
    /// # Errors
    /// When the database fails, or a machine does not open.
    pub async fn keys_in_clear(&self) -> Result<Vec<(&'static str, Vec<u8>)>, CryptoError> {
        let mut keys = Vec::new();
        for user in self.users_before(Timestamp::from_millis(i64::MAX)).await? {
            let machine = self.machine_store(&user.user_id);
            if let Some(account) = machine.load_account().await? {
                of_account(&serde_json::to_value(account.pickle().pickle)?, &mut keys);
            }
            let olm = OlmMachine::with_store(&user.user_id, &user.device_id, machine, None).await?;
            let seeds = olm.export_cross_signing_keys().await?;
            let seeds = seeds.iter().flat_map(|s| [&s.master_key, &s.self_signing_key, &s.user_signing_key]);
            for seed in seeds.flatten() {
                let seed = base64_decode(seed).map_err(|_| StoreError::Malformed(VALUES))?;
                keys.push(("a cross-signing key", seed));
            }
            for session in olm.store().export_room_keys(|_| true).await? {
                let text = session.session_key.to_base64();
                let bytes = base64_decode(&text).map_err(|_| StoreError::Malformed(VALUES))?;
                let ratchet = bytes.get(RATCHET..RATCHET + RATCHET_BYTES);
                keys.push(("a session", ratchet.ok_or(StoreError::Malformed(VALUES))?.to_vec()));
                keys.push(("a session in base64", text.as_bytes()[8..40].to_vec()));
            }
        }
        Ok(keys)
    }
}

/// Every list of as many numbers as a key has bytes, wherever it stands.
fn of_account(value: &Value, keys: &mut Vec<(&'static str, Vec<u8>)>) {
    match value {
        Value::Array(items) => {
            let bytes: Option<Vec<u8>> =
                items.iter().map(|item| item.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
            match bytes.filter(|bytes| bytes.len() == KEY_BYTES) {
                Some(bytes) => keys.push(("a key of an account", bytes)),
                None => items.iter().for_each(|item| of_account(item, keys)),
            }
        }
        Value::Object(fields) => fields.values().for_each(|field| of_account(field, keys)),
        _ => {}
    }
}
