//! What the owner of data implements to take part in transactions (section 4 of the contract).

use crate::finding::Finding;
use futures_util::future::BoxFuture;
use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use unanimous_core::coordinator::EndedMark;
use unanimous_core::message::{Done, Vote};
use unanimous_core::participant::{Call, Returned};
use unanimous_core::{BranchId, BranchResult, Decision, Evidence};

/// The resource could not be asked, or cannot tell yet: the call is made again, with backoff.
///
/// It is no way to say no: a branch that must not commit returns [`Vote::Rollback`] from prepare.
/// Any error becomes a `Retry` with `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Why, for people.
    pub why: String,
}

impl Retry {
    /// A retry with its reason.
    #[must_use]
    pub fn because(why: impl Display) -> Self {
        Self { why: why.to_string() }
    }
}

impl<E: std::error::Error> From<E> for Retry {
    fn from(error: E) -> Self {
        Self::because(error)
    }
}

/// Why a resource cannot do its work as it is set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}\n  why:  {why}\n  next: {next}")]
pub struct Unfit {
    /// What is wrong.
    pub what: String,
    /// What that would lead to.
    pub why: String,
    /// What to do about it.
    pub next: String,
}

/// A branch that a resource holds prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The branch.
    pub branch: BranchId,
    /// What its vote carried: the vote may have to be repeated.
    pub evidence: Option<Evidence>,
}

/// A branch that a resource has on record as ended alone, and was not told to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedAlone {
    /// The branch.
    pub branch: BranchId,
    /// How it ended.
    pub result: BranchResult,
    /// Why, for people: what the record says.
    pub why: String,
}

