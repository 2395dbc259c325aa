//! Where the coordinator is, and how it is dialled.

use crate::credentials::{Authorization, BadCredentials, Credentials};
use std::time::Duration;
use tonic::transport::Endpoint;

/// How long dialling may take, until the coordinator's welcome.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// What may be on its way unread, in bytes: one message a step, many steps under way.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Far above the stream's: h2 ends a connection on which small unread frames cost more than half
/// of its window, at up to 256 bytes a frame.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// A silent connection is asked for a sign of life after this time.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The text is no address of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is no address of a coordinator: {why}")]
pub struct BadAddress {
    /// What was given.
    pub address: String,
    /// What is wrong with it.
    pub why: String,
}

/// Where to dial, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    endpoint: Endpoint,
    credentials: Credentials,
}

impl Dial {
    /// Credentials that cannot be used are told at once.
    pub(crate) fn new(
        endpoint: Endpoint,
        credentials: Credentials,
    ) -> Result<Self, BadCredentials> {
        credentials.apply(endpoint.clone())?;
        Ok(Self { endpoint, credentials })
    }

    /// With the files as they are now.
    pub(crate) fn prepare(&self) -> Result<(Endpoint, Authorization), BadCredentials> {
        self.credentials.apply(self.endpoint.clone())
    }
}

/// The name is resolved again with each dial.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, BadAddress> {
    let bad = |why: &str| BadAddress { address: address.to_owned(), why: why.to_owned() };
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|e| bad(&e.to_string()))?;
    let scheme = endpoint.uri().scheme_str();
    if !matches!(scheme, Some("http" | "https")) || endpoint.uri().host().is_none() {
        return Err(bad("it must look like http://host:port or https://host:port"));
    }
    Ok(endpoint
        .connect_timeout(DIAL_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn only_addresses_with_scheme_and_host_are_taken() {
        for good in ["http://127.0.0.1:7450", "https://coordinator.internal:1", "http://[::1]:2"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:7450", "ftp://a:1", "http://", "http://a b", "\0"] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }
}
