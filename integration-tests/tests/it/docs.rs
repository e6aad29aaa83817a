//! What the docs say of the code, they say of all of it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn doc(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).expect("a document")
}

/// All files with an ending in the folders of what is shipped.
fn files(folders: &[&str], ending: &str) -> Vec<String> {
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut texts = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            texts.push(fs::read_to_string(path).expect("a file"));
        }
    }
    assert!(texts.len() > 1, "{folders:?}");
    texts
}

const SHIPPED: [&str; 3] = ["appservice/src", "bridge/domain/src", "bridge/engine/src"];

/// The text of each line that is logged, up to where the code goes on with what is different each time.
fn lines(code: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for level in ["error", "warn", "info", "debug"] {
        for (start, call) in code.match_indices(&format!("tracing::{level}!(")) {
            let rest = &code[start + call.len()..];
            // Fields come first, and none of them holds such a mark.
            let Some(text) = rest[..rest.find(");").unwrap_or(rest.len())].split('"').nth(1) else {
                continue;
            };
            let joined = text.split("\\\n").map(str::trim_start).collect::<String>();
            lines.push(joined.split([':', ';', ',']).next().unwrap_or_default().to_owned());
        }
    }
    lines
}

#[test]
fn every_line_that_can_be_logged_is_told() {
    let told = doc("LOGGING.md");
    let said: BTreeSet<String> = files(&SHIPPED, "rs").iter().flat_map(|code| lines(code)).collect();
    assert!(said.len() > 50, "{said:?}");
    let untold: Vec<_> = said.iter().filter(|line| !told.contains(line.as_str())).collect();
    assert!(untold.is_empty(), "{untold:#?}");
}

#[test]
fn every_table_is_explained() {
    let told = doc("ARCHITECTURE.md");
    let all = files(&["migrations/common"], "sql").join("\n");
    let tables: BTreeSet<_> = all
        .split("CREATE TABLE ")
        .skip(1)
        .map(|rest| rest.split_whitespace().next().unwrap_or_default())
        .collect();
    assert!(tables.len() > 20, "{tables:?}");
    let untold: Vec<_> = tables.iter().filter(|table| !told.contains(&format!("`{table}`"))).collect();
    assert!(untold.is_empty(), "{untold:?}");
}

#[test]
fn every_rule_that_the_code_names_is_in_the_book() {
    let book = doc("rules.md");
    let mut named = BTreeSet::new();
    for code in files(&SHIPPED, "rs") {
        for word in code.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            let Some((family, number)) = word.split_once('-') else { continue };
            let is_rule = family.len() > 2
                && family.bytes().all(|b| b.is_ascii_uppercase())
                && (1..=2).contains(&number.len())
                && number.bytes().all(|b| b.is_ascii_digit());
            // Encodings and hashes are called alike.
            if is_rule && !["CRC", "ISO", "PDF", "SHA", "UTF"].contains(&family) {
                named.insert(word.to_owned());
            }
        }
    }
    assert!(named.len() > 30, "{named:?}");
    let untold: Vec<_> = named.iter().filter(|rule| !book.contains(rule.as_str())).collect();
    assert!(untold.is_empty(), "{untold:?}");
}