/// A database or store whose branches can be prepared. `examples/seats` is one to start from.
///
/// ```text
///  joined --> work --> prepare --> Vote::Commit --> commit: Done::Done
///                |        |             |
///                |        |             +---------> rollback: Done::Done
///                |        +--> Vote::ReadOnly, Vote::Rollback: it is over
///                +--> commit_one_phase, if it is the only branch; rollback at any time before
/// ```
/// 1. *Durable first, then said.* What an answer says survives a power cut before it is given.
/// 2. *Any call at any time, and again.* Calls for one branch are made one at a time, in any order
///    that crashes and repeats can produce: each may come for a branch that is finished, or that
///    was never here. Calls for different branches run at the same time.
/// 3. *Nothing without proof.* Work that is not known is voted down; a branch that is not known to
///    be committed is not said to be.
/// 4. *[`Retry`] is no answer*, but "not now": the call comes again, with longer and longer pauses,
///    for as long as it takes. No is [`Vote::Rollback`], in prepare and nowhere else. A panic
///    counts as [`Retry`].
/// 5. *Locks last as long as the branch.* One that voted commit keeps them until it is told the
///    outcome; whatever ends a branch frees them.
///
/// What a call may meet, and what it answers:
///
/// | the branch is | prepare | commit | rollback |
/// | --- | --- | --- | --- |
/// | worked on | prepare it, vote | it does not come | undo, [`Done::Done`] |
/// | prepared | the same vote | commit, [`Done::Done`] | undo durably, [`Done::Done`] |
/// | committed by order | [`Vote::Rollback`] | [`Done::Done`] | see [`Resource::rollback`] |
/// | ended by somebody else | [`Vote::Rollback`] | `Done::Heuristic` | `Done::Heuristic` |
/// | undone, or never here | [`Vote::Rollback`] | proof, or a hazard | [`Done::Done`] |
///
/// The last row is tried at every start, with a branch that nobody has:
/// [`crate::ParticipantBuilder::start`]. A rollback that leaves a note of a branch that was never
/// here (a barrier row) leaves one at every start.
pub trait Resource: Send + Sync + 'static {
    /// What it is, for people: "embedded", "postgresql"; at most 32 bytes.
    fn kind(&self) -> &'static str {
        "custom"
    }

    /// Asked once, before the participant starts: whether the resource can do its work as it is set
    /// up, as far as nothing else would show it in time (a database that has prepared transactions
    /// switched off). Not for what passes: with branches in doubt it must come up all the same.
    ///
    /// # Errors
    /// [`Unfit`]: the participant does not start.
    fn check(&self) -> impl Future<Output = Result<(), Unfit>> + Send {
        async { Ok(()) }
    }

    /// What is not as it should be with the resource's set-up, asked while it runs: for `unanimous
    /// doctor`. Every finding has its next step. At most 100 are told.
    ///
    /// # Errors
    /// [`Retry`]: it cannot be looked at now.
    fn findings(&self) -> impl Future<Output = Result<Vec<Finding>, Retry>> + Send {
        async { Ok(Vec::new()) }
    }

    /// A branch has been enlisted, its work begins: a note in memory. A resource that takes the
    /// note can let a branch without any work vote read-only, and refuse work that comes after the
    /// branch was undone. Must not wait: it is called in the participant's own task.
    fn joined(&self, branch: &BranchId) {
        let _ = branch;
    }

    /// Makes the branch durable, so that it survives power loss and can be committed as well as
    /// rolled back, and votes. Durable *before* [`Vote::Commit`]. Prepared already: the same vote.
    /// [`Vote::ReadOnly`] and [`Vote::Rollback`] end the branch: nothing of it may be left, no lock
    /// either.
    ///
    /// Unknown branch: [`Vote::Rollback`], and nothing is created.
    ///
    /// # Errors
    /// [`Retry`]: not possible now.
    fn prepare(&self, branch: &BranchId) -> impl Future<Output = Result<Vote, Retry>> + Send;

    /// Commits a prepared branch durably *before* it returns [`Done::Done`]. May come many times.
    ///
    /// Unknown branch: what can be proved (committed earlier: [`Done::Done`]), with the help of the
    /// evidence that the vote carried; without proof `Done::Heuristic(BranchResult::Hazard)`, never
    /// [`Done::Done`].
    ///
    /// # Errors
    /// [`Retry`]: not possible now.
    fn commit(
        &self,
        branch: &BranchId,
        evidence: Option<&Evidence>,
    ) -> impl Future<Output = Result<Done, Retry>> + Send;

    /// Commits the only branch of its transaction, which is usually not prepared: [`Done::Done`]
    /// once it is durably committed, [`Done::RolledBack`] if it was rolled back instead. Its answer
    /// decides the transaction. Comes only for a branch that was joined here and is not finished.
    /// By itself it prepares and commits.
    ///
    /// # Errors
    /// [`Retry`]: not possible now.
    fn commit_one_phase(
        &self,
        branch: &BranchId,
    ) -> impl Future<Output = Result<Done, Retry>> + Send {
        async move {
            match self.prepare(branch).await? {
                Vote::Commit { evidence } => self.commit(branch, evidence.as_ref()).await,
                Vote::ReadOnly => Ok(Done::Done),
                Vote::Rollback { .. } => Ok(Done::RolledBack),
            }
        }
    }

    /// The order to commit in one phase, for any other branch: it was repeated, or the process was
    /// started again. A prepared branch is committed. Unknown branch: committed earlier,
    /// [`Done::Done`]; [`Done::RolledBack`] only with proof; otherwise
    /// `Done::Heuristic(BranchResult::Hazard)`. By itself it asks [`Resource::commit`].
    ///
    /// # Errors
    /// [`Retry`]: not possible now.
    fn recall(&self, branch: &BranchId) -> impl Future<Output = Result<Done, Retry>> + Send {
        self.commit(branch, None)
    }

    /// Undoes the branch durably, prepared or not, and frees its locks. Unknown branch:
    /// [`Done::Done`].
    ///
    /// A branch that was committed by order: [`Done::Done`], if several processes share the
    /// resource. One of them may have been told to commit while another still has the branch in
    /// memory, and undoes it when its own time is over: such a late rollback is no decision.
    /// Only a resource that a single process has for itself knows a contradiction when it meets
    /// one, and says `Done::Heuristic(BranchResult::Committed)`.
    ///
    /// # Errors
    /// [`Retry`]: not possible now.
    fn rollback(&self, branch: &BranchId) -> impl Future<Output = Result<Done, Retry>> + Send;

    /// Asked once at the start of a participant that has a [`crate::HeuristicPolicy`]: whether the
    /// resource can end branches alone, with a record that survives power loss. What the record
    /// needs (a table) is made here. By itself it cannot.
    ///
    /// # Errors
    /// [`Unfit`]: the participant does not start.
    fn check_alone(&self) -> impl Future<Output = Result<(), Unfit>> + Send {
        async {
            Err(Unfit {
                what: format!("a {} resource cannot end branches alone", self.kind()),
                why: "what a participant decides alone must be on record before it has any effect"
                    .to_owned(),
                next: "take the heuristic policy away, or implement check_alone, end_alone, \
                       ended_alone and forget"
                    .to_owned(),
            })
        }
    }

    /// Ends a prepared branch although its coordinator has not said how: the participant's
    /// [`crate::HeuristicPolicy`] says so. The decision and `why` are put on record durably
    /// *before* it has any effect; then the branch is committed or undone, durably, its locks are
    /// freed, and `Done::Heuristic` returned with how it has ended. On record already: that counts,
    /// not `decision`.
    ///
    /// From then on every call about the branch answers `Done::Heuristic` (prepare:
    /// [`Vote::Rollback`]), until [`Resource::forget`]. Of a process that died between the record
    /// and its effect the branch is still prepared: an order that comes before the next
    /// `end_alone` is carried out as ever, and the record goes.
    ///
    /// A branch that is not prepared any more, because another process was told its outcome:
    /// [`Done::Done`], and nothing stays on record.
    ///
    /// # Errors
    /// [`Retry`]: not possible now, or not known whether it was done. The branch is in doubt as
    /// before, and every other call finds out.
    fn end_alone(
        &self,
        branch: &BranchId,
        decision: Decision,
        why: &str,
    ) -> impl Future<Output = Result<Done, Retry>> + Send {
        let _ = (branch, decision, why);
        async { Err(Retry::because("this resource cannot end branches alone")) }
    }

    /// The branches that ended alone and are not forgotten, read from their records: they are
    /// reported until the coordinator has them on its list. Asked as [`Resource::recover`] is, also
    /// when there is no policy any more. A branch that is on record and still prepared is not
    /// among them: [`Resource::recover`] lists it.
    ///
    /// # Errors
    /// [`Retry`]: as [`Resource::recover`].
    fn ended_alone(&self) -> impl Future<Output = Result<Vec<EndedAlone>, Retry>> + Send {
        async { Ok(Vec::new()) }
    }

    /// The coordinator has the branch's heuristic result on its own durable list: it may be
    /// forgotten.
    ///
    /// # Errors
    /// [`Retry`]: not possible now.
    fn forget(&self, branch: &BranchId) -> impl Future<Output = Result<(), Retry>> + Send {
        let _ = branch;
        async { Ok(()) }
    }

    /// The branches that are prepared and not finished, read from the resource itself. Asked at the
    /// start, and again and again while the participant runs, beside all other calls; then it is
    /// given up after two minutes and asked for again. Left out, a branch stays in doubt and keeps
    /// its locks for ever; what is not prepared must not be listed.
    ///
    /// # Errors
    /// [`Retry`]: the participant does not start; later it is asked again after a pause.
    fn recover(&self) -> impl Future<Output = Result<Vec<Prepared>, Retry>> + Send;

    /// Whether the branch, whose work has been ended with [`crate::Branch::vote`], shall be
    /// prepared before the client commits. Say yes only if it would vote [`Vote::Commit`]: a branch
    /// that has changed nothing is better asked later, for its locks must hold until then. An early
    /// [`Vote::ReadOnly`] counts as [`Vote::Rollback`]. Must not wait.
    fn votes_early(&self, branch: &BranchId) -> bool {
        let _ = branch;
        false
    }

    /// Whether the resource remembers committed branches until [`Resource::ended`] passes them, so
    /// that a repeated commit is never a puzzle.
    fn remembers_committed(&self) -> bool {
        false
    }

    /// Every transaction up to the mark has ended durably, its exceptions excepted: the proof of
    /// their finished branches may be dropped. Comes repeatedly and must not wait.
    fn ended(&self, mark: &EndedMark) {
        let _ = mark;
    }
}

