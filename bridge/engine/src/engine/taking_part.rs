//! Who takes part in a conversation, as the listeners change it (S3): written down first, then the rooms are set to it.

use parlour_domain::{
    ConversationId, LegId, Person, PortalId, PortalKind, TakingPartError, TeamId, TeamName,
};

use super::{Core, Engine, EngineError};
use crate::{
    notices,
    store::{Asking, NewLeg, ParticipantChange, ParticipantsAre, Portal, Says, StoreError, Team},
};

impl Core {
    /// A change of who takes part, and what the bot says of it.
    async fn participant_change(
        &self,
        id: &ConversationId,
        by: &Person,
        whom: &Person,
        (to_staff, to_patient): (fn(&str) -> String, &str),
    ) -> Result<ParticipantChange, EngineError> {
        let portals = self.store.portals(id).await?;
        let hub = portals.iter().find(|portal| portal.kind() == PortalKind::Hub);
        let hub = hub.ok_or(StoreError::Malformed("portals"))?;
        let word = |portal: &Portal, words: String| NewLeg {
            id: LegId::from_bytes(self.ghosts.chance.bytes()),
            portal: portal.id.clone(),
            says: Says::Notice(words, None),
            sent_at: self.clock.now(),
        };
        let spoke = portals.iter().find(|portal| portal.patient.as_ref() == Some(&whom.id));
        let fresh = || PortalId::from_bytes(self.ghosts.chance.bytes());
        Ok(ParticipantChange {
            conversation: id.clone(),
            by: by.clone(),
            whom: whom.clone(),
            hub: hub.id.clone(),
            spoke: spoke.map_or_else(fresh, |spoke| spoke.id.clone()),
            // Of the staff themselves the hub tells who is in it.
            to_staff: (!whom.role.is_staff()).then(|| word(hub, to_staff(whom.name.as_str()))),
            to_patient: spoke.map(|spoke| word(spoke, to_patient.to_owned())),
            found: false,
            by_name: true,
            succession: LegId::from_bytes(self.ghosts.chance.bytes()),
        })
    }

    /// A room tells, after a backup was restored, that somebody takes part or does not.
    ///
    /// # Errors
    /// When the database fails; then nothing has changed.
    pub(crate) async fn participation_is_found(
        &self,
        hub: &Portal,
        owner: &Person,
        whom: &Person,
        comes: bool,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let change = ParticipantChange {
            conversation: hub.conversation.clone(),
            // Perhaps it was the owner who went.
            by: if comes { owner.clone() } else { whom.clone() },
            whom: whom.clone(),
            hub: hub.id.clone(),
            spoke: PortalId::from_bytes(self.ghosts.chance.bytes()),
            to_staff: None,
            to_patient: None,
            found: true,
            by_name: true,
            succession: LegId::from_bytes(self.ghosts.chance.bytes()),
        };
        let outcome = match comes {
            true => self.store.include(&change, now).await?,
            false => self.store.exclude(&change, now).await?,
        };
        if let ParticipantsAre::Refused(error) = outcome {
            tracing::error!(conversation = %hub.conversation, %error, "who takes part is not as its rooms tell");
        }
        Ok(())
    }

    /// After a backup was restored nothing is changed by anybody until it is known what rooms have become since.
    pub(crate) async fn knows_its_rooms(&self) -> Result<(), EngineError> {
        match self.store.restored_at().await? {
            Some(_) => Err(EngineError::CatchingUp),
            None => Ok(()),
        }
    }

    /// Has everybody look who has to do with a change of who takes part.
    fn participants_are(
        &self,
        outcome: ParticipantsAre,
        change: &ParticipantChange,
    ) -> Result<(), EngineError> {
        match outcome {
            ParticipantsAre::Changed => {
                self.wake_maker(&change.conversation);
                self.wake_senders(&[change.hub.clone(), change.spoke.clone()]);
                self.changed(&change.conversation);
                Ok(())
            }
            ParticipantsAre::AsBefore => Ok(()),
            ParticipantsAre::Refused(error) => Err(EngineError::TakingPart(error)),
        }
    }
}

