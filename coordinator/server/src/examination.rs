//! What participants say, when they are asked, of what their resources hold and how these are set
//! up. Nothing of the protocol depends on it.

use crate::convert::{self, Hold};
use crate::registry::Registry;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use unanimous_core::record::cut;
use unanimous_core::{BranchId, InstanceId, Millis, ParticipantName, ResourceId};
use unanimous_proto::v1;

/// Examinations at the same time.
pub(crate) const EXAMINATIONS_MAX: usize = 8;
/// Branches and findings in one answer.
const BRANCHES_MAX: usize = 1_000;
const FINDINGS_MAX: usize = 100;
const CODE_BYTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 1_024;
const FAILED_BYTES_MAX: usize = 256;

/// A resource of a session, whose answer is awaited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Examinee {
    pub(crate) participant: ParticipantName,
    pub(crate) instance: InstanceId,
    pub(crate) resource: ResourceId,
}

/// What a resource said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Examined {
    pub(crate) examination: u64,
    pub(crate) by: Examinee,
    /// Why it could not be asked.
    pub(crate) failed: Option<String>,
    pub(crate) prepared: Vec<BranchId>,
    /// All that it holds are listed.
    pub(crate) complete: bool,
    pub(crate) findings: Vec<v1::Finding>,
}

impl Examined {
    /// Checks what came from outside; `by` is who says it.
    pub(crate) fn read(by: Examinee, wire: &v1::Examined) -> Result<Self, &'static str> {
        if wire.prepared.len() > BRANCHES_MAX || wire.findings.len() > FINDINGS_MAX {
            return Err("an examination beyond the limits");
        }
        let prepared: Result<Vec<BranchId>, Hold> =
            wire.prepared.iter().map(|branch| convert::branch_id(Some(branch))).collect();
        let prepared = prepared.map_err(|Hold| "a malformed branch")?;
        let failed = cut(&wire.failed, FAILED_BYTES_MAX).to_owned();
        Ok(Self {
            examination: wire.examination,
            by,
            failed: Some(failed).filter(|words| !words.is_empty()),
            complete: prepared.len() as u64 == wire.prepared_total,
            prepared,
            findings: wire.findings.iter().map(finding).collect(),
        })
    }
}

fn finding(wire: &v1::Finding) -> v1::Finding {
    let text = |text: &str| cut(text, TEXT_BYTES_MAX).to_owned();
    let word = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
    let good = (1..=CODE_BYTES_MAX).contains(&wire.code.len()) && wire.code.bytes().all(word);
    v1::Finding {
        code: if good { wire.code.clone() } else { "OTHER".to_owned() },
        severity: wire.severity().into(),
        what: text(&wire.what),
        why: text(&wire.why),
        next: text(&wire.next),
    }
}

/// An examination under way, for whoever wants to know.
#[derive(Debug)]
pub(crate) struct Examination {
    /// Who was asked.
    pub(crate) asked: Vec<Examinee>,
    /// Participants whose library does not answer such questions.
    pub(crate) mute: Vec<ParticipantName>,
    pub(crate) answers: mpsc::Receiver<Examined>,
}

/// Whose answers are awaited.
#[derive(Debug, Default)]
pub(crate) struct Examinations {
    last: u64,
    open: BTreeMap<u64, mpsc::Sender<Examined>>,
}

impl Examinations {
    /// Asks every session, unless there are as many examinations as may be.
    pub(crate) fn begin(&mut self, now: Millis, registry: &mut Registry) -> Option<Examination> {
        let (number, answers) = self.open(registry.resources_len())?;
        let (asked, mute) = registry.examine(now, number);
        Some(Examination { asked, mute, answers })
    }

    /// A new one: its number, and where its answers come from.
    fn open(&mut self, answers_max: usize) -> Option<(u64, mpsc::Receiver<Examined>)> {
        self.open.retain(|_, to| !to.is_closed());
        if self.open.len() >= EXAMINATIONS_MAX {
            return None;
        }
        self.last += 1;
        let (to, answers) = mpsc::channel(answers_max.max(1));
        self.open.insert(self.last, to);
        Some((self.last, answers))
    }

    /// Hands an answer to whoever waits for it, or to nobody.
    pub(crate) fn answered(&mut self, examined: Examined) {
        let number = examined.examination;
        let Some(to) = self.open.get(&number) else { return };
        if to.try_send(examined).is_err() {
            // Nobody waits, or somebody says more than was asked.
            self.open.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by() -> Examinee {
        Examinee {
            participant: ParticipantName::new("bank").unwrap(),
            instance: InstanceId::from_bytes(&[1; 16]).unwrap(),
            resource: ResourceId::new("accounts").unwrap(),
        }
    }

    #[test]
    fn what_comes_from_outside_is_cut_and_checked() {
        let finding = |code: &str| v1::Finding {
            code: code.to_owned(),
            severity: 99,
            what: "ü".repeat(1_000),
            ..v1::Finding::default()
        };
        let wire = v1::Examined {
            failed: "x".repeat(1_000),
            prepared_total: 1,
            findings: vec![finding("GOOD_1"), finding("bad; \u{1b}[2J"), finding("")],
            ..v1::Examined::default()
        };
        let read = Examined::read(by(), &wire).unwrap();
        assert_eq!(read.failed.map(|words| words.len()), Some(256));
        assert!(!read.complete, "one is held, none is listed");
        let codes: Vec<&str> = read.findings.iter().map(|finding| &*finding.code).collect();
        assert_eq!(codes, ["GOOD_1", "OTHER", "OTHER"]);
        assert_eq!(read.findings[0].severity(), v1::Severity::Unspecified);
        assert!(read.findings[0].what.len() <= 1_024);

        let malformed = v1::Examined { prepared: vec![v1::BranchRef::default()], ..wire.clone() };
        assert_eq!(Examined::read(by(), &malformed), Err("a malformed branch"));
        let many = v1::Examined { findings: vec![finding("A"); 101], ..wire };
        assert!(Examined::read(by(), &many).is_err());
    }

    #[test]
    fn answers_reach_who_waits_and_as_many_wait_as_may() {
        let mut examinations = Examinations::default();
        let mut open: Vec<_> =
            (0..EXAMINATIONS_MAX).map(|_| examinations.open(1).unwrap()).collect();
        assert!(examinations.open(1).is_none());
        let examined = |examination| {
            let wire = v1::Examined { examination, ..v1::Examined::default() };
            Examined::read(by(), &wire).unwrap()
        };
        let (number, mut answers) = open.pop().unwrap();
        examinations.answered(examined(number));
        examinations.answered(examined(number));
        examinations.answered(examined(1_000));
        assert_eq!(answers.try_recv().ok(), Some(examined(number)));
        assert!(answers.try_recv().is_err(), "one was asked, the second was too many");
        // Whoever waited has gone.
        drop(open);
        assert!(examinations.open(1).is_some());
    }
}
