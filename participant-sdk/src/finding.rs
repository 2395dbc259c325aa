//! What is found about how a resource is set up.

use crate::resource::Unfit;
use std::fmt;

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// It works, but not as well as it could, or not for long.
    Warning,
    /// What was promised may be lost with a crash of the server: refused, unless that was accepted
    /// explicitly. Accepted, it is a warning at every start.
    Unsafe,
    /// It cannot work.
    Unfit,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Unsafe => "unsafe",
            Self::Unfit => "unfit",
        })
    }
}

/// Something about a resource that whoever runs it should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Upper snake case, for programs.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What that would lead to.
    pub why: String,
    /// What to do about it: the statement, or the line of the configuration.
    pub next: String,
}

impl From<Finding> for Unfit {
    fn from(finding: Finding) -> Self {
        let Finding { what, why, next, .. } = finding;
        Self { what, why, next }
    }
}
