//! Where PostgreSQL is on this machine, and as whom it can run.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian keeps the programs of each version: `/usr/lib/postgresql/15/bin`.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The folder that holds `initdb` and `postgres`: the one on PATH, or Debian's newest.
pub(crate) fn programs() -> Option<PathBuf> {
    on_path(&env::var_os("PATH").unwrap_or_default()).or_else(|| newest(Path::new(DEBIAN)))
}

fn on_path(path: &OsStr) -> Option<PathBuf> {
    // A link on PATH leads to the folder where the other programs of its version are.
    env::split_paths(path)
        .filter_map(|dir| dir.join("initdb").canonicalize().ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_owned))
        .find(|dir| complete(dir))
}

fn newest(versions: &Path) -> Option<PathBuf> {
    let version = |dir: &Path| -> Option<Vec<u32>> {
        dir.file_name()?.to_str()?.split('.').map(|part| part.parse().ok()).collect()
    };
    fs::read_dir(versions)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|dir| Some((version(&dir)?, dir.join("bin"))))
        .filter(|(_, bin)| complete(bin))
        .max()
        .map(|(_, bin)| bin)
}

fn complete(dir: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| dir.join(program).is_file())
}

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whom root becomes to run PostgreSQL, which refuses to run as root.
pub(crate) fn unprivileged() -> Result<User, String> {
    let passwd = fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| user(&passwd, name))
        .ok_or_else(|| "PostgreSQL does not run as root, and there is no user postgres or nobody".to_owned())
}

fn user(passwd: &str, name: &str) -> Option<User> {
    // name:password:uid:gid:…
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut numbers = line.split(':').skip(2).map(str::parse);
    Some(User { uid: numbers.next()?.ok()?, gid: numbers.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        for program in ["initdb", "postgres"] {
            fs::write(dir.join(program), "").unwrap();
        }
    }

    #[test]
    fn takes_the_newest_complete_version() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9.6", "15", "14", "old"] {
            install(&folder.path().join(version).join("bin"));
        }
        fs::create_dir_all(folder.path().join("16/bin")).unwrap();
        assert_eq!(newest(folder.path()), Some(folder.path().join("15/bin")));
        assert_eq!(newest(&folder.path().join("absent")), None);
    }

    #[test]
    fn follows_a_link_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (links, bin) = (folder.join("links"), folder.join("15/bin"));
        install(&bin);
        fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink(bin.join("initdb"), links.join("initdb")).unwrap();
        assert_eq!(on_path(links.as_os_str()), Some(bin));
        assert_eq!(on_path(folder.as_os_str()), None);
    }

    #[test]
    fn reads_a_user() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8:::\npostgres:x:101:104:,,,:/:/bin/sh\nbad:x::::\n";
        assert_eq!(user(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(user(passwd, "nobody"), None);
        assert_eq!(user(passwd, "bad"), None);
    }
}
