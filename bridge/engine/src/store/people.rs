//! People, and the users that we act as.

use std::time::Duration;

use parlour_domain::{Person, PersonId, Role};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::{
    Store, StoreError, matrix_id, parsed,
    seal::{Owner, Place},
};
use crate::commit_point::CommitPoint;

/// A user that we act as: the bot or a ghost.
#[derive(Clone, Debug)]
pub struct OurUser {
    /// The Matrix user, in our namespace.
    pub user_id: OwnedUserId,
    /// Whom it stands for; none is the bot.
    pub person: Option<PersonId>,
    /// The one device it has.
    pub device_id: OwnedDeviceId,
    /// Whether account, device, identity and profile stand on the homeserver.
    pub ready: bool,
    /// The device that it had before, until that and any other are ended.
    pub former_device: Option<OwnedDeviceId>,
}

pub(super) type PersonRow = (String, String, String, Vec<u8>, Option<Vec<u8>>);
pub(super) const PERSON: &str = "people";

fn place<'a>(column: &'static str, id: &'a PersonId) -> Place<'a> {
    Place { table: PERSON, column, row: id.as_str() }
}

/// Whose key a person's values are sealed with.
fn owner(id: &PersonId, role: Role) -> Owner {
    if role.is_staff() { Owner::Practice } else { Owner::Patient(id.clone()) }
}

pub(super) type OurUserRow = (String, Option<String>, String, i64, Option<String>);
const OUR_USER: &str = "our_users";

pub(super) fn our_user(
    (user_id, person, device_id, ready, former): OurUserRow,
) -> Result<OurUser, StoreError> {
    Ok(OurUser {
        user_id: matrix_id(OUR_USER, user_id)?,
        person: person.map(|id| parsed(OUR_USER, &id)).transpose()?,
        device_id: device_id.into(),
        ready: ready == 1,
        former_device: former.map(Into::into),
    })
}

