//! What a release has left behind, kept in `tests/golden` under its number: its wire, whole
//! conversations, and logs. Today's code must understand all of it.
//!
//! Files: `wire` (descriptors, and what must not change in them), `conversation` (a recorded one,
//! and its form that does not depend on the run), `raw` (messages as bytes), `script` (what is
//! recorded), `replay` (a recorded client against today's coordinator), `old` (a recorded
//! coordinator against today's SDK), `logs` (data directories).

pub mod conversation;
pub mod logs;
pub mod old;
pub mod raw;
pub mod replay;
pub mod script;
pub mod wire;

pub use conversation::Conversation;

use std::path::{Path, PathBuf};

/// The version whose golden files `golden --bless` writes.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the golden files of a kind are.
#[must_use]
pub fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(kind)
}

/// The releases that have golden files, oldest first.
///
/// # Errors
/// There are none.
pub fn releases() -> anyhow::Result<Vec<String>> {
    let mut releases = Vec::new();
    for entry in std::fs::read_dir(folder("wire"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            releases.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    anyhow::ensure!(!releases.is_empty(), "no release has golden files");
    releases.sort();
    Ok(releases)
}
