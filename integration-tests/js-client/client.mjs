// A Matrix client on matrix-js-sdk, driven by JSON lines on stdin and answering with JSON lines on
// stdout. README.md has the protocol.

import { Console } from "node:console";
import { createInterface } from "node:readline";
import { Writable } from "node:stream";

const LOG = process.env.PARLOUR_JS_CLIENT_LOG;

// Only answers may go to stdout: what a library prints goes to stderr if somebody asked for it, else nowhere. A parent
// that does not read stderr would block us once the pipe is full.
const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
const log = LOG ? process.stderr : nowhere;
globalThis.console = new Console(log, log);

// matrix-js-sdk 43 is written for Node 22. This is what it needs here that Node 20 lacks.
Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new this((res, rej) => {
        resolve = res;
        reject = rej;
    });
    return { promise, resolve, reject };
};

// Imported here, not above: static imports would run before the lines above.
const sdk = await import("matrix-js-sdk");
const { EventShieldColour, EventShieldReason, OnlySignedDevicesIsolationMode } = await import(
    "matrix-js-sdk/lib/crypto-api/index.js"
);
const { ClientEvent, EventType, MatrixEventEvent, MemoryStore, MsgType, RoomEvent, RoomStateEvent } = sdk;

const DEFAULT_LIMIT_MS = 30_000;
const SHIELDS = {
    [EventShieldColour.NONE]: "none",
    [EventShieldColour.GREY]: "grey",
    [EventShieldColour.RED]: "red",
};

const logger = consoleLogger(LOG);

/** The signed-in client, once there is one. */
let client = null;
/** room id → event id → event: all that came down the sync, also what a gap cut off the timeline. */
const seen = new Map();
/** Ends the command that is under way. */
let underWay = null;
/** Set by `stop` and by the end of stdin. */
let leaving = false;

/** A failure whose answer carries more than the sentence. */
class Failure extends Error {
    constructor(message, details = {}) {
        super(message);
        this.details = details;
    }
}

const commands = {
    async sign_in({ homeserver_url, user_id, password }, signal) {
        if (client) throw new Failure("somebody is signed in already");
        need({ homeserver_url, user_id, password });

        const login = await sdk.createClient({ baseUrl: homeserver_url, logger }).loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: user_id },
            password,
            initial_device_display_name: "matrix-js-sdk test client",
        });
        const own = sdk.createClient({
            baseUrl: homeserver_url,
            userId: login.user_id,
            accessToken: login.access_token,
            deviceId: login.device_id,
            store: new MemoryStore(),
            logger,
        });
        try {
            await own.initRustCrypto({ useIndexedDB: false });
            const crypto = own.getCrypto();
            crypto.setDeviceIsolationMode(new OnlySignedDevicesIsolationMode());

            // Asks the server. Without it, bootstrapCrossSigning does not know what is there.
            if (await crypto.userHasCrossSigningKeys(login.user_id, true)) {
                throw new Failure("the account has cross-signing keys already, and this client would not hold them");
            }
            await crypto.bootstrapCrossSigning({
                // The first upload needs no further authentication.
                authUploadDeviceSigningKeys: (upload) => upload(null),
            });
            if (!(await isCrossSigned(own))) throw new Failure("the server does not show this device as cross-signed");

            remember(own);
            await own.startClient({ initialSyncLimit: 100, disablePresence: true });
            await until(own, [ClientEvent.Sync], () => own.isInitialSyncComplete(), signal);
            signal.throwIfAborted();
        } catch (error) {
            own.stopClient();
            // Leaves no half-made device behind on the account.
            await own.logout().catch((failed) => logger.warn("logout failed:", failed));
            throw error;
        }
        client = own;
        return { device_id: login.device_id, cross_signed: true };
    },

    async send({ room_id, text }, signal) {
        need({ room_id, text });
        return send(room_id, { msgtype: MsgType.Text, body: text }, signal);
    },

    async reply({ room_id, to, text }, signal) {
        need({ room_id, to, text });
        const relation = { "m.in_reply_to": { event_id: to } };
        return send(room_id, { "msgtype": MsgType.Text, "body": text, "m.relates_to": relation }, signal);
    },

    async wait({ room_id, text, sender }, signal) {
        need({ room_id, text });
        const own = signedIn();
        const from = (event) => sender === undefined || event.getSender() === sender;
        const says = (event) =>
            from(event) &&
            event.getType() === EventType.RoomMessage &&
            !event.isDecryptionFailure() &&
            event.getContent().body === text;
        const events = () => [...(seen.get(room_id)?.values() ?? [])];

        const event = await until(
            own,
            [RoomEvent.Timeline, RoomEvent.LocalEchoUpdated, MatrixEventEvent.Decrypted, MatrixEventEvent.Replaced],
            () => events().find((event) => event.isEncrypted() && says(event)),
            signal,
        ).catch((error) => {
            if (!isTimeout(error)) throw error;
            const undecrypted = events()
                .filter((event) => from(event) && event.isDecryptionFailure())
                .map((event) => ({
                    event_id: event.getId(),
                    sender: event.getSender(),
                    reason: event.decryptionFailureReason,
                }));
            const reason = events().some((event) => !event.isEncrypted() && says(event))
                ? "a message with that text came, but unencrypted"
                : "no message with that text came within the limit";
            const more = undecrypted.length ? `; ${undecrypted.length} could not be decrypted` : "";
            throw new Failure(reason + more, { undecrypted });
        });

        const info = await own.getCrypto().getEncryptionInfoForEvent(event);
        if (!info) throw new Failure("there is no encryption information for the event");
        return {
            event_id: event.getId(),
            sender: event.getSender(),
            body: event.getContent().body,
            in_reply_to: event.replyEventId ?? null,
            shield: SHIELDS[info.shieldColour],
            reason: info.shieldReason === null ? null : EventShieldReason[info.shieldReason],
            encrypted: true,
        };
    },
};

