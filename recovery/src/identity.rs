//! Whose log a directory holds, and where it was made: the file `identity`.
//!
//! 128 bytes, little endian: magic 8, format version u16, kind length u8, kind 13, cluster u32,
//! slot u16, incarnation u32, file system u64, inode u64, pair u8, zeros, crc32c u32. Every
//! later version keeps magic and version in front and the checksum at the end.

use crate::damage::{At, Finding, Found, OpenError};
use crate::files;
use crate::frame::{u32_at, u64_at};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use unanimous_core::LogId;

pub(crate) const FILE: &str = "identity";
const MAGIC: [u8; 8] = *b"UNIDENT\n";
pub(crate) const VERSION: u16 = 1;
const BYTES: usize = 128;

/// Whose records a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// A coordinator's.
    Coordinator,
    /// The embedded accounts resource's.
    Accounts,
}

impl LogKind {
    /// As stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Accounts => "accounts",
        }
    }
}

/// Where a directory lies. A copy of it, and the directory moved to another file system, lie
/// elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    file_system: u64,
    inode: u64,
}

impl Place {
    pub(crate) fn of(dir: &Path) -> Result<Self, OpenError> {
        let metadata = std::fs::metadata(dir).map_err(OpenError::io("reading", dir))?;
        let statvfs = rustix::fs::statvfs(dir)
            .map_err(|errno| OpenError::io("reading the file system of", dir)(errno.into()))?;
        Ok(Self { file_system: statvfs.f_fsid, inode: metadata.ino() })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) kind: LogKind,
    pub(crate) id: LogId,
    pub(crate) place: Place,
    /// The same log is in a second directory.
    pub(crate) pair: bool,
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        let kind = self.kind.as_str();
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend(u8::try_from(kind.len()));
        out.extend(kind.bytes());
        out.resize(24, 0);
        out.extend(self.id.cluster.to_le_bytes());
        out.extend(self.id.slot.to_le_bytes());
        out.extend(self.id.incarnation.to_le_bytes());
        out.extend(self.place.file_system.to_le_bytes());
        out.extend(self.place.inode.to_le_bytes());
        out.push(u8::from(self.pair));
        out.resize(BYTES - 4, 0);
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Writes the file; durable on `Ok`. A crash leaves the old one or this.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        files::replace(dir, FILE, &self.encode())
    }

    /// Reads the file. The directory must have one.
    pub(crate) fn read(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let bytes = std::fs::read(&path).map_err(OpenError::io("reading", &path))?;
        let finding = |found, detail: String| {
            Finding::new(found, At::File(path.clone(), 0), detail).refuse(dir)
        };
        let ours = bytes.starts_with(&MAGIC);
        if bytes.len() < 16 || (!ours && bytes.len() != BYTES) {
            let found = if ours { Found::IdentityBad } else { Found::IdentityForeign };
            return Err(finding(found, format!("{} bytes", bytes.len())));
        }
        let (content, stored) = bytes.split_at(bytes.len() - 4);
        if crc32c::crc32c(content) != u32_at(stored, 0) {
            return Err(finding(Found::IdentityBad, "checksum".to_owned()));
        }
        if !ours {
            return Err(finding(Found::IdentityForeign, "magic number".to_owned()));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            let detail = format!("it has version {version}, this program reads up to {VERSION}");
            return Err(finding(Found::IdentityNewer, detail));
        }
        if bytes.len() != BYTES {
            return Err(finding(Found::IdentityBad, format!("{} bytes", bytes.len())));
        }
        let name = &bytes[11..11 + usize::from(bytes[10]).min(13)];
        let kind = [LogKind::Coordinator, LogKind::Accounts]
            .into_iter()
            .find(|kind| kind.as_str().as_bytes() == name)
            .ok_or_else(|| {
                let name = String::from_utf8_lossy(name).escape_debug().to_string();
                finding(Found::IdentityForeign, format!("kind \"{name}\""))
            })?;
        let id = LogId {
            cluster: u32_at(&bytes, 24),
            slot: u16::from_le_bytes([bytes[28], bytes[29]]),
            incarnation: u32_at(&bytes, 30),
        };
        let place = Place { file_system: u64_at(&bytes, 34), inode: u64_at(&bytes, 42) };
        Ok(Self { kind, id, place, pair: bytes[50] == 1 })
    }

    /// Refuses a log of another kind than wanted.
    pub(crate) fn check_kind(&self, dir: &Path, wanted: LogKind) -> Result<(), OpenError> {
        if self.kind == wanted {
            return Ok(());
        }
        let detail = format!("a log of kind {}, wanted is {}", self.kind.as_str(), wanted.as_str());
        Err(Finding::new(Found::IdentityForeign, At::File(dir.join(FILE), 0), detail).refuse(dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of this length that end with their checksum.
    fn sealed(head: &[u8], length: usize) -> Vec<u8> {
        let mut bytes = head.to_vec();
        bytes.resize(length - 4, 0);
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Each is for the operator to mend in another way: a foreign directory, a damaged file, a
    /// newer program.
    #[test]
    fn files_that_are_no_identity_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let newer = [&MAGIC[..], &[2, 0]].concat();
        let this = [&MAGIC[..], &[1, 0]].concat();
        let damaged = [&sealed(b"", BYTES)[..BYTES - 1], &[1]].concat();
        for (bytes, found, words) in [
            (vec![], Found::IdentityForeign, "0 bytes"),
            (b"dear".to_vec(), Found::IdentityForeign, "4 bytes"),
            (vec![7; 200], Found::IdentityForeign, "200 bytes"),
            (damaged, Found::IdentityBad, "checksum"),
            (sealed(b"dear", BYTES), Found::IdentityForeign, "magic number"),
            (MAGIC.to_vec(), Found::IdentityBad, "8 bytes"),
            (sealed(&newer, 15), Found::IdentityBad, "15 bytes"),
            (sealed(&newer, 16), Found::IdentityNewer, "version 2"),
            (sealed(&newer, 200), Found::IdentityNewer, "version 2"),
            (sealed(&this, 16), Found::IdentityBad, "16 bytes"),
            (sealed(&this, 200), Found::IdentityBad, "200 bytes"),
        ] {
            std::fs::write(dir.path().join(FILE), &bytes).unwrap();
            let error = Identity::read(dir.path()).unwrap_err();
            assert_eq!(error.found(), Some(found), "{words}: {error}");
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
    }
}
