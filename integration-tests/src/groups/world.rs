//! A world for groups: Parlour, its people with their devices, and a homeserver in memory or a real one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parlour::{
    config::Config,
    demo::{
        practice::{DemoPerson, EMERGENCY, PRACTICE, SERVER_NAME},
        say::Silent,
        world::{Place, World as Real},
    },
    edge::{SystemChance, SystemClock, random_hex},
    run::{Extras, Parlour},
};
use parlour_domain::{Chance as _, Clock, Person as Known, PersonId, Role, Timestamp};
use parlour_engine::Fault;
use reqwest::Method;
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection as _, any::install_default_drivers};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{
    person::Person,
    phones::Gateway,
    plan::{PATIENTS, STAFF, is_staff},
};
use crate::{
    LIMIT,
    fake::{FakeHomeserver, Registration},
};

/// How often it is looked whether something is done.
const LOOK: Duration = Duration::from_millis(LOOK_MILLIS.unsigned_abs());
const LOOK_MILLIS: i64 = 2;
/// So long time stands still while something is done.
const PATIENCE: Duration = Duration::from_secs(8);
/// What is still to be done; everybody has a device that is there, and a receipt whose ghost is not there waits for it.
const TO_DO: &str = "SELECT CAST(
    (SELECT COUNT(*) FROM inbox WHERE state = 'waiting') + (SELECT COUNT(*) FROM outbox WHERE state IN ('waiting', 'held'))
    + (SELECT COUNT(*) FROM portals WHERE room_id IS NOT NULL AND revision_set < revision)
    + (SELECT COUNT(*) FROM conversations WHERE ready = 0)
    + (SELECT COUNT(*) FROM receipts c JOIN inbox i ON i.dedup_key = c.event_id)
    + (SELECT COUNT(*) FROM receipts_due d JOIN our_users u ON u.person_id = d.person_id
         JOIN portal_members m ON m.portal_id = d.portal_id AND m.user_id = u.user_id) AS BIGINT)";
const KNOWN: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM inbox WHERE dedup_key = $1";
const READ: &str =
    "SELECT CAST(COUNT(*) AS BIGINT) FROM reads r JOIN mapping x ON x.message_id = r.message_id
     JOIN people p ON p.id = r.person_id WHERE x.event_id = $1 AND p.user_id = $2";

/// What is known of a person.
pub struct Facts {
    /// Their account.
    pub user_id: OwnedUserId,
    /// The practice's name for them; nothing else is called so.
    pub name: String,
    /// Their record's number.
    pub number: Option<String>,
    /// What they call themselves.
    pub own_name: String,
}

enum Homeserver {
    /// It keeps what it would tell phones.
    Fake(FakeHomeserver),
    Real(Box<Real>, Gateway),
}

/// A clock that stands still until it is put forward, so that what happens at the same step happens at the same time.
pub struct Steps(AtomicI64);

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A step takes so long, in milliseconds.
const A_STEP: i64 = 1000;

/// A world.
pub struct World {
    /// The people's devices.
    pub people: Vec<Person>,
    /// Who they are.
    pub facts: Vec<Facts>,
    /// Its time; a real homeserver has the system's.
    pub clock: Option<Arc<Steps>>,
    /// Whether views tell of times, and of what only a homeserver in memory tells always at the same.
    pub compares_times: bool,
    /// Whether it took so long until something was done that time went on: something had to be tried again.
    pub was_disturbed: bool,
    homeserver: Homeserver,
    parlour: Option<Parlour>,
    database: AnyConnection,
    folder: TempDir,
}

fn chance() -> String {
    random_hex(&SystemChance, 16)
}

impl World {
    /// One with a homeserver in memory.
    ///
    /// # Panics
    /// When it does not come about.
    pub async fn fake(fault: Option<Fault>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::anywhere(folder.path().to_owned()).expect("free ports");
        let [as_token, hs_token] = [(); 2].map(|()| random_hex(&SystemChance, 64));
        let bot = format!("@_parlour_bot:{SERVER_NAME}");
        let clock = Arc::new(Steps(AtomicI64::new(SystemClock.now().millis())));
        let fake = FakeHomeserver::start(Registration {
            server_name: SERVER_NAME,
            as_token: &as_token,
            hs_token: &hs_token,
            bot: &bot,
            parlour: place.internal,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        })
        .await;
        let toml = format!(
            "data = \"parlour\"\n[practice]\nname = \"{PRACTICE}\"\nemergency = \"{EMERGENCY}\"\n[homeserver]\nurl = \"{url}\"\npublic_url = \"{url}\"\n\
             server_name = \"{SERVER_NAME}\"\nas_token = \"{as_token}\"\nhs_token = \"{hs_token}\"\n\
             [listen]\npublic = \"127.0.0.1:{}\"\ninternal = \"127.0.0.1:{}\"\n",
            place.public,
            place.internal,
            url = fake.url(),
        );
        let file = folder.path().join("parlour.toml");
        std::fs::write(&file, toml).expect("written");
        let config = Config::read(&file).expect("a configuration");
        let own = Some(Arc::clone(&clock) as Arc<dyn Clock>);
        let extras = Extras { faults: fault.into_iter().collect(), clock: own, ..Extras::default() };
        let parlour = Parlour::start(&config, extras).await.expect("it starts");
        parlour.receiving().await;
        let accounts: Vec<_> = (0..STAFF + PATIENTS)
            .map(|_| (UserId::parse(format!("@u{}:{SERVER_NAME}", chance())).expect("an id"), String::new()))
            .collect();
        for (user_id, _) in &accounts {
            fake.register(user_id.as_str(), "nobody");
        }
        let (url, public) = (fake.url(), format!("http://{}", config.listen.public));
        let file = folder.path().join("parlour").join("parlour.db");
        let mut world =
            Self::peopled(Homeserver::Fake(fake), Some(parlour), (&url, &public), accounts, file, folder)
                .await;
        world.clock = Some(clock);
        world
    }

