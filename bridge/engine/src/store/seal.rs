//! Sealing: what the database holds is closed with keys that it does not hold.
//!
//! One master key, kept apart from the database, opens the data keys in `data_keys`: the practice's, and one for each
//! patient and each conversation. A value is sealed with XChaCha20-Poly1305 under one of them, with its place (table,
//! column, row) as associated data, so that no value opens anywhere but where it was put. Without its data key's row
//! a patient's or a conversation's values are gone for good.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use parlour_domain::{Chance, ConversationId, PersonId};
use sha2::Sha256;
use sqlx::{Any, Executor};
use zeroize::Zeroizing;

use super::{Portal, Store, StoreError, transaction::Transaction};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const DATA_KEYS: &str = "data_keys";

/// The master key of a practice: 256 bits, which no database and no backup of one holds.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

/// What stands there is no master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a master key is 64 hexadecimal digits")]
pub struct InvalidMasterKey;

impl MasterKey {
    /// A new one.
    #[must_use]
    pub fn fresh(chance: &dyn Chance) -> Self {
        Self(random_key(chance))
    }

    /// From its 64 hexadecimal digits; white space around them is passed over.
    ///
    /// # Errors
    /// [`InvalidMasterKey`].
    pub fn from_hex(text: &str) -> Result<Self, InvalidMasterKey> {
        let text = text.trim().as_bytes();
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if text.len() != 2 * KEY_BYTES {
            return Err(InvalidMasterKey);
        }
        for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
            let digits =
                std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or(InvalidMasterKey)?;
        }
        Ok(Self(key))
    }

    /// Its 64 hexadecimal digits, for the one file that keeps it.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// Where a sealed value stands; it opens nowhere else.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    pub(super) row: &'a str,
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for part in [self.table, self.column, self.row] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data
    }
}

/// A key that values are sealed with, and names are hashed with.
pub struct DataKey {
    cipher: XChaCha20Poly1305,
    naming: Zeroizing<[u8; KEY_BYTES]>,
    chance: Arc<dyn Chance>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl DataKey {
    fn new(key: &[u8; KEY_BYTES], chance: Arc<dyn Chance>) -> Self {
        let sealing = derived(key, b"parlour sealing");
        let cipher = XChaCha20Poly1305::new((&*sealing).into());
        Self { cipher, naming: derived(key, b"parlour naming"), chance }
    }

    /// Seals a value: a nonce of chance, then the ciphertext.
    pub(super) fn seal(&self, place: Place<'_>, plain: &[u8]) -> Vec<u8> {
        let nonce: Vec<u8> = [self.chance.bytes(), self.chance.bytes()].concat()[..NONCE_BYTES].to_vec();
        let payload = Payload { msg: plain, aad: &place.associated_data() };
        // It fails only for a value of more than 256 GiB.
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload).unwrap_or_default();
        [nonce, sealed].concat()
    }

    /// Opens a value that was sealed for this place.
    ///
    /// # Errors
    /// [`StoreError::Sealed`]: it was sealed with another key, for another place, or was changed.
    pub(super) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let wrong = || StoreError::Sealed { table: place.table, column: place.column };
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(wrong)?;
        let payload = Payload { msg: ciphertext, aad: &place.associated_data() };
        let plain = self.cipher.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| wrong())?;
        Ok(Zeroizing::new(plain))
    }

    /// Opens a value that is text.
    ///
    /// # Errors
    /// As [`DataKey::open`].
    pub(super) fn open_text(&self, place: Place<'_>, sealed: &[u8]) -> Result<String, StoreError> {
        let plain = self.open(place, sealed)?;
        let text = std::str::from_utf8(&plain).map_err(|_| StoreError::Malformed(place.table))?;
        Ok(text.to_owned())
    }

    /// The name under which something is looked up: 32 hexadecimal digits that tell nothing without the key.
    pub(super) fn name(&self, parts: &[&str]) -> String {
        // HMAC takes a key of any length.
        let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(&*self.naming) else { return String::new() };
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whose data key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Practice,
    Patient(PersonId),
    Conversation(ConversationId),
}

impl Owner {
    /// Who owns what is written in a portal: the patient of a spoke, the conversation of a hub.
    pub(super) fn of_portal(patient: Option<&PersonId>, conversation: &ConversationId) -> Self {
        match patient {
            Some(patient) => Self::Patient(patient.clone()),
            None => Self::Conversation(conversation.clone()),
        }
    }

