//! People who decide: at a terminal, two at once, with a lost answer, and what remains of it all
//! after a kill. The cells of the operator's table are in `force.rs`.
#![allow(clippy::unwrap_used)]

mod support;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use support::disk::Disk;
use support::hand::Hand;
use support::standing::{At, Standing};
use support::{Said, Served, assert_fails, eventually, run, unanimous};
use unanimous_proto::v1::{Capability, Decision, Done, Verdict};

/// A command whose stdin and stderr are a terminal, and what a person reads there.
struct Terminal {
    child: Child,
    screen: File,
    read: String,
    /// Without it the screen would be closed when the command ends.
    _end: File,
}

impl Terminal {
    fn start(served: &Served, args: &[&str]) -> Self {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&pty).unwrap();
        unlockpt(&pty).unwrap();
        rustix::io::ioctl_fionbio(&pty, true).unwrap();
        let path = ptsname(&pty, Vec::new()).unwrap().into_string().unwrap();
        let end = File::options().read(true).write(true).open(path).unwrap();
        let mut command = unanimous(args);
        command.args(["--admin-address", &served.admin]).env("TERM", "xterm");
        command.stdin(end.try_clone().unwrap()).stderr(end.try_clone().unwrap());
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        Self { child, screen: pty.into(), read: String::new(), _end: end }
    }

    fn until(&mut self, words: &str) {
        let mut piece = [0; 4_096];
        eventually(words, || {
            // Nothing is there to be read at most times.
            let length = self.screen.read(&mut piece).unwrap_or_default();
            self.read += &String::from_utf8_lossy(&piece[..length]);
            self.read.contains(words).then_some(())
        });
    }

    /// Types a line, and waits for the end.
    fn types(mut self, line: &str) -> Said {
        self.screen.write_all(format!("{line}\n").as_bytes()).unwrap();
        let output = self.child.wait_with_output().unwrap();
        let mut rest = Vec::new();
        // All is there: whoever wrote it has ended.
        let _ = self.screen.read_to_end(&mut rest);
        let read = self.read + &String::from_utf8_lossy(&rest);
        // What was typed is on the line of the question, and lines end as a terminal's do.
        let stderr = read.replace("\r\n", "\n");
        let stdout = String::from_utf8(output.stdout).unwrap();
        Said { code: output.status.code(), stdout, stderr }
    }
}

/// At its question.
fn asked<'a>(standing: &'a Standing, act: &str) -> (Terminal, &'a str) {
    let gtrid = standing.gtrid.as_str();
    let args = ["force", act, gtrid, "--reason", "INC-4411"];
    let mut terminal = Terminal::start(&standing.served, &args);
    terminal.until("Type the last 8 digits of the id to do it: ");
    assert!(terminal.read.contains(&format!("Plan for ...{}", &gtrid[40..])), "{}", terminal.read);
    assert!(terminal.read.contains("consistent: yes"), "{}", terminal.read);
    (terminal, &gtrid[40..])
}

#[test]
fn a_person_at_a_terminal_types_the_end_of_the_id() {
    let mut standing = Standing::at(At::Active);
    let before = standing.stands();
    for typed in ["", "y", "yes", "1f70c55", "21f70c55"] {
        let (terminal, _) = asked(&standing, "rollback");
        assert_fails(&terminal.types(typed), 6, "NOT_CONFIRMED");
    }
    assert_eq!(standing.stands(), before);
    assert_eq!(standing.audit(), Vec::<Value>::new());
    let (terminal, short) = asked(&standing, "rollback");
    let said = terminal.types(&short.to_uppercase());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("ROLLING BACK") && said.stdout.contains("entry 1"), "{said:?}");
    assert_eq!(standing.bank_b.decision(), Decision::Rollback);
}

