//! House rules that no compiler checks.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file of the project, by its path from the root.
fn files(suffixes: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !name.starts_with(".git") && !name.starts_with("target") {
                    folders.push(path);
                }
            } else if suffixes.iter().any(|suffix| name.ends_with(suffix)) {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().display().to_string(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no file was read");
    found.sort();
    found
}

fn check(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}:\n{}", violations.join("\n"));
}

#[test]
fn a_file_has_at_most_700_lines() {
    let long = files(&[".rs"]).into_iter().filter(|(_, text)| text.lines().count() > 700);
    check("one room, or two?", long.map(|(path, _)| path).collect());
}

#[test]
fn a_line_has_at_most_100_columns_in_code_and_120_elsewhere() {
    let mut long = Vec::new();
    for (path, text) in files(&[".rs", ".proto", ".md"]) {
        let columns_max = if path.ends_with(".rs") { 100 } else { 120 };
        // Tables and addresses cannot be wrapped.
        let prose = |line: &&str| !line.contains("http") && !line.trim_start().starts_with('|');
        for (number, line) in text.lines().enumerate().filter(|(_, line)| prose(line)) {
            if line.chars().count() > columns_max {
                long.push(format!("{path}:{}", number + 1));
            }
        }
    }
    check("too long to read", long);
}

#[test]
fn nothing_is_left_open() {
    let words = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "XX".to_owned() + "X"];
    let mut left = Vec::new();
    for (path, text) in files(&[".rs", ".proto", ".toml"]) {
        for (number, line) in text.lines().enumerate() {
            let ignored = line.trim_start().starts_with("#[ignore");
            if ignored || words.iter().any(|word| line.contains(word.as_str())) {
                left.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    check("left open", left);
}

/// Who may import whom, and nothing else (the architecture's list).
#[test]
fn crates_import_only_what_they_may() {
    let allowed: [(&str, &[&str]); 11] = [
        ("proto", &[]),
        ("coordinator/core", &[]),
        ("recovery", &["core"]),
        ("coordinator/server", &["core", "recovery", "proto"]),
        ("participant-sdk", &["core", "proto", "recovery", "server"]),
        ("coordinator", &["core", "proto", "recovery", "sdk", "server"]),
        ("tests", &["core", "databases", "proto", "recovery", "sdk", "server", "sim"]),
        ("tests/databases", &[]),
        ("tests/mutants", &[]),
        ("tests/sim", &["core", "recovery"]),
        ("tests/fuzz", &["core", "recovery", "sdk", "server"]),
    ];
    for (folder, may) in allowed {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap();
        let imports: BTreeSet<&str> = dependencies
            .lines()
            .filter_map(|line| line.strip_prefix("unanimous-"))
            .map(|line| line.split(['.', ' ', '=']).next().unwrap())
            .collect();
        let may: BTreeSet<&str> = may.iter().copied().collect();
        assert!(imports.is_subset(&may), "{folder} imports {imports:?}, may import {may:?}");
        if folder == "participant-sdk" {
            // The store of `embedded-resource`, and the coordinator of `in-process`.
            for behind_a_feature in ["unanimous-recovery", "unanimous-server"] {
                let line = dependencies.lines().find(|line| line.starts_with(behind_a_feature));
                assert!(line.unwrap().contains("optional = true"), "{behind_a_feature}");
            }
        }
    }
}

#[test]
fn one_file_knows_sled_and_one_knows_bincode() {
    for (word, file) in
        [("sled::", "recovery/src/sled_store.rs"), ("bincode::", "recovery/src/codec.rs")]
    {
        let knows = files(&[".rs"])
            .into_iter()
            .filter(|(path, _)| path != file && path != "tests/tests/tidy.rs")
            .filter(|(_, text)| {
                text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word))
            });
        check(word, knows.map(|(path, _)| path).collect());
    }
}

#[test]
fn every_crate_has_the_workspace_lints_and_no_unsafe() {
    for (path, text) in files(&["Cargo.toml"]) {
        if path != "Cargo.toml" {
            // The examples are programs of somebody else's.
            let own = path == "examples/Cargo.toml" && text.contains("unsafe_code = \"forbid\"");
            assert!(own || text.contains("[lints]\nworkspace = true"), "{path}");
        }
    }
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""));
    assert!(!workspace.contains("panic = \"abort\""), "sled is opened under catch_unwind");
}

/// The pure crate's clippy.toml repeats the root's: the files do not merge.
#[test]
fn the_pure_crate_repeats_the_roots_clippy_settings() {
    let root_settings = std::fs::read_to_string(root().join("clippy.toml")).unwrap();
    let core = std::fs::read_to_string(root().join("coordinator/core/clippy.toml")).unwrap();
    for line in root_settings.lines().filter(|line| line.contains(" = ") && !line.contains('{')) {
        if !line.starts_with("disallowed") {
            assert!(core.contains(line), "coordinator/core/clippy.toml lacks: {line}");
        }
    }
}

/// Crash points and museum bugs are in no binary that anybody ships.
#[test]
fn neither_the_default_nor_the_workspace_build_contains_crash_points_or_bugs() {
    for selection in [&["--package", "unanimous"][..], &["--workspace"][..]] {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "--edges", "features,normal,build,dev"])
            .args(selection)
            .current_dir(root())
            .output()
            .unwrap();
        let tree = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(tree.contains("unanimous-recovery"), "the tree has the crates");
        for feature in ["crash-points", "museum", "fuzzing"] {
            assert!(!tree.contains(feature), "{selection:?} has {feature}");
        }
    }
}

/// Nothing of the machine it was written on; nor a file for looking at a failure, which fails
/// wherever its folder is not.
#[test]
fn no_path_of_a_machine_is_in_the_project() {
    let folders = ["/ro".to_owned() + "ot/", "/ho".to_owned() + "me/", "/wo".to_owned() + "rk/"];
    let written = "\"/tm".to_owned() + "p/";
    let mut found = Vec::new();
    for (path, text) in files(&[".rs", ".proto", ".toml", ".md", ".py", "run"]) {
        if folders.iter().chain([&written]).any(|folder| text.contains(folder.as_str())) {
            found.push(path);
        }
    }
    check("paths of a machine", found);
}
