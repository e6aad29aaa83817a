//! People, and the users that we act as.

use parlour_domain::{Person, PersonId};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::{Store, StoreError, matrix_id, parsed};

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
}

type PersonRow = (String, String, String, String, Option<String>);
const PERSON: &str = "people";

fn person((id, user_id, role, name, record_number): PersonRow) -> Result<Person, StoreError> {
    Ok(Person {
        id: parsed(PERSON, &id)?,
        user_id: matrix_id(PERSON, user_id)?,
        role: parsed(PERSON, &role)?,
        name: parsed(PERSON, &name)?,
        record_number: record_number.map(|number| parsed(PERSON, &number)).transpose()?,
    })
}

type OurUserRow = (String, Option<String>, String, i64);
const OUR_USER: &str = "our_users";

fn our_user((user_id, person, device_id, ready): OurUserRow) -> Result<OurUser, StoreError> {
    Ok(OurUser {
        user_id: matrix_id(OUR_USER, user_id)?,
        person: person.map(|id| parsed(OUR_USER, &id)).transpose()?,
        device_id: device_id.into(),
        ready: ready == 1,
    })
}

impl Store {
    /// Writes a person down, or what has changed of them; their id and account stay.
    ///
    /// # Errors
    /// When the database fails, or the account belongs to another person.
    pub async fn put_person(&self, person: &Person) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO people (id, user_id, role, name, record_number) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET role = $3, name = $4, record_number = $5",
        )
        .bind(person.id.as_str())
        .bind(person.user_id.as_str())
        .bind(person.role.as_str())
        .bind(person.name.as_str())
        .bind(person.record_number.as_ref().map(|number| number.as_str()))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The person with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn person(&self, id: &PersonId) -> Result<Option<Person>, StoreError> {
        sqlx::query_as("SELECT id, user_id, role, name, record_number FROM people WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?
            .map(person)
            .transpose()
    }

    /// The person with this Matrix account.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn person_of(&self, user_id: &UserId) -> Result<Option<Person>, StoreError> {
        sqlx::query_as("SELECT id, user_id, role, name, record_number FROM people WHERE user_id = $1")
            .bind(user_id.as_str())
            .fetch_optional(&self.pool)
            .await?
            .map(person)
            .transpose()
    }

    /// Everybody, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn people(&self) -> Result<Vec<Person>, StoreError> {
        sqlx::query_as("SELECT id, user_id, role, name, record_number FROM people ORDER BY name, id")
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(person)
            .collect()
    }

    /// The user that stands for a person (none: the bot); `fresh` becomes it when there is none yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn our_user_or(&self, fresh: &OurUser) -> Result<OurUser, StoreError> {
        let person = fresh.person.as_ref().map(PersonId::as_str);
        let find = "SELECT user_id, person_id, device_id, ready FROM our_users
                    WHERE person_id = $1 OR (person_id IS NULL AND $1 IS NULL)";
        let found: Option<OurUserRow> = sqlx::query_as(find).bind(person).fetch_optional(&self.pool).await?;
        if let Some(row) = found {
            return our_user(row);
        }
        // Nobody else can make it between the second look and the writing.
        let mut tx = self.begin().await?;
        let found: Option<OurUserRow> = sqlx::query_as(find).bind(person).fetch_optional(&mut *tx).await?;
        if let Some(row) = found {
            return our_user(row);
        }
        sqlx::query("INSERT INTO our_users (user_id, person_id, device_id, ready) VALUES ($1, $2, $3, 0)")
            .bind(fresh.user_id.as_str())
            .bind(person)
            .bind(fresh.device_id.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(fresh.clone())
    }

    /// The user of ours with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn our_user(&self, user_id: &UserId) -> Result<Option<OurUser>, StoreError> {
        sqlx::query_as("SELECT user_id, person_id, device_id, ready FROM our_users WHERE user_id = $1")
            .bind(user_id.as_str())
            .fetch_optional(&self.pool)
            .await?
            .map(our_user)
            .transpose()
    }

    /// A user of ours stands complete on the homeserver.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn our_user_is_ready(&self, user_id: &UserId) -> Result<(), StoreError> {
        let result = sqlx::query("UPDATE our_users SET ready = 1 WHERE user_id = $1")
            .bind(user_id.as_str())
            .execute(&self.pool)
            .await?;
        super::one_row(OUR_USER, &result)
    }
}
