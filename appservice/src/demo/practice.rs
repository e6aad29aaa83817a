//! The made-up practice: its people, and what the demo remembers of them from one start to the next.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use parlour_domain::{Chance, Person, PersonId, Role};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::report::DemoError;
use crate::edge::random_hex;

/// The homeserver's name; it exists on this machine only.
pub const SERVER_NAME: &str = "demo.parlour.local";
/// The practice's name.
pub const PRACTICE: &str = "Riverside Practice";
/// What its patients are told to do in an emergency.
pub const EMERGENCY: &str = "In an emergency call 112 or 999.";

/// Who is there: name, role, number of the record.
const PEOPLE: [(&str, Role, Option<&str>); 9] = [
    ("Dr Aoife Murphy", Role::Manager, None),
    ("Nurse Kim Brady", Role::Staff, None),
    ("Sam Doyle, Reception", Role::Staff, None),
    ("Ann Byrne", Role::Patient, Some("R-1001")),
    ("Ben Carey", Role::Patient, Some("R-1002")),
    ("Cara Dunne", Role::Patient, Some("R-1003")),
    ("Dan Egan", Role::Patient, Some("R-1004")),
    ("Eve Farrell", Role::Patient, Some("R-1005")),
    ("Finn Gallagher", Role::Patient, Some("R-1006")),
];

/// One of the demo's people, with the password that only a demo keeps.
#[derive(Clone, Serialize, Deserialize)]
pub struct DemoPerson {
    /// Their id at the practice.
    pub id: PersonId,
    /// Their account.
    pub user_id: OwnedUserId,
    /// Their name.
    pub name: String,
    /// What they are.
    pub role: Role,
    /// The number of their record.
    pub record_number: Option<String>,
    /// Their password.
    pub password: String,
}

impl DemoPerson {
    /// As the product knows them.
    ///
    /// # Errors
    /// When somebody has changed the demo's file to what cannot be.
    pub fn person(&self) -> Result<Person, DemoError> {
        let unfit = |_| DemoError::State("a name or number in it cannot be used".to_owned());
        Ok(Person {
            id: self.id.clone(),
            user_id: self.user_id.clone(),
            role: self.role,
            name: self.name.parse().map_err(unfit)?,
            record_number: self.record_number.as_deref().map(str::parse).transpose().map_err(unfit)?,
        })
    }

    /// Whether somebody means this person: by a word of the name, whatever its case, or by the account.
    #[must_use]
    pub fn is_meant_by(&self, wanted: &str) -> bool {
        let wanted = wanted.to_lowercase();
        let mut words = self.name.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
        words.any(|word| word == wanted)
            || self.name.to_lowercase() == wanted
            || self.user_id.as_str() == wanted
            || self.user_id.localpart() == wanted
    }
}

/// What the demo remembers: `demo.json` in its folder, readable by its owner alone.
#[derive(Clone, Serialize, Deserialize)]
pub struct State {
    /// The token that Parlour shows to the homeserver.
    pub as_token: String,
    /// The token that the homeserver shows to Parlour.
    pub hs_token: String,
    /// The people.
    pub people: Vec<DemoPerson>,
    /// Whether their accounts stand.
    pub accounts: bool,
    /// Whether the first conversation stands, with its messages.
    pub talked: bool,
    /// Where the homeserver listened at the last start.
    pub homeserver_url: String,
}

impl State {
    /// The state of a demo that has not started before, with so many patients more than the demo needs.
    ///
    /// # Errors
    /// Never with the people above; a user id is checked all the same.
    pub fn fresh(chance: &dyn Chance, more_patients: usize) -> Result<Self, DemoError> {
        let mut people = Vec::new();
        let known = PEOPLE.into_iter().map(|(name, role, number)| (name.to_owned(), role, number));
        let more = (1..=more_patients).map(|n| (format!("Pat Number{n}"), Role::Patient, None));
        for (name, role, record_number) in known.chain(more) {
            // Nothing about a person stands in their account's name.
            let user_id = ruma::UserId::parse(format!("@u{}:{SERVER_NAME}", random_hex(chance, 8)))
                .map_err(|_| DemoError::State("an account's name cannot be used".to_owned()))?;
            people.push(DemoPerson {
                id: PersonId::from_bytes(chance.bytes()),
                user_id,
                name,
                role,
                record_number: record_number.map(str::to_owned),
                password: random_hex(chance, 12),
            });
        }
        Ok(Self {
            as_token: random_hex(chance, 64),
            hs_token: random_hex(chance, 64),
            people,
            accounts: false,
            talked: false,
            homeserver_url: String::new(),
        })
    }

    /// The state that an earlier start has left in a folder, if there was one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, DemoError> {
        let file = file(folder);
        match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|_| DemoError::State(format!("{} is damaged", file.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DemoError::Folder { path: file, source }),
        }
    }

    /// Keeps the state in a folder: whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), DemoError> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| DemoError::State(error.to_string()))?;
        write_private(&file(folder), &json)
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("demo.json")
}

/// Writes a file that its owner alone can read: whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(file: &Path, bytes: &[u8]) -> Result<(), DemoError> {
    let partial = file.with_extension("partial");
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut open| open.write_all(bytes).and_then(|()| open.sync_all()))
        .and_then(|()| std::fs::rename(&partial, file));
    written.map_err(|source| DemoError::Folder { path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::SystemChance;

    #[test]
    fn people_are_found_by_a_word_of_their_name() {
        let state = State::fresh(&SystemChance, 0).expect("a state");
        for (wanted, name) in
            [("murphy", "Dr Aoife Murphy"), ("ANN", "Ann Byrne"), ("reception", "Sam Doyle, Reception")]
        {
            let found: Vec<_> = state.people.iter().filter(|p| p.is_meant_by(wanted)).collect();
            assert_eq!(found.iter().map(|p| &*p.name).collect::<Vec<_>>(), [name], "{wanted}");
        }
    }

    #[test]
    fn an_account_tells_nothing_of_its_person() {
        let state = State::fresh(&SystemChance, 0).expect("a state");
        for person in &state.people {
            let local = person.user_id.localpart();
            assert!(local.len() == 9 && local.starts_with('u'), "{local}");
        }
    }
}
