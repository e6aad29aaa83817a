//! Who has gone from a room: by their own client, or because they were put out; and whose the conversation is then.

use parlour_domain::{Candidate, PortalId, Timestamp, heir};
use ruma::{EventId, UserId};

use super::{
    Departure, NewLeg, ParticipantChange, ParticipantsAre, Says, Store, StoreError, one_row, parsed,
    participants::PARTICIPANTS,
    people::PersonRow,
    record::{About, line},
    transaction::Transaction,
};
use crate::notices;

impl Store {
    /// Somebody has gone by their own client: they do not take part any more, unless nobody of the staff would be left.
    pub(super) async fn departed(
        &self,
        tx: &mut Transaction,
        departure: &Departure,
        event_id: &EventId,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let change = &departure.change;
        if let ParticipantsAre::Refused(_) = self.excluded(tx, change, Some(event_id), at).await? {
            Self::portal_is_to_be_set(tx, &change.conversation, None, at).await?;
            self.add(tx, std::slice::from_ref(&departure.is_last), None, at).await?;
        }
        Ok(())
    }

    /// Somebody else owns a conversation whose owner has gone (JOIN-7).
    pub(super) async fn passes_on(
        &self,
        tx: &mut Transaction,
        change: &ParticipantChange,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let id = &change.conversation;
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT t.person_id, t.may_send_one_way, COALESCE(t.since, 0) FROM participants t JOIN people p ON p.id = t.person_id
             WHERE t.conversation_id = $1 AND p.role <> 'patient'",
        )
        .bind(id.as_str())
        .fetch_all(&mut **tx)
        .await?;
        let candidate = |(person, may_send, since): &(String, i64, i64)| {
            Ok::<_, StoreError>(Candidate {
                person: parsed(PARTICIPANTS, person)?,
                may_send_one_way: *may_send == 1,
                since: Timestamp::from_millis(*since),
            })
        };
        let staff: Vec<_> = rows.iter().map(candidate).collect::<Result<_, _>>()?;
        // Somebody of the staff is left: JOIN-6.
        let heir = &heir(&staff).ok_or(StoreError::Malformed(PARTICIPANTS))?.person;
        sqlx::query("UPDATE conversations SET owner_id = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(heir.as_str())
            .execute(&mut **tx)
            .await?;
        let named = sqlx::query(
            "UPDATE participants SET may_send_one_way = 1 WHERE conversation_id = $1 AND person_id = $2",
        )
        .bind(id.as_str())
        .bind(heir.as_str())
        .execute(&mut **tx)
        .await?;
        one_row(PARTICIPANTS, &named)?;
        let about = About { event_id: None, message: None, by: Some(&change.by.id) };
        line(tx, id, about, "owner", Some(heir.as_str()), at).await?;
        let row: PersonRow =
            sqlx::query_as("SELECT id, user_id, role, name, record_number FROM people WHERE id = $1")
                .bind(heir.as_str())
                .fetch_one(&mut **tx)
                .await?;
        let words = notices::owns(self.person_of_row(row).await?.name.as_str());
        let word = NewLeg {
            id: change.succession.clone(),
            portal: change.hub.clone(),
            says: Says::Notice(words, None),
            sent_at: at,
        };
        self.add(tx, std::slice::from_ref(&word), None, at).await
    }

    /// Somebody is no longer in a portal's room, since this time. What they wrote there before is still delivered when they
    /// took part.
    pub(super) async fn is_gone(
        tx: &mut Transaction,
        portal: &PortalId,
        user_id: &UserId,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM portal_members WHERE portal_id = $1 AND user_id = $2")
            .bind(portal.as_str())
            .bind(user_id.as_str())
            .execute(&mut **tx)
            .await?;
        sqlx::query(
            "UPDATE former_participants SET gone_at = $3
             WHERE gone_at IS NULL AND person_id = (SELECT r.id FROM people r WHERE r.user_id = $2)
                 AND conversation_id = (SELECT p.conversation_id FROM portals p WHERE p.id = $1)",
        )
        .bind(portal.as_str())
        .bind(user_id.as_str())
        .bind(at.millis())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}
