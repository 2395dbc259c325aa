//! Calls to a running coordinator.

use crate::cli::{CredentialArgs, Global};
use crate::codes::Code;
use crate::errors::{Failure, lost};
use crate::output::quoted;
use std::path::PathBuf;
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use unanimous_proto::v1;
use unanimous_sdk::{Authorization, BadCredentials, Credentials};
use v1::admin_service_client::AdminServiceClient;
use v1::transaction_service_client::TransactionServiceClient;

/// A coordinator that takes longer than this to accept a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// No question of an operator takes longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Descriptions of full pages of large transactions.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// A connection over which a token goes with each call, if there is one.
pub(crate) type Line = InterceptedService<Channel, Authorization>;
/// Where operators ask.
pub(crate) type Admin = AdminServiceClient<Line>;
/// Where people and scripts ask about transactions.
pub(crate) type Transactions = TransactionServiceClient<Line>;

/// The coordinator's operators' port, as whoever the options say.
pub(crate) async fn admin(global: &Global) -> Result<Admin, Failure> {
    admin_at(&global.admin_address, &credentials(&global.credentials)?).await
}

/// The same at an address of its own.
pub(crate) async fn admin_at(address: &str, as_whom: &Credentials) -> Result<Admin, Failure> {
    let client = AdminServiceClient::new(line(address, as_whom).await?);
    Ok(client.max_decoding_message_size(RESPONSE_BYTES_MAX))
}

/// The coordinator's port for transactions, as whoever the options say.
pub(crate) async fn transactions(global: &Global) -> Result<Transactions, Failure> {
    let line = line(&global.address, &credentials(&global.credentials)?).await?;
    Ok(TransactionServiceClient::new(line))
}

fn credentials(args: &CredentialArgs) -> Result<Credentials, Failure> {
    let CredentialArgs { ca, cert, key, token_file, server_name } = args;
    let mut credentials = Credentials::new();
    if let Some(ca) = ca {
        credentials = credentials.ca(ca);
    }
    match (cert, key) {
        (Some(cert), Some(key)) => credentials = credentials.certificate(cert, key),
        (None, None) => {}
        _ => {
            let what = "a certificate and its key go together";
            let next = "the same command with --cert FILE and --key FILE";
            return Err(Failure::new(Code::Usage, what, "only one of them was given", next));
        }
    }
    if let Some(file) = token_file {
        credentials = credentials.token_file(file);
    }
    if let Some(name) = server_name {
        credentials = credentials.server_name(name);
    }
    Ok(credentials)
}

/// The options with which a command line asks the same coordinator as the same person.
pub(crate) fn options(global: &Global) -> String {
    let CredentialArgs { ca, cert, key, token_file, server_name } = &global.credentials;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let elsewhere = global.admin_address != Global::ADMIN_ADDRESS;
    let given = [
        ("--admin-address", elsewhere.then(|| global.admin_address.clone())),
        ("--ca", path(ca)),
        ("--cert", path(cert)),
        ("--key", path(key)),
        ("--token-file", path(token_file)),
        ("--server-name", server_name.clone()),
    ];
    let given = given.into_iter().filter_map(|(option, value)| Some((option, value?)));
    given.map(|(option, value)| format!(" {option} {}", quoted(&value))).collect()
}

/// An address as given, without the connection.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, Failure> {
    let bad = |why: String| {
        let next = "unanimous status --admin-address http://127.0.0.1:7451";
        Failure::new(Code::BadAddress, format!("not an address: {address}"), why, next)
    };
    let endpoint =
        Endpoint::from_shared(address.to_owned()).map_err(|error| bad(causes(&error)))?;
    match (endpoint.uri().scheme_str(), endpoint.uri().authority()) {
        (Some("http" | "https"), Some(_)) => {
            Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT))
        }
        _ => Err(bad("it must have the form http://HOST:PORT or https://HOST:PORT".into())),
    }
}

async fn line(address: &str, as_whom: &Credentials) -> Result<Line, Failure> {
    let applied = as_whom.apply(endpoint(address)?);
    let (endpoint, authorization) = applied.map_err(|error| bad_credentials(address, &error))?;
    let channel = endpoint.connect().await.map_err(|error| lost(address, &causes(&error)))?;
    Ok(InterceptedService::new(channel, authorization))
}

fn bad_credentials(address: &str, error: &BadCredentials) -> Failure {
    let what = format!("the coordinator at {address} was not asked");
    let next = match error {
        BadCredentials::File { path, .. } => format!("ls -la {}", path.display()),
        BadCredentials::NoAuthority => "the same command with --ca FILE".to_owned(),
        _ => format!("the same command with {}", address.replacen("http:", "https:", 1)),
    };
    Failure::new(Code::BadCredentials, what, error.to_string(), next)
}

/// An error with everything that led to it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Exit;

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        for bad in ["", "127.0.0.1:7451", "ftp://x", "https://", "http://", "http://a b", "x"] {
            let failure = endpoint(bad).err().map(|failure| failure.exit());
            assert_eq!(failure, Some(Exit::Usage), "{bad:?}");
        }
        for good in ["http://127.0.0.1:7451", "https://coordinator:7451"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
    }
}
