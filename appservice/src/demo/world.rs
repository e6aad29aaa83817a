//! The demo's world: homeserver, Parlour and people in one folder, started and stopped together.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use parlour_domain::{Chance, Role};
use parlour_engine::CommitPoint;
use serde_json::json;
use tokio::net::TcpSocket;

use super::{
    homeserver::{Homeserver, HomeserverPlan},
    practice::{DemoPerson, EMERGENCY, PRACTICE, SERVER_NAME, State, write_private},
    python::{default_cache, synapse_python},
    report::{DemoError, Report},
};
use crate::{
    config::Config,
    edge::SystemChance,
    http::SignIn,
    registration::registration,
    run::{Extras, Parlour},
};

/// Where a world lies and listens.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its folder.
    pub data: PathBuf,
    /// For people.
    pub public: u16,
    /// The homeserver's own.
    pub homeserver: u16,
    /// For the homeserver's transactions.
    pub internal: u16,
}

impl Place {
    /// A folder, and the ports from `port` on.
    #[must_use]
    pub fn at(data: PathBuf, port: u16) -> Self {
        Self { data, public: port, homeserver: port.saturating_add(2), internal: port.saturating_add(3) }
    }

    /// A folder, and ports that are free.
    ///
    /// # Errors
    /// When there are none.
    pub fn anywhere(data: PathBuf) -> Result<Self, DemoError> {
        Ok(Self { data, public: free_port()?, homeserver: free_port()?, internal: free_port()? })
    }
}

/// A running world.
pub struct World {
    /// Where it is.
    pub place: Place,
    /// Who is in it.
    pub people: Vec<DemoPerson>,
    /// Its homeserver.
    pub homeserver: Homeserver,
    /// Its Parlour.
    pub parlour: Parlour,
    /// Its configuration.
    pub config: Config,
    state: State,
    _lock: fs::File,
}

impl World {
    /// Starts a world, and makes what is missing of it. Whatever goes wrong leaves nothing that a next start
    /// could not go on with.
    ///
    /// # Errors
    /// [`DemoError`], in one sentence.
    pub async fn start(place: Place, extras: Extras, report: &dyn Report) -> Result<Self, DemoError> {
        Self::start_in(place, false, extras, report).await
    }

    /// Starts a world as [`World::start`] does, without anything that an earlier one has left in its folder.
    ///
    /// # Errors
    /// [`DemoError`], in one sentence.
    pub async fn start_anew(place: Place, extras: Extras, report: &dyn Report) -> Result<Self, DemoError> {
        Self::start_in(place, true, extras, report).await
    }

    async fn start_in(
        place: Place,
        anew: bool,
        extras: Extras,
        report: &dyn Report,
    ) -> Result<Self, DemoError> {
        let lock = locked(&place.data)?;
        // The homeserver's own port is tested where one of a demo that was killed is waited for.
        for port in [place.public, place.internal] {
            is_free(port)?;
        }
        let python = synapse_python(&default_cache(), report).await?;
        if anew {
            // Only now, when nothing stands in the way of the new start any more.
            forget(&place.data)?;
        }
        let mut state = match State::read(&place.data)? {
            Some(state) => state,
            None => State::fresh(&SystemChance, extras.more_patients)?,
        };
        state.homeserver_url = format!("http://127.0.0.1:{}", place.homeserver);
        state.write(&place.data)?;
        let config = write_configuration(&place, &state, extras.database_url.as_deref())?;
        let plan = HomeserverPlan {
            dir: place.data.join("homeserver"),
            server_name: SERVER_NAME.to_owned(),
            port: place.homeserver,
            registration_file: place.data.join("registration.yaml"),
            more: extras.homeserver.clone(),
        };
        let mut homeserver = Homeserver::start(&python, plan, report).await?;
        report.step("parlour", "Starting Parlour.");
        let extras = Extras { sign_ins: state.people.iter().map(sign_in).collect(), ..extras };
        let parlour = Parlour::start(&config, extras).await?;
        tokio::select! {
            () = parlour.receiving() => {}
            gone = homeserver.exited() => {
                parlour.stop().await;
                return Err(gone);
            }
        }
        let people = state.people.clone();
        let mut world = Self { place, people, homeserver, parlour, config, state, _lock: lock };
        match world.make_people(report).await {
            Ok(()) => Ok(world),
            Err(error) => {
                world.stop().await;
                Err(error)
            }
        }
    }

    /// Where a Matrix client is pointed at.
    #[must_use]
    pub fn homeserver_url(&self) -> String {
        self.homeserver.url()
    }

