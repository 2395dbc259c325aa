//! Files that are made once: nothing is ever written over.

use crate::codes::Code;
use crate::errors::Failure;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The authority's certificate.
pub(super) const CA_CERT: &str = "ca.pem";
/// Its private key.
pub(super) const CA_KEY: &str = "ca.key";

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Public,
    Secret,
}

/// Makes a directory for secrets, unless there is one.
pub(super) fn make_dir(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        let doing = format!("making {}", dir.display());
        Failure::io(&doing, error, format!("ls -la {}", dir.display()))
    })
}

/// Nobody else has ever been able to read it: it has its mode before it has content.
pub(super) fn write_new(path: &Path, bytes: &[u8], kind: Kind) -> Result<(), Failure> {
    let mode = match kind {
        Kind::Public => 0o644,
        Kind::Secret => 0o600,
    };
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = made.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => {
            let doing = format!("writing {}", path.display());
            Failure::io(&doing, error, format!("ls -la {}", path.display()))
        }
    })
}

/// Looks before anything is made: half of a pair would be in the way of the next try.
pub(super) fn check_free(paths: &[&Path]) -> Result<(), Failure> {
    paths.iter().find(|path| path.exists()).map_or(Ok(()), |path| Err(exists(path)))
}

fn exists(path: &Path) -> Failure {
    let what = format!("{} exists", path.display());
    let why = "certificates and keys are not written over: somebody may be using them";
    let next = "the same command with --to ANOTHER_DIRECTORY, then move the files";
    Failure::new(Code::CertExists, what, why, next)
}