impl Store {
    /// Writes a person down, or what has changed of them; their id, account and side stay.
    ///
    /// # Errors
    /// When the database fails, or the account belongs to another person.
    pub async fn put_person(&self, person: &Person) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        let key = self.keys.make(&mut tx, &owner(&person.id, person.role)).await?;
        let number = person.record_number.as_ref();
        let result = sqlx::query(
            "INSERT INTO people (id, user_id, role, name, record_number) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET role = $3, name = $4, record_number = $5
             WHERE (people.role = 'patient') = ($3 = 'patient')",
        )
        .bind(person.id.as_str())
        .bind(person.user_id.as_str())
        .bind(person.role.as_str())
        .bind(key.seal(place("name", &person.id), person.name.as_str().as_bytes()))
        .bind(number.map(|number| key.seal(place("record_number", &person.id), number.as_str().as_bytes())))
        .execute(&mut *tx)
        .await?;
        // Whoever changes sides would stay where they are: they get another account.
        super::one_row(PERSON, &result)?;
        self.commit(tx, CommitPoint::PersonKept).await
    }

    pub(super) async fn person_of_row(
        &self,
        (id, user_id, role, name, number): PersonRow,
    ) -> Result<Person, StoreError> {
        let (id, role): (PersonId, Role) = (parsed(PERSON, &id)?, parsed(PERSON, &role)?);
        let key = self.key(&owner(&id, role)).await?;
        let name = key.open_text(place("name", &id), &name)?;
        let number = number.map(|number| key.open_text(place("record_number", &id), &number)).transpose()?;
        Ok(Person {
            user_id: matrix_id(PERSON, user_id)?,
            role,
            name: parsed(PERSON, &name)?,
            record_number: number.map(|number| parsed(PERSON, &number)).transpose()?,
            id,
        })
    }

    async fn person_where(&self, query: &'static str, value: &str) -> Result<Option<Person>, StoreError> {
        match sqlx::query_as(query).bind(value).fetch_optional(&self.pool).await? {
            Some(row) => self.person_of_row(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// The person with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn person(&self, id: &PersonId) -> Result<Option<Person>, StoreError> {
        let query = "SELECT id, user_id, role, name, record_number FROM people WHERE id = $1";
        self.person_where(query, id.as_str()).await
    }

    /// The person with this Matrix account.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn person_of(&self, user_id: &UserId) -> Result<Option<Person>, StoreError> {
        let query = "SELECT id, user_id, role, name, record_number FROM people WHERE user_id = $1";
        self.person_where(query, user_id.as_str()).await
    }

    /// Everybody, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn people(&self) -> Result<Vec<Person>, StoreError> {
        let rows: Vec<PersonRow> =
            sqlx::query_as("SELECT id, user_id, role, name, record_number FROM people")
                .fetch_all(&self.pool)
                .await?;
        let mut people = Vec::with_capacity(rows.len());
        for row in rows {
            people.push(self.person_of_row(row).await?);
        }
        people.sort_by(|a, b| (a.name.as_str(), &a.id).cmp(&(b.name.as_str(), &b.id)));
        Ok(people)
    }

    /// The user that stands for a person (none: the bot); `fresh` becomes it when there is none yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn our_user_or(&self, fresh: &OurUser) -> Result<OurUser, StoreError> {
        let person = fresh.person.as_ref().map(PersonId::as_str);
        let find = "SELECT user_id, person_id, device_id, ready, former_device FROM our_users
                    WHERE COALESCE(person_id, '') = $1";
        let key = person.unwrap_or_default();
        let found: Option<OurUserRow> = sqlx::query_as(find).bind(key).fetch_optional(&self.pool).await?;
        if let Some(row) = found {
            return our_user(row);
        }
        // Nobody else can make it between the second look and the writing.
        let mut tx = self.begin().await?;
        let found: Option<OurUserRow> = sqlx::query_as(find).bind(key).fetch_optional(&mut *tx).await?;
        if let Some(row) = found {
            self.leave(tx).await?;
            return our_user(row);
        }
        sqlx::query("INSERT INTO our_users (user_id, person_id, device_id, ready) VALUES ($1, $2, $3, 0)")
            .bind(fresh.user_id.as_str())
            .bind(person)
            .bind(fresh.device_id.as_str())
            .execute(&mut *tx)
            .await?;
        self.commit(tx, CommitPoint::OurUserChosen).await?;
        Ok(fresh.clone())
    }

    /// The user of ours with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn our_user(&self, user_id: &UserId) -> Result<Option<OurUser>, StoreError> {
        sqlx::query_as(
            "SELECT user_id, person_id, device_id, ready, former_device FROM our_users WHERE user_id = $1",
        )
        .bind(user_id.as_str())
        .fetch_optional(&self.pool)
        .await?
        .map(our_user)
        .transpose()
    }

    /// The ghost that stands for a person, if there is one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ghost_of(&self, person: &PersonId) -> Result<Option<OwnedUserId>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT user_id FROM our_users WHERE person_id = $1")
            .bind(person.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|(user_id,)| matrix_id(OUR_USER, user_id)).transpose()
    }

    /// The ghosts that have spoken in this time before anybody of ours spoke last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn spoke_last(&self, within: Duration) -> Result<Vec<OurUser>, StoreError> {
        let rows: Vec<OurUserRow> = sqlx::query_as(
            "SELECT user_id, person_id, device_id, ready, former_device FROM our_users
             WHERE person_id IS NOT NULL AND ready = 1 AND user_id IN (
                 SELECT sender_user_id FROM outbox
                 WHERE state = 'sent' AND added_at >= (SELECT MAX(added_at) FROM outbox) - $1)",
        )
        .bind(i64::try_from(within.as_millis()).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(our_user).collect()
    }

    /// The ghosts that stand on the homeserver, by user id, after one; at most so many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ghosts_after(&self, user_id: &str, most: i64) -> Result<Vec<OurUser>, StoreError> {
        let rows: Vec<OurUserRow> = sqlx::query_as(
            "SELECT user_id, person_id, device_id, ready, former_device FROM our_users WHERE person_id IS NOT NULL AND ready = 1 AND user_id > $1
             ORDER BY user_id LIMIT $2",
        )
        .bind(user_id)
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(our_user).collect()
    }

    /// A user of ours stands complete on the homeserver.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn our_user_is_ready(&self, user_id: &UserId) -> Result<(), StoreError> {
        let ready = sqlx::query("UPDATE our_users SET ready = 1, former_device = NULL WHERE user_id = $1")
            .bind(user_id.as_str());
        super::one_row(OUR_USER, &self.alone(CommitPoint::OurUserReady, ready).await?)
    }
}
