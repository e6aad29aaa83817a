//! Finds a Python and makes the virtual environment with the pinned Synapse, once for each user.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::report::{DemoError, Report};

const REQUIREMENTS: &str = include_str!("synapse/requirements.txt");
const SYNAPSE_VERSION: &str = "1.163.2";

/// Names to look for, the user's own choice first.
const PYTHON_NAMES: [&str; 6] =
    ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"];

/// What a Python says of itself. Runs on every Python 3, however old.
const PROBE: &str = r#"
import importlib.util as u, json, platform, sys
def has(name):
    return u.find_spec(name) is not None
sqlite = [0, 0, 0]
try:
    import sqlite3
    sqlite = list(sqlite3.sqlite_version_info)
except ImportError:
    pass
print(json.dumps({
    "executable": sys.executable,
    "version": list(sys.version_info[:3]),
    "tag": "%s %s %s" % (sys.implementation.cache_tag, platform.machine(), sys.base_prefix),
    "venv": has("venv") and has("ensurepip"),
    "sqlite": sqlite,
}))
"#;

#[derive(Debug, Deserialize)]
struct Python {
    executable: PathBuf,
    version: (u32, u32, u32),
    /// Implementation, minor version, machine, and where it stands: what compiled packages, and what was made of it, depend on.
    tag: String,
    venv: bool,
    sqlite: (u32, u32, u32),
}

impl Python {
    /// What Synapse would miss here, as the end of a sentence with the remedy.
    fn lacks(&self) -> Option<String> {
        if !self.venv {
            Some("the module venv: install it (on Debian and Ubuntu: apt install python3-venv)".into())
        } else if self.sqlite < (3, 37, 2) {
            Some("SQLite 3.37.2 or newer: install a newer Python".into())
        } else {
            None
        }
    }

    /// The environment's folder: another one for other packages or another kind of Python.
    fn folder_name(&self) -> String {
        let digest = Sha256::new().chain_update(REQUIREMENTS).chain_update(&self.tag).finalize();
        let digest = format!("{digest:x}");
        format!("synapse-{SYNAPSE_VERSION}-{}", &digest[..12])
    }
}

/// Where environments are kept by default: `$XDG_CACHE_HOME/parlour` or `~/.cache/parlour`.
#[must_use]
pub fn default_cache() -> PathBuf {
    cache_in(std::env::var_os("XDG_CACHE_HOME"), std::env::home_dir())
}

fn cache_in(xdg: Option<OsString>, home: Option<PathBuf>) -> PathBuf {
    // XDG Base Directory Specification: a relative path is to be ignored.
    xdg.map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .unwrap_or_else(|| home.unwrap_or_default().join(".cache"))
        .join("parlour")
}

/// The `bin/python` of a virtual environment with the pinned Synapse, made if it is not there yet.
/// All demos and tests of a user share it; two that come at once make it once.
///
/// # Errors
/// No usable Python, a package that cannot be had, or a cache folder that cannot be written.
pub async fn synapse_python(cache: &Path, report: &dyn Report) -> Result<PathBuf, DemoError> {
    let python = find_python(&std::env::var_os("PATH").unwrap_or_default()).await?;
    let home = cache.join(python.folder_name());
    let ready = home.join("bin/python");
    // Follows the link: false also when the Python that the environment was made with has gone.
    if ready.exists() {
        return Ok(ready);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(cache).map_err(DemoError::at(cache))?;
    let _lock = lock(&cache.join("synapse.lock"), report).await?;
    if !ready.exists() {
        build(&python, cache, &home, report).await?;
    }
    Ok(ready)
}

/// The first Python on the search path that can run Synapse.
async fn find_python(search_path: &OsStr) -> Result<Python, DemoError> {
    let mut best_refusal = DemoError::PythonMissing;
    for name in PYTHON_NAMES {
        for folder in std::env::split_paths(search_path) {
            let program = folder.join(name);
            if !program.is_file() {
                continue;
            }
            let Some(python) = probe(&program).await.filter(|python| python.version >= (3, 10, 0)) else {
                continue;
            };
            let Some(lacks) = python.lacks() else {
                return Ok(python);
            };
            if matches!(best_refusal, DemoError::PythonMissing) {
                let (major, minor, patch) = python.version;
                best_refusal = DemoError::PythonIncomplete {
                    python: program.display().to_string(),
                    version: format!("{major}.{minor}.{patch}"),
                    lacks,
                };
            }
        }
    }
    Err(best_refusal)
}

/// None for what is no working Python, for instance a version manager's stub for one that is not installed.
async fn probe(program: &Path) -> Option<Python> {
    let said = Command::new(program)
        .args(["-I", "-c", PROBE])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .ok()?;
    serde_json::from_slice(&said.stdout).ok()
}

/// Waits while another process makes the environment. The lock goes with the file, however we end.
async fn lock(path: &Path, report: &dyn Report) -> Result<File, DemoError> {
    let file = open_private(path, false)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            report.step("packages", "Waiting for another start that installs Synapse");
        }
        Err(TryLockError::Error(source)) => return Err(DemoError::at(path)(source)),
    }
    let waited = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    waited.map_err(std::io::Error::other).flatten().map_err(DemoError::at(path))
}

