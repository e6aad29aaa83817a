//! Attachments (S11): what is in a file is looked at before it passes, by its bytes; an image loses what its pixels do not show.

use std::{io::Read as _, sync::atomic::Ordering, time::Duration};

use matrix_sdk_crypto::{AttachmentDecryptor, AttachmentEncryptor, MediaEncryptionInfo};
use parlour_domain::{Attachment, Refusal, SealedFile, Shown, with_ending};
use serde_json::{Value, json};

use crate::{
    crypto::CryptoError,
    engine::Core,
    files::{self, Kind},
    homeserver::HomeserverError,
    scanner::{ScannerAddress, Unscanned, Verdict, scan},
};

/// What files a practice takes.
#[derive(Clone, Debug)]
pub struct Files {
    /// How many bytes a file has at most.
    pub most_bytes: u64,
    /// Of which kinds.
    pub kinds: Vec<Kind>,
    /// What looks for harm in them, if anything does.
    pub scanner: Option<ScannerAddress>,
}

impl Default for Files {
    fn default() -> Self {
        Self { most_bytes: 20 << 20, kinds: Kind::ALL.to_vec(), scanner: None }
    }
}

/// Why a file cannot be looked at just now, and may be later.
#[derive(Debug, thiserror::Error)]
pub enum FileAway {
    /// The homeserver does not give it out, or does not take it.
    #[error(transparent)]
    Homeserver(HomeserverError),
    /// The scanner does not look at it.
    #[error(transparent)]
    Scanner(Unscanned),
    /// The scanner did not look at another a moment ago.
    #[error("the scanner was away a moment ago")]
    ScannerAway,
}

/// For so long a scanner that is away is not asked again.
const SCANNER_AWAY_MILLIS: i64 = 15_000;
/// How long a scanner may take.
const SCANNED_WITHIN: Duration = Duration::from_secs(30);
/// So many pixels no photo has, and no screen shows.
const MOST_PIXELS: u64 = 100_000_000;

/// What was found in a file that may pass.
struct Seen {
    bytes: u64,
    kind: Kind,
    pixels: Option<(u32, u32)>,
    plain: Vec<u8>,
    /// The same encrypted anew, without what its pixels do not show, and what opens that; if anything was to go.
    anew: Option<(Vec<u8>, MediaEncryptionInfo)>,
}

impl Core {
    /// The same attachment as it may pass, or why it may not.
    ///
    /// # Errors
    /// When homeserver or scanner fail; they can be asked again.
    pub(crate) async fn checked(
        &self,
        attachment: &Attachment,
    ) -> Result<Result<Attachment, Refusal>, CryptoError> {
        let files = &self.settings.files;
        if attachment.measures.bytes > files.most_bytes {
            return Ok(Err(Refusal::FileTooLarge));
        }
        let url = attachment.file.url();
        // What lies with another homeserver cannot be kept.
        if url.server_name().ok() != Some(&*self.ghosts.server_name) {
            return Ok(Err(Refusal::FileDamaged));
        }
        // Nothing is fetched in vain, and nobody waits for the scanner's silence again and again.
        let left = self.scanner_away_until.load(Ordering::Relaxed) - self.clock.now().millis();
        if files.scanner.is_some() && (1..=SCANNER_AWAY_MILLIS).contains(&left) {
            return Err(FileAway::ScannerAway.into());
        }
        let bot = self.ghosts.bot().await?;
        let _few = self.looking_at_files.acquire().await;
        let sealed = match self.homeserver.download(bot.intent(), url, files.most_bytes).await {
            Ok(Some(sealed)) => sealed,
            Ok(None) => return Ok(Err(Refusal::FileTooLarge)),
            Err(error) if error.is_passing() => return Err(FileAway::Homeserver(error).into()),
            Err(_) => return Ok(Err(Refusal::FileDamaged)),
        };
        let (shown, file, kinds) = (attachment.shown, attachment.file.clone(), files.kinds.clone());
        let looked = tokio::task::spawn_blocking(move || look(shown, &file, &kinds, sealed)).await;
        let seen = match looked {
            Ok(Ok(seen)) => seen,
            Ok(Err(refusal)) => return Ok(Err(refusal)),
            Err(_) => return Ok(Err(Refusal::FileDamaged)),
        };
        if let Some(scanner) = &files.scanner {
            match scan(scanner, &seen.plain, SCANNED_WITHIN).await {
                Ok(Verdict::Clean) => {}
                Ok(Verdict::Infected { name }) => {
                    tracing::warn!(name, "the scanner has found something in a file");
                    return Ok(Err(Refusal::FileInfected));
                }
                Err(error) if error.may_pass() => {
                    let until = self.clock.now().plus_millis(SCANNER_AWAY_MILLIS).millis();
                    self.scanner_away_until.store(until, Ordering::Relaxed);
                    return Err(FileAway::Scanner(error).into());
                }
                Err(error) => {
                    tracing::error!(%error, "a file could not be scanned, and does not pass");
                    return Ok(Err(Refusal::FileUnchecked));
                }
            }
        }
        let mut checked = attachment.clone();
        seen.kind.mimetype().clone_into(&mut checked.mimetype);
        // ATT-2: a text that is called a program would be run.
        checked.name = with_ending(&attachment.name, seen.kind.endings());
        (checked.measures.bytes, checked.measures.pixels) = (seen.bytes, seen.pixels);
        if let Some((sealed, info)) = seen.anew {
            let url = match self.homeserver.upload(bot.intent(), sealed).await {
                Err(error) if error.is_passing() => return Err(FileAway::Homeserver(error).into()),
                url => url?,
            };
            let mut file = serde_json::to_value(&info)?;
            file["url"] = json!(url);
            checked.file = SealedFile::of(&file).ok_or(HomeserverError::Nonsense("POST /upload"))?;
        }
        Ok(Ok(checked))
    }
}

