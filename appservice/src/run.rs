//! A running Parlour: engine and listeners, from the configuration to the stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parlour_domain::Clock;
use parlour_engine::{Engine, Fault, Homeserver, HomeserverError, Settings, StartError, StoreError};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    config::{Config, ConfigError},
    edge::{SystemChance, SystemClock},
    http::{self, Edge, SignIn},
    master_key::{Found, MasterKeyError},
};

/// Why Parlour cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener's address is taken, or not of this machine.
    #[error("Parlour cannot listen on {0}: {1}; stop what uses it, or choose another in the configuration")]
    Listen(SocketAddr, std::io::Error),
    /// The engine cannot start.
    #[error("Parlour cannot start: {0}")]
    Engine(#[from] StartError),
    /// There is no master key to work with.
    #[error("Parlour cannot start: {0}")]
    MasterKey(#[from] MasterKeyError),
    /// What is said of the practice makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The homeserver's address makes no sense.
    #[error("homeserver.url cannot be used: {0}")]
    Homeserver(#[from] HomeserverError),
}

/// What a start can be told beyond the configuration.
#[derive(Clone, Default)]
pub struct Extras {
    /// Who can sign in, for the page of the demo.
    pub sign_ins: Vec<SignIn>,
    /// How many patients a demo has beyond its own, for tests with many.
    pub more_patients: usize,
    /// The database of a demo, if it is not to be a file in its folder.
    pub database_url: Option<String>,
    /// More of the configuration of a demo's homeserver, for tests: lines of YAML.
    pub homeserver: String,
    /// Promises broken on purpose, for tests of the checks.
    pub faults: Vec<Fault>,
    /// How long an event waits for its key, if not the product's own measure.
    pub patience: Option<Duration>,
    /// How often the ghosts' inboxes are emptied, if not the product's own measure.
    pub care: Option<Duration>,
    /// How long a ghost's Olm machine stays awake unused, if not the product's own measure.
    pub idle: Option<Duration>,
    /// The time, if it is not to be the system's.
    pub clock: Option<Arc<dyn Clock>>,
}

/// A running Parlour.
pub struct Parlour {
    engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
}

const PATIENCE_FOR_KEYS: Duration = Duration::from_secs(60);
const CARE: Duration = Duration::from_secs(600);
const IDLE: Duration = Duration::from_secs(1800);
const PATIENCE_FOR_SIGNATURES: Duration = Duration::from_secs(15);
const PATIENCE_FOR_WORDS: Duration = Duration::from_secs(600);

impl Parlour {
    /// Starts engine and listeners. The homeserver may come later.
    ///
    /// # Errors
    /// [`RunError`], in one sentence.
    pub async fn start(config: &Config, extras: Extras) -> Result<Self, RunError> {
        let bind = async |address| TcpListener::bind(address).await.map_err(|e| RunError::Listen(address, e));
        let (public, internal) = (bind(config.listen.public).await?, bind(config.listen.internal).await?);
        let homeserver = Homeserver::new(&config.homeserver.url, config.homeserver.as_token.clone())?;
        let clock: Arc<dyn Clock> = extras.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let master = Found::or_made(config, &SystemChance)?;
        let settings = Settings {
            server_name: config.homeserver.server_name.clone(),
            practice: config.practice.name.clone(),
            hours: config.practice.opening_hours()?,
            emergency: config.practice.emergency_words()?,
            data: config.data.clone(),
            database: config.database(),
            master_key: master.key.clone(),
            patience_for_keys: extras.patience.unwrap_or(PATIENCE_FOR_KEYS),
            patience_for_signatures: extras.patience.unwrap_or(PATIENCE_FOR_SIGNATURES),
            patience_for_words: extras.patience.unwrap_or(PATIENCE_FOR_WORDS),
            files: config.attachments.files()?,
            allow_unsigned_clients: config.allow_unsigned_clients,
            care: extras.care.unwrap_or(CARE),
            idle: extras.idle.unwrap_or(IDLE),
            faults: extras.faults,
        };
        let started = Engine::start(settings, homeserver, Arc::clone(&clock), Arc::new(SystemChance)).await;
        let engine = started.map_err(|error| match error {
            StartError::Store(StoreError::WrongMasterKey) => {
                master.is_wrong().map_or(RunError::Engine(error), RunError::MasterKey)
            }
            error => RunError::Engine(error),
        })?;
        let (stop, stopped) = watch::channel(false);
        let edge = Edge::new(Arc::clone(&engine), config, extras.sign_ins, clock, stopped.clone());
        let edge = Arc::new(edge);
        let mut listeners = JoinSet::new();
        for (listener, router) in [(public, http::public(&edge)), (internal, http::internal(&edge))] {
            let mut stopped = stopped.clone();
            listeners.spawn(async move {
                let until = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
                if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(until).await {
                    tracing::error!(%error, "a listener ended");
                }
            });
        }
        Ok(Self { engine, stop, listeners })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Waits until the bot receives, that is, until messages travel.
    pub async fn receiving(&self) {
        let _ = self.engine.receiving().wait_for(Option::is_some).await;
    }

    /// Stops listening, lets open requests end for a short time, and ends the engine.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let ended = async { while self.listeners.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), ended).await.is_err() {
            self.listeners.shutdown().await;
        }
        self.engine.stop().await;
    }
}

/// Waits for Ctrl-C, or for the signal by which a service is ended.
pub async fn asked_to_stop() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}