    /// One with a real homeserver.
    ///
    /// # Panics
    /// When it does not come about.
    pub async fn real(fault: Option<Fault>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::anywhere(folder.path().join("world")).expect("free ports");
        let extras = Extras {
            faults: fault.into_iter().collect(),
            // Phones are told through a gateway on this machine.
            homeserver: "\nip_range_whitelist: [\"127.0.0.1\"]\n".to_owned(),
            ..Extras::default()
        };
        let real = Real::start(place, extras, &Silent).await.expect("a world");
        let of = |staff: bool, count: usize| {
            let people = real.people.iter().filter(move |person| person.role.is_staff() == staff);
            people.take(count).map(|person: &DemoPerson| (person.user_id.clone(), person.password.clone()))
        };
        let accounts: Vec<_> = of(true, STAFF).chain(of(false, PATIENTS)).collect();
        let (url, public) = (real.homeserver_url(), real.public_url());
        let file = real.place.data.join("parlour").join("parlour.db");
        let homeserver = Homeserver::Real(Box::new(real), Gateway::start().await);
        Self::peopled(homeserver, None, (&url, &public), accounts, file, folder).await
    }

    async fn peopled(
        homeserver: Homeserver,
        parlour: Option<Parlour>,
        (url, public): (&str, &str),
        accounts: Vec<(OwnedUserId, String)>,
        file: std::path::PathBuf,
        folder: TempDir,
    ) -> Self {
        install_default_drivers();
        let database = AnyConnection::connect(&format!("sqlite://{}?mode=ro", file.display())).await;
        let mut world = Self {
            people: Vec::new(),
            facts: Vec::new(),
            clock: None,
            compares_times: true,
            was_disturbed: false,
            homeserver,
            parlour,
            database: database.expect("the database"),
            folder,
        };
        for (place, (user_id, password)) in accounts.into_iter().enumerate() {
            let (name, number) = (format!("Jo {}", chance()), format!("R{}", chance()));
            let number = (!is_staff(place)).then_some(number);
            let known = world.known(&user_id).await;
            let person = Known {
                id: known.unwrap_or_else(|| PersonId::from_bytes(SystemChance.bytes())),
                user_id: user_id.clone(),
                role: match place {
                    0 => Role::Manager,
                    _ if is_staff(place) => Role::Staff,
                    _ => Role::Patient,
                },
                name: name.parse().expect("a name"),
                record_number: number.as_deref().map(|number| number.parse().expect("a number")),
            };
            world.parlour().engine().store().put_person(&person).await.expect("known");
            world.people.push(Person::sign_in(url, public, &user_id, &password).await);
            world.facts.push(Facts { user_id, name, number, own_name: chance() });
            world.has_its_own_name(place).await;
            if !is_staff(place) {
                world.has_a_phone(place).await;
            }
        }
        world
    }

    /// Somebody has a phone that is told of what comes (Matrix v1.19 client-server §Push notifications).
    async fn has_a_phone(&mut self, place: usize) {
        let url = match &self.homeserver {
            Homeserver::Fake(fake) => fake.url(),
            Homeserver::Real(_, gateway) => gateway.url(),
        };
        let pusher = json!({
            "kind": "http", "app_id": "phone", "pushkey": self.people[place].user_id, "lang": "en",
            "app_display_name": "phone", "device_display_name": "phone", "data": { "url": url },
        });
        let path = "/_matrix/client/v3/pushers/set";
        let (status, told) = self.people[place].ask(Method::POST, path, Some(&pusher)).await;
        assert_eq!(status, 200, "{told}");
    }

