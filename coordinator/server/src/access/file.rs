//! Reading one of the files, with what to do when that fails.

use super::AccessError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// No file of ours is larger, in bytes.
const BYTES_MAX: u64 = 4 << 20;
/// What a secret's mode must not have: writing by its group, anything by everybody.
const MODE_FORBIDDEN: u32 = 0o027;

/// `next` is a command to which the path is added.
pub(super) fn unusable(
    key: &'static str,
    path: &Path,
    why: impl Into<String>,
    next: &str,
) -> AccessError {
    let next = format!("{next} {}", path.display());
    AccessError { key, path: path.to_owned(), why: why.into(), next }
}

fn read(key: &'static str, path: &Path, secret: bool) -> Result<Vec<u8>, AccessError> {
    let io = |error: std::io::Error| unusable(key, path, error.to_string(), "ls -la");
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(unusable(key, path, "it is not a file", "ls -la"));
    }
    // Of the file that is open: the path may name another one by now.
    let mode = metadata.permissions().mode() & 0o777;
    if secret && mode & MODE_FORBIDDEN != 0 {
        let why = format!("others than its owner and group can read or write it: mode {mode:03o}");
        return Err(unusable(key, path, why, "chmod 600"));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BYTES_MAX) {
        return Err(unusable(key, path, format!("it has more than {BYTES_MAX} bytes"), "ls -la"));
    }
    Ok(bytes)
}

/// One certificate or more.
pub(super) fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let bytes = read(key, path, false)?;
    let bad = |why: String| unusable(key, path, why, "openssl x509 -noout -text -in");
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| bad(format!("it is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(bad("there is no certificate (PEM) in it".to_owned()));
    }
    Ok(found)
}

pub(super) fn private_key(
    key: &'static str,
    path: &Path,
) -> Result<PrivateKeyDer<'static>, AccessError> {
    let bytes = read(key, path, true)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let why = format!("there is no private key (PEM, not encrypted) in it: {error}");
        unusable(key, path, why, "openssl pkey -noout -in")
    })
}

/// A file of lines.
pub(super) fn text(key: &'static str, path: &Path, secret: bool) -> Result<String, AccessError> {
    let bytes = read(key, path, secret)?;
    String::from_utf8(bytes).map_err(|error| unusable(key, path, error.to_string(), "file"))
}
