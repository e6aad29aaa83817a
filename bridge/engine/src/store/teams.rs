//! Teams: staff who take part in conversations together (S3). Whoever comes into a team takes part in all that it takes part in,
//! and whoever leaves it goes from all of that, in one commit.

use parlour_domain::{
    Chance, ConversationId, LegId, Person, PersonId, PortalId, TakingPartError, TeamId, TeamName, Timestamp,
};

use super::{
    ParticipantChange, ParticipantsAre, Store, StoreError, parsed,
    people::PersonRow,
    record::{About, line},
    seal::Place,
    transaction::Transaction,
};
use crate::commit_point::CommitPoint;

/// A team.
#[derive(Clone, Debug)]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// Its name.
    pub name: TeamName,
    /// Who is in it, by name.
    pub members: Vec<Person>,
}

/// What somebody asks of teams, and where chance for new ids comes from.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Who asks.
    pub by: &'a Person,
    /// When.
    pub at: Timestamp,
    /// For ids that have never been.
    pub chance: &'a dyn Chance,
}

/// The conversations in which others take part now, or why it may not be.
pub type Touched = Result<Vec<ConversationId>, TakingPartError>;

const TEAMS: &str = "teams";
const MEMBERS: &str = "SELECT p.id, p.user_id, p.role, p.name, p.record_number
     FROM team_members m JOIN people p ON p.id = m.person_id WHERE m.team_id = $1";

fn place(id: &TeamId) -> Place<'_> {
    Place { table: TEAMS, column: "name", row: id.as_str() }
}

