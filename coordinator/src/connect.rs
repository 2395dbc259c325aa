//! Calls to a running coordinator.

use crate::codes::Code;
use crate::errors::{Failure, unreachable};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use unanimous_proto::v1;
use v1::admin_service_client::AdminServiceClient;
use v1::transaction_service_client::TransactionServiceClient;

/// A coordinator that takes longer than this to accept a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// No question of an operator takes longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Descriptions of full pages of large transactions.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Where operators ask.
pub(crate) async fn admin(address: &str) -> Result<AdminServiceClient<Channel>, Failure> {
    let client = AdminServiceClient::new(channel(address).await?);
    Ok(client.max_decoding_message_size(RESPONSE_BYTES_MAX))
}

/// Where people and scripts ask about transactions.
pub(crate) async fn transactions(
    address: &str,
) -> Result<TransactionServiceClient<Channel>, Failure> {
    Ok(TransactionServiceClient::new(channel(address).await?))
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
        (Some("http"), Some(_)) => {
            Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT))
        }
        (Some("https"), _) => Err(bad("this version speaks no TLS: use http://".into())),
        _ => Err(bad("it must have the form http://HOST:PORT".into())),
    }
}

async fn channel(address: &str) -> Result<Channel, Failure> {
    endpoint(address)?.connect().await.map_err(|error| unreachable(address, &causes(&error)))
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
        for bad in ["", "127.0.0.1:7451", "ftp://x", "https://x", "http://", "http://a b", "x"] {
            let failure = endpoint(bad).err().map(|failure| failure.exit());
            assert_eq!(failure, Some(Exit::Usage), "{bad:?}");
        }
        assert!(endpoint("http://127.0.0.1:7451").is_ok());
    }
}
