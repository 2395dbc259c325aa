//! The page of cases (docs/catalogue.md) and the tests agree, in both directions.
//! `UNANIMOUS_BLESS=1` writes the names of the tests as they are now into the page.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The cases of reliability.md, sections 3.1 to 3.9 and 3.11.
const CASES: &str = "
    P-01 P-02 P-05 P-07 P-10 P-11 P-13 P-15 P-16 P-18 P-19 P-21
    C-00 C-01 C-02 C-03 C-04 C-05 C-07 C-08 C-09 C-10 C-11 C-12 C-13 C-15 C-17 C-19
    CP-0 CP-1 CP-2 CP-3 CP-4 CP-6 CP-7 CP-9 CP-10
    N-01 N-02 N-04 N-05 N-07 N-08 N-10 N-12 N-13
    S-01 S-02 S-04 S-05 S-06 S-08 S-09 S-10 S-12 S-13 S-16 S-17 S-19 S-20 S-21
    T-01 T-02 T-04 T-05
    O-01 O-02 O-04 O-05 O-06 O-07 O-08 O-09 O-11
    B-02 B-03 B-04 B-05 B-07 B-08 B-09 B-10 B-11
    Z-01 Z-04 Z-06 Z-07 Z-08 Z-10
    D-02 D-03 D-04 D-05 D-06 D-07 D-08 D-11 D-12 D-14 D-15 D-16 D-17 D-19 D-22 D-23 D-24 D-25 D-26
    D-27 D-28 D-30 D-31";

/// Where the crash points are listed.
const CRASH_POINTS: [&str; 3] = [
    "coordinator/server/src/crash.rs",
    "participant-sdk/src/crash.rs",
    "recovery/src/crash_point.rs",
];

/// Names what a page could name.
const OWN: &str = "tests/tests/catalogue.rs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// How the names of a case's tests begin: `p_05_`.
fn beginning(case: &str) -> String {
    case.to_lowercase().replace('-', "_") + "_"
}

/// The case whose tests are named so.
fn case_of<'a>(cases: &BTreeSet<&'a str>, name: &str) -> Option<&'a str> {
    cases.iter().find(|case| name.starts_with(&beginning(case))).copied()
}

/// Functions of a file.
fn functions(text: &str) -> BTreeSet<&str> {
    let after = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
    after.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).collect()
}

/// Every Rust file of the project, by its path from the root.
fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !name.starts_with(".git") && !name.starts_with("target") {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(root()).unwrap().display().to_string(), text);
            }
        }
    }
    found
}

struct Row<'a> {
    case: &'a str,
    /// What stands in backticks in the third column.
    tried_by: Vec<&'a str>,
    not_yet: &'a str,
}

fn rows(page: &str) -> Vec<Row<'_>> {
    let lines = page.lines().filter(|line| line.starts_with("| **"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [case, must, tried_by, not_yet] = cells[..] else { panic!("columns: {line}") };
            assert!(must.len() > 10, "what must happen: {line}");
            let tried_by = tried_by.split('`').skip(1).step_by(2).collect();
            Row { case: case.trim_matches('*'), tried_by, not_yet }
        })
        .collect()
}

/// What of a row is not there. A name of a file stands before the tests in it.
fn missing(row: &Row<'_>, sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut missing = Vec::new();
    let mut file = "";
    for name in &row.tried_by {
        let there = if name.contains('/') && name.ends_with(".rs") {
            file = name;
            sources.contains_key(*name)
        } else if let Some(word) = name.strip_prefix("./tests/run ") {
            read("tests/run").lines().any(|line| line.starts_with(&format!("{word})")))
        } else if name.starts_with(&beginning(row.case)) {
            sources.get(file).is_some_and(|text| functions(text).contains(name))
        } else if name.contains('.') {
            let quoted = format!("\"{name}\"");
            CRASH_POINTS.iter().any(|list| sources[*list].contains(&quoted))
        } else {
            in_the_simulator(name, sources)
        };
        if !there {
            missing.push(format!("{}: `{name}` (of {file}) is not there", row.case));
        }
    }
    if row.tried_by.is_empty() && row.not_yet.len() < 10 {
        missing.push(format!("{}: neither a test nor the reason why there is none", row.case));
    }
    missing
}

/// An invariant, or a fault by the name of its rate.
fn in_the_simulator(name: &str, sources: &BTreeMap<String, String>) -> bool {
    let invariant = format!("name: \"{name}\"");
    let of_sim = sources.iter().filter(|(path, _)| path.starts_with("tests/sim/src/"));
    let fault = format!("pub {name}: u64");
    of_sim.into_iter().any(|(path, text)| {
        text.contains(&invariant) || (path.ends_with("swarm.rs") && text.contains(&fault))
    })
}