/// Opens a file and looks what is in it.
fn look(shown: Shown, file: &SealedFile, kinds: &[Kind], sealed: Vec<u8>) -> Result<Seen, Refusal> {
    let info: MediaEncryptionInfo =
        serde_json::from_value(file.to_json()).map_err(|_| Refusal::FileDamaged)?;
    let mut plain = Vec::with_capacity(sealed.len());
    let mut reading = &*sealed;
    let mut opening = AttachmentDecryptor::new(&mut reading, info).map_err(|_| Refusal::FileDamaged)?;
    // The hash is looked at in the end.
    opening.read_to_end(&mut plain).map_err(|_| Refusal::FileDamaged)?;
    drop(sealed);
    // ATT-2: what it is, its bytes say.
    let kind = files::kind_of(&plain).filter(|kind| kinds.contains(kind)).ok_or(Refusal::FileKind)?;
    if shown == Shown::Image && !kind.is_image() {
        return Err(Refusal::FileKind);
    }
    let pixels = files::dimensions(kind, &plain);
    if kind.is_image() {
        let (width, height) = pixels.ok_or(Refusal::FileDamaged)?;
        if u64::from(width) * u64::from(height) > MOST_PIXELS {
            return Err(Refusal::FileKind);
        }
    }
    let anew = match files::without_metadata(kind, &plain).map_err(|_| Refusal::FileDamaged)? {
        Some(bare) => {
            let sealed = seal(&bare).ok_or(Refusal::FileDamaged)?;
            plain = bare;
            Some(sealed)
        }
        None => None,
    };
    let bytes = u64::try_from(plain.len()).map_err(|_| Refusal::FileTooLarge)?;
    Ok(Seen { bytes, kind, pixels, plain, anew })
}

fn seal(mut plain: &[u8]) -> Option<(Vec<u8>, MediaEncryptionInfo)> {
    let (mut sealed, mut sealing) = (Vec::with_capacity(plain.len()), AttachmentEncryptor::new(&mut plain));
    sealing.read_to_end(&mut sealed).ok()?;
    Some((sealed, sealing.finish()))
}

/// An attachment as it is sent.
pub(crate) fn content(attachment: &Attachment) -> Value {
    let caption = attachment.caption.as_ref();
    let mut content = json!({
        "msgtype": attachment.shown.msgtype(),
        "body": caption.map_or(&*attachment.name, |caption| caption.body()),
        "filename": attachment.name,
        "file": attachment.file.to_json(),
        "info": { "mimetype": attachment.mimetype, "size": attachment.measures.bytes },
        "m.mentions": {},
    });
    if let Some(html) = caption.and_then(|caption| caption.html()) {
        content["format"] = json!("org.matrix.custom.html");
        content["formatted_body"] = json!(html);
    }
    if let Some((width, height)) = attachment.measures.pixels {
        (content["info"]["w"], content["info"]["h"]) = (width.into(), height.into());
    }
    if let Some(millis) = attachment.measures.millis {
        content["info"]["duration"] = millis.into();
    }
    content
}
