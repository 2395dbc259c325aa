//! The part of the command line with which a person decides, and sees what was decided.

use super::{IdArg, LIMIT_DEFAULT};
use crate::audit::Head;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;
use unanimous_proto::v1;

/// The most bytes of a reason or an evidence that the coordinator takes.
const WORDS_BYTES_MAX: usize = 512;

/// `force`.
#[derive(Debug, Subcommand)]
pub(crate) enum ForceCommand {
    /// Send the commit of a transaction that is decided so again
    #[command(after_help = "Example: unanimous force commit FULL_ID --reason 'INC-4411'")]
    Commit(ForceArgs),
    /// Roll back a transaction that is not decided yet
    #[command(after_help = "Example: unanimous force rollback FULL_ID --reason 'INC-4411'")]
    Rollback(ForceArgs),
    /// Say how a branch has ended: you have looked
    #[command(after_help = "Example: unanimous force assert FULL_ID --branch bank-b --as \
                            committed --evidence 'row 4711 is there' --reason 'INC-4411'")]
    Assert {
        #[command(flatten)]
        force: ForceArgs,
        #[command(flatten)]
        branch: BranchArg,
        /// How it has ended
        #[arg(long = "as", value_enum, value_name = "END")]
        end: EndArg,
    },
    /// Give up a branch that is gone for good: nobody will know how it ended
    #[command(
        after_help = "Example: unanimous force abandon FULL_ID --branch bank-b --reason 'INC-4411'"
    )]
    Abandon {
        #[command(flatten)]
        force: ForceArgs,
        #[command(flatten)]
        branch: BranchArg,
    },
    /// Take a heuristic outcome that has been settled off the list
    #[command(after_help = "Example: unanimous force forget FULL_ID --reason 'booked by hand'")]
    Forget(ForceArgs),
    /// Carry out what another person has proposed
    #[command(after_help = "Example: unanimous force approve 17 --reason 'INC-4411'")]
    Approve(ApproveArgs),
    /// What waits for a second person
    #[command(after_help = "Example: unanimous force list")]
    List,
}

/// What every act takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ForceArgs {
    /// The full id, 48 digits
    pub(crate) id: IdArg,
    /// Why, for the audit
    #[arg(long, value_name = "WORDS", value_parser = words)]
    pub(crate) reason: String,
    /// What you have seen of the branch's end, where it is
    #[arg(long, value_name = "WORDS", value_parser = words)]
    pub(crate) evidence: Option<String>,
    /// The full id once more: do it without asking
    #[arg(long, value_name = "FULL_ID")]
    pub(crate) confirm: Option<String>,
    /// Show the plan, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave it for a second person to approve
    #[arg(long, conflicts_with = "confirm")]
    pub(crate) propose: bool,
}

/// Which branch.
#[derive(Clone, Debug, Args)]
pub(crate) struct BranchArg {
    /// The participant, if it has only one; or the branch's full id, 48 digits
    #[arg(long = "branch", value_name = "BRANCH", value_parser = words)]
    pub(crate) name: String,
}

/// `force approve`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApproveArgs {
    /// Its number, see `unanimous force list`
    pub(crate) plan: u64,
    /// Why you agree, for the audit
    #[arg(long, value_name = "WORDS", value_parser = words)]
    pub(crate) reason: String,
    /// The transaction's full id: do it without asking
    #[arg(long, value_name = "FULL_ID")]
    pub(crate) confirm: Option<String>,
}

/// `audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// What operators did, and what they were refused, the newest last
    #[command(after_help = "Example: unanimous audit list --id 31ce5540 -o wide")]
    List(AuditListArgs),
    /// Write all entries, one JSON object a line
    #[command(after_help = "Example: unanimous audit export audit.jsonl")]
    Export {
        /// A file that does not exist yet; without it, stdout
        file: Option<PathBuf>,
    },
    /// Whether every entry is as it was written, and none is missing between the others
    ///
    /// What was cut off at the end leaves no trace: note the head that this command shows
    /// somewhere else, and give it with --expect later.
    #[command(after_help = "Example: unanimous audit verify audit.jsonl")]
    Verify(VerifyArgs),
}

/// `audit list`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuditListArgs {
    /// Only about this transaction: the full id, or an unambiguous end of it of at least 4 digits
    #[arg(long)]
    pub(crate) id: Option<IdArg>,
    /// At most this many, the newest
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

