//! Whom the coordinator is taken for, and what proves to it who we are.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// No file of ours is larger, in bytes.
const BYTES_MAX: u64 = 1 << 20;
/// What a secret's mode must not have: writing by its group, anything by everybody.
const MODE_FORBIDDEN: u32 = 0o027;

/// Files that prove to the coordinator who this is, and the coordinator to us. They are read at the
/// start and again with each dial: replaced ones need no restart.
///
/// ```
/// use unanimous_sdk::Credentials;
///
/// let credentials = Credentials::new()
///     .ca("/etc/bank-a/ca.pem")
///     .certificate("/etc/bank-a/bank-a.pem", "/etc/bank-a/bank-a.key");
/// # drop(credentials);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Credentials {
    ca: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    token_file: Option<PathBuf>,
    server_name: Option<String>,
}

/// Why credentials cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCredentials {
    /// A file cannot be used.
    #[error("{what} in {}: {why}", path.display())]
    File {
        /// What should be in it.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The address begins with `http://`: credentials would be sent unencrypted, or not at all.
    #[error("credentials go only to an address that begins with https://")]
    Plaintext,
    /// The address begins with `https://`, and nothing says whose certificates to trust.
    #[error("https:// needs the file of the authority that signed the coordinator's certificate")]
    NoAuthority,
}

/// The header that a token goes in, if there is a token. What it shows of itself has no token.
#[derive(Clone, Debug, Default)]
pub struct Authorization(Option<MetadataValue<Ascii>>);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        self.put(&mut request);
        Ok(request)
    }
}

impl Authorization {
    /// Adds it to a request.
    pub(crate) fn put<T>(&self, request: &mut tonic::Request<T>) {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
    }
}

impl Credentials {
    /// None: for `http://`.
    pub fn new() -> Self {
        Self::default()
    }

    /// The authority that signed the coordinator's certificate (PEM).
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// The certificate that says who this is, and its private key (PEM). Others than the owner and
    /// the group must not be able to read the key.
    pub fn certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((cert.into(), key.into()));
        self
    }

    /// A token instead of a certificate: the only line of a file that others cannot read.
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token_file = Some(file.into());
        self
    }

    /// The name in the coordinator's certificate, if it is not the host of its address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Reads the files, and lets the endpoint use them. The token goes with each request.
    ///
    /// # Errors
    /// See [`BadCredentials`].
    pub fn apply(&self, endpoint: Endpoint) -> Result<(Endpoint, Authorization), BadCredentials> {
        if endpoint.uri().scheme_str() != Some("https") {
            let none = *self == Self::default();
            let plain = none.then(|| (endpoint, Authorization::default()));
            return plain.ok_or(BadCredentials::Plaintext);
        }
        let ca = self.ca.as_ref().ok_or(BadCredentials::NoAuthority)?;
        let authority = Certificate::from_pem(pem("certificates", ca, "BEGIN CERTIFICATE", false)?);
        let mut tls = ClientTlsConfig::new().ca_certificate(authority);
        if let Some((cert, key)) = &self.certificate {
            let shown = pem("a certificate", cert, "BEGIN CERTIFICATE", false)?;
            tls = tls.identity(Identity::from_pem(
                shown,
                pem("a private key", key, "PRIVATE KEY", true)?,
            ));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        let path = self.certificate.as_ref().map_or(ca, |(cert, _)| cert);
        let endpoint = endpoint.tls_config(tls).map_err(|error| {
            let why = crate::session::chain(&error);
            BadCredentials::File { what: "certificates", path: path.clone(), why }
        })?;
        Ok((endpoint, self.authorization()?))
    }

    fn authorization(&self) -> Result<Authorization, BadCredentials> {
        let Some(path) = &self.token_file else { return Ok(Authorization::default()) };
        let what = "a token";
        let bad = |why: &str| BadCredentials::File { what, path: path.clone(), why: why.into() };
        let bytes = read(what, path, true)?;
        // Whatever is wrong with it, it is in no message.
        let token = std::str::from_utf8(&bytes).map_err(|_| bad("it is not text"))?.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(bad("it must be one word on the only line"));
        }
        let mut value = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| bad("it has characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Authorization(Some(value)))
    }
}