impl Store {
    /// Writes a team down; none takes part anywhere yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_team(&self, team: &Team) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        sqlx::query("INSERT INTO teams (id, name) VALUES ($1, $2)")
            .bind(team.id.as_str())
            .bind(self.practice_key().seal(place(&team.id), team.name.as_str().as_bytes()))
            .execute(&mut *tx)
            .await?;
        for member in &team.members {
            Self::comes_into(&mut tx, &team.id, &member.id).await?;
        }
        self.commit(tx, CommitPoint::ParticipantsKept).await
    }

    async fn comes_into(tx: &mut Transaction, team: &TeamId, person: &PersonId) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO team_members (team_id, person_id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(team.as_str())
            .bind(person.as_str())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// All teams, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn teams(&self) -> Result<Vec<Team>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT id, name FROM teams").fetch_all(&self.pool).await?;
        let mut teams = Vec::with_capacity(rows.len());
        for (id, name) in rows {
            let id: TeamId = parsed(TEAMS, &id)?;
            let name = self.practice_key().open_text(place(&id), &name)?;
            teams.push(Team { name: parsed(TEAMS, &name)?, members: self.members_of(&id).await?, id });
        }
        teams.sort_by(|a, b| (a.name.as_str(), &a.id).cmp(&(b.name.as_str(), &b.id)));
        Ok(teams)
    }

    /// The team with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn team(&self, id: &TeamId) -> Result<Option<Team>, StoreError> {
        Ok(self.teams().await?.into_iter().find(|team| team.id == *id))
    }

    async fn members_of(&self, team: &TeamId) -> Result<Vec<Person>, StoreError> {
        let rows: Vec<PersonRow> = sqlx::query_as(MEMBERS).bind(team.as_str()).fetch_all(&self.pool).await?;
        self.people_of_rows(rows).await
    }

    /// The same within a transaction: as it is when it becomes true.
    async fn members_now(&self, tx: &mut Transaction, team: &TeamId) -> Result<Vec<Person>, StoreError> {
        let rows: Vec<PersonRow> = sqlx::query_as(MEMBERS).bind(team.as_str()).fetch_all(&mut **tx).await?;
        self.people_of_rows(rows).await
    }

    /// Staff, whose names are sealed with the practice's key, which is known.
    async fn people_of_rows(&self, rows: Vec<PersonRow>) -> Result<Vec<Person>, StoreError> {
        let mut members = Vec::with_capacity(rows.len());
        for row in rows {
            members.push(self.person_of_row(row).await?);
        }
        members.sort_by(|a, b| (a.name.as_str(), &a.id).cmp(&(b.name.as_str(), &b.id)));
        Ok(members)
    }

    /// The teams that take part in a conversation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn teams_in(&self, id: &ConversationId) -> Result<Vec<TeamId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT team_id FROM conversation_teams WHERE conversation_id = $1 ORDER BY team_id",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|(id,)| parsed(TEAMS, id)).collect()
    }

    /// A team has another name, or other members: these and no others. They are included in all conversations that it takes part
    /// in; those who leave it go from all of those, unless they are there by another team. Where nobody of the staff would be
    /// left, whoever asks takes part instead.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn change_team(
        &self,
        team: &Team,
        name: Option<&TeamName>,
        members: Option<&[Person]>,
        asking: Asking<'_>,
    ) -> Result<Touched, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(name) = name {
            sqlx::query("UPDATE teams SET name = $2 WHERE id = $1")
                .bind(team.id.as_str())
                .bind(self.practice_key().seal(place(&team.id), name.as_str().as_bytes()))
                .execute(&mut *tx)
                .await?;
        }
        let mut touched = Vec::new();
        if let Some(members) = members {
            let is_one =
                |people: &[Person], person: &Person| people.iter().any(|other| other.id == person.id);
            let before = self.members_now(&mut tx, &team.id).await?;
            let come: Vec<_> = members.iter().filter(|member| !is_one(&before, member)).collect();
            let gone: Vec<_> = before.iter().filter(|member| !is_one(members, member)).collect();
            for person in &come {
                Self::comes_into(&mut tx, &team.id, &person.id).await?;
            }
            for person in &gone {
                sqlx::query("DELETE FROM team_members WHERE team_id = $1 AND person_id = $2")
                    .bind(team.id.as_str())
                    .bind(person.id.as_str())
                    .execute(&mut *tx)
                    .await?;
            }
            let conversations = Self::conversations_of_team(&mut tx, &team.id).await?;
            for id in conversations.iter().filter(|_| !(come.is_empty() && gone.is_empty())) {
                for person in &come {
                    let change = Self::change_by_team(&mut tx, id, person, asking).await?;
                    if let ParticipantsAre::Refused(error) =
                        self.included(&mut tx, &change, asking.at).await?
                    {
                        self.leave(tx).await?;
                        return Ok(Err(error));
                    }
                }
                for person in &gone {
                    self.goes(&mut tx, id, person, asking).await?;
                }
            }
            touched = conversations;
        }
        self.commit(tx, CommitPoint::ParticipantsKept).await?;
        Ok(Ok(touched))
    }

    /// Somebody goes from a conversation with a team; where nobody of the staff would be left, whoever asks comes instead.
    async fn goes(
        &self,
        tx: &mut Transaction,
        id: &ConversationId,
        person: &Person,
        asking: Asking<'_>,
    ) -> Result<(), StoreError> {
        if Self::comes_by_a_team(tx, id, &person.id).await? {
            return Ok(());
        }
        let change = Self::change_by_team(tx, id, person, asking).await?;
        let gone = self.excluded(tx, &change, None, asking.at).await?;
        if gone == ParticipantsAre::Refused(TakingPartError::LastOfStaff) && person.id != asking.by.id {
            let instead =
                ParticipantChange { by_name: true, ..Self::change_by_team(tx, id, asking.by, asking).await? };
            self.included(tx, &instead, asking.at).await?;
            self.excluded(tx, &change, None, asking.at).await?;
        }
        Ok(())
    }

    /// A team takes part in a conversation: all who are in it, and all who come into it later.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn include_team(
        &self,
        id: &ConversationId,
        team: &Team,
        asking: Asking<'_>,
    ) -> Result<Touched, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO conversation_teams (conversation_id, team_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(id.as_str())
        .bind(team.id.as_str())
        .execute(&mut *tx)
        .await?;
        for person in &self.members_now(&mut tx, &team.id).await? {
            let change = Self::change_by_team(&mut tx, id, person, asking).await?;
            if let ParticipantsAre::Refused(error) = self.included(&mut tx, &change, asking.at).await? {
                self.leave(tx).await?;
                return Ok(Err(error));
            }
        }
        self.of_team(tx, id, &team.id, "team-included", asking).await
    }

    /// A team takes part in a conversation no longer, nor do those of it who are not named themselves, or by another team.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn exclude_team(
        &self,
        id: &ConversationId,
        team: &Team,
        asking: Asking<'_>,
    ) -> Result<Touched, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM conversation_teams WHERE conversation_id = $1 AND team_id = $2")
            .bind(id.as_str())
            .bind(team.id.as_str())
            .execute(&mut *tx)
            .await?;
        let mut members = self.members_now(&mut tx, &team.id).await?;
        // Whoever asks goes last: until then they may ask.
        members.sort_by_key(|person| person.id == asking.by.id);
        for person in &members {
            let named: Option<(i64,)> = sqlx::query_as(
                "SELECT by_name FROM participants WHERE conversation_id = $1 AND person_id = $2 AND by_name = 1",
            )
            .bind(id.as_str())
            .bind(person.id.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            if named.is_some() || Self::comes_by_a_team(&mut tx, id, &person.id).await? {
                continue;
            }
            let change = Self::change_by_team(&mut tx, id, person, asking).await?;
            if let ParticipantsAre::Refused(error) = self.excluded(&mut tx, &change, None, asking.at).await? {
                self.leave(tx).await?;
                return Ok(Err(error));
            }
        }
        self.of_team(tx, id, &team.id, "team-excluded", asking).await
    }

    async fn of_team(
        &self,
        mut tx: Transaction,
        id: &ConversationId,
        team: &TeamId,
        what: &'static str,
        asking: Asking<'_>,
    ) -> Result<Touched, StoreError> {
        let about = About { event_id: None, message: None, by: Some(&asking.by.id) };
        line(&mut tx, id, about, what, Some(team.as_str()), asking.at).await?;
        self.commit(tx, CommitPoint::ParticipantsKept).await?;
        Ok(Ok(vec![id.clone()]))
    }

    async fn conversations_of_team(
        tx: &mut Transaction,
        team: &TeamId,
    ) -> Result<Vec<ConversationId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT conversation_id FROM conversation_teams WHERE team_id = $1 ORDER BY conversation_id",
        )
        .bind(team.as_str())
        .fetch_all(&mut **tx)
        .await?;
        rows.iter().map(|(id,)| parsed(TEAMS, id)).collect()
    }

    /// Whether somebody is in a team that takes part in a conversation.
    async fn comes_by_a_team(
        tx: &mut Transaction,
        id: &ConversationId,
        person: &PersonId,
    ) -> Result<bool, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT t.team_id FROM conversation_teams t JOIN team_members m ON m.team_id = t.team_id
             WHERE t.conversation_id = $1 AND m.person_id = $2 LIMIT 1",
        )
        .bind(id.as_str())
        .bind(person.as_str())
        .fetch_optional(&mut **tx)
        .await?;
        Ok(row.is_some())
    }

    async fn change_by_team(
        tx: &mut Transaction,
        id: &ConversationId,
        whom: &Person,
        asking: Asking<'_>,
    ) -> Result<ParticipantChange, StoreError> {
        let (hub,): (String,) =
            sqlx::query_as("SELECT id FROM portals WHERE conversation_id = $1 AND patient_id IS NULL")
                .bind(id.as_str())
                .fetch_one(&mut **tx)
                .await?;
        Ok(ParticipantChange {
            conversation: id.clone(),
            by: asking.by.clone(),
            whom: whom.clone(),
            hub: parsed(TEAMS, &hub)?,
            spoke: PortalId::from_bytes(asking.chance.bytes()),
            to_staff: None,
            to_patient: None,
            found: false,
            by_name: false,
            succession: LegId::from_bytes(asking.chance.bytes()),
        })
    }
}
