//! The transaction that a call belongs to, as it travels with calls: its name, its deadline, and
//! how many branches were enlisted on its behalf.

use crate::HEADER_TRANSACTION;
use crate::participant::JoinError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use unanimous_core::{Gtrid, IdError};

tokio::task_local! {
    static CURRENT: Context;
}

/// The transaction that a call belongs to. Clones count together.
#[derive(Clone, Debug)]
pub struct Context {
    gtrid: Gtrid,
    ends_at: Option<Instant>,
    branches: Arc<AtomicU32>,
}

impl Context {
    /// A context of which nothing is counted yet.
    #[must_use]
    pub fn new(gtrid: Gtrid, ends_at: Option<Instant>) -> Self {
        Self { gtrid, ends_at, branches: Arc::default() }
    }

    /// The context of the code that runs now: inside of [`Context::scope`].
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs the future as part of the transaction. A task that it spawns is not part of it, unless
    /// it is given a scope of its own.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The transaction's name.
    #[must_use]
    pub fn gtrid(&self) -> Gtrid {
        self.gtrid
    }

    /// Time until the coordinator rolls it back; [`Duration::MAX`]: not known.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.ends_at.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Branches counted so far.
    #[must_use]
    pub fn branches(&self) -> u32 {
        self.branches.load(Ordering::Relaxed)
    }

    /// Counts branches that were enlisted on its behalf.
    pub fn count(&self, branches: u32) {
        self.branches.fetch_add(branches, Ordering::Relaxed);
    }

    /// Reads the headers of a call; `None`: it belongs to no transaction.
    ///
    /// # Errors
    /// [`JoinError::BadTransaction`].
    pub fn from_headers(headers: &http::HeaderMap) -> Result<Option<Self>, JoinError> {
        let Some(header) = headers.get(HEADER_TRANSACTION) else { return Ok(None) };
        let bad = |why: String| JoinError::BadTransaction(why);
        let text = header.to_str().map_err(|error| bad(error.to_string()))?;
        let gtrid = text.parse().map_err(|error: IdError| bad(error.to_string()))?;
        Ok(Some(Self::new(gtrid, None)))
    }
}

/// Whatever tells which transaction a call belongs to.
pub trait Carrier {
    /// The call's context.
    ///
    /// # Errors
    /// [`JoinError::NoTransaction`], [`JoinError::BadTransaction`].
    fn context(&self) -> Result<Context, JoinError>;
}

impl Carrier for Context {
    fn context(&self) -> Result<Context, JoinError> {
        Ok(self.clone())
    }
}

impl Carrier for http::HeaderMap {
    fn context(&self) -> Result<Context, JoinError> {
        Context::from_headers(self)?.ok_or(JoinError::NoTransaction)
    }
}

/// The one that a layer has put there, whose count goes into the reply by itself; otherwise the
/// headers'.
fn of(extensions: &http::Extensions, headers: &http::HeaderMap) -> Result<Context, JoinError> {
    extensions.get::<Context>().map_or_else(|| headers.context(), |context| Ok(context.clone()))
}

impl<T> Carrier for http::Request<T> {
    fn context(&self) -> Result<Context, JoinError> {
        of(self.extensions(), self.headers())
    }
}

impl Carrier for http::request::Parts {
    fn context(&self) -> Result<Context, JoinError> {
        of(&self.extensions, &self.headers)
    }
}

impl Carrier for MetadataMap {
    fn context(&self) -> Result<Context, JoinError> {
        self.clone().into_headers().context()
    }
}

impl<T> Carrier for tonic::Request<T> {
    fn context(&self) -> Result<Context, JoinError> {
        match self.extensions().get::<Context>() {
            Some(context) => Ok(context.clone()),
            None => self.metadata().context(),
        }
    }
}