/// Builds beside the final place and renames, so that an environment is whole or not there.
async fn build(python: &Python, cache: &Path, home: &Path, report: &dyn Report) -> Result<(), DemoError> {
    let partial = home.with_added_extension("partial");
    for leftover in [&partial, home] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).map_err(DemoError::at(leftover))?;
        }
    }
    let outcome = build_partial(python, cache, &partial, report).await;
    if outcome.is_err() {
        // The reason stands in the log; what is left here serves nobody, and the next start would remove it.
        let _ = fs::remove_dir_all(&partial);
    }
    outcome?;
    fs::rename(&partial, home).map_err(DemoError::at(home))
}

async fn build_partial(
    python: &Python,
    cache: &Path,
    partial: &Path,
    report: &dyn Report,
) -> Result<(), DemoError> {
    let log = cache.join("synapse-install.log");
    let output = open_private(&log, true)?;

    let (major, minor, patch) = python.version;
    report.step("python", &format!("Making an environment for Python {major}.{minor}.{patch}"));
    let mut make = Command::new(&python.executable);
    make.args(["-I", "-m", "venv"]).arg(partial);
    if !run_logged(make, &python.executable, &log, &output, |_| ()).await? {
        return Err(DemoError::VenvFailed { log });
    }

    let venv_python = partial.join("bin/python");
    let requirements = partial.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(DemoError::at(&requirements))?;
    // Not compiled here: the trial below compiles what Synapse loads, a third of everything.
    let mut pip = Command::new(&venv_python);
    pip.args(["-I", "-m", "pip", "install", "--require-hashes", "--no-deps", "--no-compile"])
        .args([
            "--only-binary",
            ":all:",
            "--no-input",
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            "--requirement",
        ])
        .arg(&requirements);
    // A person's pip settings that would install elsewhere; where pip gets packages from stays theirs.
    for elsewhere in ["PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"] {
        pip.env_remove(elsewhere);
    }
    let mut progress = PipProgress::new();
    let tell = |line: &str| {
        if let Some(words) = progress.hear(line) {
            report.step("packages", &words);
        }
    };
    if !run_logged(pip, &venv_python, &log, &output, tell).await? {
        return Err(DemoError::PackageUnavailable { log });
    }

    report.step("packages", "Trying Synapse.");
    let mut try_it = Command::new(&venv_python);
    try_it.args(["-I", "-c", "import synapse.app.homeserver"]);
    if !run_logged(try_it, &venv_python, &log, &output, |_| ()).await? {
        return Err(DemoError::PackageBroken { log });
    }
    Ok(())
}

/// Runs a program: its output to `output`, each line of its standard output to `hear`. True on success.
async fn run_logged(
    mut command: Command,
    program: &Path,
    log: &Path,
    mut output: &File,
    mut hear: impl FnMut(&str),
) -> Result<bool, DemoError> {
    let errors = output.try_clone().map_err(DemoError::at(log))?;
    let failed = |source| DemoError::Program { program: program.to_owned(), source };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.map_err(DemoError::at(log))? {
            writeln!(output, "{line}").map_err(DemoError::at(log))?;
            hear(&line);
        }
    }
    Ok(child.wait().await.map_err(failed)?.success())
}

