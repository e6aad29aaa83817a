//! Who takes part in conversations, and who did (S3). What changes, what follows from it, and what the bot says of it are
//! one commit.

use parlour_domain::{
    ConversationId, LegId, Person, PersonId, PortalId, Role, Roster, TakingPartError, Timestamp, may_exclude,
    may_include,
};
use ruma::{EventId, OwnedUserId};

use super::{
    NewLeg, Portal, Store, StoreError, matrix_id, parsed,
    people::{PERSON, PersonRow},
    record::{About, line},
    transaction::Transaction,
};
use crate::commit_point::CommitPoint;

/// A person who takes part in a conversation.
#[derive(Clone, Debug)]
pub struct Participant {
    /// Who.
    pub person: Person,
    /// Owner or named sender.
    pub may_send_one_way: bool,
    /// Since when, by the homeserver's clock; none until the hub has told.
    pub since: Option<Timestamp>,
    /// The revision by which the hub tells.
    pub revision: i64,
}

/// A person who took part in a conversation, and does not any more.
#[derive(Clone, Debug)]
pub struct Former {
    /// Who.
    pub person: Person,
    /// When they were no longer in their room, by the homeserver's clock; none as long as they are.
    pub gone_at: Option<Timestamp>,
}

/// Who takes part in a conversation, by their accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakingPart {
    /// Whose it is.
    pub owner: Option<OwnedUserId>,
    /// All of the staff, the owner among them.
    pub staff: Vec<OwnedUserId>,
    /// Who of the staff writes in it besides the owner when it is one-way.
    pub senders: Vec<OwnedUserId>,
    /// All of the patients.
    pub patients: Vec<OwnedUserId>,
}

/// The people of a conversation.
#[derive(Clone, Debug, Default)]
pub struct People {
    /// Who takes part, by name.
    pub participants: Vec<Participant>,
    /// Who did, by name.
    pub former: Vec<Former>,
}

impl People {
    /// Everybody who takes part or has taken part.
    pub fn everybody(&self) -> impl Iterator<Item = &Person> {
        let participants = self.participants.iter().map(|participant| &participant.person);
        participants.chain(self.former.iter().map(|former| &former.person))
    }

    /// The staff who take part.
    pub fn staff(&self) -> impl Iterator<Item = &Participant> {
        self.participants.iter().filter(|participant| participant.person.role.is_staff())
    }

    /// The patients who take part.
    pub fn patients(&self) -> impl Iterator<Item = &Participant> {
        self.participants.iter().filter(|participant| !participant.person.role.is_staff())
    }

    /// The patients who took part.
    pub fn former_patients(&self) -> impl Iterator<Item = &Person> {
        self.former.iter().map(|former| &former.person).filter(|person| !person.role.is_staff())
    }

    /// Whether what is said goes into a portal: into the hub, and the spokes of patients who take part.
    #[must_use]
    pub fn is_open(&self, portal: &Portal) -> bool {
        portal.patient.as_ref().is_none_or(|patient| self.patients().any(|p| p.person.id == *patient))
    }

    /// Since when a patient takes part, by the homeserver's clock; none does not, or not yet.
    #[must_use]
    pub fn since(&self, patient: &PersonId) -> Option<Timestamp> {
        self.patients().find(|p| p.person.id == *patient).and_then(|p| p.since)
    }

    /// Who is in the conversation, in numbers.
    #[must_use]
    pub fn roster(&self) -> Roster {
        Roster {
            staff: self.staff().count(),
            spokes: self.patients().count() + self.former_patients().count(),
        }
    }
}

/// Somebody is included in a conversation or excluded from it.
#[derive(Clone)]
pub struct ParticipantChange {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Who asks for it: perhaps themselves.
    pub by: Person,
    /// Whom.
    pub whom: Person,
    /// Its hub.
    pub hub: PortalId,
    /// The spoke of a patient who has none yet.
    pub spoke: PortalId,
    /// What the bot says to staff.
    pub to_staff: Option<NewLeg>,
    /// What the bot says to a patient who has a spoke.
    pub to_patient: Option<NewLeg>,
    /// Whether a room has told of it, after a backup was restored: nobody asks for it now.
    pub found: bool,
    /// Whether they are named themselves; else they come by a team, and go with it.
    pub by_name: bool,
    /// As which leg the bot says who owns the conversation from now on, if somebody else does.
    pub succession: LegId,
}

