//! Whose words they are: what decryption tells about the sender.

use crate::Refusal;

/// What decryption tells about the device that encrypted a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderTrust {
    /// Signed by the sender's own cross-signing identity.
    CrossSigned,
    /// A device of the sender that their identity has not signed, or that is not known yet.
    Unsigned,
    /// Encrypted by a device of somebody else.
    Mismatched,
}

/// Whether a message is believed to be its sender's.
///
/// # Errors
/// [`Refusal::UnsignedDevice`], [`Refusal::SpoofedSender`].
pub fn may_trust(trust: SenderTrust) -> Result<(), Refusal> {
    match trust {
        SenderTrust::CrossSigned => Ok(()),
        // TRUST-1: the words of a device that its owner has not signed are not passed on.
        SenderTrust::Unsigned => Err(Refusal::UnsignedDevice),
        // TRUST-2: words that another account encrypted are never passed on.
        SenderTrust::Mismatched => Err(Refusal::SpoofedSender),
    }
}