#[test]
fn each_case_has_one_row_and_what_the_row_names_is_there() {
    let page = read("docs/catalogue.md");
    let rows = rows(&page);
    let listed: Vec<&str> = rows.iter().map(|row| row.case).collect();
    let cases: Vec<&str> = CASES.split_whitespace().collect();
    assert_eq!(listed, cases, "the rows of the page, in the order of reliability.md");
    let sources = sources();
    let missing: Vec<String> = rows.iter().flat_map(|row| missing(row, &sources)).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The page with the tests of each case as they are; the rest of each row stays.
fn blessed(page: &str, sources: &BTreeMap<String, String>) -> String {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let [case, must, tried_by, not_yet] = cells[..] else { panic!("columns: {line}") };
        let beginning = beginning(case.trim_matches(['|', ' ', '*']));
        let others =
            tried_by.split("; ").filter(|part| !part.contains(".rs`: ")).map(str::to_owned);
        let tests = sources.iter().filter(|(path, _)| *path != OWN).filter_map(|(path, text)| {
            let functions = functions(text);
            let names = functions.iter().filter(|name| name.starts_with(&beginning));
            let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
            (!names.is_empty()).then(|| format!("`{path}`: {}", names.join(", ")))
        });
        let tried_by: Vec<String> = tests.chain(others).filter(|part| !part.is_empty()).collect();
        format!("{case} | {must} | {} | {not_yet}\n", tried_by.join("; "))
    };
    let lines = page.lines();
    lines
        .map(|line| if line.starts_with("| **") { row(line) } else { format!("{line}\n") })
        .collect()
}

#[test]
fn each_test_that_is_named_after_a_case_is_in_its_row() {
    if std::env::var_os("UNANIMOUS_BLESS").is_some() {
        let page = blessed(&read("docs/catalogue.md"), &sources());
        std::fs::write(root().join("docs/catalogue.md"), page).unwrap();
    }
    let page = read("docs/catalogue.md");
    let rows: BTreeMap<&str, Vec<&str>> =
        rows(&page).into_iter().map(|row| (row.case, row.tried_by)).collect();
    let cases: BTreeSet<&str> = CASES.split_whitespace().collect();
    let families: BTreeSet<&str> = cases.iter().filter_map(|case| case.split('-').next()).collect();
    let numbered = |name: &str| {
        let (family, rest) = name.split_once('_').unwrap_or_default();
        let number = rest.split('_').next().unwrap_or_default();
        families.contains(&*family.to_uppercase())
            && !number.is_empty()
            && number.chars().all(|digit| digit.is_ascii_digit())
    };
    let mut wrong = Vec::new();
    let mut tests = 0;
    for (path, text) in sources() {
        for name in functions(&text).into_iter().filter(|name| numbered(name)) {
            tests += 1;
            match case_of(&cases, name) {
                None => wrong.push(format!("{path}: `{name}` is named after no case")),
                Some(case) if !rows[case].contains(&name) => {
                    wrong.push(format!("docs/catalogue.md, {case}, lacks `{path}`: `{name}`"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(tests > 60, "{tests} tests");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_row_lacks_is_seen() {
    let sources = BTreeMap::from([
        ("a/b.rs".to_owned(), concat!("f", "n p_01_it() {}").to_owned()),
        (CRASH_POINTS[0].to_owned(), "\"serve.x\",".to_owned()),
        (CRASH_POINTS[1].to_owned(), String::new()),
        (CRASH_POINTS[2].to_owned(), String::new()),
        ("tests/sim/src/swarm.rs".to_owned(), "pub lose: u64,".to_owned()),
    ]);
    let lacks = |tried_by: &[&'static str], not_yet: &'static str| {
        missing(&Row { case: "P-01", tried_by: tried_by.to_vec(), not_yet }, &sources).len()
    };
    assert_eq!(lacks(&["a/b.rs", "p_01_it", "serve.x", "lose", "./tests/run full"], ""), 0);
    assert_eq!(lacks(&[], "nothing of the kind exists before part 6"), 0);
    assert_eq!(lacks(&[], "later"), 1);
    for wrong in ["p_01_that", "p_02_it", "serve.y", "win", "./tests/run fast", "a/c.rs"] {
        assert_eq!(lacks(&["a/b.rs", wrong], ""), 1, "{wrong}");
    }
    assert_eq!(lacks(&["p_01_it"], ""), 1, "of no file");
}
