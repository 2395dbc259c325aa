//! The log compared with what participants hold prepared, both ways, and what else a person should
//! know. Reads only.
//!
//! ```text
//!  expected = voted commit, not ended: before and after the answers
//!  held     = the answers
//!
//!  expected and not held                 BRANCH_MISSING
//!  held, and on no record                BRANCH_LATE: it is told when it asks
//!                                        ORPHAN, if it may not be judged (section 6)
//! ```
//! Both change while they are compared. A branch is missing, or late, only if it is so twice, with
//! a pause between: an acknowledgement may have been on its way.

use crate::admin::{Admin, filter};
use crate::examination::{Examination, Examined, Examinee};
use crate::refusal::Refusal;
use crate::view::{Judgement, Query, Scan};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;
use unanimous_core::{BranchId, ParticipantName};
use unanimous_proto::v1;
use v1::Severity;

/// How long the answers of one round may take.
const ANSWERS_PATIENCE: Duration = Duration::from_secs(6);
/// Before what looked wrong is looked at again.
const PAUSE: Duration = Duration::from_secs(2);

/// A log that usually takes longer, in microseconds, is what commits wait for.
const DURABLE_US_MAX: u64 = 20_000;
/// A clock that is set by more than this was wrong before, or is now.
const CLOCK_JUMP_MS_MAX: u64 = 60_000;

/// Where a branch should be prepared.
type Expected = BTreeMap<BranchId, (String, String)>;

/// One comparison.
#[derive(Debug, Default)]
struct Round {
    examined: Vec<Examined>,
    silent: Vec<Examinee>,
    mute: Vec<ParticipantName>,
    expected: Expected,
    missing: BTreeSet<BranchId>,
    strangers: BTreeMap<BranchId, (Examinee, Judgement)>,
}

impl Round {
    fn is_calm(&self) -> bool {
        self.missing.is_empty() && self.strangers.is_empty()
    }
}

/// Everything that a person should know, the worst first.
pub(crate) async fn diagnose(admin: &Admin) -> Result<v1::DiagnoseResponse, Status> {
    let first = round(admin).await?;
    let last = if first.is_calm() {
        first
    } else {
        sleep(PAUSE).await;
        let mut second = round(admin).await?;
        second.missing.retain(|branch| first.missing.contains(branch));
        second.strangers.retain(|branch, _| first.strangers.contains_key(branch));
        second
    };
    let (status, participants) = (admin.status().await?, admin.participants().await?);
    let mut diagnoses = of_the_coordinator(&status);
    diagnoses.extend(of_the_machine(&status));
    diagnoses.extend(of_the_versions(&status.version, &participants));
    diagnoses.extend(of_the_participants(&last, &participants));
    diagnoses.extend(of_the_branches(&last));
    diagnoses.sort_by_key(|one| {
        let severity = one.finding.as_ref().map_or(0, |finding| finding.severity);
        std::cmp::Reverse(severity)
    });
    let answered = last.examined.iter().filter(|examined| examined.failed.is_none());
    Ok(v1::DiagnoseResponse {
        diagnoses,
        resources_examined: u32::try_from(answered.count()).unwrap_or(u32::MAX),
        branches_prepared: last.examined.iter().map(|one| one.prepared.len() as u64).sum(),
        branches_expected: last.expected.len() as u64,
    })
}

async fn round(admin: &Admin) -> Result<Round, Status> {
    let before = expected(admin).await?;
    let examination = admin.ask(Query::Examine).await?;
    let Some(examination) = examination else {
        return Err(Refusal::too_many_examinations().status());
    };
    let Examination { asked, mute, mut answers } = examination;
    let mut silent: BTreeSet<Examinee> = asked.into_iter().collect();
    let mut examined = Vec::new();
    let until = Instant::now() + ANSWERS_PATIENCE;
    while !silent.is_empty()
        && let Ok(Some(answer)) = timeout_at(until, answers.recv()).await
    {
        if silent.remove(&answer.by) {
            examined.push(answer);
        }
    }
    // Judged after they were listed: what was not on record then never will be (section 6).
    let mut strangers = BTreeMap::new();
    for answer in &examined {
        for branch in &answer.prepared {
            let from = answer.by.participant.clone();
            let judgement = admin.ask(|to| Query::Judge(from, *branch, to)).await?;
            if !judgement.on_record {
                strangers.insert(*branch, (answer.by.clone(), judgement));
            }
        }
    }
    let mut expected = expected(admin).await?;
    expected.retain(|branch, _| before.contains_key(branch));
    let missing = missing(&expected, &examined);
    Ok(Round { examined, silent: silent.into_iter().collect(), mute, expected, missing, strangers })
}