/// Both have read the same plan; the second one's is of a state that is no more.
#[test]
fn of_two_operators_at_once_one_wins_and_the_other_is_told() {
    let standing = Standing::at(At::Active);
    let (first, short) = asked(&standing, "rollback");
    let (second, _) = asked(&standing, "rollback");
    let won = first.types(short);
    assert_eq!(won.code, Some(0), "{won:?}");
    let stands = standing.stands();
    let lost = second.types(short);
    assert_fails(&lost, 5, "TX_MOVED");
    assert_eq!(standing.stands(), stands);
    let results: Vec<_> = standing.audit().iter().map(|entry| entry["result"].clone()).collect();
    assert_eq!(results, ["AUDIT_RESULT_DONE", "AUDIT_RESULT_REFUSED"]);
}

/// The second one comes while the first one's entry is being written.
#[test]
fn of_two_operators_in_the_same_moment_one_wins_and_the_other_is_told() {
    let (served, disk) = Disk::start();
    served.until_serving();
    let mut bank = Hand::connect_as(&served, "bank-b", Capability::OnePhase);
    let gtrid = bank.begin("transfer", 1);
    let force = || {
        let given = ["force", "rollback", &gtrid, "--reason", "INC-4411", "--confirm", &gtrid];
        let mut command = unanimous(&given);
        command.args(["--admin-address", &served.admin]).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    disk.hold();
    let first = force();
    disk.until_held();
    let second = force();
    // The refusal is an entry too: the second call has come when both are counted.
    eventually("both entries", || {
        let status = served.ask(&["status", "-o", "json"]).json();
        (status["auditEntries"] == "2").then_some(())
    });
    disk.release();
    let told = |child: Child| Said::from(child.wait_with_output().unwrap());
    let (won, lost) = (told(first), told(second));
    assert_eq!(won.code, Some(0), "{won:?}");
    assert_fails(&lost, 5, "TX_MOVED");
    assert_eq!(bank.decision(), Decision::Rollback);
}

/// Its log does not answer in time: the audit knows later.
#[test]
fn an_act_without_an_answer_ends_with_8_and_is_found_in_the_audit() {
    let (served, disk) = Disk::start();
    served.until_serving();
    let mut bank = Hand::connect_as(&served, "bank-b", Capability::OnePhase);
    let gtrid = bank.begin("transfer", 1);
    disk.hold();
    let given = ["force", "rollback", &gtrid, "--reason", "INC-4411", "--confirm", &gtrid];
    let said = served.ask(&given);
    assert_fails(&said, 8, "ACT_UNKNOWN");
    let next = format!("next: unanimous audit list --id {gtrid}\n");
    assert!(said.stderr.contains(&next), "{said:?}");
    assert_eq!(served.ask(&["audit", "list", "-o", "id"]).stdout, "", "not durable yet");
    let held = served.ask(&["tx", "list", "--filter", "state=ACTIVE", "-o", "id"]);
    assert_eq!(held.stdout, format!("{gtrid}\n"), "nobody is told before it is");
    disk.release();
    assert_eq!(bank.decision(), Decision::Rollback);
    let listed = served.ask(&["audit", "list", "--id", &gtrid, "-o", "json"]).json();
    assert_eq!(listed["entries"][0]["result"], "AUDIT_RESULT_DONE");
}

#[test]
fn an_act_survives_a_kill_right_after_its_answer() {
    let standing = Standing::at(At::Committing);
    let gtrid = standing.gtrid.clone();
    let done = standing.force("abandon", &["--branch", "bank-b", "--confirm", &gtrid]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let served = standing.served.kill_and_restart();
    served.until_serving();
    let listed = served.ask(&["audit", "list", "--id", &gtrid, "-o", "json"]).json();
    assert_eq!(listed["entries"][0]["kind"], "ACT_KIND_ABANDON");
    assert_eq!(listed["entries"][0]["result"], "AUDIT_RESULT_DONE");
    let now = served.ask(&["tx", "describe", &gtrid, "-o", "json"]).json();
    assert_eq!(now["state"], "TRANSACTION_STATE_HEURISTIC");
    assert_eq!(now["outcome"], "OUTCOME_HEURISTIC_HAZARD");
    let asserted = |branch: &&Value| branch["asserted"] == true;
    let asserted: Vec<_> =
        now["branches"].as_array().unwrap().iter().filter(asserted).cloned().collect();
    assert_eq!(asserted.len(), 1, "{now}");
    assert_eq!(asserted[0]["participant"], "bank-b");
    // It comes back after all: it is told the decision, and the hazard is gone.
    let mut bank_b = Hand::connect_as(&served, "bank-b", Capability::OnePhase);
    bank_b.with_branches_of(&standing.bank_b);
    assert_eq!(bank_b.inquire(&gtrid, 1), Verdict::Commit);
    bank_b.say(&gtrid, 1, Done::Done);
    eventually("its own word", || {
        let said = served.ask(&["tx", "outcome", &gtrid, "-o", "json"]).json();
        (said["result"]["outcome"] == "OUTCOME_COMMITTED").then_some(())
    });
    let verified = served.ask(&["audit", "verify", "-o", "json"]).json();
    assert_eq!((&verified["entries"], &verified["unbroken"]), (&1.into(), &true.into()));
}

/// What a participant says later against an operator's word is listed again, though it was settled.
#[test]
fn p_19_a_contradiction_after_it_was_settled_is_listed_again() {
    let mut standing = Standing::at(At::Committing);
    let gtrid = standing.gtrid.clone();
    let words = ["--branch", "bank-b", "--as", "committed", "--evidence", "row 7 is there"];
    let said = standing.force("assert", &[&words[..], &["--confirm", &gtrid]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = standing.force("forget", &["--confirm", &gtrid]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let ledger = |served: &Served, more: &[&str]| {
        served.ask(&[&["tx", "list", "--divergent", "-o", "id"], more].concat()).stdout
    };
    assert_eq!(ledger(&standing.served, &[]), "");
    assert_eq!(ledger(&standing.served, &["--resolved"]), format!("{gtrid}\n"));
    assert_fails(&standing.force("forget", &["--confirm", &gtrid]), 5, "ALREADY_RESOLVED");
    standing.bank_b.say(&gtrid, 1, Done::HeuristicRollback);
    eventually("the ledger", || {
        (ledger(&standing.served, &[]) == format!("{gtrid}\n")).then_some(())
    });
    let history = standing.served.ask(&["tx", "history", &gtrid[40..]]);
    assert_eq!(history.code, Some(0), "{history:?}");
    let acts =
        ["assert COMMITTED", "forget", "INC-4411", "now: HEURISTIC, outcome HEURISTIC MIXED"];
    for words in acts {
        assert!(history.stdout.contains(words), "{words}: {history:?}");
    }
}

#[test]
fn b_09_what_has_ended_is_not_forced_and_its_outcome_is_told() {
    let mut standing = Standing::at(At::Committing);
    standing.bank_b.say(&standing.gtrid, 1, Done::Done);
    let gtrid = standing.gtrid.clone();
    eventually("its end", || {
        standing.served.ask(&["tx", "list", "-o", "id"]).stdout.is_empty().then_some(())
    });
    for (act, words) in [
        ("rollback", &[][..]),
        ("commit", &[]),
        ("forget", &[]),
        ("abandon", &["--branch", "bank-b"]),
        ("assert", &["--branch", "bank-b", "--as", "committed", "--evidence", "seen"]),
    ] {
        let said = standing.force(act, &[words, &["--confirm", &gtrid]].concat());
        assert_fails(&said, 5, "TX_ENDED");
        assert!(said.stderr.contains("it has ended, outcome COMMITTED"), "{said:?}");
    }
    let history = standing.served.ask(&["tx", "history", &gtrid]);
    assert!(history.stdout.contains("now: ended, outcome COMMITTED"), "{history:?}");
}

#[test]
fn a_description_tells_why_it_waits_and_which_acts_are_possible() {
    let standing = Standing::at(At::Committing);
    let gtrid = &standing.gtrid;
    // Once it was sent again.
    let said = eventually("a try", || {
        let said = standing.served.ask(&["tx", "describe", &gtrid[40..]]).stdout;
        said.contains(", the next one in ").then_some(said)
    });
    for words in [
        &format!("unanimous force commit {gtrid} --reason WHY"),
        &format!("force assert {gtrid} --branch bank-b --as END --evidence SEEN --reason WHY"),
        &format!("force abandon {gtrid} --branch bank-b --reason WHY"),
        "outcome HEURISTIC HAZARD, consistent: no",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    for words in ["force rollback", "force forget", "--branch bank-a"] {
        assert!(!said.contains(words), "{words}: {said}");
    }
}

#[test]
fn without_certificates_nobody_is_a_second_person() {
    let standing = Standing::at(At::Active);
    let gtrid = standing.gtrid.as_str();
    let before = standing.stands();
    let proposed = standing.force("rollback", &["--propose"]);
    assert_eq!(proposed.code, Some(0), "{proposed:?}");
    assert!(proposed.stdout.contains("unanimous force approve 1 --reason WHY"), "{proposed:?}");
    let listed = standing.served.ask(&["force", "list"]).stdout;
    assert!(listed.contains("rollback") && listed.contains("INC-4411"), "{listed}");
    let approve = ["force", "approve", "1", "--reason", "I agree"];
    let unconfirmed = standing.served.ask(&approve);
    assert_fails(&unconfirmed, 6, "NOT_CONFIRMED");
    assert!(unconfirmed.stderr.starts_with("Proposal 1 of "), "{unconfirmed:?}");
    let approved = standing.served.ask(&[&approve[..], &["--confirm", gtrid]].concat());
    assert_fails(&approved, 7, "SAME_PERSON");
    assert_eq!(standing.stands(), before);
    let results: Vec<_> = standing.audit().iter().map(|entry| entry["result"].clone()).collect();
    assert_eq!(results, ["AUDIT_RESULT_PROPOSED", "AUDIT_RESULT_REFUSED"]);
}

#[test]
fn a_coordinator_may_ask_for_two_people() {
    let home = tempfile::tempdir().unwrap();
    let variable = [("UNANIMOUS_OPERATORS_SECOND_PERSON", "true".into())];
    let served = Served::start_in(home, &[], &variable);
    served.until_serving();
    let mut bank = Hand::connect_as(&served, "bank-b", Capability::OnePhase);
    let gtrid = bank.begin("transfer", 1);
    let force = ["force", "rollback", &gtrid, "--reason", "INC-4411"];
    for more in [&[][..], &["--confirm", &gtrid]] {
        let said = served.ask(&[&force, more].concat());
        assert_fails(&said, 5, "SECOND_PERSON_NEEDED");
        assert!(said.stderr.contains(" --propose\n"), "{said:?}");
    }
    assert_eq!(served.ask(&["tx", "list", "--filter", "state=ACTIVE", "-o", "id"]).code, Some(0));
    assert_eq!(served.ask(&[&force[..], &["--propose"]].concat()).code, Some(0));
}

#[test]
fn a_short_id_is_not_enough_to_force_and_the_full_one_is_named() {
    let standing = Standing::at(At::Active);
    let gtrid = &standing.gtrid;
    let said = standing.served.ask(&["force", "rollback", &gtrid[40..], "--reason", "a b"]);
    assert_fails(&said, 2, "FULL_ID_NEEDED");
    let line = format!("next: unanimous force rollback {gtrid} --reason 'a b' ");
    assert!(said.stderr.contains(&line), "{said:?}");
    let said = standing.served.ask(&["force", "rollback", "deadbeef", "--reason", "a b"]);
    assert_fails(&said, 2, "FULL_ID_NEEDED");
    assert!(said.stderr.contains("next: unanimous tx list -o id\n"), "{said:?}");
}

/// What cannot be in the audit is not done.
#[test]
fn with_a_full_audit_nothing_is_forced() {
    let home = tempfile::tempdir().unwrap();
    let served = Served::start_in(home, &[], &[("UNANIMOUS_LIMITS_AUDIT_MAX", "2".into())]);
    served.until_serving();
    let mut bank = Hand::connect_as(&served, "bank-b", Capability::OnePhase);
    let gtrid = bank.begin("transfer", 1);
    let force =
        |act| served.ask(&["force", act, &gtrid, "--reason", "INC-4411", "--confirm", &gtrid]);
    for _ in 0..2 {
        assert_fails(&force("commit"), 5, "VOTES_MISSING");
    }
    let full = force("rollback");
    assert_fails(&full, 1, "AUDIT_FULL");
    let active = served.ask(&["tx", "list", "--filter", "state=ACTIVE", "-o", "id"]);
    assert_eq!(active.stdout, format!("{gtrid}\n"));
    assert_eq!(served.ask(&["audit", "list", "-o", "id"]).stdout, "1\n2\n");
}

/// The line of the error is run as it stands, by a shell.
#[test]
fn the_line_that_is_named_for_scripts_does_it() {
    let mut standing = Standing::at(At::Active);
    let gtrid = &standing.gtrid;
    let reason = "it's \"stuck\"; $HOME `x`";
    let said = standing.served.ask(&["force", "rollback", gtrid, "--reason", reason]);
    assert_fails(&said, 6, "NOT_CONFIRMED");
    let line =
        said.stderr.lines().find_map(|line| line.strip_prefix("  next: unanimous ")).unwrap();
    let program = unanimous(&[]).get_program().to_owned();
    let script = format!("\"$0\" {line}");
    let ran = std::process::Command::new("sh").args(["-c", &script]).arg(program).output();
    let ran: Said = ran.unwrap().into();
    assert_eq!(ran.code, Some(0), "{script}: {ran:?}");
    assert_eq!(standing.audit()[0]["reason"], reason);
    assert_eq!(standing.bank_b.decision(), Decision::Rollback);
}

#[test]
fn z_10_an_export_is_verified_and_every_hand_in_it_is_seen() {
    let standing = Standing::at(At::Active);
    for _ in 0..4 {
        let refused = standing.force("commit", &["--confirm", &standing.gtrid]);
        assert_fails(&refused, 5, "VOTES_MISSING");
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("audit.jsonl");
    let shown = path.to_str().unwrap();
    assert_eq!(standing.served.ask(&["audit", "export", shown]).code, Some(0));
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(standing.served.ask(&["audit", "export"]).stdout, text);
    assert_fails(&standing.served.ask(&["audit", "export", shown]), 1, "IO");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "nothing is overwritten");
    let verified = run(&["audit", "verify", shown, "-o", "json"]);
    assert_eq!((verified.code, &verified.json()["entries"]), (Some(0), &4.into()), "{verified:?}");
    let head = verified.json()["head"].as_str().unwrap().to_owned();
    assert_eq!(standing.served.ask(&["audit", "verify", "--expect", &head]).code, Some(0));

    let lines: Vec<&str> = text.lines().collect();
    let changed = lines[1].replace("INC-4411", "INC-4412");
    let forged: [(Vec<&str>, &str); 5] = [
        (vec![lines[0], &changed, lines[2], lines[3]], "entry 2 was changed"),
        (vec![lines[0], lines[2], lines[3]], "between 1 and 3: 1 entry is missing"),
        (vec![lines[0], lines[1], lines[1]], "entry 2 does not follow 2"),
        (vec![lines[0], "{"], "line 2 of"),
        (vec![lines[0], lines[1]], "after 2: 2 entries are missing"),
    ];
    for (lines, words) in forged {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let said = run(&["audit", "verify", shown, "--expect", &head]);
        assert_fails(&said, 9, "AUDIT_BROKEN");
        assert!(said.stderr.contains(words), "{words}: {said:?}");
    }
}

#[test]
fn an_audit_list_shows_the_newest_and_one_transaction() {
    let standing = Standing::at(At::Active);
    for _ in 0..3 {
        let refused = standing.force("commit", &["--confirm", &standing.gtrid]);
        assert_fails(&refused, 5, "VOTES_MISSING");
    }
    let all = standing.served.ask(&["audit", "list"]);
    assert_eq!((all.stdout.lines().count(), all.stderr.as_str()), (4, "3 shown.\n"), "{all:?}");
    let newest = standing.served.ask(&["audit", "list", "--limit", "2"]);
    assert_eq!(newest.stderr, "the newest 2 of 3 shown\n");
    let ids = standing.served.ask(&["audit", "list", "--limit", "2", "-o", "id"]);
    assert_eq!(ids.stdout, "2\n3\n");
    for id in [&standing.gtrid, &standing.gtrid[40..]] {
        let one = standing.served.ask(&["audit", "list", "--id", id, "--limit", "2", "-o", "id"]);
        assert_eq!(one.stdout, "2\n3\n");
    }
    let none = standing.served.ask(&["audit", "list", "--id", "deadbeef"]);
    assert_eq!((none.code, none.stderr.as_str()), (Some(0), "0 shown.\n"));
}

#[test]
fn an_orphan_is_resolved_and_its_participant_is_told_so() {
    let served = Served::start();
    served.until_serving();
    let mut bank = Hand::connect(&served, "bank-b");
    let (gtrid, bqual) = bank.inquire_as_of_another_log();
    eventually("the orphan", || {
        served.ask(&["orphan", "list", "-o", "id"]).stdout.contains(&bqual).then_some(())
    });
    let given = ["orphan", "resolve", &gtrid, &bqual, "--as", "committed", "--reason", "INC-4411"];
    let resolve = |more: &[&str]| served.ask(&[&given, more].concat());
    assert_fails(&resolve(&[]), 6, "NOT_CONFIRMED");
    assert_fails(&resolve(&["--confirm", &bqual]), 6, "NOT_CONFIRMED");
    let dry = resolve(&["--dry-run"]);
    assert!(dry.code == Some(0) && dry.stderr.contains("would be told COMMIT"), "{dry:?}");
    assert_eq!(served.ask(&["audit", "list", "-o", "id"]).stdout, "");
    let done = resolve(&["--confirm", &gtrid]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(served.ask(&["orphan", "list", "-o", "id"]).stdout, "");
    assert_eq!(bank.inquire_again_as_of_another_log(), Verdict::Commit);
    assert_fails(&resolve(&["--confirm", &gtrid]), 5, "NOT_AN_ORPHAN");
    let entry = served.ask(&["audit", "list", "-o", "json"]).json()["entries"][0].clone();
    assert_eq!((&entry["kind"], &entry["gtrid"]), (&"ACT_KIND_ORPHAN".into(), &gtrid.into()));
}

/// At 3 a.m.: why is it not done? The database says it, and no log has to be looked for.
#[test]
fn why_a_branch_is_not_done_is_shown_in_its_own_words() {
    let mut standing = Standing::at(At::Committing);
    let before = standing.stands();
    let why = "permission denied to finish prepared transaction; its owner is bank";
    standing.bank_b.acknowledge(1, Done::Retry, why);
    let describe = || standing.served.ask(&["tx", "describe", &standing.gtrid]).stdout;
    let told = eventually("its words", || Some(describe()).filter(|told| told.contains(why)));
    assert!(told.contains(&format!("PREPARED, not now: {why}\n")), "{told}");
    assert_eq!(standing.stands(), before, "nothing that an act is decided on has changed");
}

#[test]
fn monitoring_reads_one_line_and_an_exit_code() {
    let standing = Standing::at(At::Active);
    let well = standing.served.ask(&["check"]);
    assert_eq!((well.code, well.stderr.as_str()), (Some(0), ""), "{well:?}");
    assert!(well.stdout.starts_with("UNANIMOUS OK - serving"), "{well:?}");
    assert!(well.stdout.contains(" | heuristic=0;;0 stuck=0;0; "), "{well:?}");
    let few = standing.served.ask(&["check", "--min-participants", "3"]);
    assert_eq!(few.code, Some(1), "{few:?}");
    let ill = Standing::at(At::Heuristic);
    let ill = ill.served.ask(&["check", "-o", "json"]);
    let said = ill.json();
    assert_eq!((ill.code, &said["verdict"]), (Some(2), &"CRITICAL".into()), "{said}");
}
