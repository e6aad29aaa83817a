-- The house: people, conversations with their portals, what came in, the record, what goes out.
-- Portable between SQLite and PostgreSQL. Times are milliseconds since the Unix epoch; yes/no is 1/0.
-- What is BYTEA is sealed (store/seal.rs): with the practice's key where nothing else is said.

-- The keys that values are sealed with, themselves sealed with the master key, which is not in the database.
-- owner: 'practice', 'patient:ID', 'conversation:ID'. Without its row, what was sealed with a key is gone.
CREATE TABLE data_keys (
    owner   TEXT PRIMARY KEY,
    wrapped BYTEA NOT NULL
);

-- The people of the practice. A patient's values are sealed with their own key.
CREATE TABLE people (
    id            TEXT PRIMARY KEY,
    user_id       TEXT NOT NULL UNIQUE,
    role          TEXT NOT NULL,
    name          BYTEA NOT NULL,
    record_number BYTEA
);

-- The users that we act as: the bot (person_id is null) and one ghost for each person that needs one. epoch: the incident
-- that the device was made after; former_device: the one before, until it is ended.
CREATE TABLE our_users (
    user_id       TEXT PRIMARY KEY,
    person_id     TEXT UNIQUE REFERENCES people (id),
    device_id     TEXT NOT NULL,
    ready         BIGINT NOT NULL DEFAULT 0,
    epoch         BIGINT NOT NULL DEFAULT 0,
    former_device TEXT
);

