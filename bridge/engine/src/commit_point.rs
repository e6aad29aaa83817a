//! Every place where something becomes true outside of this process: each commit of the database, each request to the
//! homeserver. The enum is closed, and nothing commits or asks without naming its member, so that a test can end the
//! process before and after each of them.

macro_rules! commit_points {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// A commit of the database, or a request to the homeserver.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CommitPoint { $($(#[$doc])* $name,)+ }

        impl CommitPoint {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name; what begins with `db.` is a commit, what begins with `hs.` a request.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

commit_points! {
    /// The events of a transaction are in the inbox; echoes among them have settled their legs.
    TransactionKept = "db.transaction-kept",
    /// Everything that was said is known up to a place.
    CaughtUp = "db.caught-up",
    /// What became of an event: record, ledger, mapping, outbox, and the event done.
    EventDecided = "db.event-decided",
    /// A leg's ciphertext.
    LegSealed = "db.leg-sealed",
    /// A leg stands in its room.
    LegLanded = "db.leg-landed",
    /// Nobody can read a leg yet.
    LegHeld = "db.leg-held",
    /// A leg is tried again later.
    LegPutOff = "db.leg-put-off",
    /// What a leg is about is not there, or what it says was deleted before its turn came, so it is not sent.
    LegVoid = "db.leg-void",
    /// A leg is given up.
    LegFailed = "db.leg-failed",
    /// Nothing is put off any longer.
    OutboxWoken = "db.outbox-woken",
    /// Somebody may not have been able to read what a ghost has sent, or could after all.
    RepairWished = "db.repair-wished",
    /// Which sessions could not be read.
    RepairNamed = "db.repair-named",
    /// A message is to be sent again from the record.
    RepairBegun = "db.repair-begun",
    /// What is known of people's devices: that it may have changed, or what the homeserver has told.
    DevicesKnown = "db.devices-known",
    /// Receipts of people have come.
    ReceiptsKept = "db.receipts-kept",
    /// What receipts cover was counted, and what follows is due.
    ReadsCounted = "db.reads-counted",
    /// Receipts were shown elsewhere.
    ReceiptsShown = "db.receipts-shown",
    /// What an Olm machine keeps.
    MachineSaved = "db.machine-saved",
    /// An Olm machine forgot what must not be used again.
    MachineRenewed = "db.machine-renewed",
    /// A user of ours has another device from now on, or all are to be published again.
    DeviceRenewed = "db.device-renewed",
    /// The database turned out to be older than the world.
    RestoreNoticed = "db.restore-noticed",
    /// A restored database has caught up with the rooms.
    Recovered = "db.recovered",
    /// A person was written down.
    PersonKept = "db.person-kept",
    /// A user of ours was chosen for somebody.
    OurUserChosen = "db.our-user-chosen",
    /// A user of ours stands on the homeserver.
    OurUserReady = "db.our-user-ready",
    /// A conversation was written down.
    ConversationKept = "db.conversation-kept",
    /// The making of a room begins.
    PortalAttempted = "db.portal-attempted",
    /// A portal has its room.
    PortalMade = "db.portal-made",
    /// A portal's room has whom it needs.
    PortalReady = "db.portal-ready",
    /// A conversation's rooms stand.
    ConversationReady = "db.conversation-ready",
    /// What somebody said was deleted by the practice API.
    MessageDeleted = "db.message-deleted",
    /// A conversation has another mode, or other named senders.
    ModeKept = "db.mode-kept",
    /// Other people take part in a conversation.
    ParticipantsKept = "db.participants-kept",
    /// A room was set to what it is to be like.
    PortalSet = "db.portal-set",
    /// Somebody is in a portal.
    MemberCame = "db.member-came",
    /// Somebody is not in a portal.
    MemberGone = "db.member-gone",
    /// The database is this process's.
    DatabaseTaken = "db.taken",
    /// Whether the database takes anything.
    Probed = "db.probed",
    /// A value that is made once.
    SettingKept = "db.setting-kept",
    /// The homeserver is asked to call us.
    Ping = "hs.ping",
    /// An account is made.
    Register = "hs.register",
    /// A device is made.
    MakeDevice = "hs.make-device",
    /// The devices of a user of ours are asked for.
    ReadDevices = "hs.read-devices",
    /// A device is ended.
    EndDevice = "hs.end-device",
    /// A display name is set.
    SetName = "hs.set-name",
    /// When people's devices were seen is asked for.
    ReadSeen = "hs.read-seen",
    /// Device keys and one-time keys are uploaded.
    UploadKeys = "hs.upload-keys",
    /// A cross-signing identity is uploaded.
    UploadIdentity = "hs.upload-identity",
    /// Signatures are uploaded.
    UploadSignatures = "hs.upload-signatures",
    /// Devices are asked for.
    QueryKeys = "hs.query-keys",
    /// One-time keys are claimed.
    ClaimKeys = "hs.claim-keys",
    /// Room keys go to devices.
    SendToDevices = "hs.send-to-devices",
    /// A leg is sent.
    SendEvent = "hs.send-event",
    /// A receipt is shown by a ghost.
    SendReceipt = "hs.send-receipt",
    /// An event of ours is redacted.
    Redact = "hs.redact",
    /// Somebody is joined to a room.
    Join = "hs.join",
    /// A file is fetched from the homeserver.
    Download = "hs.download",
    /// A file is put on the homeserver.
    Upload = "hs.upload",
    /// Somebody is invited into a room.
    Invite = "hs.invite",
    /// Somebody is put out of a room.
    Kick = "hs.kick",
    /// A room is made.
    CreateRoom = "hs.create-room",
    /// A room's state is set.
    SetState = "hs.set-state",
    /// A room's state is read.
    ReadState = "hs.read-state",
    /// A room's history is read.
    ReadHistory = "hs.read-history",
    /// The list of our rooms is read.
    ReadRooms = "hs.read-rooms",
    /// An inbox is looked into.
    ReadInbox = "hs.read-inbox",
    /// A person's access token is looked up.
    WhoAmI = "hs.who-am-i",
    /// The administrator's API is asked for something else.
    Administer = "hs.administer",
}

/// Goes through a commit point: the failpoint before it, the work, the failpoint after it. Without the test feature
/// it is the work alone.
pub(crate) async fn through<T>(point: CommitPoint, work: impl Future<Output = T>) -> T {
    #[cfg(feature = "faults")]
    let passage = crate::failpoints::before(point);
    #[cfg(not(feature = "faults"))]
    let _ = point;
    let outcome = work.await;
    #[cfg(feature = "faults")]
    crate::failpoints::after(passage);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_points_share_a_name() {
        let names: std::collections::BTreeSet<_> =
            CommitPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), CommitPoint::ALL.len());
        assert!(names.iter().all(|name| name.starts_with("db.") || name.starts_with("hs.")));
    }
}
