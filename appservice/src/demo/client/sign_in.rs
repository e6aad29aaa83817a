//! Signing in: the session, the cross-signed device, secret storage and key backup.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use matrix_sdk::{
    Client as Sdk,
    authentication::matrix::MatrixSession,
    config::RequestConfig,
    encryption::{BackupDownloadStrategy, EncryptionSettings, recovery::RecoveryError},
};
use matrix_sdk_crypto::{CollectStrategy, DecryptionSettings, TrustRequirement};
use reqwest::Method;
use ruma::{OwnedUserId, UserId};
use serde_json::json;
use tokio::{
    runtime::Handle,
    sync::{Mutex, watch},
    task::spawn_blocking,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Client, ClientError, RawHttp,
    sync::{self, Mode, Shared},
};

/// The name that a person's own clients show for this device.
const DEVICE_NAME: &str = "Parlour's line client";

/// How a person signs in and where their client keeps its store.
#[derive(Clone, Copy)]
pub struct SignIn<'a> {
    /// The homeserver, or the gateway before it.
    pub homeserver_url: &'a str,
    /// The person's Matrix id.
    pub user_id: &'a UserId,
    /// Their password.
    pub password: &'a str,
    /// What opens their secret storage.
    pub recovery: Recovery<'a>,
    /// A folder for this person and device alone: the SDK's SQLite files and `session.json` (0600).
    pub store: &'a Path,
    /// Decrypt only what comes from cross-signed devices ("exclude insecure devices" in Element).
    pub strict: bool,
}

/// What opens a person's secret storage (Matrix v1.19 client-server §Secret storage).
#[derive(Clone, Copy, Debug)]
pub enum Recovery<'a> {
    /// The password that they sign in with, so that they have one thing to remember: half a million rounds of PBKDF2.
    Password,
    /// A recovery key, which the account's first device makes and writes into this file (0600).
    KeyIn(&'a Path),
}

impl fmt::Debug for SignIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { homeserver_url, user_id, password: _, recovery, store, strict } = self;
        let mut out = f.debug_struct("SignIn");
        out.field("homeserver_url", homeserver_url).field("user_id", user_id);
        out.field("recovery", recovery).field("store", store).field("strict", strict).finish_non_exhaustive()
    }
}

impl Client {
    /// Goes on with the session stored in the folder, or signs in with the password.
    ///
    /// The first device of an account makes its cross-signing identity, its key backup and its secret
    /// storage; a further device opens it and signs itself. Returns once the device is cross-signed, its
    /// one-time keys are uploaded, the first sync is in and the syncing task runs.
    ///
    /// # Errors
    /// See [`ClientError`]: a wrong password, a session that has ended, a device that cannot be signed.
    pub async fn sign_in(how: SignIn<'_>) -> Result<Self, ClientError> {
        let sdk = build(&how).await?;
        let session = session(&sdk, &how).await?;
        let user_id = session.meta.user_id.clone();
        let shared = Arc::new(Shared::new(sdk, user_id.clone()));
        let keys = AbortOnDropHandle::new(tokio::spawn(sync::watch_keys(Arc::clone(&shared))));
        let encryption = shared.sdk.encryption();
        encryption.wait_for_e2ee_initialization_tasks().await;
        let first_sync = async { shared.sync(Duration::ZERO).await.map_err(ClientError::from) };
        tokio::try_join!(first_sync, secure(&shared.sdk, how)).map_err(|error| ended(error, &how))?;
        let http = RawHttp::new(shared.sdk.homeserver(), session.tokens.access_token.clone());
        check_device(&http, &session).await?;

        let (mode, mode_seen) = watch::channel(Mode::Running);
        let (parking, parked) = watch::channel(false);
        let task = tokio::spawn(sync::run(Arc::clone(&shared), mode_seen, parking));
        Ok(Self { shared, user_id, http, mode, parked, syncing: Mutex::new(Some(task)), _keys: keys })
    }
}

