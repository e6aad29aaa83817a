//! The configuration: `parlour.toml`, overridden by `PARLOUR__…` variables, checked at the start.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use parlour_domain::{EmergencyWords, Hours};
use parlour_engine::{DatabaseUrl, Files, InvalidScannerAddress, Secret, UnknownKind};
use ruma::OwnedServerName;
use serde::{Deserialize, Deserializer, Serialize};

/// All that a running Parlour is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The practice.
    pub practice: Practice,
    /// Its homeserver.
    pub homeserver: Homeserver,
    /// Where Parlour listens.
    #[serde(default)]
    pub listen: Listen,
    /// Where Parlour keeps its data; relative to the configuration's own folder.
    #[serde(default = "default_data")]
    pub data: PathBuf,
    /// The database: `sqlite:FILE` or `postgres://USER:PASSWORD@HOST/DATABASE`. `parlour.db` in `data` if it is not said.
    #[serde(default, deserialize_with = "database_url")]
    pub database_url: Option<DatabaseUrl>,
    /// The file that keeps the master key, readable for its owner only; relative to the configuration's own folder. Made at
    /// the first start. It must not lie in `data`.
    #[serde(default = "default_master_key_file")]
    pub master_key_file: PathBuf,
    /// Whether clients are allowed that know nothing of cross-signing.
    #[serde(default)]
    pub allow_unsigned_clients: bool,
    /// What files it takes.
    #[serde(default)]
    pub attachments: Attachments,
    /// What belongs into a backup beside Parlour's own database.
    #[serde(default)]
    pub backup: Backup,
    /// The master key itself, for the variable `PARLOUR__MASTER_KEY`; it stands in for the file.
    #[serde(default, deserialize_with = "optional_secret")]
    pub master_key: Option<Secret>,
}

/// The practice.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Practice {
    /// Its name, as patients see it.
    pub name: String,
    /// Where it is, for its hours: `Europe/Dublin`.
    pub time_zone: Option<String>,
    /// When it is there.
    pub hours: Option<Week>,
    /// Days on which it is closed, whatever the weekday: `2026-12-25`.
    #[serde(default)]
    pub holidays: Vec<String>,
    /// What to do in an emergency, in one line: it stands in every patient's room, and in what they are answered while the
    /// practice is closed.
    pub emergency: Option<String>,
}

/// When the practice is there on each day, as in `["09:00-13:00", "14:00-17:30"]`; a day that is not named is closed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the days of the week")]
pub struct Week {
    pub monday: Vec<String>,
    pub tuesday: Vec<String>,
    pub wednesday: Vec<String>,
    pub thursday: Vec<String>,
    pub friday: Vec<String>,
    pub saturday: Vec<String>,
    pub sunday: Vec<String>,
}

impl Practice {
    /// When it is there; none when nobody has said.
    ///
    /// # Errors
    /// [`ConfigError::Practice`]
    pub fn opening_hours(&self) -> Result<Option<Hours>, ConfigError> {
        let Some(week) = &self.hours else { return Ok(None) };
        let zone = self.time_zone.as_deref();
        let zone =
            zone.ok_or_else(|| ConfigError::Practice("practice.hours needs practice.time_zone".to_owned()))?;
        let days = [
            &week.monday,
            &week.tuesday,
            &week.wednesday,
            &week.thursday,
            &week.friday,
            &week.saturday,
            &week.sunday,
        ];
        Hours::new(zone, days.map(Vec::as_slice), &self.holidays)
            .map(Some)
            .map_err(|error| ConfigError::Practice(format!("in [practice], {error}")))
    }

    /// What to do in an emergency.
    ///
    /// # Errors
    /// [`ConfigError::Practice`]
    pub fn emergency_words(&self) -> Result<Option<EmergencyWords>, ConfigError> {
        let unfit = |error| ConfigError::Practice(format!("practice.emergency: {error}"));
        self.emergency.as_deref().map(|words| words.parse().map_err(unfit)).transpose()
    }
}

/// The homeserver.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Homeserver {
    /// Where it listens for us, for example `http://127.0.0.1:8008`.
    pub url: String,
    /// What a person's Matrix client is pointed at.
    pub public_url: String,
    /// Its name: the part of user ids after the colon.
    pub server_name: OwnedServerName,
    /// The token that we show to it. The master credential of the practice.
    #[serde(deserialize_with = "secret")]
    pub as_token: Secret,
    /// The token that it shows to us.
    #[serde(deserialize_with = "secret")]
    pub hs_token: Secret,
}