fn pem(
    what: &'static str,
    path: &Path,
    label: &str,
    secret: bool,
) -> Result<Vec<u8>, BadCredentials> {
    let bytes = read(what, path, secret)?;
    let is_pem = bytes.split(|byte| *byte == b'\n').any(|line| {
        let text = String::from_utf8_lossy(line);
        text.starts_with("-----BEGIN ") && text.contains(label)
    });
    let why = "there is none in it (PEM)".to_owned();
    is_pem.then_some(bytes).ok_or_else(|| BadCredentials::File { what, path: path.into(), why })
}

fn read(what: &'static str, path: &Path, secret: bool) -> Result<Vec<u8>, BadCredentials> {
    let bad = |why: String| BadCredentials::File { what, path: path.to_owned(), why };
    let io = |error: io::Error| bad(error.to_string());
    let file = File::open(path).map_err(io)?;
    // Of the file that is open: the path may name another one by now.
    check_mode(&file, secret).map_err(bad)?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn check_mode(file: &File, secret: bool) -> Result<(), String> {
    let mode = file.metadata().map_err(|error| error.to_string())?.permissions().mode() & 0o777;
    if secret && mode & MODE_FORBIDDEN != 0 {
        return Err(format!(
            "others than its owner and group can read or write it (mode {mode:03o}): chmod 600"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn credentials_never_go_unencrypted_and_https_trusts_nobody_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let token = secret(dir.path(), "token", "s3cret", 0o600);
        let apply = |credentials: &Credentials, address: &'static str| {
            credentials.apply(Endpoint::from_static(address)).err()
        };
        let with_token = Credentials::new().token_file(token);
        assert_eq!(apply(&with_token, "http://a:1"), Some(BadCredentials::Plaintext));
        assert_eq!(apply(&with_token, "https://a:1"), Some(BadCredentials::NoAuthority));
        assert_eq!(apply(&Credentials::new(), "http://a:1"), None);
    }

    #[test]
    fn a_token_shows_itself_nowhere_and_its_file_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let bad = [
            ("mode", "s3cret", 0o644),
            ("words", "s3cret s3cret", 0o600),
            ("nothing", " \n", 0o600),
            ("control", "s3cret\u{7f}", 0o600),
        ];
        for (name, text, mode) in bad {
            let path = secret(dir.path(), name, text, mode);
            let error = Credentials::new().token_file(&path).authorization().unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(told.contains(name) && !told.contains("s3cret"), "{told}");
        }
        let path = secret(dir.path(), "good", "s3cret\n", 0o640);
        let authorization = Credentials::new().token_file(&path).authorization().unwrap();
        assert!(!format!("{authorization:?}").contains("s3cret"));
        let mut request = tonic::Request::new(());
        authorization.put(&mut request);
        assert!(!format!("{request:?}").contains("s3cret"));
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer s3cret");
    }

    #[test]
    fn each_bad_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ca = secret(dir.path(), "ca.pem", "-----BEGIN CERTIFICATE-----\n", 0o644);
        let key = secret(dir.path(), "key.pem", "-----BEGIN PRIVATE KEY-----\n", 0o644);
        let no_pem = secret(dir.path(), "no.pem", "hello", 0o600);
        let missing = dir.path().join("missing");
        let with_ca = || Credentials::new().ca(&ca);
        let bad = [
            (Credentials::new().ca(&missing), "missing"),
            (Credentials::new().ca(&no_pem), "no.pem"),
            (with_ca().certificate(&missing, &key), "missing"),
            (with_ca().certificate(&ca, &key), "key.pem"),
            (with_ca().certificate(&ca, &no_pem), "no.pem"),
        ];
        for (credentials, named) in bad {
            let error = credentials.apply(Endpoint::from_static("https://a:1")).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