impl Engine {
    /// Includes somebody in a conversation (S3). When this returns well it is written down, and they are brought into their
    /// room. Who takes part already and has gone missing there is brought back.
    ///
    /// # Errors
    /// [`EngineError::TakingPart`]; or the database fails: then nothing has changed.
    pub async fn include(&self, id: &ConversationId, whom: &Person, by: &Person) -> Result<(), EngineError> {
        self.core.knows_its_rooms().await?;
        let words = (notices::includes as fn(&str) -> String, notices::AGAIN);
        let change = self.core.participant_change(id, by, whom, words).await?;
        let outcome = self.core.store.include(&change, self.core.clock.now()).await?;
        self.core.participants_are(outcome, &change)
    }

    /// Excludes somebody from a conversation (S3). When this returns well it is written down: nothing that is said from now on
    /// reaches them, and their room is being closed to them.
    ///
    /// # Errors
    /// [`EngineError::TakingPart`]; or the database fails: then nothing has changed.
    pub async fn exclude(&self, id: &ConversationId, whom: &Person, by: &Person) -> Result<(), EngineError> {
        self.core.knows_its_rooms().await?;
        let words = (notices::excludes as fn(&str) -> String, notices::CLOSED);
        let change = self.core.participant_change(id, by, whom, words).await?;
        let outcome = self.core.store.exclude(&change, self.core.clock.now()).await?;
        self.core.participants_are(outcome, &change)
    }
}

impl Engine {
    /// Makes a team.
    ///
    /// # Errors
    /// When the database fails; then there is none.
    pub async fn add_team(&self, name: TeamName, members: Vec<Person>) -> Result<Team, EngineError> {
        let team = Team { id: TeamId::from_bytes(self.core.ghosts.chance.bytes()), name, members };
        self.core.store.add_team(&team).await?;
        Ok(team)
    }

    /// Changes a team: who comes into it takes part in all that it takes part in, and who leaves it goes from all of that.
    ///
    /// # Errors
    /// [`EngineError::TakingPart`]; or the database fails: then nothing has changed.
    pub async fn change_team(
        &self,
        team: &Team,
        name: Option<&TeamName>,
        members: Option<&[Person]>,
        by: &Person,
    ) -> Result<(), EngineError> {
        self.core.knows_its_rooms().await?;
        let touched = self.core.store.change_team(team, name, members, self.core.asking(by)).await?;
        self.core.teams_are(touched).await
    }

    /// Includes a team in a conversation.
    ///
    /// # Errors
    /// [`EngineError::TakingPart`]; or the database fails: then nothing has changed.
    pub async fn include_team(
        &self,
        id: &ConversationId,
        team: &Team,
        by: &Person,
    ) -> Result<(), EngineError> {
        self.core.knows_its_rooms().await?;
        let touched = self.core.store.include_team(id, team, self.core.asking(by)).await?;
        self.core.teams_are(touched).await
    }

    /// Excludes a team from a conversation.
    ///
    /// # Errors
    /// [`EngineError::TakingPart`]; or the database fails: then nothing has changed.
    pub async fn exclude_team(
        &self,
        id: &ConversationId,
        team: &Team,
        by: &Person,
    ) -> Result<(), EngineError> {
        self.core.knows_its_rooms().await?;
        let touched = self.core.store.exclude_team(id, team, self.core.asking(by)).await?;
        self.core.teams_are(touched).await
    }
}

impl Core {
    fn asking<'a>(&'a self, by: &'a Person) -> Asking<'a> {
        Asking { by, at: self.clock.now(), chance: &*self.ghosts.chance }
    }

    async fn teams_are(
        &self,
        touched: Result<Vec<ConversationId>, TakingPartError>,
    ) -> Result<(), EngineError> {
        for id in touched? {
            self.wake_maker(&id);
            // The bot may have said whose it is now. That it is written down stands, also when this cannot be read.
            match self.store.portals(&id).await {
                Ok(portals) => {
                    self.wake_senders(&portals.into_iter().map(|portal| portal.id).collect::<Vec<_>>())
                }
                Err(error) => {
                    tracing::error!(conversation = %id, %error, "nobody was woken to tell of a change")
                }
            }
            self.changed(&id);
        }
        Ok(())
    }
}
