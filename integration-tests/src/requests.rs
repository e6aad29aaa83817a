//! Which commit point a request to the homeserver belongs to, told from its method and path alone, as somebody who
//! listens on the way would tell.

use std::collections::BTreeMap;

use parlour_engine::CommitPoint;

/// The commit point of a request; none for what Parlour never asks.
pub fn point_of(method: &str, path: &str) -> Option<CommitPoint> {
    let path = path.split('?').next().unwrap_or_default();
    let words: Vec<_> = path.split('/').skip(1).collect();
    let (api, rest) = match &words[..] {
        ["_matrix", "client", _, rest @ ..] => ("client", rest),
        ["_matrix", "media", _, rest @ ..] => ("media", rest),
        ["_synapse", "admin", _, rest @ ..] => ("admin", rest),
        _ => return None,
    };
    Some(match (api, method, rest) {
        ("client", "POST", ["appservice", _, "ping"]) => CommitPoint::Ping,
        ("client", "POST", ["register"]) => CommitPoint::Register,
        ("client", "PUT", ["devices", _]) => CommitPoint::MakeDevice,
        ("client", "GET", ["devices"]) => CommitPoint::ReadDevices,
        ("client", "DELETE", ["devices", _]) => CommitPoint::EndDevice,
        ("client", "PUT", ["profile", _, "displayname"]) => CommitPoint::SetName,
        ("client", "POST", ["keys", "upload"]) => CommitPoint::UploadKeys,
        ("client", "POST", ["keys", "device_signing", "upload"]) => CommitPoint::UploadIdentity,
        ("client", "POST", ["keys", "signatures", "upload"]) => CommitPoint::UploadSignatures,
        ("client", "POST", ["keys", "query"]) => CommitPoint::QueryKeys,
        ("client", "POST", ["keys", "claim"]) => CommitPoint::ClaimKeys,
        ("client", "PUT", ["sendToDevice", ..]) => CommitPoint::SendToDevices,
        ("client", "PUT", ["rooms", _, "send", ..]) => CommitPoint::SendEvent,
        ("client", "POST", ["rooms", _, "receipt", "m.read", _]) => CommitPoint::SendReceipt,
        ("client", "GET", ["media", "download", ..]) => CommitPoint::Download,
        ("client", "POST", ["rooms", _, "kick"]) => CommitPoint::Kick,
        ("client", "POST", ["rooms", _, "invite"]) => CommitPoint::Invite,
        ("media", "POST", ["upload"]) => CommitPoint::Upload,
        ("client", "PUT", ["rooms", _, "redact", ..]) => CommitPoint::Redact,
        ("client", "POST", ["createRoom"]) => CommitPoint::CreateRoom,
        ("client", "PUT", ["rooms", _, "state", ..]) => CommitPoint::SetState,
        ("client", "GET", ["rooms", _, "state", ..]) => CommitPoint::ReadState,
        ("client", "GET", ["rooms", _, "context", _] | ["rooms", _, "members"]) => CommitPoint::ReadState,
        ("client", "GET", ["rooms", _, "messages"]) => CommitPoint::ReadHistory,
        ("client", "GET", ["rooms", _, "event", _]) => CommitPoint::ReadHistory,
        ("client", "GET", ["joined_rooms"]) => CommitPoint::ReadRooms,
        ("client", "GET", ["sync"]) => CommitPoint::ReadInbox,
        ("client", "GET", ["account", "whoami"]) => CommitPoint::WhoAmI,
        ("admin", "POST", ["join", _]) => CommitPoint::Join,
        ("admin", "GET", ["users"] | ["users", _, "devices"] | ["whois", _]) => CommitPoint::ReadSeen,
        ("admin", ..) => CommitPoint::Administer,
        _ => return None,
    })
}

/// How often each commit point's request is among these, each a `METHOD path`.
pub fn counted<'a>(requests: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let point = point_of(method, path);
        *counts.entry(point.map_or("unknown", CommitPoint::name)).or_default() += 1;
    }
    counts
}

/// Whether a request is a transaction of the homeserver's.
pub fn is_transaction(request: &str) -> bool {
    request.starts_with("PUT /_matrix/app/v1/transactions/")
}