/// What a resource holds that a coordinator must hear of.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) prepared: Vec<Prepared>,
    pub(crate) alone: Vec<EndedAlone>,
}

impl Listed {
    /// Without what is not the resource's of this number.
    pub(crate) fn retain(&mut self, number: u32) {
        let ours = |branch: &BranchId| branch.bqual.resource_manager() == number;
        self.prepared.retain(|one| ours(&one.branch));
        self.alone.retain(|one| ours(&one.branch));
    }
}

pub(crate) type Answering = BoxFuture<'static, Result<Returned, Retry>>;

/// A resource whose type is forgotten, so that one participant can have several.
pub(crate) trait AnyResource: Send + Sync {
    fn kind(&self) -> &'static str;
    fn check(self: Arc<Self>) -> BoxFuture<'static, Result<(), Unfit>>;
    fn findings(self: Arc<Self>) -> BoxFuture<'static, Result<Vec<Finding>, Retry>>;
    fn joined(&self, branch: &BranchId);
    fn call(self: Arc<Self>, branch: BranchId, call: Call) -> Answering;
    /// [`Call::CommitOnePhase`] for a branch that nobody here works on.
    fn recall(self: Arc<Self>, branch: BranchId) -> Answering;
    fn check_alone(self: Arc<Self>) -> BoxFuture<'static, Result<(), Unfit>>;
    /// What it holds, as [`Resource::recover`] and [`Resource::ended_alone`] say.
    fn list(self: Arc<Self>) -> BoxFuture<'static, Result<Listed, Retry>>;
    fn votes_early(&self, branch: &BranchId) -> bool;
    fn remembers_committed(&self) -> bool;
    fn ended(&self, mark: &EndedMark);
}

