//! Who `serve` lets in: its files, its addresses, and reading the files again while it runs.

use crate::codes::Code;
use crate::config::Settings;
use crate::errors::Failure;
use crate::output::talk;
use unanimous_server::{Access, AccessError, AccessFiles};

/// What the settings say, with the files read. Nothing listens before.
pub(crate) fn load(settings: &Settings) -> Result<Access, Failure> {
    let Some(files) = files(settings)? else {
        check_loopback(settings)?;
        return Ok(Access::everybody());
    };
    Access::load(files).map_err(|error| unusable(&error))
}

/// Reads the files again. If one is bad, all stay as they were: the coordinator serves on.
pub(crate) fn reload(access: &Access) {
    match access.reload() {
        Ok(()) => tracing::info!("certificates, roles and tokens are read again"),
        Err(AccessError { key, path, why, next }) => {
            let path = path.display();
            tracing::error!(key, %path, why, next, "not read again: what was in force stays so");
        }
    }
}

fn unusable(error: &AccessError) -> Failure {
    let what = format!("{} = {} cannot be used", error.key, error.path.display());
    Failure::new(Code::AccessFile, what, error.why.as_str(), error.next.as_str())
        .or("unanimous cert init DIR, to make an authority and certificates of your own")
}

/// The files, if there are any: a part of them would let in other callers than was meant.
fn files(settings: &Settings) -> Result<Option<AccessFiles>, Failure> {
    let Settings { tls_cert, tls_key, tls_client_ca, tls_roles_file, tls_tokens_file, .. } =
        settings;
    let given = [
        ("tls.cert", tls_cert.is_some()),
        ("tls.key", tls_key.is_some()),
        ("tls.client_ca", tls_client_ca.is_some()),
        ("tls.roles_file", tls_roles_file.is_some()),
        ("tls.tokens_file", tls_tokens_file.is_some()),
    ];
    let Some((first, _)) = given.iter().find(|(_, given)| *given) else { return Ok(None) };
    let (Some(cert), Some(key)) = (tls_cert, tls_key) else {
        let why = format!("{first} is given, and tls.cert and tls.key are not both");
        return Err(contradiction("there is no TLS without a certificate and its key", why));
    };
    if tls_client_ca.is_none() && tls_tokens_file.is_none() {
        let why = "neither tls.client_ca nor tls.tokens_file is given, so nobody can be known";
        return Err(contradiction("nobody could use this coordinator", why));
    }
    if tls_roles_file.is_some() && tls_client_ca.is_none() {
        let why = "tls.roles_file is about certificates, and without tls.client_ca none is taken";
        return Err(contradiction("nobody would have these roles", why));
    }
    if settings.insecure {
        let why = "listen.insecure lets everybody do everything, and tls.cert only some";
        return Err(contradiction("it cannot be both secure and insecure", why));
    }
    Ok(Some(AccessFiles {
        cert: cert.clone(),
        key: key.clone(),
        client_ca: tls_client_ca.clone(),
        roles_file: tls_roles_file.clone(),
        tokens_file: tls_tokens_file.clone(),
    }))
}

fn contradiction(what: &str, why: impl Into<String>) -> Failure {
    let next = "unanimous config show, to see which keys are given, and where";
    Failure::new(Code::ConfigContradiction, what, why, next)
}

/// Without TLS nobody is known: whoever reaches the port may end any transaction.
fn check_loopback(settings: &Settings) -> Result<(), Failure> {
    let addresses = [("--listen", settings.listen), ("--admin-listen", settings.admin_listen)];
    for (option, address) in addresses.into_iter().filter(|(_, at)| !at.ip().is_loopback()) {
        if !settings.insecure {
            let what = format!("{option} {address} can be reached from other machines");
            let why = "without TLS nobody is known: whoever reaches the port may do everything";
            let next =
                "unanimous cert init DIR, and tls.cert, tls.key and tls.client_ca as it says";
            return Err(Failure::new(Code::InsecureListen, what, why, next)
                .or(format!("the same command with {option} 127.0.0.1:{}", address.port()))
                .or(format!("the same command with {option} {address} --insecure")));
        }
    }
    Ok(())
}

/// Says what `--insecure` means, where it means something.
pub(crate) fn warn_of_insecure(settings: &Settings) {
    for address in [settings.listen, settings.admin_listen] {
        if settings.insecure && !address.ip().is_loopback() {
            talk(format!(
                "warning: INSECURE: whoever reaches {address} may begin, commit and end any \
                 transaction, and nobody is asked who they are"
            ));
            tracing::warn!(%address, "insecure: whoever connects may do everything");
        }
    }
}
