//! Bodies, read to their end within a limit.

use axum::body::Body;
use http_body_util::BodyExt as _;

use super::error::Refused;

/// How much of a body that is not taken is still read, so that its sender hears why instead of a broken pipe.
const LONGEST_LISTENING: usize = 16 << 20;

/// A body of at most `limit` bytes. Of a larger one nothing is kept. With a limit of 0 it is only read past.
///
/// # Errors
/// [`Refused::TooLarge`]; [`Refused::NotJson`] when it broke off.
pub(super) async fn whole(mut body: Body, limit: usize) -> Result<Vec<u8>, Refused> {
    let (mut bytes, mut heard) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Refused::NotJson) };
        let Some(data) = frame.data_ref() else { continue };
        heard += data.len();
        if heard > LONGEST_LISTENING {
            break;
        }
        if heard <= limit {
            bytes.extend_from_slice(data);
        } else {
            bytes = Vec::new();
        }
    }
    if heard > limit { Err(Refused::TooLarge) } else { Ok(bytes) }
}
