//! From an accepted connection to an encrypted one, or to an end that the peer can understand.

use crate::access::{Certificate, Rules};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The first byte of a TLS record that begins a handshake.
const HANDSHAKE_RECORD: u8 = 0x16;
/// How long a refused peer may take to read why, and how much more it may say meanwhile.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
const LAST_WORDS_BYTES_MAX: u64 = 64 << 10;

/// An empty SETTINGS frame, and a GOAWAY with INADEQUATE_SECURITY whose debug data are the words
/// after it: to a peer that speaks HTTP/2 without TLS.
const USE_TLS_FRAMES: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x2f\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0c";
const USE_TLS_WORDS: &[u8] = b"this port speaks only TLS: use https://";

/// Why there is no encrypted connection.
#[derive(Debug)]
pub(crate) enum Unshaken {
    /// The peer went away without a word, as who only looks whether a port is open.
    Gone,
    /// In words for the log. Whatever comes from the peer is not in them.
    Refused(String),
}

/// Encrypts, until `deadline`, by the rules in force now.
pub(crate) async fn shake(
    stream: TcpStream,
    rules: Arc<Rules>,
    deadline: Instant,
) -> Result<(TlsStream<TcpStream>, Option<Certificate>), Unshaken> {
    let late = |_| Unshaken::Refused("no TLS handshake came in time".to_owned());
    let mut first = [0];
    let peeked = timeout_at(deadline, stream.peek(&mut first)).await.map_err(late)?;
    if !matches!(peeked, Ok(1..)) {
        return Err(Unshaken::Gone);
    }
    if first[0] != HANDSHAKE_RECORD {
        say_last(stream, &[USE_TLS_FRAMES, USE_TLS_WORDS].concat()).await;
        return Err(Unshaken::Refused("it speaks no TLS".to_owned()));
    }
    let accepting = TlsAcceptor::from(Arc::clone(&rules.tls)).accept(stream).into_fallible();
    match timeout_at(deadline, accepting).await.map_err(late)? {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let shown = session.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.map(Certificate::read);
            Ok((stream, certificate))
        }
        Err((error, stream)) => {
            let why = words(&error);
            say_last(stream, &[]).await;
            Err(Unshaken::Refused(why))
        }
    }
}

/// Without this the system tells the peer of a broken connection before it has read why.
async fn say_last(mut stream: TcpStream, words: &[u8]) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut rest = stream.take(LAST_WORDS_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // A peer that is gone, or goes on, needs no more words.
    let _ = timeout(LAST_WORDS_MAX, said).await;
}

fn words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::NoCertificatesPresented) => {
            "it has shown no certificate, and none is an error without a tokens' file".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(why)) => {
            format!("its certificate is not taken: {why}")
        }
        Some(error) => format!("no TLS handshake: {error}"),
        None => format!("no TLS handshake: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_have_the_length_of_their_words() {
        let goaway = &USE_TLS_FRAMES[9..];
        let length = u32::from_be_bytes([0, goaway[0], goaway[1], goaway[2]]);
        assert_eq!(usize::try_from(length).unwrap(), 8 + USE_TLS_WORDS.len());
        assert_eq!(goaway.len(), 9 + 8);
    }
}