impl<R: Resource> AnyResource for R {
    fn kind(&self) -> &'static str {
        Resource::kind(self)
    }

    fn check(self: Arc<Self>) -> BoxFuture<'static, Result<(), Unfit>> {
        Box::pin(async move { Resource::check(&*self).await })
    }

    fn findings(self: Arc<Self>) -> BoxFuture<'static, Result<Vec<Finding>, Retry>> {
        Box::pin(async move { Resource::findings(&*self).await })
    }

    fn joined(&self, branch: &BranchId) {
        unpanicked(|| Resource::joined(self, branch));
    }

    fn recall(self: Arc<Self>, branch: BranchId) -> Answering {
        Box::pin(async move { Ok(did(Resource::recall(&*self, &branch).await?)) })
    }

    fn call(self: Arc<Self>, branch: BranchId, call: Call) -> Answering {
        Box::pin(async move {
            Ok(match call {
                Call::Prepare => voted(self.prepare(&branch).await?),
                Call::Commit { evidence } => {
                    committed(self.commit(&branch, evidence.as_ref()).await?)
                }
                Call::CommitOnePhase => did(self.commit_one_phase(&branch).await?),
                Call::Rollback => rolled_back(self.rollback(&branch).await?),
                Call::Forget => {
                    self.forget(&branch).await?;
                    did(Done::Done)
                }
                Call::EndAlone { decision, why } => {
                    did(self.end_alone(&branch, decision, &why).await?)
                }
            })
        })
    }

    fn check_alone(self: Arc<Self>) -> BoxFuture<'static, Result<(), Unfit>> {
        Box::pin(async move { Resource::check_alone(&*self).await })
    }

    fn list(self: Arc<Self>) -> BoxFuture<'static, Result<Listed, Retry>> {
        Box::pin(async move {
            let prepared = self.recover().await?;
            Ok(Listed { prepared, alone: self.ended_alone().await? })
        })
    }

    fn votes_early(&self, branch: &BranchId) -> bool {
        unpanicked(|| Resource::votes_early(self, branch))
    }

    fn remembers_committed(&self) -> bool {
        Resource::remembers_committed(self)
    }

    fn ended(&self, mark: &EndedMark) {
        unpanicked(|| Resource::ended(self, mark));
    }
}

/// The notes that a resource gets must not end the task that gives them. A branch that it did not
/// note is one that it does not know: it votes rollback.
fn unpanicked<T: Default>(note: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(AssertUnwindSafe(note)).unwrap_or_else(|_| {
        tracing::error!("the resource panicked over a note");
        T::default()
    })
}

