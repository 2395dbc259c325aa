//! A resource as handlers see it, and the work that it does for a transaction.

use super::{JoinError, Line};
use crate::HEADER_BRANCHES;
use crate::context::Carrier;
use crate::resource::Resource;
use crate::runner::Left;
use crate::tally::branches_in;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tracing::Span;
use unanimous_core::{BranchId, ResourceId};

/// A resource of a participant, made by [`super::ParticipantBuilder::attach`]. It derefs to the
/// resource; clones are the same one.
pub struct Attached<R> {
    resource: Arc<R>,
    /// Among the participant's resources.
    index: usize,
    line: Line,
}

impl<R: Resource> Attached<R> {
    pub(super) fn new(resource: Arc<R>, index: usize, line: &Line) -> Self {
        Self { resource, index, line: line.clone() }
    }

    /// Joins the transaction that a call belongs to, with a branch of this resource. A second call
    /// in the same transaction joins the same branch. The future does not borrow the call.
    ///
    /// The branch is counted in the call's [`crate::Context`], from where the server layer tells
    /// the caller; without the layer see [`Branch::announce`].
    ///
    /// # Errors
    /// See [`JoinError`]. The work must not be done then.
    pub fn enlist<C: Carrier + ?Sized>(
        &self,
        call: &C,
    ) -> impl Future<Output = Result<Branch, JoinError>> + Send + use<R, C> {
        let (context, index, line) = (call.context(), self.index, self.line.clone());
        async move {
            let context = context?;
            let branch = line.join(context.gtrid(), index, context.remaining()).await?;
            if branch.new {
                context.count(1);
            }
            Ok(branch)
        }
    }
}

impl<R> Deref for Attached<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.resource
    }
}

impl<R> Clone for Attached<R> {
    fn clone(&self) -> Self {
        let (resource, line) = (Arc::clone(&self.resource), self.line.clone());
        Self { resource, index: self.index, line }
    }
}

impl<R: fmt::Debug> fmt::Debug for Attached<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attached").field(&self.resource).finish()
    }
}

/// Work under a branch. Until [`Branch::end`] the branch cannot commit: a handle that is dropped
/// before (an error, a panic, a cancelled call) makes it vote rollback.
#[derive(Debug)]
#[must_use = "a branch that is dropped votes rollback"]
pub struct Branch {
    id: BranchId,
    resource: ResourceId,
    /// This call has enlisted it.
    new: bool,
    left: Option<mpsc::UnboundedSender<Left>>,
}

impl Branch {
    pub(crate) fn new(
        id: BranchId,
        resource: ResourceId,
        new: bool,
        left: mpsc::UnboundedSender<Left>,
    ) -> Self {
        Self { id, resource, new, left: Some(left) }
    }

    /// The branch, for the resource's own calls.
    #[must_use]
    pub fn id(&self) -> &BranchId {
        &self.id
    }

    /// A tracing span with the branch's names, as the resource's own calls have it: for the log
    /// lines of the work.
    #[must_use]
    pub fn span(&self) -> Span {
        branch_span(&self.id, &self.resource)
    }

    /// Adds the branch to the reply's header `unanimous-branches`, if this call has enlisted it:
    /// the client counts them, so that a lost branch rolls back instead of committing half.
    ///
    /// Only for a service without the server layer, which tells it by itself. Both together
    /// do no harm: the layer adds nothing that is announced already.
    pub fn announce(&self, reply: &mut MetadataMap) {
        let before = branches_in(reply.as_ref());
        let count = before.saturating_add(u32::from(self.new));
        reply.insert(HEADER_BRANCHES, MetadataValue::from(count));
    }

    /// The work is done, and may commit as far as this call is concerned.
    pub fn end(mut self) {
        self.leave(None, false);
    }

    /// As [`Branch::end`], and this was the last work of the transaction here: if no other call
    /// works under the branch, it is prepared and votes at once instead of when the client commits,
    /// which saves the commit a message there and back. Later calls of the transaction are refused
    /// with [`JoinError::Voted`].
    ///
    /// Nothing but a hint: a resource that does not vote early ([`Resource::votes_early`]), or a
    /// vote that gets lost, is asked when the client commits.
    pub fn vote(mut self) {
        self.leave(None, true);
    }

    /// The work failed: the branch votes rollback, with these words.
    pub fn fail(mut self, why: impl Into<String>) {
        self.leave(Some(why.into()), false);
    }

    /// Ends without a verdict: nobody has seen the handle.
    pub(crate) fn disarm(mut self) {
        self.leave(None, false);
    }

    fn leave(&mut self, failure: Option<String>, votes: bool) {
        if let Some(left) = self.left.take() {
            // Without a runner there is nobody to prepare the branch either.
            let _ = left.send(Left { branch: self.id, failure, votes });
        }
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        if self.left.is_some() {
            let panics = std::thread::panicking();
            let why = if panics { "its work panicked" } else { "its work was broken off" };
            self.leave(Some(why.to_owned()), false);
        }
    }
}

/// What log lines about a branch carry, whatever level is switched on.
pub(crate) fn branch_span(branch: &BranchId, resource: &ResourceId) -> Span {
    tracing::error_span!("branch", gtrid = %branch.gtrid, bqual = %branch.bqual, %resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::Gtrid;

    #[test]
    fn branches_announced_in_one_reply_add_up() {
        let (left, _keep) = mpsc::unbounded_channel();
        let log = unanimous_core::LogId { cluster: 1, slot: 1, incarnation: 1 };
        let owner = unanimous_core::Owner { log, epoch: 1 };
        let id = BranchId {
            gtrid: Gtrid::new(owner, 0, 0),
            bqual: unanimous_core::Bqual::new(1, 1, owner),
        };
        let resource = ResourceId::new("bank/a").unwrap();
        let mut reply = MetadataMap::new();
        assert_eq!(branches_in(reply.as_ref()), 0);
        for (new, sum) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
            let branch = Branch::new(id, resource.clone(), new, left.clone());
            branch.announce(&mut reply);
            branch.end();
            assert_eq!(branches_in(reply.as_ref()), sum);
        }
        reply.insert(HEADER_BRANCHES, "many".parse().unwrap());
        assert_eq!(branches_in(reply.as_ref()), 0);
    }
}
