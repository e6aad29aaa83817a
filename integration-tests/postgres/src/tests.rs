use std::io::{BufRead as _, BufReader};

use super::*;

/// Tells a child process of the tests what it is to do.
const CHILD: &str = "PARLOUR_TEST_POSTGRES_CHILD";
const GONE_LIMIT: Duration = Duration::from_secs(15);

impl Postgres {
    fn psql(&self, database: &str, statement: &str) -> Result<String, String> {
        let mut psql = self.client("psql");
        psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--dbname", database]);
        psql.args(["--command", statement]);
        said(psql)
    }
}

/// What a server leaves behind if something is wrong.
#[derive(Debug)]
struct Traces {
    pid: u32,
    port: u16,
    folder: PathBuf,
}

impl Traces {
    fn of(postgres: &Postgres) -> Self {
        let folder = postgres.folder.path().to_owned();
        let traces = Self { pid: postgres.pid().unwrap(), port: postgres.port(), folder };
        assert!(!has_ended(traces.pid) && traces.folder.exists());
        traces
    }

    fn gone(&self) -> bool {
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err();
        refused && has_ended(self.pid) && !self.folder.exists()
    }

    fn wait_until_gone(&self) {
        let began = Instant::now();
        while !self.gone() {
            patience(began, GONE_LIMIT).unwrap_or_else(|_| panic!("{self:?} is still there"));
        }
    }
}

#[test]
fn answers() {
    let Some(postgres) = shared() else { return };
    assert_eq!(postgres.psql("postgres", "select 1").unwrap(), "1");
    assert_eq!(postgres.psql("postgres", "show max_connections").unwrap(), "200");
    assert_eq!(postgres.psql("postgres", "show server_encoding").unwrap(), "UTF8");
    assert_eq!(postgres.psql("postgres", "show fsync").unwrap(), "on");
    assert_eq!(postgres.psql("postgres", "show unix_socket_directories").unwrap(), "");
}

#[test]
fn makes_databases_apart() {
    let Some(postgres) = shared() else { return };
    let names = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| postgres.create_database().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for url in &names {
        let name = url.strip_prefix(&postgres.url("")).unwrap();
        // Made four times, so in four databases.
        postgres.psql(name, "create table only_here (id int)").unwrap();
    }
}

#[test]
fn keeps_what_was_written_when_it_is_stopped() {
    let Some(mut postgres) = Postgres::start().unwrap() else { return };
    let (pid, url) = (postgres.pid(), postgres.url("postgres"));
    postgres.psql("postgres", "create table kept (id int)").unwrap();

    postgres.stop_server().unwrap();
    postgres.stop_server().unwrap();
    assert_eq!(postgres.pid(), None);
    assert!(postgres.create_database().unwrap_err().contains("refused"));
    postgres.start_server().unwrap();
    postgres.start_server().unwrap();
    assert_ne!(postgres.pid(), pid);
    postgres.psql("postgres", "insert into kept values (7)").unwrap();

    postgres.crash_server().unwrap();
    postgres.start_server().unwrap();
    assert_eq!(postgres.psql("postgres", "select id from kept").unwrap(), "7");
    assert_eq!(postgres.url("postgres"), url);
}

#[test]
fn says_why_it_does_not_start() {
    let Some(mut postgres) = Postgres::start().unwrap() else { return };
    postgres.stop_server().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, postgres.port())).unwrap();
    let said = postgres.start_server().unwrap_err();
    assert!(said.starts_with("PostgreSQL ended; the last line of its log: "), "{said}");
    drop(taken);
    postgres.start_server().unwrap();
    assert_eq!(postgres.psql("postgres", "select 1").unwrap(), "1");
}

#[test]
fn leaves_nothing_when_dropped() {
    let Some(postgres) = Postgres::start().unwrap() else { return };
    let traces = Traces::of(&postgres);
    drop(postgres);
    assert!(traces.gone(), "{traces:?}");

    let Some(mut postgres) = Postgres::start().unwrap() else { return };
    let traces = Traces::of(&postgres);
    postgres.stop_server().unwrap();
    drop(postgres);
    assert!(traces.gone(), "{traces:?}");
}

#[test]
fn leaves_nothing_when_the_process_is_killed() {
    let Some((mut child, traces)) = in_a_child("wait") else { return };
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, traces.port)).is_ok());
    // With SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    traces.wait_until_gone();
}

#[test]
fn leaves_nothing_when_the_process_ends() {
    let Some((mut child, traces)) = in_a_child("end") else { return };
    assert!(child.wait().unwrap().success());
    traces.wait_until_gone();
}

#[test]
fn is_an_error_where_it_is_required() {
    assert_eq!(
        skipped(true).unwrap_err(),
        "PostgreSQL is not installed (apt install postgresql), and PARLOUR_TEST_POSTGRES requires it"
    );
}

/// Not a test of its own: what the child process of [`in_a_child`] does.
#[test]
fn child() {
    let Some(order) = env::var_os(CHILD) else { return };
    let postgres = shared().unwrap();
    let traces = Traces::of(postgres);
    println!("\ntraces {} {} {}", traces.pid, traces.port, traces.folder.display());
    if order == "wait" {
        // Until the parent kills us, or ends.
        io::stdin().lines().for_each(drop);
    }
}

/// Runs this test program again, with a shared server in it.
fn in_a_child(order: &str) -> Option<(Child, Traces)> {
    install::programs()?;
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tests::child", "--nocapture"])
        .env(CHILD, order)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let line = said.find_map(|line| line.strip_prefix("traces ").map(str::to_owned)).unwrap();
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap();
    let traces =
        Traces { pid: word().parse().unwrap(), port: word().parse().unwrap(), folder: word().into() };
    Some((child, traces))
}