/** Sends into a room, once we are in it and know that it is encrypted. */
async function send(roomId, content, signal) {
    const own = signedIn();
    await until(
        own,
        [ClientEvent.Room, ClientEvent.Sync, RoomEvent.MyMembership, RoomStateEvent.Events],
        async () =>
            own.getRoom(roomId)?.getMyMembership() === "join" &&
            (await own.getCrypto().isEncryptionEnabledInRoom(roomId)),
        signal,
    ).catch((error) => {
        if (!isTimeout(error)) throw error;
        const membership = own.getRoom(roomId)?.getMyMembership();
        throw new Failure(
            membership === "join"
                ? "the room is not encrypted"
                : `this client is not in the room (membership: ${membership ?? "none"})`,
        );
    });
    const { event_id } = await own.sendMessage(roomId, content);
    return { event_id };
}

/** Whether the server hands out our device signed by our self-signing key. */
async function isCrossSigned(own) {
    const userId = own.getUserId();
    const keys = await own.downloadKeysForUsers([userId]);
    const signer = Object.keys(keys.self_signing_keys?.[userId]?.keys ?? {})[0];
    const device = keys.device_keys?.[userId]?.[own.getDeviceId()];
    return signer !== undefined && device?.signatures?.[userId]?.[signer] !== undefined;
}

/** Keeps every event of the sync. Leaves out our own that the server has not confirmed yet. */
function remember(own) {
    const keep = (event, room) => {
        if (!room || event.status !== null || !event.getId()?.startsWith("$")) return;
        if (!seen.has(room.roomId)) seen.set(room.roomId, new Map());
        seen.get(room.roomId).set(event.getId(), event);
    };
    own.on(RoomEvent.Timeline, keep);
    own.on(RoomEvent.LocalEchoUpdated, keep);
}