/// The branches that have voted commit and have not ended, of transactions that still need them.
async fn expected(admin: &Admin) -> Result<Expected, Status> {
    let in_doubt = "state=PREPARING or state=DECIDING or state=COMMITTING";
    let filter = filter(in_doubt).map_err(Refusal::status)?;
    let scan = Scan { filter, rows_max: usize::MAX, ..Scan::default() };
    let mut expected = Expected::new();
    admin
        .walk_over(scan, |gtrid, transaction| {
            let voted = |branch: &v1::Branch| branch.state() == v1::BranchState::Prepared;
            for branch in transaction.branches.into_iter().filter(voted) {
                if let Ok(bqual) = branch.bqual.parse() {
                    let id = BranchId { gtrid, bqual };
                    expected.insert(id, (branch.participant, branch.resource_id));
                }
            }
        })
        .await?;
    Ok(expected)
}

/// Those that the log counts on and no process that reaches the resource holds, if one has listed
/// all that it holds.
fn missing(expected: &Expected, examined: &[Examined]) -> BTreeSet<BranchId> {
    let lists = |(participant, resource): &(String, String)| {
        let (participant, resource) = (participant.clone(), resource.clone());
        examined.iter().filter(move |one| {
            one.by.participant.as_str() == participant
                && one.by.resource.as_str() == resource
                && one.failed.is_none()
        })
    };
    let is_missing = |branch: &BranchId, place: &(String, String)| {
        lists(place).next().is_some()
            && lists(place).all(|one| one.complete && !one.prepared.contains(branch))
    };
    let missing = expected.iter().filter(|(branch, place)| is_missing(branch, place));
    missing.map(|(branch, _)| *branch).collect()
}

fn of_the_branches(round: &Round) -> Vec<v1::Diagnosis> {
    let missing = round.missing.iter().filter_map(|branch| {
        let (participant, resource_id) = round.expected.get(branch)?.clone();
        let mut one = finding(
            Severity::Critical,
            "BRANCH_MISSING",
            "a branch that voted commit is not prepared any more".to_owned(),
            "somebody ended it by hand, or its database was restored: the transaction counts on it",
            format!("unanimous tx describe {}", branch.gtrid),
        );
        (one.participant, one.resource_id) = (participant, resource_id);
        (one.gtrid, one.bqual) = (branch.gtrid.to_string(), branch.bqual.to_string());
        Some(one)
    });
    let strangers = round.strangers.iter().map(|(branch, (by, judgement))| {
        let mut one = match judgement.left_alone {
            Some(reason) => finding(
                Severity::Critical,
                "ORPHAN",
                "a prepared branch that no record of this log explains holds its locks".to_owned(),
                reason,
                "unanimous orphan list".to_owned(),
            ),
            None => finding(
                Severity::Warning,
                "BRANCH_LATE",
                "a branch is prepared although its transaction has ended".to_owned(),
                "its prepare came late, or its end was lost: it is told when it asks, within a \
                 minute",
                format!(
                    "unanimous doctor; then: unanimous participant describe {}",
                    by.participant
                ),
            ),
        };
        (one.gtrid, one.bqual) = (branch.gtrid.to_string(), branch.bqual.to_string());
        of(by, one)
    });
    missing.chain(strangers).collect()
}