-- Which process has the database, one row: each that takes it counts on, and a process that finds another number than its
-- own has lost it. (For PostgreSQL; SQLite's file is locked.)
CREATE TABLE ownership (
    one   BIGINT PRIMARY KEY,
    epoch BIGINT NOT NULL
);
INSERT INTO ownership (one, epoch) VALUES (1, 0);

-- What happened to the database as a whole and is not dealt with yet. kind: restored (from a backup, at that time).
CREATE TABLE incidents (
    kind TEXT PRIMARY KEY,
    at   BIGINT NOT NULL
);

-- Name and subject are sealed with the conversation's key.
CREATE TABLE conversations (
    id         TEXT PRIMARY KEY,
    name       BYTEA NOT NULL,
    subject    BYTEA,
    mode       TEXT NOT NULL,
    owner_id   TEXT NOT NULL REFERENCES people (id),
    created_at BIGINT NOT NULL,
    ready      BIGINT NOT NULL DEFAULT 0,
    -- Whether the bot has said what a laned reply is.
    lanes_told BIGINT NOT NULL DEFAULT 0,
    -- By which request it was begun, if its client chose a key for it, and with which body: keyed hashes.
    request      TEXT UNIQUE,
    request_body TEXT
);

-- Who takes part, since when: what was written in the hub before that does not go to a patient. Of a patient who was included
-- that is null until the hub itself tells: by the first event of its room that says a revision no lower than this.
CREATE TABLE participants (
    conversation_id  TEXT NOT NULL REFERENCES conversations (id),
    person_id        TEXT NOT NULL REFERENCES people (id),
    may_send_one_way BIGINT NOT NULL DEFAULT 0,
    by_name          BIGINT NOT NULL DEFAULT 1,
    revision         BIGINT NOT NULL DEFAULT 0,
    since            BIGINT,
    PRIMARY KEY (conversation_id, person_id)
);
CREATE INDEX participants_by_person ON participants (person_id);

-- Teams: staff who take part in conversations together. The name is sealed with the practice's key.
CREATE TABLE teams (
    id   TEXT PRIMARY KEY,
    name BYTEA NOT NULL
);

CREATE TABLE team_members (
    team_id   TEXT NOT NULL REFERENCES teams (id),
    person_id TEXT NOT NULL REFERENCES people (id),
    PRIMARY KEY (team_id, person_id)
);

-- Which teams take part. Whoever comes by a team alone (by_name = 0 among the participants) goes with it.
CREATE TABLE conversation_teams (
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    team_id         TEXT NOT NULL REFERENCES teams (id),
    PRIMARY KEY (conversation_id, team_id)
);
CREATE INDEX conversation_teams_by_team ON conversation_teams (team_id);

-- Who took part and does not any more. gone_at: the time of the event by which they were no longer in their room, once that is
-- known: what stands before it is delivered. A patient stays in their room, and reads there what was written before.
CREATE TABLE former_participants (
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    person_id       TEXT NOT NULL REFERENCES people (id),
    gone_at         BIGINT,
    PRIMARY KEY (conversation_id, person_id)
);

-- One hub (patient_id is null) and one spoke a patient. room_id is null until the room is made. revision: of what its
-- room is to be like (who is in it, who may write), the time of the last change, or more where one follows another at once, so
-- that none ever comes again; revision_set: the one that its room was set to last.
-- mode: which one holds for what is handled, as the room's own events tell, in their order; mode_since: the time of the event
-- that told.
CREATE TABLE portals (
    id              TEXT PRIMARY KEY,
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    patient_id      TEXT REFERENCES people (id),
    room_id         TEXT UNIQUE,
    -- When the making of its room was begun last.
    attempted       BIGINT,
    -- Whether its room stands, and whom it needs was joined to it.
    ready           BIGINT NOT NULL DEFAULT 0,
    mode            TEXT,
    revision        BIGINT NOT NULL DEFAULT 0,
    revision_set    BIGINT NOT NULL DEFAULT 0,
    mode_since      BIGINT NOT NULL DEFAULT 0,
    -- Until when the practice was closed when the bot last said so here; -1 less that, where it was about what has not come.
    told_closed     BIGINT,
    UNIQUE (conversation_id, patient_id)
);

-- Which of our users, and which people, have been joined to which portal.
CREATE TABLE portal_members (
    portal_id TEXT NOT NULL REFERENCES portals (id),
    user_id   TEXT NOT NULL,
    PRIMARY KEY (portal_id, user_id)
);

-- Who was invited into a hub and has no device yet that its history could be handed on to.
CREATE TABLE history_due (
    portal_id TEXT NOT NULL REFERENCES portals (id),
    user_id   TEXT NOT NULL,
    PRIMARY KEY (portal_id, user_id)
);

-- When the homeserver was asked for somebody's devices last (null: never), and what was heard of changed devices since that
-- was dealt with: how often, and when last.
CREATE TABLE device_looks (
    user_id   TEXT PRIMARY KEY,
    looked_at BIGINT,
    news      BIGINT NOT NULL DEFAULT 0,
    news_at   BIGINT
);

-- What the homeserver has told of people's devices. heard_at: when the device was heard of first. seen_at: when the homeserver
-- saw it last (null: it has not told). gone: it is there no longer; a dehydrated one was seen last when that was noticed.
-- fresh: 1 until it is known whether something is to be sent again for it.
CREATE TABLE devices_seen (
    user_id    TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    heard_at   BIGINT NOT NULL,
    seen_at    BIGINT,
    dehydrated BIGINT NOT NULL,
    gone       BIGINT NOT NULL DEFAULT 0,
    fresh      BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

-- What the homeserver sent, exactly as it came: sealed with the patient's key in a spoke, with the conversation's in a
-- hub, with the practice's where it is no event at all. dedup_key is the event id, or a digest of what has none;
-- of what concerns no portal only the key is kept.
-- state: waiting, wordless (a file about which its sender has not said anything yet), unsigned (from a device that its sender
-- has not signed yet), done, or skipped (nothing of ours). kept_of: the sender of what is wordless or unsigned.
CREATE TABLE inbox (
    seq             BIGINT PRIMARY KEY,
    dedup_key       TEXT NOT NULL UNIQUE,
    conversation_id TEXT REFERENCES conversations (id),
    portal_id       TEXT REFERENCES portals (id),
    event           BYTEA,
    received_at     BIGINT NOT NULL,
    state           TEXT NOT NULL,
    kept_of         TEXT
);
CREATE INDEX inbox_waiting ON inbox (state, conversation_id, seq);

-- What is known of the homeserver, one row: the number of its transaction that was taken last, the place in the bot's /sync
-- up to which everything that was said is known, and up to which landing the legs may be gone from its rooms, as it was put
-- back from a copy then.
CREATE TABLE intake (
    one                BIGINT PRIMARY KEY,
    transaction_number BIGINT,
    caught_up_to       TEXT,
    lost_up_to         BIGINT NOT NULL DEFAULT 0
);
INSERT INTO intake (one) VALUES (1);

-- The record: what people said to each other. kind: message, edit (other words for an earlier one), reaction. What it says is
-- sealed with the key of the only patient it concerns, or with the conversation's.
CREATE TABLE messages (
    id              TEXT PRIMARY KEY,
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    portal_id       TEXT NOT NULL REFERENCES portals (id),
    event_id        TEXT NOT NULL UNIQUE,
    sender_id       TEXT NOT NULL REFERENCES people (id),
    sent_at         BIGINT NOT NULL,
    kind            TEXT NOT NULL,
    content         BYTEA NOT NULL,
    -- The message that it answers, edits or reacts to.
    about           TEXT REFERENCES messages (id),
    -- The only patient it concerns: who wrote it, or the only one it went to. Null: every patient.
    lane            TEXT REFERENCES people (id),
    -- When it was deleted (S18): it is not sent to anybody any more, and what it said stays here.
    deleted_at      BIGINT,
    deleted_by      TEXT REFERENCES people (id),
    reason          BYTEA
);
CREATE INDEX messages_about ON messages (about) WHERE about IS NOT NULL;
CREATE INDEX messages_by_portal ON messages (portal_id, sent_at);
CREATE INDEX messages_by_conversation ON messages (conversation_id, sent_at);

-- What happened, in order; never changed. event_id: the event that it was, or that it came by; by_id: whoever asked for it
-- by the practice API.
CREATE TABLE ledger (
    seq             BIGINT PRIMARY KEY,
    at              BIGINT NOT NULL,
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    event_id        TEXT,
    message_id      TEXT REFERENCES messages (id),
    by_id           TEXT REFERENCES people (id),
    what            TEXT NOT NULL,
    code            TEXT
);

-- One row a leg. says: message (message_id, or the edit that it is), reaction (message_id), notice (the bot's own words,
-- about an event of the same portal), void (that the event `redacts` is void: its words are sent again), deletion (that
-- message_id is deleted: whatever event it is there then). sender_user_id: who says it, once that is known; of a deletion, who
-- does if not the ghost of the message's writer. session: the Megolm session it was encrypted with, as a keyed hash. repeats:
-- how often what it says had been sent before. held_at: since when nobody could read it, if that
-- ever was so. landed_at: when it was known to stand in its room; landing: in which order, whatever
-- the clock says.
-- state: waiting, held (nobody there can read it yet, or what stands before it), sent, failed, withdrawn (it was deleted, or what
-- it is about is not there). Notice and ciphertext are sealed with the patient's key in a spoke, with the conversation's in a hub; the ciphertext
-- is there from the encryption until the leg has landed.
CREATE TABLE outbox (
    seq             BIGINT PRIMARY KEY,
    leg_id          TEXT NOT NULL UNIQUE,
    portal_id       TEXT NOT NULL REFERENCES portals (id),
    says            TEXT NOT NULL,
    message_id      TEXT REFERENCES messages (id),
    notice          BYTEA,
    notice_about    TEXT,
    sent_at         BIGINT NOT NULL,
    added_at        BIGINT NOT NULL,
    redacts         TEXT,
    ciphertext      BYTEA,
    session         TEXT,
    sender_user_id  TEXT,
    event_id        TEXT,
    held_at         BIGINT,
    landed_at       BIGINT,
    landing         BIGINT,
    repeats         BIGINT NOT NULL DEFAULT 0,
    attempts        BIGINT NOT NULL DEFAULT 0,
    next_attempt_at BIGINT NOT NULL DEFAULT 0,
    state           TEXT NOT NULL
);
CREATE INDEX outbox_waiting ON outbox (state, portal_id, seq);
CREATE INDEX outbox_by_sender ON outbox (sender_user_id, portal_id);
CREATE INDEX outbox_by_time ON outbox (added_at);
CREATE INDEX outbox_by_landing ON outbox (landing);
CREATE INDEX outbox_by_message ON outbox (message_id);
CREATE INDEX outbox_redactions ON outbox (redacts) WHERE redacts IS NOT NULL;

-- Who may not have been able to read what a user of ours has sent them: until it is known, or the sessions are named.
CREATE TABLE repair_wishes (
    ours   TEXT NOT NULL,
    reader TEXT NOT NULL,
    PRIMARY KEY (ours, reader)
);

-- Megolm sessions of users of ours (as keyed hashes) whose messages are to be sent again, of those that landed after one
-- moment and not after another.
-- why: wedged (a device could not read its Olm messages), dead-device (no device that they went to ever came back).
CREATE TABLE repair_sessions (
    ours         TEXT NOT NULL,
    portal_id    TEXT NOT NULL REFERENCES portals (id),
    session      TEXT NOT NULL,
    why          TEXT NOT NULL,
    landed_after BIGINT NOT NULL,
    landed_until BIGINT NOT NULL,
    PRIMARY KEY (ours, portal_id, session, why)
);

-- Events of ours that stand in a room before their leg is known again: after a backup was restored.
CREATE TABLE early_echoes (
    leg_id   TEXT PRIMARY KEY,
    event_id TEXT NOT NULL
);

-- Which events a message is in which portal, its own included. current: the one that stands for it; an earlier one was
-- replaced when the message was sent again.
CREATE TABLE mapping (
    portal_id  TEXT NOT NULL REFERENCES portals (id),
    event_id   TEXT NOT NULL,
    message_id TEXT NOT NULL REFERENCES messages (id),
    current    BIGINT NOT NULL DEFAULT 1,
    PRIMARY KEY (portal_id, event_id)
);
CREATE INDEX mapping_by_message ON mapping (portal_id, message_id);

-- What was written and is no message of the record, and that somebody has had it go from its room: who, when and why.
CREATE TABLE removals (
    event_id  TEXT PRIMARY KEY,
    portal_id TEXT NOT NULL REFERENCES portals (id),
    at        BIGINT NOT NULL,
    by_id     TEXT NOT NULL REFERENCES people (id),
    reason    BYTEA
);

-- Receipts of people in portals, until it is known what they cover. alone: about a thread, and nothing else before it.
CREATE TABLE receipts (
    portal_id TEXT NOT NULL REFERENCES portals (id),
    person_id TEXT NOT NULL REFERENCES people (id),
    event_id  TEXT NOT NULL,
    alone     BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    PRIMARY KEY (portal_id, person_id, event_id)
);

-- Who has read which message (S12), by the first receipt that covered it; never changed. implied: that was for a later event.
CREATE TABLE reads (
    message_id TEXT NOT NULL REFERENCES messages (id),
    person_id  TEXT NOT NULL REFERENCES people (id),
    at         BIGINT NOT NULL,
    event_id   TEXT NOT NULL,
    implied    BIGINT NOT NULL,
    PRIMARY KEY (message_id, person_id)
);

-- Up to which place in the order of arrival it is counted what somebody has read in a portal.
CREATE TABLE read_places (
    portal_id TEXT NOT NULL REFERENCES portals (id),
    person_id TEXT NOT NULL REFERENCES people (id),
    seq       BIGINT NOT NULL,
    PRIMARY KEY (portal_id, person_id)
);

-- Up to which event of a portal somebody has read elsewhere, until their ghost has shown it there.
CREATE TABLE receipts_due (
    portal_id TEXT NOT NULL REFERENCES portals (id),
    person_id TEXT NOT NULL REFERENCES people (id),
    event_id  TEXT NOT NULL,
    PRIMARY KEY (portal_id, person_id)
);

-- Values that the engine made once and keeps.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BYTEA NOT NULL
);

-- Which event used which index of which Megolm session (as a keyed hash): an index that comes again in another event is a
-- replay.
CREATE TABLE megolm_indexes (
    session  TEXT NOT NULL,
    place    BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (session, place)
);