/// `audit verify`.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArgs {
    /// What `audit export` has written; without it, the coordinator's own
    pub(crate) file: Option<PathBuf>,
    /// An entry that has to be in it, as it was shown earlier
    #[arg(long, value_name = "N:HASH")]
    pub(crate) expect: Option<Head>,
}

/// `orphan`.
#[derive(Debug, Subcommand)]
pub(crate) enum OrphanCommand {
    /// Branches that participants hold prepared, ask about, and are told to leave alone
    #[command(after_help = "Example: unanimous orphan list -o json")]
    List,
    /// Say how such a branch ends: no log knows it
    #[command(after_help = "Example: unanimous orphan resolve FULL_GTRID FULL_BQUAL --as \
                            rolled-back --reason 'INC-4411'")]
    Resolve(ResolveArgs),
}

/// `orphan resolve`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ResolveArgs {
    /// The transaction's full id, 48 digits
    pub(crate) gtrid: FullId,
    /// The branch's full id, 48 digits
    pub(crate) bqual: FullId,
    /// What its participant is told
    #[arg(long = "as", value_name = "END", value_parser = ResolveArgs::end)]
    pub(crate) end: EndArg,
    /// Why, for the audit
    #[arg(long, value_name = "WORDS", value_parser = words)]
    pub(crate) reason: String,
    /// The transaction's full id once more: do it without asking
    #[arg(long, value_name = "FULL_GTRID")]
    pub(crate) confirm: Option<String>,
    /// Show the plan, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave it for a second person, who gives the same order without this
    #[arg(long, conflicts_with_all = ["confirm", "dry_run"])]
    pub(crate) propose: bool,
}

impl ResolveArgs {
    /// A participant can be told only one of two.
    fn end(text: &str) -> Result<EndArg, String> {
        let known = [EndArg::Committed, EndArg::RolledBack];
        let found = known.into_iter().find(|end| end.word() == text);
        found.ok_or_else(|| "it is committed or rolled-back".to_owned())
    }
}

/// An id of which no digit is missing, of whatever coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FullId(String);

impl FullId {
    /// The digits, lower case.
    pub(crate) fn digits(&self) -> &str {
        &self.0
    }
}

impl FromStr for FullId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 48 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let full = digits.then(|| Self(text.to_ascii_lowercase()));
        full.ok_or_else(|| "what is forced is named by all 48 hexadecimal digits".to_owned())
    }
}

/// `check`: limits, above which a number is worth a word.
#[derive(Clone, Debug, Args)]
pub(crate) struct CheckArgs {
    /// Transactions that have waited too long
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warn_stuck: u64,
    /// The same, critical
    #[arg(long, value_name = "N")]
    pub(crate) crit_stuck: Option<u64>,
    /// Heuristic outcomes that nobody has settled
    #[arg(long, value_name = "N")]
    pub(crate) warn_heuristic: Option<u64>,
    /// The same, critical
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) crit_heuristic: u64,
    /// Prepared branches that no record explains
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warn_orphans: u64,
    /// The same, critical
    #[arg(long, value_name = "N")]
    pub(crate) crit_orphans: Option<u64>,
    /// Transactions with prepared branches
    #[arg(long, value_name = "N")]
    pub(crate) warn_in_doubt: Option<u64>,
    /// The same, critical
    #[arg(long, value_name = "N")]
    pub(crate) crit_in_doubt: Option<u64>,
    /// Warn if fewer participants are connected
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) min_participants: u32,
}

/// How a branch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EndArg {
    /// Its work is there
    Committed,
    /// Nothing of its work is there
    RolledBack,
    /// A part of its work is there
    Mixed,
}

impl EndArg {
    /// As it is given.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled-back",
            Self::Mixed => "mixed",
        }
    }

    /// On the wire.
    pub(crate) fn wire(self) -> v1::BranchEnd {
        match self {
            Self::Committed => v1::BranchEnd::Committed,
            Self::RolledBack => v1::BranchEnd::RolledBack,
            Self::Mixed => v1::BranchEnd::Mixed,
        }
    }
}

/// Words for the audit: one line that can be copied from an error as it was given.
fn words(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("there are no words in it".to_owned());
    }
    if text.len() > WORDS_BYTES_MAX {
        return Err(format!("{} bytes are more than {WORDS_BYTES_MAX}", text.len()));
    }
    if crate::output::escape(text) != text {
        return Err("it has control characters".to_owned());
    }
    Ok(text.to_owned())
}