/// Where the homeserver keeps what a backup must hold; relative to the configuration's own folder. `parlour backup` and
/// `parlour restore` need all three.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Its database: `sqlite:FILE` or `postgres://USER:PASSWORD@HOST/DATABASE`.
    #[serde(default, deserialize_with = "database_url")]
    pub homeserver_database_url: Option<DatabaseUrl>,
    /// The folder of its media (`media_store_path`).
    pub homeserver_media: Option<PathBuf>,
    /// The file of its signing key (`signing_key_path`).
    pub homeserver_signing_key: Option<PathBuf>,
}

/// What files may be sent (S11).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attachments {
    /// How large one may be, in mebibytes; at most 100.
    pub largest_mib: u64,
    /// Of which kinds, as media types; all that are known if it is not said.
    pub kinds: Option<Vec<String>>,
    /// What looks for harm in them: clamd at `tcp://HOST:PORT` or `unix:/FILE`. What cannot be looked at does not pass.
    pub scanner: Option<String>,
}

impl Default for Attachments {
    fn default() -> Self {
        Self { largest_mib: Files::default().most_bytes >> 20, kinds: None, scanner: None }
    }
}

/// Larger files are no messages.
const MOST_MIB: u64 = 100;

impl Attachments {
    /// What they come to.
    ///
    /// # Errors
    /// [`ConfigError::Attachments`]
    pub fn files(&self) -> Result<Files, ConfigError> {
        let unfit = |reason: String| ConfigError::Attachments(reason);
        if !(1..=MOST_MIB).contains(&self.largest_mib) {
            return Err(unfit(format!("attachments.largest_mib must be from 1 to {MOST_MIB}")));
        }
        let kinds = match &self.kinds {
            Some(kinds) => kinds
                .iter()
                .map(|kind| {
                    kind.parse().map_err(|error: UnknownKind| unfit(format!("attachments.kinds: {error}")))
                })
                .collect::<Result<_, _>>()?,
            None => Files::default().kinds,
        };
        let scanner = self.scanner.as_deref().map(|scanner| {
            scanner
                .parse()
                .map_err(|error: InvalidScannerAddress| unfit(format!("attachments.scanner: {error}")))
        });
        Ok(Files { most_bytes: self.largest_mib << 20, kinds, scanner: scanner.transpose()? })
    }
}

/// Where Parlour listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// For people.
    pub public: SocketAddr,
    /// For the homeserver and for monitoring: on loopback.
    pub internal: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            public: SocketAddr::from(([127, 0, 0, 1], 8080)),
            internal: SocketAddr::from(([127, 0, 0, 1], 9090)),
        }
    }
}

fn default_data() -> PathBuf {
    PathBuf::from("data")
}

fn default_master_key_file() -> PathBuf {
    PathBuf::from("master.key")
}

fn database_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DatabaseUrl>, D::Error> {
    // What stands there is not repeated: it may hold a password.
    let url = String::deserialize(deserializer)?.parse();
    url.map(Some)
        .map_err(|_| serde::de::Error::custom("database_url is no `sqlite:` and no `postgres://` address"))
}

fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    secret(deserializer).map(Some)
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read, or a key is missing, unknown or of the wrong kind.
    #[error("the configuration {file} cannot be used: {reason}; mend it and start again")]
    Unusable {
        /// Which file.
        file: String,
        /// What is wrong, with the key's name.
        reason: String,
    },
    /// A token is too short to be a secret.
    #[error(
        "homeserver.{0} is shorter than 32 characters; make a new one and put it into the registration too"
    )]
    WeakToken(&'static str),
    /// A token holds what might not survive the registration's YAML.
    #[error("homeserver.{0} may hold letters, digits, `-`, `_` and `.` only; make a new one")]
    OddToken(&'static str),
    /// The master key would lie where what it opens lies.
    #[error("master_key_file must not lie in the data folder: whoever takes the one must not have the other")]
    KeyWithTheData,
    /// What is said of files makes no sense.
    #[error("{0}; mend it and start again")]
    Attachments(String),
    /// What is said of the practice makes no sense.
    #[error("{0}; mend it and start again")]
    Practice(String),
    /// The internal listener would be open to others.
    #[error("listen.internal must be an address on this machine itself, such as 127.0.0.1:9090")]
    InternalIsOpen,
}

impl Config {
    /// The database.
    #[must_use]
    pub fn database(&self) -> DatabaseUrl {
        self.database_url.clone().unwrap_or_else(|| DatabaseUrl::Sqlite(self.data.join("parlour.db")))
    }

    /// Reads and checks `parlour.toml`.
    ///
    /// # Errors
    /// [`ConfigError`], in one sentence.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let unusable = |reason: String| {
            // The first line says where and what; the next ones may quote the file, and a token with it.
            let reason = reason.lines().next().unwrap_or_default().to_owned();
            ConfigError::Unusable { file: file.display().to_string(), reason }
        };
        let mut config: Self = config::Config::builder()
            .add_source(config::File::from(file).format(config::FileFormat::Toml))
            .add_source(config::Environment::with_prefix("PARLOUR").separator("__").prefix_separator("__"))
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| unusable(error.to_string()))?;
        let file = std::path::absolute(file).map_err(|error| unusable(error.to_string()))?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        config.data = folder.join(&config.data);
        config.master_key_file = folder.join(&config.master_key_file);
        if config.master_key_file.starts_with(&config.data) {
            return Err(ConfigError::KeyWithTheData);
        }
        for url in [&mut config.database_url, &mut config.backup.homeserver_database_url] {
            if let Some(DatabaseUrl::Sqlite(file)) = url {
                *file = folder.join(&*file);
            }
        }
        for path in [&mut config.backup.homeserver_media, &mut config.backup.homeserver_signing_key] {
            *path = path.as_ref().map(|path| folder.join(path));
        }
        for (name, token) in
            [("as_token", &config.homeserver.as_token), ("hs_token", &config.homeserver.hs_token)]
        {
            if token.reveal().len() < 32 {
                return Err(ConfigError::WeakToken(name));
            }
            if !token.reveal().bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                return Err(ConfigError::OddToken(name));
            }
        }
        config.practice.opening_hours()?;
        config.practice.emergency_words()?;
        config.attachments.files()?;
        if !config.listen.internal.ip().is_loopback() {
            return Err(ConfigError::InternalIsOpen);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("parlour.toml");
        std::fs::write(&file, text).expect("a file");
        Config::read(&file)
    }

    const GOOD: &str = r#"
        [practice]
        name = "Riverside"
        [homeserver]
        url = "http://127.0.0.1:8008"
        public_url = "http://127.0.0.1:8008"
        server_name = "riverside.example"
        as_token = "0123456789abcdef0123456789abcdef"
        hs_token = "fedcba9876543210fedcba9876543210"
    "#;

    #[test]
    fn a_configuration_is_read_with_its_defaults_and_shows_no_token() {
        let config = read(GOOD).expect("a configuration");
        assert_eq!(config.listen.internal.port(), 9090);
        assert!(config.data.is_absolute() && config.data.ends_with("data"));
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn a_broken_line_does_not_print_the_token_on_it() {
        let error = read(
            &GOOD.replace("9abcdef0123456789abcdef\"\n        hs", "9abcdef0123456789abcdef\n        hs"),
        );
        let words = error.expect_err("a quotation mark is missing").to_string();
        assert!(!words.contains("0123456789abcdef") && words.contains("line"), "{words}");
    }

    #[test]
    fn what_is_wrong_is_said_by_name() {
        for (name, text, wanted) in [
            ("an unknown key", GOOD.replace("[practice]", "[practice]\ncolour = 1"), "colour"),
            ("a missing key", GOOD.replace("name = \"Riverside\"", ""), "name"),
            ("an odd token", GOOD.replace("0123456789abcdef0", "0123456789abcde'0"), "as_token"),
            ("a short token", GOOD.replace("0123456789abcdef0123456789abcdef", "short"), "as_token"),
            ("a key with the data", format!("master_key_file = \"data/k\"\n{GOOD}"), "master_key_file"),
            ("an odd database", format!("database_url = \"mysql://x\"\n{GOOD}"), "database_url"),
            (
                "hours of nowhere",
                format!("{GOOD}\n[practice.hours]\nmonday = [\"09:00-17:00\"]"),
                "time_zone",
            ),
            (
                "a time that is none",
                GOOD.replace(
                    "[practice]",
                    "[practice]\ntime_zone = \"Europe/Dublin\"\nhours = { monday = [\"9-17\"] }",
                ),
                "`9-17`",
            ),
            (
                "a zone that is none",
                GOOD.replace("[practice]", "[practice]\ntime_zone = \"Dublin\"\nhours = {}"),
                "`Dublin`",
            ),
            (
                "words for nobody",
                GOOD.replace("[practice]", "[practice]\nemergency = \"\""),
                "practice.emergency",
            ),
            ("a very large file", format!("{GOOD}\n[attachments]\nlargest_mib = 5000"), "largest_mib"),
            (
                "an unknown kind",
                format!("{GOOD}\n[attachments]\nkinds = [\"image/svg+xml\"]"),
                "`image/svg+xml`",
            ),
            ("an odd scanner", format!("{GOOD}\n[attachments]\nscanner = \"clamd\""), "attachments.scanner"),
            ("an open door", format!("{GOOD}\n[listen]\ninternal = \"0.0.0.0:9090\""), "listen.internal"),
        ] {
            let error = read(&text).expect_err(name).to_string();
            assert!(error.contains(wanted), "{name}: {error}");
        }
    }
}