/// Counts pip's packages from what it prints.
struct PipProgress {
    done: usize,
    total: usize,
}

impl PipProgress {
    fn new() -> Self {
        let total = REQUIREMENTS.lines().filter(|line| line.contains("==") && !line.starts_with('#')).count();
        Self { done: 0, total }
    }

    /// The words for a line that means progress.
    fn hear(&mut self, line: &str) -> Option<String> {
        if line.starts_with("Ignoring ") {
            // For another platform or Python; pip says so before it gets anything.
            self.total = self.total.saturating_sub(1);
            return None;
        }
        if line.starts_with("Installing collected packages") {
            return Some("Installing.".to_owned());
        }
        let name = line.strip_prefix("Collecting ")?.split("==").next()?;
        self.done += 1;
        Some(format!("Getting {} of {}: {name}", self.done, self.total))
    }
}

/// Opens a file that only this user can read, for appending (or from the start).
fn open_private(path: &Path, empty: bool) -> Result<File, DemoError> {
    if empty && path.exists() {
        fs::remove_file(path).map_err(DemoError::at(path))?;
    }
    let mut options = File::options();
    options.append(true).create(true).mode(0o600);
    options.open(path).map_err(DemoError::at(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder with one `python3` that answers the probe with `answer`.
    fn search_path(test: &str, answer: &str) -> OsString {
        let folder = std::env::temp_dir().join(format!("parlour-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("python3");
        fs::write(&program, format!("#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        folder.into_os_string()
    }

    fn answer(version: &str, venv: bool, sqlite: &str) -> String {
        format!(
            r#"{{"executable": "/p", "version": {version}, "tag": "t", "venv": {venv}, "sqlite": {sqlite}}}"#
        )
    }

    // One test for all: a program that was just written cannot be run while another thread forks.
    #[tokio::test]
    async fn says_why_no_python_can_be_used_and_takes_a_complete_one() {
        let good = "[3, 40, 0]";
        let cases = [
            ("missing", String::new(), "No Python 3.10 or newer was found"),
            ("old", answer("[3, 9, 18]", true, good), "No Python 3.10 or newer was found"),
            ("no-venv", answer("[3, 11, 2]", false, good), "apt install python3-venv"),
            ("old-sqlite", answer("[3, 11, 2]", true, "[3, 31, 1]"), "lacks SQLite 3.37.2 or newer"),
        ];
        for (name, answer, sentence) in cases {
            let path = search_path(name, &answer);
            let said = find_python(&path).await.unwrap_err().to_string();
            fs::remove_dir_all(&path).unwrap();
            assert!(said.contains(sentence), "{name}: {said}");
        }
        assert!(matches!(find_python(OsStr::new("")).await, Err(DemoError::PythonMissing)));
        let path = search_path("complete", &answer("[3, 11, 2]", true, good));
        let python = find_python(&path).await;
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(python.unwrap().version, (3, 11, 2));
    }

    #[test]
    fn pins_the_version_that_it_names() {
        assert!(REQUIREMENTS.contains(&format!("matrix-synapse=={SYNAPSE_VERSION} ")));
    }

    #[test]
    fn counts_what_pip_gets() {
        let mut progress = PipProgress { done: 0, total: 3 };
        assert_eq!(
            progress.hear("Ignoring tomli: markers 'python_full_version < \"3.11\"' don't match"),
            None
        );
        let words = progress.hear("Collecting attrs==26.1.0 (from -r requirements.txt (line 6))");
        assert_eq!(words.as_deref(), Some("Getting 1 of 2: attrs"));
        assert_eq!(progress.hear("  Downloading attrs-26.1.0-py3-none-any.whl (67 kB)"), None);
    }

    #[test]
    fn keeps_to_the_users_cache() {
        let home = || Some(PathBuf::from("/people/ann"));
        assert_eq!(cache_in(None, home()), Path::new("/people/ann/.cache/parlour"));
        assert_eq!(cache_in(Some("/cache".into()), home()), Path::new("/cache/parlour"));
        assert_eq!(cache_in(Some("relative".into()), home()), Path::new("/people/ann/.cache/parlour"));
    }
}
