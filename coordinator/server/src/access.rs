//! Who is let in: the files that say so, read at the start and again whenever they have changed.
//!
//! Reading order: this file (what is loaded, and how it is replaced), `file` (reading one),
//! `entries` (the lines of the roles' and the tokens' files), `certificate` (what one says).

mod certificate;
mod entries;
mod file;

pub(crate) use certificate::Certificate;
pub use certificate::{NAME_URI, PARTICIPANT_URI, ROLE_URI, Shown};
pub use entries::token_line;

use crate::identity::{Caller, How, Roles};
use crate::refusal::Refusal;
use entries::{Token, read_roles, read_tokens, token_digest};
use rustls::crypto::ring::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

/// Before a certificate ends, its owner is warned for this long.
const ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);

/// Where it stands who is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessFiles {
    /// The server's certificate, and those between it and its authority: PEM.
    pub cert: PathBuf,
    /// The private key of that certificate: PEM, not readable by everybody.
    pub key: PathBuf,
    /// Certificates of the authorities that sign callers' certificates: PEM. Without it no
    /// certificate is taken.
    pub client_ca: Option<PathBuf>,
    /// What a caller's certificate allows, by one of its names. Without it the certificate says so
    /// itself.
    pub roles_file: Option<PathBuf>,
    /// Tokens that are taken instead of a certificate, by their digests: not readable by everybody.
    /// Without it every caller needs a certificate.
    pub tokens_file: Option<PathBuf>,
}

/// A file that cannot be used. Whatever was in force before still is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {}: {why}", path.display())]
pub struct AccessError {
    /// The key of the configuration that names the file.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// A command that shows it, or mends it.
    pub next: String,
}

/// What is in force.
pub(crate) struct Rules {
    pub(crate) tls: Arc<ServerConfig>,
    /// By name; `None`: certificates say it themselves.
    roles: Option<Vec<(String, Roles)>>,
    tokens: Vec<Token>,
}

/// Who is let in, and as what. Clones share it: what one of them reloads is in force for all.
#[derive(Clone)]
pub struct Access {
    files: Option<Arc<AccessFiles>>,
    /// `None`: there is no TLS, and everybody may do everything.
    rules: Arc<RwLock<Option<Arc<Rules>>>>,
}

/// The rules have the private key and what tokens are checked against.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Access {
    /// No TLS: whoever reaches the ports may do everything. For loopback, and for tests.
    #[must_use]
    pub fn everybody() -> Self {
        Self { files: None, rules: Arc::default() }
    }

    /// TLS, and only callers that these files know.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(files: AccessFiles) -> Result<Self, AccessError> {
        let rules = Rules::load(&files)?;
        let rules = Arc::new(RwLock::new(Some(Arc::new(rules))));
        Ok(Self { files: Some(Arc::new(files)), rules })
    }

    /// Reads the files again. New connections and calls go by what they say now; a stream that is
    /// open stays open.
    ///
    /// # Errors
    /// The first file that cannot be used. What was in force stays in force, as a whole.
    pub fn reload(&self) -> Result<(), AccessError> {
        if let Some(files) = &self.files {
            let rules = Rules::load(files)?;
            *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(rules));
        }
        Ok(())
    }

    /// What is in force now; `None`: there is no TLS.
    pub(crate) fn rules(&self) -> Option<Arc<Rules>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Rules {
    fn load(files: &AccessFiles) -> Result<Self, AccessError> {
        let roles = files.roles_file.as_deref().map(read_roles).transpose()?;
        let tokens = files.tokens_file.as_deref().map(read_tokens).transpose()?;
        let tls = Arc::new(tls(files, tokens.is_some())?);
        Ok(Self { tls, roles, tokens: tokens.unwrap_or_default() })
    }

    /// Who has this certificate, which the handshake has verified.
    pub(crate) fn by_certificate(&self, certificate: &Certificate, from: String) -> Caller {
        let how = How::Certificate;
        let Some(entries) = &self.roles else {
            let (name, roles) = (certificate.name(), certificate.roles());
            return Caller { name, from, roles, how };
        };
        let mut named = entries.iter().filter(|(name, _)| certificate.has_name(name)).peekable();
        let name = named.peek().map_or_else(|| certificate.name(), |(name, _)| name.clone());
        let mut roles = Roles::none();
        named.for_each(|(_, more)| roles.add(more));
        Caller { name, from, roles, how }
    }

    /// Whose token this is. All are compared, whichever fits, and in the same time.
    pub(crate) fn by_token(&self, token: &[u8], from: String) -> Result<Caller, Refusal> {
        let digest = token_digest(token);
        let mut found = None;
        for known in &self.tokens {
            if known.is(&digest) {
                found = Some(known);
            }
        }
        let found = found.ok_or_else(|| Refusal::not_authenticated("the token is not known"))?;
        if found.ended(SystemTime::now()) {
            return Err(Refusal::not_authenticated("the token's time is over"));
        }
        let (name, roles) = (found.name.clone(), found.roles.clone());
        Ok(Caller { name, from, roles, how: How::Token })
    }
}

/// What the certificates in a file say.
///
/// # Errors
/// The file cannot be read, or has no certificate (PEM).
pub fn show_certificates(path: &Path) -> Result<Vec<Shown>, AccessError> {
    Ok(file::certificates("certificate", path)?.iter().map(Shown::read).collect())
}

fn tls(files: &AccessFiles, tokens: bool) -> Result<ServerConfig, AccessError> {
    let provider = Arc::new(default_provider());
    let chain = file::certificates("tls.cert", &files.cert)?;
    check_time("tls.cert", files, &chain)?;
    let key = file::private_key("tls.key", &files.key)?;
    let bad_ca = |path: &Path, why: String| {
        file::unusable("tls.client_ca", path, why, "openssl x509 -noout -text -in")
    };
    let verifier = match &files.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in file::certificates("tls.client_ca", path)? {
                roots.add(authority).map_err(|error| bad_ca(path, error.to_string()))?;
            }
            let builder =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            let builder = if tokens { builder.allow_unauthenticated() } else { builder };
            builder.build().map_err(|error| bad_ca(path, error.to_string()))?
        }
    };
    let unfit = |error: rustls::Error| {
        let why = format!("it does not go with {}: {error}", files.cert.display());
        file::unusable("tls.key", &files.key, why, "openssl pkey -noout -text -in")
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(unfit)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would not show its certificate again, which may have ended since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A certificate that has ended, or begins tomorrow, is refused by every caller: better at once.
fn check_time(
    key: &'static str,
    files: &AccessFiles,
    chain: &[rustls::pki_types::CertificateDer<'_>],
) -> Result<(), AccessError> {
    let now = SystemTime::now();
    for der in chain {
        let show = "openssl x509 -noout -dates -in";
        let bad = |why: String| Err(file::unusable(key, &files.cert, why, show));
        let Some((begins, ends)) = certificate::validity(der) else {
            return bad("it says in no known way from when to when it is valid".to_owned());
        };
        let shown = |at| humantime::format_rfc3339_seconds(at);
        if now > ends {
            return bad(format!("it expired on {}", shown(ends)));
        }
        if now < begins {
            return bad(format!("it is valid only from {}", shown(begins)));
        }
        if ends < now + ENDS_SOON {
            let path = files.cert.display();
            tracing::warn!(%path, ends = %shown(ends), "the server's certificate ends soon");
        }
    }
    Ok(())
}
