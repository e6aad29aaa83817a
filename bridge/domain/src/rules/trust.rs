//! Whose words they are: what decryption tells about the sender.

use crate::Refusal;

/// What decryption tells about the device that encrypted a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderTrust {
    /// Signed by the sender's own cross-signing identity.
    CrossSigned,
    /// A device of the sender that their identity has not signed, or that is not known yet.
    Unsigned,
    /// A device of a sender who has no cross-signing identity at all.
    NoIdentity,
    /// Encrypted by a device of somebody else.
    Mismatched,
}

/// Whether a message is believed to be its sender's. `allow_unsigned`: the practice allows clients that know nothing of
/// cross-signing.
///
/// # Errors
/// [`Refusal::UnsignedDevice`], [`Refusal::SpoofedSender`].
pub fn may_trust(trust: SenderTrust, allow_unsigned: bool) -> Result<(), Refusal> {
    match trust {
        SenderTrust::CrossSigned => Ok(()),
        SenderTrust::NoIdentity if allow_unsigned => Ok(()),
        // TRUST-1: the words of a device that its owner has not signed are kept until it is, and not passed on before.
        SenderTrust::Unsigned | SenderTrust::NoIdentity => Err(Refusal::UnsignedDevice),
        // TRUST-2: words that another account encrypted are never passed on.
        SenderTrust::Mismatched => Err(Refusal::SpoofedSender),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_words_are_believed() {
        let (unsigned, spoofed) = (Err(Refusal::UnsignedDevice), Err(Refusal::SpoofedSender));
        for (name, trust, strict, lax) in [
            ("signed", SenderTrust::CrossSigned, Ok(()), Ok(())),
            ("not signed by the identity that there is", SenderTrust::Unsigned, unsigned, unsigned),
            ("no identity", SenderTrust::NoIdentity, unsigned, Ok(())),
            ("another's device", SenderTrust::Mismatched, spoofed, spoofed),
        ] {
            assert_eq!(may_trust(trust, false), strict, "{name}");
            assert_eq!(may_trust(trust, true), lax, "{name}, allowed");
        }
    }
}
