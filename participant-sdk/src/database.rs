//! What the database resources have in common: what is found about a server's settings.

use crate::finding::{Finding, Severity};
use crate::resource::Unfit;

/// What a resource's check makes of what was found: the worst that is not accepted refuses the
/// start, the rest is said.
pub(crate) fn judge(findings: Vec<Finding>, accepts_unsafe: bool) -> Result<(), Unfit> {
    let refused = |finding: &&Finding| match finding.severity {
        Severity::Warning => false,
        Severity::Unsafe => !accepts_unsafe,
        Severity::Unfit => true,
    };
    if let Some(worst) = findings.iter().filter(refused).max_by_key(|finding| finding.severity) {
        return Err(worst.clone().into());
    }
    for Finding { code, severity, what, why, next } in findings {
        tracing::warn!(code, %severity, why, next, "{what}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_and_what_is_unsafe_unless_it_is_accepted() {
        let finding = |severity| Finding {
            code: "CODE",
            severity,
            what: severity.to_string(),
            why: "why".to_owned(),
            next: "next".to_owned(),
        };
        use Severity::{Unfit, Unsafe, Warning};
        for (found, accepts_unsafe, refused) in [
            (vec![], false, None),
            (vec![Warning], false, None),
            (vec![Warning, Unsafe], false, Some("unsafe")),
            (vec![Warning, Unsafe], true, None),
            (vec![Unsafe, Unfit, Warning], false, Some("unfit")),
            (vec![Unsafe, Unfit], true, Some("unfit")),
        ] {
            let findings = found.iter().copied().map(finding).collect();
            let judged = judge(findings, accepts_unsafe).err().map(|unfit| unfit.what);
            assert_eq!(judged.as_deref(), refused, "{found:?}");
        }
    }
}