fn of_the_participants(round: &Round, all: &[v1::Participant]) -> Vec<v1::Diagnosis> {
    let mut diagnoses = Vec::new();
    for answer in &round.examined {
        diagnoses.extend(answer.findings.iter().map(|found| {
            let one = v1::Diagnosis { finding: Some(found.clone()), ..v1::Diagnosis::default() };
            of(&answer.by, one)
        }));
        let failed = answer.failed.iter().map(|why| {
            let what = "the resource could not be asked what it holds".to_owned();
            let next = "look at the database, and at the participant's log".to_owned();
            of(&answer.by, finding(Severity::Critical, "RESOURCE_FAILED", what, why, next))
        });
        diagnoses.extend(failed);
    }
    diagnoses.extend(round.silent.iter().map(|by| {
        let what = "the resource has not answered what it holds".to_owned();
        let why = "its process or its database is slow, or stands still";
        let next = "unanimous doctor again; look at the participant's log".to_owned();
        of(by, finding(Severity::Warning, "RESOURCE_SILENT", what, why, next))
    }));
    diagnoses.extend(round.mute.iter().map(|name| {
        let what = "the participant cannot be asked what it holds".to_owned();
        let why = "its library does not say that it answers such questions";
        let next = "compare its own list of prepared branches with unanimous tx list".to_owned();
        let one = finding(Severity::Notice, "NOT_EXAMINED", what, why, next);
        v1::Diagnosis { participant: name.as_str().to_owned(), ..one }
    }));
    let away = all.iter().filter(|one| !one.connected);
    diagnoses.extend(away.map(|participant| {
        let (name, pending) = (&participant.name, participant.branches_pending);
        let severity = if pending > 0 { Severity::Critical } else { Severity::Warning };
        let what = format!("the participant is away, and {pending} branches wait for it");
        let why = "what it holds cannot be compared; what is decided is told when it is back";
        let one = finding(severity, "PARTICIPANT_AWAY", what, why, format!("start {name}"));
        v1::Diagnosis { participant: name.clone(), ..one }
    }));
    diagnoses
}

/// What the coordinator knows by itself.
fn of_the_coordinator(status: &v1::GetStatusResponse) -> Vec<v1::Diagnosis> {
    let mut diagnoses = Vec::new();
    let mut add = |severity, code, what: String, why: &str, next: &str| {
        diagnoses.push(finding(severity, code, what, why, next.to_owned()));
    };
    if status.log_behind {
        add(
            Severity::Critical,
            "LOG_BEHIND",
            "the log went back in time: participants have seen more than it holds".to_owned(),
            "it was restored from an older copy, so that nothing may be presumed from it",
            "restore a log that is not behind; until then: unanimous orphan list",
        );
    }
    if status.log_space_low {
        add(
            Severity::Critical,
            "LOG_SPACE_LOW",
            format!("the log's file system has {} bytes free", status.log_free_bytes),
            "nothing begins until there is room for its decisions",
            "free some space on the log's file system: df -h",
        );
    }
    for directory in &status.log_directories {
        if directory.state() == v1::LogDirectoryState::GivenUp {
            add(
                Severity::Critical,
                "LOG_DIRECTORY_LOST",
                format!("the log's directory {} is given up", directory.dir),
                "the log stands on the other one alone",
                "replace the disk, then: unanimous serve --rebuild with both directories",
            );
        }
    }
    if status.transactions_heuristic > 0 {
        add(
            Severity::Critical,
            "HEURISTIC",
            format!("{} transactions ended differently in places", status.transactions_heuristic),
            "a participant decided alone, or lost what it had prepared",
            "unanimous tx list --filter 'state=HEURISTIC'",
        );
    }
    if status.transactions_stuck > 0 {
        add(
            Severity::Warning,
            "STUCK",
            format!("{} transactions wait longer than they should", status.transactions_stuck),
            "they are decided, and a participant does not answer",
            "unanimous tx list --filter 'stuck=true'",
        );
    }
    diagnoses
}

/// Its disk and its clock.
fn of_the_machine(status: &v1::GetStatusResponse) -> Vec<v1::Diagnosis> {
    let mut diagnoses = Vec::new();
    let mut warn = |code, what: String, why: &str, next: &str| {
        diagnoses.push(finding(Severity::Warning, code, what, why, next.to_owned()));
    };
    let usual_ms = status.log_durable_us_usual / 1_000;
    if status.log_durable_us_usual >= DURABLE_US_MAX {
        warn(
            "SYNC_SLOW",
            format!("the log usually takes {usual_ms} ms to be durable"),
            "every commit waits for that; the disk is slow, or shared with something that writes",
            "measure it: unanimous status; move the log to a disk of its own",
        );
    }
    let jump_s = status.clock_jump_ms / 1_000;
    if status.clock_jump_ms.unsigned_abs() >= CLOCK_JUMP_MS_MAX {
        warn(
            "CLOCK_JUMPED",
            format!("the clock was set by {jump_s} s since the start"),
            "times in the audit and in the log's lines cannot be compared across that",
            "look at the machine's time service: chronyc tracking, or timedatectl",
        );
    }
    let epoch = status.coordinator.as_ref().map_or(0, |owner| u64::from(owner.epoch));
    let ahead_s = epoch.saturating_sub(status.unix_ms / 1_000);
    if ahead_s * 1_000 >= CLOCK_JUMP_MS_MAX {
        warn(
            "CLOCK_BEHIND",
            format!("the clock is {ahead_s} s behind a time that the log has seen"),
            "it was ahead at an earlier start, or was set back; identifiers stay unique all the \
             same",
            "look at the machine's time service: chronyc tracking, or timedatectl",
        );
    }
    diagnoses
}