    /// Where people open the page, and where the practice API is.
    #[must_use]
    pub fn public_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.place.public)
    }

    /// The folder that a person's client keeps its store in.
    #[must_use]
    pub fn client_store(&self, person: &DemoPerson) -> PathBuf {
        client_store(&self.place.data, person)
    }

    /// Whether the first conversation has been held.
    #[must_use]
    pub fn has_talked(&self) -> bool {
        self.state.talked
    }

    /// The first conversation has been held.
    ///
    /// # Errors
    /// When this cannot be written down.
    pub fn talked(&mut self) -> Result<(), DemoError> {
        self.state.talked = true;
        self.state.write(&self.place.data)
    }

    /// Stops Parlour, then the homeserver.
    pub async fn stop(mut self) {
        self.parlour.stop().await;
        self.homeserver.stop().await;
    }

    /// The bot an administrator, everybody an account, and known to the practice.
    async fn make_people(&mut self, report: &dyn Report) -> Result<(), DemoError> {
        let engine = self.parlour.engine();
        let Some(bot) = engine.bot() else { return Err(DemoError::State("the server's name".to_owned())) };
        let path = format!("/_synapse/admin/v1/users/{}/admin", bot.user_id);
        let asked = engine
            .homeserver()
            .call(CommitPoint::Administer, Some(&bot), http::Method::GET, &path, &json!(null))
            .await;
        if asked.is_err() {
            self.homeserver.make_admin(bot.user_id.as_str()).await?;
        }
        if !self.state.accounts {
            let patients = self.people.iter().filter(|p| p.role == Role::Patient).count();
            let staff = self.people.len() - patients;
            report.step("people", &format!("Making accounts for {staff} staff and {patients} patients."));
        }
        for person in &self.people {
            engine.store().put_person(&person.person()?).await.map_err(parlour_engine::EngineError::from)?;
            if !self.state.accounts {
                let path = format!("/_synapse/admin/v2/users/{}", person.user_id);
                let body = json!({ "password": person.password, "displayname": person.name, "admin": false });
                let made = engine
                    .homeserver()
                    .call(CommitPoint::Administer, Some(&bot), http::Method::PUT, &path, &body)
                    .await;
                made.map_err(parlour_engine::CryptoError::from).map_err(parlour_engine::EngineError::from)?;
            }
        }
        self.state.accounts = true;
        self.state.write(&self.place.data)
    }
}

/// The folder that a person's client keeps its store in.
#[must_use]
pub fn client_store(data: &Path, person: &DemoPerson) -> PathBuf {
    data.join("clients").join(person.user_id.localpart())
}

fn sign_in(person: &DemoPerson) -> SignIn {
    SignIn { name: person.name.clone(), role: person.role.as_str(), user_id: person.user_id.to_string() }
}

/// `parlour.toml` and the registration, as a practice would have them.
fn write_configuration(
    place: &Place,
    state: &State,
    database_url: Option<&str>,
) -> Result<Config, DemoError> {
    let database = database_url.map(|url| format!("database_url = \"{url}\"\n")).unwrap_or_default();
    let toml = format!(
        "# Written by `parlour demo` at each start.\n\
         data = \"parlour\"\n{database}\n[practice]\nname = \"{PRACTICE}\"\ntime_zone = \"Europe/Dublin\"\n\
         emergency = \"{EMERGENCY}\"\n\n[homeserver]\nurl = \"{url}\"\n\
         public_url = \"{url}\"\nserver_name = \"{SERVER_NAME}\"\nas_token = \"{}\"\nhs_token = \"{}\"\n\n\
         [backup]\nhomeserver_database_url = \"sqlite:homeserver/homeserver.db\"\n\
         homeserver_media = \"homeserver/media\"\nhomeserver_signing_key = \"homeserver/signing.key\"\n\n\
         [listen]\npublic = \"127.0.0.1:{}\"\ninternal = \"127.0.0.1:{}\"\n",
        state.as_token,
        state.hs_token,
        place.public,
        place.internal,
        url = state.homeserver_url,
    );
    let file = place.data.join("parlour.toml");
    write_private(&file, toml.as_bytes())?;
    let config = Config::read(&file)?;
    write_private(&place.data.join("registration.yaml"), registration(&config).as_bytes())?;
    Ok(config)
}

fn private_folder(folder: &Path) -> Result<(), DemoError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| DemoError::Folder { path: folder.to_owned(), source })
}

/// Removes what a demo keeps in its folder, and nothing else that may lie there. The homeserver's lock stays: one of a
/// demo that was killed may still hold it for a moment.
fn forget(folder: &Path) -> Result<(), DemoError> {
    let homeserver = folder.join("homeserver");
    let of_homeserver = fs::read_dir(&homeserver).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_homeserver = of_homeserver.filter(|path| path.extension().is_none_or(|kind| kind != "lock"));
    let names = ["demo.json", "parlour.toml", "registration.yaml", "master.key", "parlour", "clients"];
    for path in names.iter().map(|name| folder.join(name)).chain(of_homeserver) {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(DemoError::Folder { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The folder, for as long as the file is open: no two demos write into one.
fn locked(folder: &Path) -> Result<fs::File, DemoError> {
    private_folder(folder)?;
    let file = folder.join("lock");
    let opened =
        fs::File::create(&file).map_err(|source| DemoError::Folder { path: file.clone(), source })?;
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(fs::TryLockError::WouldBlock) => Err(DemoError::FolderInUse(folder.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(DemoError::Folder { path: file, source }),
    }
}

fn is_free(port: u16) -> Result<(), DemoError> {
    may_listen(port).map(drop).map_err(|_| DemoError::PortTaken(port))
}

/// Whether somebody may listen on a port; 0 is any, and which is said. It is not listened on for that: a child that is begun at
/// this very moment would go on with it until it has become another program.
pub(super) fn may_listen(port: u16) -> std::io::Result<u16> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket.local_addr()?.port())
}

/// A port that nobody has, below those that the system gives to outgoing connections. No two calls in one process
/// give the same; different processes begin at different places.
fn free_port() -> Result<u16, DemoError> {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(u16::MAX);
    if NEXT.load(Ordering::Relaxed) == u16::MAX {
        let [a, b, ..] = SystemChance.bytes();
        let begin = u16::from_be_bytes([a, b]) % COUNT;
        let _ = NEXT.compare_exchange(u16::MAX, begin, Ordering::Relaxed, Ordering::Relaxed);
    }
    for _ in 0..COUNT {
        let port = FIRST
            + NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some((n + 1) % COUNT)).unwrap_or(0);
        if is_free(port).is_ok() {
            return Ok(port);
        }
    }
    Err(DemoError::PortTaken(FIRST))
}