    fn id(&self) -> String {
        match self {
            Self::Practice => "practice".to_owned(),
            Self::Patient(id) => format!("patient:{id}"),
            Self::Conversation(id) => format!("conversation:{id}"),
        }
    }
}

/// The data keys that have been opened.
#[derive(Clone)]
pub(super) struct Keyring {
    master: Arc<DataKey>,
    practice: Arc<DataKey>,
    open: Arc<RwLock<HashMap<Owner, Arc<DataKey>>>>,
    chance: Arc<dyn Chance>,
}

impl Keyring {
    /// Opens the practice's key in `tx`, and makes it when the database is new.
    ///
    /// # Errors
    /// [`StoreError::WrongMasterKey`]; or the database fails.
    pub(super) async fn open(
        tx: &mut Transaction,
        master: &MasterKey,
        chance: Arc<dyn Chance>,
    ) -> Result<Self, StoreError> {
        let master = Arc::new(DataKey::new(&master.0, Arc::clone(&chance)));
        let practice = found_or_made(tx, &master, &Owner::Practice, &chance).await;
        let practice = practice.map_err(|error| match error {
            StoreError::Sealed { .. } => StoreError::WrongMasterKey,
            other => other,
        })?;
        Ok(Self { master, practice, open: Arc::default(), chance })
    }

    fn known(&self, owner: &Owner) -> Option<Arc<DataKey>> {
        if *owner == Owner::Practice {
            return Some(Arc::clone(&self.practice));
        }
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(owner).cloned()
    }

    /// Reads a key, and remembers it.
    async fn read<'c>(
        &self,
        database: impl Executor<'c, Database = Any>,
        owner: &Owner,
    ) -> Result<Arc<DataKey>, StoreError> {
        let wrapped: Option<(Vec<u8>,)> = sqlx::query_as("SELECT wrapped FROM data_keys WHERE owner = $1")
            .bind(owner.id())
            .fetch_optional(database)
            .await?;
        let (wrapped,) = wrapped.ok_or(StoreError::Malformed(DATA_KEYS))?;
        let key = unwrapped(&self.master, owner, &wrapped, &self.chance)?;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(open.entry(owner.clone()).or_insert(key)))
    }

    /// The key of an owner, made when there is none. It is remembered only when it is read back: nothing may be sealed
    /// with a key whose making was not committed.
    pub(super) async fn make(&self, tx: &mut Transaction, owner: &Owner) -> Result<Arc<DataKey>, StoreError> {
        match self.known(owner) {
            Some(key) => Ok(key),
            None => found_or_made(tx, &self.master, owner, &self.chance).await,
        }
    }
}

impl Store {
    /// The key that everything is sealed with that belongs to no single patient or conversation.
    pub(super) fn practice_key(&self) -> &Arc<DataKey> {
        &self.keys.practice
    }

    /// The key of an owner.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when there is none any more; or the database fails.
    pub(super) async fn key(&self, owner: &Owner) -> Result<Arc<DataKey>, StoreError> {
        match self.keys.known(owner) {
            Some(key) => Ok(key),
            None => self.keys.read(&self.pool, owner).await,
        }
    }

    /// The key of an owner, within a transaction: which must not wait for a second connection, as all may be at it.
    ///
    /// # Errors
    /// As [`Store::key`].
    pub(super) async fn key_in(
        &self,
        tx: &mut Transaction,
        owner: &Owner,
    ) -> Result<Arc<DataKey>, StoreError> {
        match self.keys.known(owner) {
            Some(key) => Ok(key),
            None => self.keys.read(&mut **tx, owner).await,
        }
    }

    /// The key of what is written in a portal.
    ///
    /// # Errors
    /// As [`Store::key`].
    pub(super) async fn portal_key(&self, portal: &Portal) -> Result<Arc<DataKey>, StoreError> {
        self.key(&Owner::of_portal(portal.patient.as_ref(), &portal.conversation)).await
    }
}

