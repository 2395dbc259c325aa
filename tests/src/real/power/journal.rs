//! What the shim noted: `struct record` of `tests/shim/power.c`.

use anyhow::{Context as _, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

const HEAD_BYTES: usize = 48;

/// A range of a file as it was before something was written there, or the file was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overwritten {
    pub(super) old_size: usize,
    pub(super) at: usize,
    pub(super) length: usize,
    /// As far as the file had reached; none if it was all zeros.
    pub(super) old: Vec<u8>,
}

/// What a name now stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) inode: u64,
    pub(super) is_dir: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    Written {
        inode: u64,
        overwritten: Overwritten,
    },
    Named {
        dir: u64,
        name: OsString,
        target: Option<Target>,
    },
    Renamed {
        dir: u64,
        old: OsString,
        new: OsString,
        target: Target,
    },
    /// All that was noted about it in the first `journal_bytes` of the journal is durable.
    Synced {
        inode: u64,
        journal_bytes: usize,
    },
}

/// The notes, each with the place where it begins. The last one may be torn, for its process was
/// killed: then it is not there, and what it was to tell had not been done yet, or it can be seen.
pub(super) fn read(mut bytes: &[u8]) -> anyhow::Result<Vec<(usize, Note)>> {
    let whole = bytes.len();
    let mut notes = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) {
        let half = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap_or_default());
        let word = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap_or_default());
        let size = |at: usize| usize::try_from(word(at));
        let (name_bytes, old_bytes) = (usize::try_from(half(4))?, size(40)?);
        let Some((name, rest)) = rest.split_at_checked(name_bytes) else { break };
        let Some((old, rest)) = rest.split_at_checked(old_bytes) else { break };
        let inode = word(8);
        let owned = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        let target = Target { inode: word(16), is_dir: word(24) == 1 };
        let note = match half(0) {
            1 => {
                let (old_size, at, length) = (size(16)?, size(24)?, size(32)?);
                let overwritten = Overwritten { old_size, at, length, old: old.to_vec() };
                Note::Written { inode, overwritten }
            }
            2 => {
                let target = (target.inode != 0).then_some(target);
                Note::Named { dir: inode, name: owned(name), target }
            }
            3 => {
                let zero = name.iter().position(|byte| *byte == 0).context("two names")?;
                let (old, new) = (owned(&name[..zero]), owned(&name[zero + 1..]));
                Note::Renamed { dir: inode, old, new, target }
            }
            4 => Note::Synced { inode, journal_bytes: size(24)? },
            kind => bail!("the journal has a record of kind {kind}"),
        };
        notes.push((whole - bytes.len(), note));
        bytes = rest;
    }
    Ok(notes)
}