    /// What somebody's phone was told since this was asked last.
    pub(super) fn pushed(&self, place: usize) -> Vec<Value> {
        let key = self.people[place].user_id.as_str();
        match &self.homeserver {
            Homeserver::Fake(fake) => fake.pushed(key),
            Homeserver::Real(_, gateway) => gateway.pushed(key),
        }
    }

    /// Under which id somebody is known.
    ///
    /// # Panics
    /// When that cannot be read.
    pub async fn known(&mut self, user_id: &UserId) -> Option<PersonId> {
        let sql = "SELECT id FROM people WHERE user_id = $1";
        let row: Option<(String,)> = sqlx::query_as(sql)
            .bind(user_id.as_str())
            .fetch_optional(&mut self.database)
            .await
            .expect("read");
        row.map(|(id,)| id.parse().expect("an id"))
    }

    fn parlour(&self) -> &Parlour {
        match (&self.homeserver, &self.parlour) {
            (Homeserver::Real(real, _), _) => &real.parlour,
            (_, Some(parlour)) => parlour,
            _ => unreachable!("a world has a Parlour"),
        }
    }

    /// Somebody calls themselves again what they did at first.
    ///
    /// # Panics
    /// When the homeserver refuses.
    pub async fn has_its_own_name(&mut self, place: usize) {
        let (person, name) = (&mut self.people[place], &self.facts[place].own_name);
        let path = format!("/_matrix/client/v3/profile/{}/displayname", person.user_id);
        let (status, told) = person.ask(Method::PUT, &path, Some(&json!({ "displayname": name }))).await;
        assert_eq!(status, 200, "{told}");
    }

    /// From now on it is so many steps later than it was then.
    pub fn is_at(&self, begun: Timestamp, steps: usize) {
        if let Some(clock) = &self.clock {
            let steps = i64::try_from(steps).expect("not so many");
            clock.0.fetch_max(begun.millis() + steps * A_STEP, Ordering::Relaxed);
        }
    }

    /// Stops it.
    ///
    /// # Panics
    /// When the homeserver was asked for what it does not know.
    pub async fn close(self) {
        self.database.close().await.expect("closed");
        if let Some(parlour) = self.parlour {
            parlour.stop().await;
        }
        match self.homeserver {
            Homeserver::Fake(fake) => assert_eq!(fake.unknown(), Vec::<String>::new()),
            Homeserver::Real(real, _) => real.stop().await,
        }
        self.folder.close().expect("removed");
    }

    /// The ghost of each person, of those who have one.
    pub async fn ghosts(&mut self) -> Vec<Option<String>> {
        let mut ghosts = Vec::new();
        for facts in &self.facts {
            let sql =
                "SELECT o.user_id FROM our_users o JOIN people p ON p.id = o.person_id WHERE p.user_id = $1";
            let row: Option<(String,)> = sqlx::query_as(sql)
                .bind(facts.user_id.as_str())
                .fetch_optional(&mut self.database)
                .await
                .expect("read");
            ghosts.push(row.map(|(ghost,)| ghost));
        }
        ghosts
    }

    /// The portals of a conversation, each with its room.
    pub async fn portals(&mut self, conversation: &str) -> Vec<(String, String)> {
        let sql = "SELECT id, COALESCE(room_id, '') FROM portals WHERE conversation_id = $1";
        sqlx::query_as(sql).bind(conversation).fetch_all(&mut self.database).await.expect("read")
    }

    async fn count(&mut self, sql: &'static str, values: &[&str]) -> i64 {
        let mut query = sqlx::query_as(sql);
        for value in values {
            query = query.bind((*value).to_owned());
        }
        // It may be busy.
        let row: Result<(i64,), _> = query.fetch_one(&mut self.database).await;
        row.map_or(-1, |(count,)| count)
    }

    /// Waits until Parlour knows of an event and has nothing left to do.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn settles(&mut self, event: Option<&str>) {
        if let Some(event) = event {
            self.comes(KNOWN, &[event]).await;
        }
        let begun = Instant::now();
        while self.count(TO_DO, &[]).await != 0 {
            assert!(begun.elapsed() < LIMIT, "nothing comes to rest");
            if let Some(clock) = self.clock.as_ref().filter(|_| begun.elapsed() > PATIENCE) {
                clock.0.fetch_add(LOOK_MILLIS, Ordering::Relaxed);
                self.was_disturbed = true;
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until Parlour has counted that somebody has read an event.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn has_read(&mut self, reader: usize, event: &str) {
        let reader = self.facts[reader].user_id.clone();
        self.comes(READ, &[event, reader.as_str()]).await;
        self.settles(None).await;
    }

    async fn comes(&mut self, sql: &'static str, values: &[&str]) {
        let deadline = Instant::now() + LIMIT;
        while self.count(sql, values).await < 1 {
            assert!(Instant::now() < deadline, "it does not come: {values:?}");
            // No event tells of it.
            sleep(LOOK).await;
        }
    }
}