/// A vote whose evidence the coordinator would not keep cannot be a vote to commit.
fn voted(vote: Vote) -> Returned {
    let too_long = |evidence: &Evidence| {
        evidence.kind.len() > Evidence::KIND_BYTES_MAX
            || evidence.data.len() > Evidence::DATA_BYTES_MAX
    };
    match vote {
        Vote::Commit { evidence: Some(evidence) } if too_long(&evidence) => {
            tracing::error!(kind = ?evidence.kind, "the resource's evidence is too long");
            Returned::Retry("its evidence is too long".to_owned())
        }
        vote => Returned::Voted(vote),
    }
}

fn committed(done: Done) -> Returned {
    match done {
        // A prepared branch that is rolled back when it should commit has decided alone.
        Done::RolledBack => did(Done::Heuristic(BranchResult::RolledBack)),
        done => did(done),
    }
}

fn rolled_back(done: Done) -> Returned {
    match done {
        Done::RolledBack | Done::NotPrepared => did(Done::Done),
        done => did(done),
    }
}

fn did(done: Done) -> Returned {
    match done {
        Done::Retry => Returned::Retry(String::new()),
        done => Returned::Did(done, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vote, Done);

    impl Resource for Fixed {
        async fn prepare(&self, _: &BranchId) -> Result<Vote, Retry> {
            Ok(self.0.clone())
        }
        async fn commit(&self, _: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
            Ok(self.1)
        }
        async fn rollback(&self, _: &BranchId) -> Result<Done, Retry> {
            Ok(Done::Done)
        }
        async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
            Err(std::io::Error::other("no disk"))?
        }
    }

    fn branch() -> BranchId {
        let log = unanimous_core::LogId { cluster: 1, slot: 1, incarnation: 1 };
        let owner = unanimous_core::Owner { log, epoch: 1 };
        BranchId {
            gtrid: unanimous_core::Gtrid::new(owner, 0, 0),
            bqual: unanimous_core::Bqual::new(1, 1, owner),
        }
    }

    #[tokio::test]
    async fn one_phase_by_itself_prepares_and_commits() {
        let hazard = Done::Heuristic(BranchResult::Hazard);
        for (vote, done, expected) in [
            (Vote::Commit { evidence: None }, Done::Done, Done::Done),
            (Vote::ReadOnly, hazard, Done::Done),
            (Vote::Rollback { reason: String::new() }, hazard, Done::RolledBack),
        ] {
            let resource = Fixed(vote.clone(), done);
            assert_eq!(resource.commit_one_phase(&branch()).await, Ok(expected), "{vote:?}");
        }
    }

    #[tokio::test]
    async fn a_branch_that_nobody_works_on_is_asked_about_as_one_to_commit() {
        let hazard = Done::Heuristic(BranchResult::Hazard);
        let resource = Arc::new(Fixed(Vote::Rollback { reason: String::new() }, hazard));
        let recalled = AnyResource::recall(resource, branch()).await;
        assert_eq!(recalled, Ok(Returned::Did(hazard, String::new())));
    }

    #[tokio::test]
    async fn answers_that_a_call_may_not_give_are_translated() {
        let resource = |done| Arc::new(Fixed(Vote::ReadOnly, done));
        let commit = Call::Commit { evidence: None };
        let returned = resource(Done::RolledBack).call(branch(), commit.clone()).await;
        let heuristic = Done::Heuristic(BranchResult::RolledBack);
        assert_eq!(returned, Ok(Returned::Did(heuristic, String::new())));
        let returned = resource(Done::Retry).call(branch(), commit).await;
        assert_eq!(returned, Ok(Returned::Retry(String::new())));
        let evidence = Some(Evidence { kind: String::new(), data: vec![0; 257] });
        let long = Arc::new(Fixed(Vote::Commit { evidence }, Done::Done));
        let too_long = Returned::Retry("its evidence is too long".to_owned());
        assert_eq!(long.call(branch(), Call::Prepare).await, Ok(too_long));
        let why = AnyResource::list(resource(Done::Done)).await.map(|_| ());
        assert_eq!(why, Err(Retry::because("no disk")));
    }
}
