//! Out of hours: who writes while the practice is closed is told so.

use parlour_domain::{PortalKind, Standing, Timestamp, rules::Relation};

use crate::{
    crypto::CryptoError,
    engine::Core,
    intake::Event,
    store::{Closed, InboxRow, Portal, SaysClosed},
};

impl Core {
    /// What the practice tells a patient who writes while it is closed, and still is.
    pub(super) fn out_of_hours(
        &self,
        event: &Event,
        home: &Portal,
        relation: &Relation<'_>,
        has_come: bool,
    ) -> Closed {
        let hours = self.settings.hours.as_ref()?;
        let says_something = matches!(relation, Relation::None | Relation::Answer { .. });
        if home.kind() == PortalKind::Hub || !says_something {
            return None;
        }
        let now = self.clock.now();
        let written = hours.at(Timestamp::from(event.origin_server_ts));
        let Standing::Closed(until) = hours.at(now) else { return None };
        if written != Standing::Closed(until) {
            return None;
        }
        let words = hours.answer(now, until, has_come, self.settings.emergency.as_ref());
        let purpose = if has_come { "closed" } else { "closed-not-come" };
        let answer = self.leg_ids.notice(&event.event_id, &home.id, purpose, words, now);
        Some(Box::new(SaysClosed { until: until.map_or(0, Timestamp::millis), has_come, answer }))
    }

    /// The same, where what they have written is not passed on, or not yet.
    pub(super) async fn out_of_hours_all_the_same(
        &self,
        row: &InboxRow,
        event: &Event,
    ) -> Result<Closed, CryptoError> {
        if self.settings.hours.is_none() {
            return Ok(None);
        }
        let home = self.store.portal(&row.portal).await?;
        let Some(patient) = &home.patient else { return Ok(None) };
        let is_theirs =
            self.store.person(patient).await?.is_some_and(|person| person.user_id == event.sender);
        Ok(self.out_of_hours(event, &home, &Relation::of(&event.content), false).filter(|_| is_theirs))
    }
}