async fn build(how: &SignIn<'_>) -> Result<Sdk, ClientError> {
    let in_store = |source| ClientError::Store { path: how.store.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(how.store).map_err(in_store)?;
    let trust = if how.strict { TrustRequirement::CrossSigned } else { TrustRequirement::Untrusted };
    Sdk::builder()
        .homeserver_url(how.homeserver_url)
        .respect_login_well_known(false)
        .sqlite_store(how.store, None)
        // A limit also makes the SDK try again when the homeserver is not there for a moment.
        .request_config(RequestConfig::new().retry_limit(4))
        .with_room_key_recipient_strategy(CollectStrategy::IdentityBasedStrategy)
        .with_decryption_settings(DecryptionSettings { sender_device_trust_requirement: trust })
        .with_enable_share_history_on_invite(true)
        .with_encryption_settings(EncryptionSettings {
            auto_enable_cross_signing: true,
            // Made with secret storage, in `secure`.
            auto_enable_backups: false,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
        })
        .build()
        .await
        .map_err(|error| ClientError::Build(Box::new(error)))
}

/// The stored session, restored; or a new one, stored.
async fn session(sdk: &Sdk, how: &SignIn<'_>) -> Result<MatrixSession, ClientError> {
    let file = how.store.join("session.json");
    let auth = sdk.matrix_auth();
    let user: OwnedUserId = how.user_id.to_owned();
    if let Some(stored) = read_session(&file)? {
        let owner = &stored.meta.user_id;
        if *owner != user {
            return Err(ClientError::OthersStore { owner: owner.clone(), user });
        }
        sdk.restore_session(stored.clone()).await?;
        return Ok(stored);
    }
    let login = auth.login_username(how.user_id, how.password).initial_device_display_name(DEVICE_NAME);
    let refused = |error| ClientError::SignIn { user: user.clone(), source: Box::new(error) };
    login.send().await.map_err(refused)?;
    let device = |why: &str| ClientError::Device { user: user.clone(), why: why.to_owned() };
    let session = auth.session().ok_or_else(|| device("the SDK keeps no session"))?;
    let written = serde_json::to_vec(&session).map_err(io::Error::from);
    let written = written.and_then(|bytes| write_whole(&file, &bytes));
    written.map_err(|source| ClientError::Store { path: file, source })?;
    Ok(session)
}

fn read_session(file: &Path) -> Result<Option<MatrixSession>, ClientError> {
    let in_store = |source| ClientError::Store { path: file.to_owned(), source };
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| in_store(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(in_store(error)),
    }
}

/// Written beside and renamed, so that there is never half of it.
fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside: PathBuf = file.with_added_extension("new");
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(beside, file)
}

/// Sets up secret storage and key backup, or opens them on a further device.
async fn secure(sdk: &Sdk, how: SignIn<'_>) -> Result<(), ClientError> {
    let encryption = sdk.encryption();
    let has_keys = encryption.cross_signing_status().await.is_some_and(|status| status.is_complete());
    let has_storage = encryption.secret_storage().is_enabled().await?;
    let user = how.user_id.to_owned();
    if !has_keys && !has_storage {
        let why = "another client made the account's identity, and left no secret storage to sign with";
        return Err(ClientError::Device { user, why: why.to_owned() });
    }
    if has_keys && has_storage {
        return Ok(());
    }
    let in_store = |path: &Path, source| ClientError::Store { path: path.to_owned(), source };
    let secret = match how.recovery {
        Recovery::Password => Some(how.password.to_owned()),
        Recovery::KeyIn(_) if has_keys => None,
        Recovery::KeyIn(file) => Some(fs::read_to_string(file).map_err(|error| in_store(file, error))?),
    };
    let opening = async move {
        let recovery = encryption.recovery();
        match secret {
            None => recovery.enable().await.map(Some),
            Some(secret) if has_keys => recovery.enable().with_passphrase(&secret).await.map(|_| None),
            Some(secret) => recovery.recover(&secret).await.map(|()| None),
        }
    };
    // The rounds of a password would hold up everybody else on this thread.
    let runtime = Handle::current();
    let made = match spawn_blocking(move || runtime.block_on(opening)).await {
        Ok(outcome) => {
            outcome.map_err(|error: RecoveryError| ClientError::Recovery { user, source: error.into() })?
        }
        Err(panicked) => {
            let why = format!("the key derivation broke: {panicked}");
            return Err(ClientError::Device { user, why });
        }
    };
    match (how.recovery, made) {
        (Recovery::KeyIn(file), Some(key)) => {
            write_whole(file, key.as_bytes()).map_err(|error| in_store(file, error))
        }
        _ => Ok(()),
    }
}

/// Looks as others do: is the device signed by its owner's key, and are there keys to write to it?
async fn check_device(http: &RawHttp, session: &MatrixSession) -> Result<(), ClientError> {
    let (user, device) = (session.meta.user_id.as_str(), session.meta.device_id.as_str());
    let failed = |why: String| ClientError::Device { user: session.meta.user_id.clone(), why };
    let query = json!({ "device_keys": { user: [device] } });
    let (status, keys) = http.call(Method::POST, "/_matrix/client/v3/keys/query", Some(query)).await?;
    if status != 200 {
        return Err(failed(format!("/keys/query answered {status}")));
    }
    let signatures = &keys["device_keys"][user][device]["signatures"][user];
    let signing = keys["self_signing_keys"][user]["keys"].as_object();
    let signing = signing.ok_or_else(|| failed("the account has no self-signing key".to_owned()))?;
    if !signing.keys().any(|key| signatures[key].is_string()) {
        return Err(failed("it is not cross-signed".to_owned()));
    }
    let (status, count) = http.call(Method::POST, "/_matrix/client/v3/keys/upload", Some(json!({}))).await?;
    match count["one_time_key_counts"]["signed_curve25519"].as_u64() {
        Some(1..) => Ok(()),
        _ => Err(failed(format!("it has no one-time keys (/keys/upload answered {status})"))),
    }
}

/// A refused token means that the stored session is over; any other error stays what it is.
fn ended(error: ClientError, how: &SignIn<'_>) -> ClientError {
    match error.status() {
        Some((401, code)) if code == "M_UNKNOWN_TOKEN" => {
            ClientError::SessionEnded { user: how.user_id.to_owned(), store: how.store.to_owned() }
        }
        _ => error,
    }
}
