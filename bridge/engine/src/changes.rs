//! Who wants to know when something about a conversation changes: its making, or how far its messages have come.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use parlour_domain::ConversationId;
use tokio::sync::watch;

/// The conversations that somebody looks at. It says that something has changed, not what.
#[derive(Debug, Default)]
pub(crate) struct Changes(Mutex<HashMap<ConversationId, watch::Sender<()>>>);

impl Changes {
    /// Hears of each change of a conversation from now on; of several at once perhaps only once.
    pub(crate) fn watch(&self, conversation: &ConversationId) -> watch::Receiver<()> {
        self.watched().entry(conversation.clone()).or_default().subscribe()
    }

    /// Something about a conversation has changed.
    pub(crate) fn tell(&self, conversation: &ConversationId) {
        let mut watched = self.watched();
        if watched.get(conversation).is_some_and(|changed| changed.send(()).is_err()) {
            // Nobody looks at it any more.
            watched.remove(conversation);
        }
    }

    /// Whether anybody looks at anything.
    pub(crate) fn interest(&self) -> bool {
        !self.watched().is_empty()
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<ConversationId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_looks_hears_of_it_and_nobody_is_kept_who_does_not() {
        let changes = Changes::default();
        let [one, other] = [1, 2].map(|n| ConversationId::from_bytes([n; 16]));
        let (mut here, mut too, mut there) =
            (changes.watch(&one), changes.watch(&one), changes.watch(&other));
        assert!(!here.has_changed().expect("it is told"), "nothing yet");
        changes.tell(&one);
        changes.tell(&one);
        here.changed().await.expect("it is told");
        too.changed().await.expect("it is told");
        assert!(!here.has_changed().expect("it is told"), "twice at once is once");
        assert!(!there.has_changed().expect("it is told"), "nothing of another one");
        changes.tell(&other);
        there.changed().await.expect("it is told");
        drop((here, too, there));
        changes.tell(&one);
        changes.tell(&other);
        assert!(!changes.interest());
    }
}