/// What a change of who takes part came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParticipantsAre {
    /// It is so from now on.
    Changed,
    /// It was so before.
    AsBefore,
    /// It may not be.
    Refused(TakingPartError),
}

pub(super) const PARTICIPANTS: &str = "participants";

impl Store {
    /// Who takes part in a conversation, and who did.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn people_in(&self, id: &ConversationId) -> Result<People, StoreError> {
        type Row = (String, String, String, Vec<u8>, Option<Vec<u8>>, Option<i64>, Option<i64>, i64);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT p.id, p.user_id, p.role, p.name, p.record_number, x.may_send_one_way, x.since, x.revision
             FROM participants x JOIN people p ON p.id = x.person_id WHERE x.conversation_id = $1
             UNION ALL SELECT p.id, p.user_id, p.role, p.name, p.record_number, NULL, x.gone_at, 0
             FROM former_participants x JOIN people p ON p.id = x.person_id WHERE x.conversation_id = $1",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await?;
        let mut people = People::default();
        for (id, user_id, role, name, number, may_send, at, revision) in rows {
            let row: PersonRow = (id, user_id, role, name, number);
            let person = self.person_of_row(row).await?;
            match may_send {
                Some(may_send) => {
                    let since = at.map(Timestamp::from_millis);
                    people.participants.push(Participant {
                        person,
                        may_send_one_way: may_send == 1,
                        since,
                        revision,
                    });
                }
                None => {
                    people.former.push(Former { person, gone_at: at.map(Timestamp::from_millis) });
                }
            }
        }
        let by_name = |a: &Person, b: &Person| (a.name.as_str(), &a.id).cmp(&(b.name.as_str(), &b.id));
        people.participants.sort_by(|a, b| by_name(&a.person, &b.person));
        people.former.sort_by(|a, b| by_name(&a.person, &b.person));
        Ok(people)
    }

    /// Who takes part in a conversation, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn participants(&self, id: &ConversationId) -> Result<Vec<Participant>, StoreError> {
        Ok(self.people_in(id).await?.participants)
    }

    /// Who takes part in a conversation, and no name of theirs: none is opened for that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn taking_part(&self, id: &ConversationId) -> Result<TakingPart, StoreError> {
        let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
            "SELECT p.user_id, p.role, t.may_send_one_way, CAST(CASE WHEN p.id = c.owner_id THEN 1 ELSE 0 END AS BIGINT)
             FROM participants t JOIN people p ON p.id = t.person_id JOIN conversations c ON c.id = t.conversation_id
             WHERE t.conversation_id = $1 ORDER BY p.user_id",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await?;
        let mut all = TakingPart::default();
        for (user_id, role, may_send, owns) in rows {
            let user_id: OwnedUserId = matrix_id(PERSON, user_id)?;
            let role: Role = parsed(PERSON, &role)?;
            if owns == 1 {
                all.owner = Some(user_id.clone());
            } else if may_send == 1 && role.is_staff() {
                all.senders.push(user_id.clone());
            }
            if role.is_staff() { all.staff.push(user_id) } else { all.patients.push(user_id) }
        }
        Ok(all)
    }

    /// Whether somebody may see a conversation: they take part in it, or have taken part as a patient, whose room stays theirs
    /// to read.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn may_see(&self, id: &ConversationId, person: &PersonId) -> Result<bool, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT person_id FROM participants WHERE conversation_id = $1 AND person_id = $2
             UNION SELECT patient_id FROM portals WHERE conversation_id = $1 AND patient_id = $2",
        )
        .bind(id.as_str())
        .bind(person.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.is_some())
    }

    /// Includes somebody in a conversation. Who takes part and is not in their room is brought back.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn include(
        &self,
        change: &ParticipantChange,
        at: Timestamp,
    ) -> Result<ParticipantsAre, StoreError> {
        let mut tx = self.begin().await?;
        let outcome = self.included(&mut tx, change, at).await?;
        self.settle(tx, outcome).await
    }

    /// Excludes somebody from a conversation.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn exclude(
        &self,
        change: &ParticipantChange,
        at: Timestamp,
    ) -> Result<ParticipantsAre, StoreError> {
        let mut tx = self.begin().await?;
        let outcome = self.excluded(&mut tx, change, None, at).await?;
        self.settle(tx, outcome).await
    }

    async fn settle(&self, tx: Transaction, outcome: ParticipantsAre) -> Result<ParticipantsAre, StoreError> {
        match outcome {
            ParticipantsAre::Changed | ParticipantsAre::AsBefore => {
                self.commit(tx, CommitPoint::ParticipantsKept).await?;
            }
            ParticipantsAre::Refused(_) => self.leave(tx).await?,
        }
        Ok(outcome)
    }

    pub(super) async fn included(
        &self,
        tx: &mut Transaction,
        change: &ParticipantChange,
        at: Timestamp,
    ) -> Result<ParticipantsAre, StoreError> {
        let (id, whom) = (&change.conversation, &change.whom);
        let patient = (!whom.role.is_staff()).then_some(&whom.id);
        if Self::takes_part(tx, id, &whom.id).await? {
            if change.by_name {
                sqlx::query(
                    "UPDATE participants SET by_name = 1 WHERE conversation_id = $1 AND person_id = $2",
                )
                .bind(id.as_str())
                .bind(whom.id.as_str())
                .execute(&mut **tx)
                .await?;
            }
            return Self::brought_back(tx, id, (whom, patient), at).await;
        }
        let returned = Self::took_part(tx, id, &whom.id).await?;
        let (owner, roster) = Self::roster(tx, id).await?;
        if let Err(error) = may_include(&change.by, &owner, (whom, returned), roster) {
            return Ok(ParticipantsAre::Refused(error));
        }
        sqlx::query("DELETE FROM former_participants WHERE conversation_id = $1 AND person_id = $2")
            .bind(id.as_str())
            .bind(whom.id.as_str())
            .execute(&mut **tx)
            .await?;
        // Who is in the hub, or what its topic says. When that is so, the hub tells.
        Self::portal_is_to_be_set(tx, id, None, at).await?;
        sqlx::query(
            "INSERT INTO participants (conversation_id, person_id, since, by_name, revision)
             SELECT $1, $2, $3, $4, h.revision FROM portals h WHERE h.conversation_id = $1 AND h.patient_id IS NULL",
        )
        .bind(id.as_str())
        .bind(whom.id.as_str())
        .bind(whom.role.is_staff().then_some(at.millis()))
        .bind(i64::from(change.by_name))
        .execute(&mut **tx)
        .await?;
        if patient.is_some() {
            if returned {
                Self::portal_is_to_be_set(tx, id, patient, at).await?;
            } else {
                sqlx::query("INSERT INTO portals (id, conversation_id, patient_id) VALUES ($1, $2, $3)")
                    .bind(change.spoke.as_str())
                    .bind(id.as_str())
                    .bind(whom.id.as_str())
                    .execute(&mut **tx)
                    .await?;
                sqlx::query("UPDATE conversations SET ready = 0 WHERE id = $1")
                    .bind(id.as_str())
                    .execute(&mut **tx)
                    .await?;
            }
        }
        let by = Some(&change.by.id).filter(|_| !change.found);
        let what = if change.found { "included-found" } else { "included" };
        line(tx, id, About { event_id: None, message: None, by }, what, Some(whom.id.as_str()), at).await?;
        // Staff hear of it when the hub says so: from then on what they write goes there.
        if let Some(word) = change.to_patient.as_ref().filter(|_| returned) {
            self.add(tx, std::slice::from_ref(word), None, at).await?;
        }
        Ok(ParticipantsAre::Changed)
    }

    /// Who takes part and is not in their room, for whatever reason, is to be.
    async fn brought_back(
        tx: &mut Transaction,
        id: &ConversationId,
        (whom, patient): (&Person, Option<&PersonId>),
        at: Timestamp,
    ) -> Result<ParticipantsAre, StoreError> {
        let missing: Option<(String,)> = sqlx::query_as(
            "SELECT p.id FROM portals p WHERE p.conversation_id = $1 AND COALESCE(p.patient_id, '') = $2 AND p.ready = 1
                 AND NOT EXISTS (SELECT 1 FROM portal_members i WHERE i.portal_id = p.id AND i.user_id = $3)",
        )
        .bind(id.as_str())
        .bind(patient.map_or("", PersonId::as_str))
        .bind(whom.user_id.as_str())
        .fetch_optional(&mut **tx)
        .await?;
        if missing.is_none() {
            return Ok(ParticipantsAre::AsBefore);
        }
        Self::portal_is_to_be_set(tx, id, patient, at).await?;
        Ok(ParticipantsAre::Changed)
    }

    /// Somebody does not take part any more: excluded by the practice API, or gone by their own client in an event.
    pub(super) async fn excluded(
        &self,
        tx: &mut Transaction,
        change: &ParticipantChange,
        event_id: Option<&EventId>,
        at: Timestamp,
    ) -> Result<ParticipantsAre, StoreError> {
        let (id, whom) = (&change.conversation, &change.whom);
        if !Self::takes_part(tx, id, &whom.id).await? {
            return Ok(ParticipantsAre::AsBefore);
        }
        let (owner, roster) = Self::roster(tx, id).await?;
        if let Err(error) = may_exclude(&change.by, &owner, whom, roster) {
            return Ok(ParticipantsAre::Refused(error));
        }
        sqlx::query("DELETE FROM participants WHERE conversation_id = $1 AND person_id = $2")
            .bind(id.as_str())
            .bind(whom.id.as_str())
            .execute(&mut **tx)
            .await?;
        sqlx::query("INSERT INTO former_participants (conversation_id, person_id) VALUES ($1, $2)")
            .bind(id.as_str())
            .bind(whom.id.as_str())
            .execute(&mut **tx)
            .await?;
        if !whom.role.is_staff() {
            Self::portal_is_to_be_set(tx, id, Some(&whom.id), at).await?;
        }
        Self::portal_is_to_be_set(tx, id, None, at).await?;
        let what = match event_id {
            Some(_) => "left",
            None if change.found => "excluded-found",
            None => "excluded",
        };
        let by = Some(&change.by.id).filter(|_| !change.found);
        let about = About { event_id, message: None, by };
        line(tx, id, about, what, Some(whom.id.as_str()), at).await?;
        for word in [&change.to_staff, &change.to_patient].into_iter().flatten() {
            self.add(tx, std::slice::from_ref(word), None, at).await?;
        }
        if owner == whom.id {
            self.passes_on(tx, change, at).await?;
        }
        Ok(ParticipantsAre::Changed)
    }

    async fn takes_part(
        tx: &mut Transaction,
        id: &ConversationId,
        person: &PersonId,
    ) -> Result<bool, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT person_id FROM participants WHERE conversation_id = $1 AND person_id = $2",
        )
        .bind(id.as_str())
        .bind(person.as_str())
        .fetch_optional(&mut **tx)
        .await?;
        Ok(row.is_some())
    }

    async fn took_part(
        tx: &mut Transaction,
        id: &ConversationId,
        person: &PersonId,
    ) -> Result<bool, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT person_id FROM former_participants WHERE conversation_id = $1 AND person_id = $2",
        )
        .bind(id.as_str())
        .bind(person.as_str())
        .fetch_optional(&mut **tx)
        .await?;
        Ok(row.is_some())
    }

    /// Who owns a conversation, and who is in it.
    async fn roster(tx: &mut Transaction, id: &ConversationId) -> Result<(PersonId, Roster), StoreError> {
        let (owner, staff, patients, former): (String, i64, i64, i64) = sqlx::query_as(
            "SELECT c.owner_id,
                 (SELECT COUNT(*) FROM participants t JOIN people p ON p.id = t.person_id
                     WHERE t.conversation_id = c.id AND p.role <> 'patient'),
                 (SELECT COUNT(*) FROM participants t JOIN people p ON p.id = t.person_id
                     WHERE t.conversation_id = c.id AND p.role = 'patient'),
                 (SELECT COUNT(*) FROM former_participants t JOIN people p ON p.id = t.person_id
                     WHERE t.conversation_id = c.id AND p.role = 'patient')
             FROM conversations c WHERE c.id = $1",
        )
        .bind(id.as_str())
        .fetch_one(&mut **tx)
        .await?;
        let count = |count: i64| usize::try_from(count).map_err(|_| StoreError::Malformed(PARTICIPANTS));
        let roster = Roster { staff: count(staff)?, spokes: count(patients + former)? };
        Ok((parsed(PARTICIPANTS, &owner)?, roster))
    }

    /// The hub says that it was set to a revision: who was included by then takes part since that event.
    pub(super) async fn revised(
        tx: &mut Transaction,
        id: &ConversationId,
        (revision, since): (i64, Timestamp),
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE participants SET since = $3 WHERE conversation_id = $1 AND since IS NULL AND revision <= $2",
        )
        .bind(id.as_str())
        .bind(revision)
        .bind(since.millis())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}