/// Processes whose library is of another version than the coordinator.
fn of_the_versions(version: &str, all: &[v1::Participant]) -> Vec<v1::Diagnosis> {
    let connected = all.iter().flat_map(|participant| {
        participant.instances.iter().filter(|one| one.connected).map(move |one| (participant, one))
    });
    let others = connected.filter(|(_, one)| {
        let theirs = one.sdk.strip_prefix("unanimous-sdk ").and_then(|rest| rest.split(' ').next());
        theirs.is_some_and(|theirs| theirs != version)
    });
    let mut seen = BTreeSet::new();
    let mut diagnoses = Vec::new();
    for (participant, instance) in others {
        if !seen.insert((&participant.name, &instance.sdk)) {
            continue;
        }
        let what = format!("{} is linked with {}", participant.name, instance.sdk);
        let why = format!("the coordinator is {version}: they understand each other, but not all");
        let next = "build it with the coordinator's version of the library".to_owned();
        let one = finding(Severity::Notice, "SDK_VERSION", what, &why, next);
        diagnoses.push(v1::Diagnosis { participant: participant.name.clone(), ..one });
    }
    diagnoses
}

fn finding(severity: Severity, code: &str, what: String, why: &str, next: String) -> v1::Diagnosis {
    let (code, why) = (code.to_owned(), why.to_owned());
    let finding = v1::Finding { code, severity: severity.into(), what, why, next };
    v1::Diagnosis { finding: Some(finding), ..v1::Diagnosis::default() }
}

fn of(by: &Examinee, diagnosis: v1::Diagnosis) -> v1::Diagnosis {
    v1::Diagnosis {
        participant: by.participant.as_str().to_owned(),
        resource_id: by.resource.as_str().to_owned(),
        ..diagnosis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(diagnoses: Vec<v1::Diagnosis>) -> Vec<String> {
        diagnoses.into_iter().filter_map(|one| Some(one.finding?.code)).collect()
    }

    #[test]
    fn a_slow_disk_and_a_wrong_clock_are_told() {
        let owner = v1::Owner { epoch: 1_000, ..v1::Owner::default() };
        let good = v1::GetStatusResponse {
            coordinator: Some(owner),
            unix_ms: 1_000_000,
            log_durable_us_usual: DURABLE_US_MAX - 1,
            clock_jump_ms: CLOCK_JUMP_MS_MAX.cast_signed() - 1,
            ..v1::GetStatusResponse::default()
        };
        assert_eq!(codes(of_the_machine(&good)), <[String; 0]>::default());
        let set_back = v1::GetStatusResponse { clock_jump_ms: -60_000, ..good.clone() };
        assert_eq!(codes(of_the_machine(&set_back)), ["CLOCK_JUMPED"]);
        let bad = v1::GetStatusResponse {
            log_durable_us_usual: DURABLE_US_MAX,
            clock_jump_ms: 60_000,
            unix_ms: 940_000,
            ..good
        };
        let all = ["SYNC_SLOW", "CLOCK_JUMPED", "CLOCK_BEHIND"];
        assert_eq!(codes(of_the_machine(&bad)), all);
    }

    #[test]
    fn another_version_of_the_library_is_told_once_for_each_participant() {
        let instance = |sdk: &str, connected| v1::ParticipantInstance {
            sdk: sdk.to_owned(),
            connected,
            ..v1::ParticipantInstance::default()
        };
        let participant = v1::Participant {
            name: "bank".to_owned(),
            instances: vec![
                instance("unanimous-sdk 1.0.0 (rust)", true),
                instance("unanimous-sdk 0.9.0", true),
                instance("unanimous-sdk 0.9.0", true),
                instance("unanimous-sdk 0.8.0", false),
                instance("python 3", true),
            ],
            ..v1::Participant::default()
        };
        let told = of_the_versions("1.0.0", &[participant]);
        assert_eq!(codes(told.clone()), ["SDK_VERSION"]);
        assert!(told[0].finding.as_ref().is_some_and(|found| found.what.contains("0.9.0")));
    }
}
