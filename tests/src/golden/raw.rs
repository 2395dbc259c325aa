//! Messages as the bytes they are: what is replayed is what was sent, and what this version does
//! not know in an answer is kept.

use anyhow::Context as _;
use prost::bytes::{Buf as _, BufMut as _};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Nothing here takes this long unless it is stuck.
const GUARD: Duration = Duration::from_secs(20);
/// More than any conversation says at once.
const QUEUE: usize = 64;

/// Sends and takes bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; from.remaining()];
        from.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// The caller's end of one call.
#[derive(Debug)]
pub enum Line {
    /// A session.
    Stream {
        /// What is said.
        to: mpsc::Sender<Vec<u8>>,
        /// What is heard.
        from: Streaming<Vec<u8>>,
    },
    /// One request, made when its answer is asked for.
    Unary {
        /// Where to.
        channel: Channel,
        /// Which call.
        path: PathAndQuery,
        /// What is asked.
        request: Vec<u8>,
    },
}

impl Line {
    /// Opens a call.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub async fn open(channel: &Channel, path: &str, streams: bool) -> anyhow::Result<Self> {
        let path: PathAndQuery = path.parse()?;
        if !streams {
            return Ok(Self::Unary { channel: channel.clone(), path, request: Vec::new() });
        }
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await?;
        let (to, said) = mpsc::channel(QUEUE);
        let request = Request::new(ReceiverStream::new(said));
        let from = grpc.streaming(request, path, Raw).await?.into_inner();
        Ok(Self::Stream { to, from })
    }

    /// Says something.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub async fn say(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        match self {
            Self::Stream { to, .. } => to.send(bytes).await.context("the session has ended"),
            Self::Unary { request, .. } => {
                *request = bytes;
                Ok(())
            }
        }
    }

    /// What is said next.
    ///
    /// # Errors
    /// Nothing is, or the call has failed.
    pub async fn hear(&mut self) -> anyhow::Result<Vec<u8>> {
        let heard = async {
            match self {
                Self::Stream { from, .. } => from.message().await?.context("the session has ended"),
                Self::Unary { channel, path, request } => {
                    let mut grpc = Grpc::new(channel.clone());
                    grpc.ready().await?;
                    let request = Request::new(request.clone());
                    Ok(grpc.unary(request, path.clone(), Raw).await?.into_inner())
                }
            }
        };
        tokio::time::timeout(GUARD, heard).await.context("nothing was heard")?
    }
}