async fn found_or_made(
    tx: &mut Transaction,
    master: &DataKey,
    owner: &Owner,
    chance: &Arc<dyn Chance>,
) -> Result<Arc<DataKey>, StoreError> {
    let found: Option<(Vec<u8>,)> = sqlx::query_as("SELECT wrapped FROM data_keys WHERE owner = $1")
        .bind(owner.id())
        .fetch_optional(&mut **tx)
        .await?;
    if let Some((wrapped,)) = found {
        return unwrapped(master, owner, &wrapped, chance);
    }
    let key = random_key(&**chance);
    let row = owner.id();
    let wrapped = master.seal(Place { table: DATA_KEYS, column: "wrapped", row: &row }, &*key);
    sqlx::query("INSERT INTO data_keys (owner, wrapped) VALUES ($1, $2)")
        .bind(&row)
        .bind(wrapped)
        .execute(&mut **tx)
        .await?;
    Ok(Arc::new(DataKey::new(&key, Arc::clone(chance))))
}

fn unwrapped(
    master: &DataKey,
    owner: &Owner,
    wrapped: &[u8],
    chance: &Arc<dyn Chance>,
) -> Result<Arc<DataKey>, StoreError> {
    let row = owner.id();
    let opened = master.open(Place { table: DATA_KEYS, column: "wrapped", row: &row }, wrapped)?;
    let key: &[u8; KEY_BYTES] = opened.as_slice().try_into().map_err(|_| StoreError::Malformed(DATA_KEYS))?;
    Ok(Arc::new(DataKey::new(key, Arc::clone(chance))))
}

fn random_key(chance: &dyn Chance) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    key[..16].copy_from_slice(&chance.bytes());
    key[16..].copy_from_slice(&chance.bytes());
    key
}

fn derived(key: &[u8; KEY_BYTES], purpose: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut out = Zeroizing::new([0; KEY_BYTES]);
    // It fails only for more than 8,160 bytes.
    let _ = Hkdf::<Sha256>::new(None, key).expand(purpose, &mut *out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(std::sync::atomic::AtomicU8);

    impl Chance for Counting {
        fn bytes(&self) -> [u8; 16] {
            [self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed); 16]
        }
    }

    fn key(byte: u8) -> DataKey {
        DataKey::new(&[byte; KEY_BYTES], Arc::new(Counting(0.into())))
    }

    #[test]
    fn a_value_opens_where_it_was_sealed_and_nowhere_else() {
        let here = Place { table: "people", column: "name", row: "1" };
        let one = key(1);
        let sealed = one.seal(here, b"Ann Byrne");
        assert_eq!(one.open(here, &sealed).expect("it opens").as_slice(), b"Ann Byrne");
        assert!(!sealed.windows(3).any(|window| window == b"Ann"));
        assert_ne!(one.seal(here, b"Ann Byrne"), sealed, "the same value is never sealed alike");
        for (name, key, place, sealed) in [
            ("another key", key(2), here, sealed.clone()),
            ("another row", key(1), Place { row: "2", ..here }, sealed.clone()),
            ("another column", key(1), Place { column: "record_number", ..here }, sealed.clone()),
            ("another table", key(1), Place { table: "messages", ..here }, sealed.clone()),
            ("a changed byte", key(1), here, sealed.iter().map(|b| b ^ 1).collect()),
            ("cut off", key(1), here, sealed[..20].to_vec()),
        ] {
            assert!(matches!(key.open(place, &sealed), Err(StoreError::Sealed { .. })), "{name}");
        }
    }

    #[test]
    fn names_are_stable_and_no_two_lists_of_parts_share_one() {
        let one = key(1);
        assert_eq!(one.name(&["ab", "c"]), one.name(&["ab", "c"]));
        assert_ne!(one.name(&["ab", "c"]), one.name(&["a", "bc"]));
        assert_ne!(one.name(&["ab", "c"]), key(2).name(&["ab", "c"]));
        assert_eq!(one.name(&[]).len(), 32);
    }

    #[test]
    fn a_master_key_reads_back_from_its_digits_and_does_not_print_itself() {
        let key = MasterKey::fresh(&Counting(7.into()));
        let text = key.to_hex();
        let again = MasterKey::from_hex(&format!("{}\n", *text)).expect("it reads");
        assert_eq!(*again.0, *key.0);
        assert_eq!(format!("{key:?}"), "MasterKey(…)");
        for bad in ["", "00", &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(MasterKey::from_hex(bad).err(), Some(InvalidMasterKey), "{bad}");
        }
    }
}