/** Asks `check` now and after each of the events until it answers with something true, or the signal aborts. */
function until(emitter, eventNames, check, signal) {
    return new Promise((resolve, reject) => {
        let asking = false;
        let askAgain = false;
        const end = (settle, value) => {
            for (const name of eventNames) emitter.off(name, ask);
            signal.removeEventListener("abort", abort);
            settle(value);
        };
        const abort = () => end(reject, signal.reason);
        const ask = async () => {
            askAgain = true;
            if (asking) return;
            asking = true;
            try {
                while (askAgain) {
                    askAgain = false;
                    const found = await check();
                    if (found) return end(resolve, found);
                }
            } catch (error) {
                end(reject, error);
            } finally {
                asking = false;
            }
        };
        if (signal.aborted) return abort();
        signal.addEventListener("abort", abort);
        for (const name of eventNames) emitter.on(name, ask);
        void ask();
    });
}

function signedIn() {
    if (!client) throw new Failure("nobody is signed in");
    return client;
}

function need(fields) {
    for (const [name, value] of Object.entries(fields)) {
        if (typeof value !== "string" || value === "") throw new Failure(`"${name}" is missing`);
    }
}

function isTimeout(error) {
    return error?.name === "TimeoutError";
}

/** A logger for matrix-js-sdk, from this level up. */
function consoleLogger(level) {
    const levels = ["trace", "debug", "info", "warn", "error"];
    const least = levels.includes(level) ? levels.indexOf(level) : levels.length;
    const made = { getChild: () => made };
    for (const [i, name] of levels.entries()) {
        made[name] = i >= least ? (...args) => console.error(name, ...args) : () => {};
    }
    return made;
}

async function answerTo(command) {
    if (!Object.hasOwn(commands, command.do)) throw new Failure(`there is no command ${JSON.stringify(command.do)}`);
    if (leaving) throw stopped();

    underWay = new AbortController();
    const { signal } = underWay;
    const timer = setTimeout(
        (controller) => controller.abort(new DOMException("not done within the limit", "TimeoutError")),
        command.limit_ms ?? DEFAULT_LIMIT_MS,
        underWay,
    );
    try {
        const done = commands[command.do](command, signal);
        // The command's own failure says more than the signal's: it gets the first word.
        const aborted = new Promise((_, reject) =>
            signal.addEventListener("abort", () => setImmediate(reject, signal.reason), { once: true }),
        );
        return await Promise.race([done, aborted]);
    } finally {
        clearTimeout(timer);
        underWay = null;
    }
}

function stopped() {
    return new Failure("stopped before it was done");
}

async function handle(command) {
    const id = command.id === undefined ? {} : { id: command.id };
    try {
        write({ ...id, ok: true, ...(await answerTo(command)) });
    } catch (error) {
        logger.error(error);
        const message = String(error?.message ?? error);
        write({ ...id, ok: false, error: message.replaceAll(/\s+/g, " "), ...error?.details });
    }
}

function write(answer) {
    process.stdout.write(JSON.stringify(answer) + "\n");
}

/** Ends what is under way, answers what is still open, and leaves. */
async function leave(open, lastAnswer) {
    leaving = true;
    underWay?.abort(stopped());
    await open;
    client?.stopClient();
    if (lastAnswer) write(lastAnswer);
    process.stdout.write("", () => process.exit(0));
}

process.stdout.on("error", () => process.exit(1));
process.on("unhandledRejection", (error) => {
    process.stderr.write(`unhandled rejection: ${error?.stack ?? error}\n`);
});

let queue = Promise.resolve();
const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on("line", (line) => {
    if (leaving || line.trim() === "") return;
    let command;
    try {
        command = JSON.parse(line);
    } catch {
        command = null;
    }
    if (command === null || typeof command !== "object") {
        queue = queue.then(() => write({ ok: false, error: "that line is not a JSON object" }));
    } else if (command.do === "stop") {
        void leave(queue, { ...(command.id === undefined ? {} : { id: command.id }), ok: true });
    } else {
        queue = queue.then(() => handle(command));
    }
});
lines.on("close", () => {
    if (!leaving) void leave(queue, null);
});
