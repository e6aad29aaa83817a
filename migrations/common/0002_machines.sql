-- What the Olm machines keep, one machine for each user of ours (store/machine/). Every value is sealed with the
-- practice's key; machine, parent, name, room, session, sender_key and backed_up_to are keyed hashes, in clear is only
-- what kind of value it is.

-- kind: the words in store/machine/rows.rs. parent and name are '' where a kind has none.
CREATE TABLE machine_values (
    machine TEXT NOT NULL,
    kind    TEXT NOT NULL,
    parent  TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   BYTEA NOT NULL,
    PRIMARY KEY (machine, kind, parent, name)
);

-- Megolm sessions that messages are decrypted with. sender_data is the number that matrix-sdk-crypto gives to what is
-- known of the sender, 1 to 5. backed_up_to is null until the session stands in a key backup.
CREATE TABLE machine_inbound_sessions (
    machine      TEXT NOT NULL,
    room         TEXT NOT NULL,
    session      TEXT NOT NULL,
    sender_key   TEXT NOT NULL,
    sender_data  BIGINT NOT NULL,
    backed_up_to TEXT,
    value        BYTEA NOT NULL,
    PRIMARY KEY (machine, room, session)
);
CREATE INDEX machine_inbound_sessions_by_sender
    ON machine_inbound_sessions (machine, sender_key, sender_data, session);
