//! The rules, as pure functions: facts in, what follows or a [`Refusal`](crate::Refusal) out.

mod kind;
mod lane;
mod live;
mod naming;
mod post;
mod relation;
mod trust;

pub use kind::{is_message, may_relay};
pub use lane::{Lane, LaneFacts, Reach, TargetFacts, goes_into, lane};
pub use live::{DeviceFacts, LIVE_MILLIS, is_live};
pub use naming::{NamingFacts, may_name};
pub use post::{PostFacts, is_at_home, may_post};
pub use relation::{About, Pointed, Relation, in_its_place, may_edit, may_react};
pub use trust::{SenderTrust, may_trust};
