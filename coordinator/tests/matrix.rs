//! Every command against everything that goes wrong around it: the documented exit code, the three
//! lines of an error, and nothing else. The commands are read from the help: one without a row
//! fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::hand::Hand;
use support::{Said, Served, assert_fails, commands, eventually, run, unanimous};
use unanimous_proto::v1::Done;

/// An id of the right form that nobody has.
const NOBODYS: &str = "010000000000000000000100000001000000000000000000";

/// What a command has to do with a coordinator.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It asks one.
    Asks,
    /// It asks one, and tells "not known in the time given" if it hangs.
    AsksForAnOutcome,
    /// It asks one, and tells what is wrong on stdout, by exit codes of its own.
    Checks,
    /// It asks one, and finds that something needs a person.
    Finds,
    /// It asks one, and needs another person than the one who has proposed it.
    AsksForTwo,
    /// It asks a running `dev`.
    AsksDev,
    /// It needs none.
    Alone,
    /// It runs until it is stopped, and writes no data.
    Serves,
}

/// An error that the documentation promises.
type Error = (&'static [&'static str], i32, &'static str);

/// A command and what to expect of it. `{ID}`, `{SHORT}`, `{LOG}`, `{RUN}`, `{DIR}`, `{CA}` and
/// `{CONFIG}` are things that exist, `{NEW}` is another one each time that does not.
struct Row {
    command: &'static str,
    kind: Kind,
    /// With these it does what it is for.
    good: &'static [&'static str],
    /// With these it looks for something that is not there; none: it names nothing.
    unknown: &'static [Error],
    /// With these it cannot be understood, or what it names cannot.
    garbage: &'static [&'static [&'static str]],
}

const NO_TX: Error = (&[NOBODYS], 4, "NOT_FOUND");
const NO_SHORT: Error = (&["deadbeef"], 4, "NOT_FOUND");
const ID_GARBAGE: &[&[&str]] = &[&["zz"], &["123"], &[""], &["31ce5540", "31ce5540"], &["\u{1b}"]];

const FORCE_GARBAGE: &[&[&str]] = &[
    &[],
    &["{ID}"],
    &["zz", "--reason", "why"],
    &["{ID}", "--reason", ""],
    &["{ID}", "--reason", "\u{1b}[2J"],
    &["deadbeef", "--reason", "why"],
    &["{SHORT}", "--reason", "why"],
    &["{ID}", "--reason", "why", "--yes"],
    &["{ID}", "--reason", "why", "--propose", "--confirm", "{ID}"],
];
/// An entry that nobody has written yet.
const NOTED: &str = "4711:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const ROWS: &[Row] = &[
    Row {
        command: "serve",
        kind: Kind::Serves,
        good: &["--init", "--data-dir", "{DIR}/new", "--listen", "127.0.0.1:0"],
        unknown: &[(&["--data-dir", "/nowhere/at/all"], 5, "LOG_NOT_INITIALISED")],
        garbage: &[&[], &["--data-dir"], &["--listen", "nowhere"], &["--moved", "--copied"]],
    },
    Row {
        command: "dev",
        kind: Kind::Serves,
        good: &["--run-for", "1s"],
        unknown: &[],
        garbage: &[&["--run-for", "soon"], &["--chaos"], &["--seed", "-1"]],
    },
    Row {
        command: "dev verify",
        kind: Kind::Alone,
        good: &["{RUN}"],
        unknown: &[(&["/nowhere/at/all"], 4, "NO_DEV_RUN")],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "dev chaos",
        kind: Kind::AsksDev,
        good: &["kill", "bank-b"],
        unknown: &[],
        garbage: &[&[], &["hug", "bank-b"], &["kill"]],
    },
    Row {
        command: "dev adjust",
        kind: Kind::Alone,
        good: &["--bank", "bank-a", "--account", "7", "--cents", "0", "{RUN}"],
        unknown: &[
            (&["--bank", "bank-z", "--account", "7", "--cents", "1", "{RUN}"], 4, "NO_SUCH_BANK"),
            (&["--bank", "bank-a", "--account", "7", "--cents", "1", "/no"], 4, "NO_DEV_RUN"),
        ],
        garbage: &[&[], &["--bank", "bank-a", "--account", "x", "--cents", "1", "d"]],
    },
    Row {
        command: "tx list",
        kind: Kind::Asks,
        good: &[],
        unknown: &[(&["--page-token", "zz"], 2, "INVALID_ARGUMENT")],
        garbage: &[
            &["--limit", "0"],
            &["--limit", "x"],
            &["--filter"],
            &["--filter", "state=LOST"],
        ],
    },
    Row {
        command: "tx describe",
        kind: Kind::Asks,
        good: &["{ID}"],
        unknown: &[NO_TX, NO_SHORT],
        garbage: ID_GARBAGE,
    },
    Row {
        command: "tx watch",
        kind: Kind::Asks,
        good: &["--timeout", "300ms"],
        unknown: &[NO_TX, NO_SHORT],
        garbage: &[&["zz"], &["--interval", "1ms"], &["--interval", "x"], &["--filter", "("]],
    },
    Row {
        command: "tx retry",
        kind: Kind::Asks,
        good: &["{PREPARED}"],
        unknown: &[NO_TX, NO_SHORT, (&["{ID}"], 5, "NOTHING_TO_RETRY")],
        garbage: ID_GARBAGE,
    },
    Row {
        command: "tx outcome",
        kind: Kind::AsksForAnOutcome,
        good: &["{DONE}"],
        unknown: &[(&[NOBODYS], 8, "OUTCOME_UNKNOWN"), NO_SHORT, (&["{ID}"], 8, "OUTCOME_PENDING")],
        garbage: ID_GARBAGE,
    },
    Row {
        command: "tx history",
        kind: Kind::Asks,
        good: &["{DONE}"],
        unknown: &[NO_TX, NO_SHORT],
        garbage: ID_GARBAGE,
    },
    Row {
        command: "force commit",
        kind: Kind::Asks,
        good: &["{COMMITTING}", "--reason", "why", "--dry-run"],
        unknown: &[
            (&[NOBODYS, "--reason", "why"], 4, "NOT_FOUND"),
            (&["{ID}", "--reason", "why"], 5, "VOTES_MISSING"),
            (&["{COMMITTING}", "--reason", "why"], 6, "NOT_CONFIRMED"),
        ],
        garbage: FORCE_GARBAGE,
    },
    Row {
        command: "force rollback",
        kind: Kind::Asks,
        good: &["{ID}", "--reason", "why", "--dry-run"],
        unknown: &[
            (&[NOBODYS, "--reason", "why"], 4, "NOT_FOUND"),
            (&["{COMMITTING}", "--reason", "why"], 5, "TX_DECIDED"),
            (&["{ID}", "--reason", "why"], 6, "NOT_CONFIRMED"),
            (&["{ID}", "--reason", "why", "--confirm", NOBODYS], 6, "NOT_CONFIRMED"),
        ],
        garbage: FORCE_GARBAGE,
    },
    Row {
        command: "force assert",
        kind: Kind::Asks,
        good: &[
            "{COMMITTING}",
            "--branch",
            "{PENDING}",
            "--as",
            "committed",
            "--evidence",
            "seen",
            "--reason",
            "why",
            "--dry-run",
        ],
        unknown: &[
            (&[NOBODYS, "--branch", "x", "--as", "mixed", "--reason", "why"], 4, "NOT_FOUND"),
            (
                &["{COMMITTING}", "--branch", "nobody", "--as", "mixed", "--reason", "why"],
                5,
                "BRANCH_UNKNOWN",
            ),
            (
                &["{COMMITTING}", "--branch", "matrix", "--as", "mixed", "--reason", "why"],
                5,
                "BRANCH_AMBIGUOUS",
            ),
        ],
        garbage: &[
            &[],
            &["{ID}", "--reason", "why"],
            &["{ID}", "--branch", "x", "--as", "well", "--reason", "why"],
            &["{ID}", "--branch", "x", "--as", "mixed"],
        ],
    },
    Row {
        command: "force abandon",
        kind: Kind::Asks,
        good: &["{COMMITTING}", "--branch", "{PENDING}", "--reason", "why", "--dry-run"],
        unknown: &[
            (&[NOBODYS, "--branch", "x", "--reason", "why"], 4, "NOT_FOUND"),
            (&["{COMMITTING}", "--branch", "\u{e9}", "--reason", "why"], 5, "BRANCH_UNKNOWN"),
        ],
        garbage: &[&[], &["{ID}", "--reason", "why"], &["{ID}", "--branch", "x"]],
    },
    Row {
        command: "force forget",
        kind: Kind::Asks,
        good: &["{HEURISTIC}", "--reason", "why", "--dry-run"],
        unknown: &[
            (&[NOBODYS, "--reason", "why"], 4, "NOT_FOUND"),
            (&["{ID}", "--reason", "why"], 5, "NOT_HEURISTIC"),
        ],
        garbage: FORCE_GARBAGE,
    },
    Row {
        command: "force approve",
        kind: Kind::AsksForTwo,
        good: &["{PROPOSAL}", "--reason", "why", "--confirm", "{ID}"],
        unknown: &[
            (&["4711", "--reason", "why"], 4, "PROPOSAL_UNKNOWN"),
            (&["{PROPOSAL}", "--reason", "why"], 6, "NOT_CONFIRMED"),
        ],
        garbage: &[&[], &["17"], &["x", "--reason", "why"], &["-1", "--reason", "why"]],
    },
    Row { command: "force list", kind: Kind::Asks, good: &[], unknown: &[], garbage: &[&["x"]] },
    Row {
        command: "audit list",
        kind: Kind::Asks,
        good: &[],
        unknown: &[],
        garbage: &[&["x"], &["--limit", "0"], &["--id", "zz"]],
    },
    Row {
        command: "audit export",
        kind: Kind::Asks,
        good: &[],
        unknown: &[(&["/nowhere/at/all"], 1, "IO"), (&["{CONFIG}"], 1, "IO")],
        garbage: &[&["a", "b"]],
    },
    Row {
        command: "audit verify",
        kind: Kind::Asks,
        good: &[],
        unknown: &[
            (&["/nowhere/at/all"], 1, "IO"),
            (&["{CONFIG}"], 9, "AUDIT_BROKEN"),
            (&["--expect", NOTED], 9, "AUDIT_BROKEN"),
        ],
        garbage: &[&["a", "b"], &["--expect", "7"], &["--expect", "7:ab"]],
    },
    Row {
        command: "participant list",
        kind: Kind::Asks,
        good: &[],
        unknown: &[],
        garbage: &[&["bank-b"]],
    },
    Row {
        command: "participant describe",
        kind: Kind::Asks,
        good: &["matrix"],
        unknown: &[(&["nobody"], 4, "NOT_FOUND"), (&["\u{1b}[2J"], 4, "NOT_FOUND")],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "orphan list",
        kind: Kind::Asks,
        good: &[],
        unknown: &[],
        garbage: &[&["bank-b"]],
    },
    Row {
        command: "orphan resolve",
        kind: Kind::Asks,
        good: &["{LOST}", "{LOST_BRANCH}", "--as", "committed", "--reason", "why", "--dry-run"],
        unknown: &[
            (&["{ID}", "{PENDING}", "--as", "committed", "--reason", "why"], 5, "NOT_AN_ORPHAN"),
            (
                &["{LOST}", "{LOST_BRANCH}", "--as", "rolled-back", "--reason", "why"],
                6,
                "NOT_CONFIRMED",
            ),
        ],
        garbage: &[
            &[],
            &["{ID}", "{PENDING}"],
            &["31ce5540", "{PENDING}", "--as", "committed", "--reason", "why"],
            &["{ID}", "{PENDING}", "--as", "mixed", "--reason", "why"],
        ],
    },
    Row {
        command: "check",
        kind: Kind::Checks,
        good: &["--crit-heuristic", "9", "--warn-orphans", "9"],
        unknown: &[],
        garbage: &[&["x"], &["--warn-stuck", "-1"], &["--crit-orphans", "x"]],
    },
    Row { command: "doctor", kind: Kind::Finds, good: &[], unknown: &[], garbage: &[&["x"]] },
    Row { command: "status", kind: Kind::Asks, good: &[], unknown: &[], garbage: &[&["x"]] },
    Row {
        command: "log verify",
        kind: Kind::Alone,
        good: &["{LOG}"],
        unknown: &[(&["/nowhere/at/all"], 5, "LOG_NOT_INITIALISED")],
        garbage: &[&[], &["a", "--data-dir", "b"]],
    },
    Row {
        command: "log dump",
        kind: Kind::Alone,
        good: &["{LOG}"],
        unknown: &[(&["/nowhere/at/all"], 5, "LOG_NOT_INITIALISED")],
        garbage: &[&[], &["a", "--data-dir", "b"]],
    },
    Row {
        command: "config init",
        kind: Kind::Alone,
        good: &[],
        unknown: &[(&["/nowhere/at/all"], 1, "IO"), (&["{CONFIG}"], 5, "CONFIG_EXISTS")],
        garbage: &[&["a", "b"]],
    },
    Row {
        command: "config check",
        kind: Kind::Alone,
        good: &["{CONFIG}"],
        unknown: &[(&["/nowhere/at/all"], 2, "CONFIG_UNREADABLE")],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "config show",
        kind: Kind::Alone,
        good: &["--config", "{CONFIG}"],
        unknown: &[(&["--config", "/nowhere/at/all"], 2, "CONFIG_UNREADABLE")],
        garbage: &[&["--listen", "nowhere"], &["--log-level", "a=b=c"]],
    },
    Row {
        command: "cert init",
        kind: Kind::Alone,
        good: &["{NEW}"],
        unknown: &[(&["{CA}"], 5, "CERT_EXISTS")],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "cert server",
        kind: Kind::Alone,
        good: &["--host", "localhost", "--authority", "{CA}", "--to", "{NEW}"],
        unknown: &[(&["--host", "x", "--authority", "/nowhere/at/all"], 4, "NO_AUTHORITY")],
        garbage: &[&[], &["--host", "a b"], &["--host", "localhost:7450"], &["--days", "0"]],
    },
    Row {
        command: "cert client",
        kind: Kind::Alone,
        good: &["alice", "--role", "operator", "--authority", "{CA}", "--to", "{NEW}"],
        unknown: &[
            (&["x", "--role", "reader", "--authority", "{DIR}"], 4, "NO_AUTHORITY"),
            (&["ca", "--role", "reader", "--authority", "{CA}"], 5, "CERT_EXISTS"),
        ],
        garbage: &[&[], &["a"], &["../a", "--role", "reader"], &["a", "--role", "king"]],
    },
    Row {
        command: "cert participant",
        kind: Kind::Alone,
        good: &["bank-a", "--role", "client", "--authority", "{CA}", "--to", "{NEW}"],
        unknown: &[(&["x", "--authority", "{DIR}"], 4, "NO_AUTHORITY")],
        garbage: &[&[], &["BANK"], &["../a"], &["\u{1b}[2J"]],
    },
    Row {
        command: "cert token",
        kind: Kind::Alone,
        good: &["alice", "--role", "reader", "--ends", "2999-12-31"],
        unknown: &[(&["a", "--role", "reader", "--to", "{CONFIG}"], 5, "CERT_EXISTS")],
        garbage: &[
            &[],
            &["a"],
            &["a b", "--role", "reader"],
            &["a", "--role", "king"],
            &["a", "--role", "reader", "--ends", "soon"],
        ],
    },
    Row {
        command: "cert show",
        kind: Kind::Alone,
        good: &["{CA}/ca.pem"],
        unknown: &[
            (&["/nowhere/at/all"], 1, "ACCESS_FILE"),
            (&["{CONFIG}"], 1, "ACCESS_FILE"),
            (&["{DIR}"], 1, "ACCESS_FILE"),
        ],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "explain",
        kind: Kind::Alone,
        good: &["log-full"],
        unknown: &[
            (&["LOG_FOOL"], 4, "NO_SUCH_PAGE"),
            (&[""], 4, "NO_SUCH_PAGE"),
            (&["\u{1b}[2J\u{202e}"], 4, "NO_SUCH_PAGE"),
        ],
        garbage: &[&["a", "b"]],
    },
    Row {
        command: "completion",
        kind: Kind::Alone,
        good: &["bash"],
        unknown: &[],
        garbage: &[&[], &["cobol"]],
    },
    Row {
        command: "man",
        kind: Kind::Alone,
        good: &["{DIR}"],
        unknown: &[
            (&["/nowhere/at/all"], 4, "NO_SUCH_DIRECTORY"),
            (&["{CONFIG}"], 4, "NO_SUCH_DIRECTORY"),
        ],
        garbage: &[&[], &["a", "b"]],
    },
    Row { command: "version", kind: Kind::Alone, good: &[], unknown: &[], garbage: &[&["x"]] },
];

/// They write what a program reads in another form, or nothing at all.
const NO_JSON: [&str; 5] = ["config init", "completion", "dev adjust", "dev chaos", "audit export"];

impl Row {
    fn words(&self) -> Vec<&str> {
        self.command.split(' ').collect()
    }

    fn asks(&self) -> bool {
        !matches!(self.kind, Kind::AsksDev | Kind::Alone | Kind::Serves)
    }

    /// The command with these arguments, in a world of its own.
    fn command(&self, world: &World, args: &[&str]) -> std::process::Command {
        let args: Vec<String> = args.iter().map(|arg| world.filled(arg)).collect();
        let mut command = unanimous(&self.words());
        command.args(["--admin-address", &world.admin, "--address", &world.sessions]).args(args);
        // `dev` finds its socket here, and there is none.
        command.env("XDG_RUNTIME_DIR", world.home.path());
        command
    }

    fn run(&self, world: &World, args: &[&str]) -> Said {
        self.command(world, args).output().unwrap().into()
    }
}

/// Names of arguments that are ids.
const IDS: [&str; 8] = [
    "{ID}",
    "{PREPARED}",
    "{DONE}",
    "{COMMITTING}",
    "{PENDING}",
    "{HEURISTIC}",
    "{LOST}",
    "{LOST_BRANCH}",
];

/// A coordinator with something of everything, and files.
struct World {
    admin: String,
    sessions: String,
    names: Vec<(&'static str, String)>,
    home: tempfile::TempDir,
    /// How many arguments were filled in.
    made: AtomicU32,
    /// They end with this value.
    _held: Option<(Served, Hand)>,
}

impl World {
    /// Nothing but addresses.
    fn at(address: &str) -> Self {
        Self {
            admin: address.to_owned(),
            sessions: address.to_owned(),
            names: IDS
                .map(|name| (name, NOBODYS.to_owned()))
                .into_iter()
                .chain([("{PROPOSAL}", "17".to_owned())])
                .collect(),
            home: tempfile::tempdir().unwrap(),
            made: AtomicU32::new(0),
            _held: None,
        }
    }

    fn filled(&self, arg: &str) -> String {
        let fill = |arg: String, (name, value): &(&str, String)| arg.replace(name, value);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let new = self.home.path().join(format!("new-{number}"));
        self.names.iter().fold(arg.replace("{NEW}", new.to_str().unwrap()), fill)
    }
}

fn world() -> World {
    let served = Served::start();
    served.until_serving();
    let mut hand = Hand::connect(&served, "matrix");
    let active = hand.begin("lunch", 1);
    let [heuristic, committing, prepared] = ["loss", "wait", "transfer"].map(|n| hand.begin(n, 2));
    hand.commit(&heuristic);
    hand.vote_commit(2);
    hand.acknowledge(1, Done::Done, "");
    hand.acknowledge(1, Done::HeuristicRollback, "by hand");
    hand.commit(&committing);
    hand.vote_commit(2);
    hand.commit(&prepared);
    let done = hand.begin("nothing", 0);
    hand.commit(&done);
    let states = [
        (&prepared, "PREPARING"),
        (&committing, "COMMITTING"),
        (&heuristic, "HEURISTIC"),
        (&done, "COMMITTED"),
    ];
    for (id, state) in states {
        eventually(state, || {
            let said =
                served.ask(&["tx", if state == "COMMITTED" { "outcome" } else { "describe" }, id]);
            said.stdout.contains(state).then_some(())
        });
    }
    let (lost, lost_branch) = hand.inquire_as_of_another_log();
    eventually("the orphan", || {
        served.ask(&["orphan", "list"]).stdout.contains(&lost).then_some(())
    });
    let propose = ["force", "rollback", &active, "--reason", "why", "--propose", "-o", "id"];
    let proposal = served.ask(&propose).stdout.trim().to_owned();
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (log, dir, kept, config) = (at("log"), at("dir"), at("run"), at("unanimous.toml"));
    let ca = at("ca");
    assert_eq!(run(&["cert", "init", &ca]).code, Some(0));
    make_log(&served, Path::new(&log));
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(run(&["config", "init", &config]).code, Some(0));
    let ran = run(&["dev", "--run-for", "1s", "--keep", &kept]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let names = [
        ("{SHORT}", active[40..].to_owned()),
        ("{PENDING}", hand.bqual(&committing, 1)),
        ("{COMMITTING}", committing),
        ("{HEURISTIC}", heuristic),
        ("{LOST}", lost),
        ("{LOST_BRANCH}", lost_branch),
        ("{PROPOSAL}", proposal),
        ("{ID}", active),
        ("{PREPARED}", prepared),
        ("{DONE}", done),
        ("{LOG}", log),
        ("{DIR}", dir),
        ("{RUN}", kept),
        ("{CONFIG}", config),
        ("{CA}", ca),
    ];
    let (admin, sessions) = (served.admin.clone(), served.sessions.clone());
    let (names, made) = (names.into(), AtomicU32::new(0));
    World { admin, sessions, names, home, made, _held: Some((served, hand)) }
}

/// The log of a coordinator that has stopped.
fn make_log(other: &Served, to: &Path) {
    let mut served = Served::start();
    served.until_serving();
    assert_eq!(served.terminate().code, Some(0));
    assert_ne!(served.data_dir(), other.data_dir());
    std::fs::rename(served.data_dir(), to).unwrap();
}

/// Codes that were seen: each has a page.
fn assert_explained(codes: &BTreeSet<String>) {
    for code in codes {
        let said = run(&["explain", code]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.starts_with(&format!("# {code}\n\n## What it means\n")), "{said:?}");
    }
}

fn code_of(said: &Said) -> String {
    let code = said.stderr.strip_prefix("error[").and_then(|rest| rest.split(']').next());
    code.unwrap_or_else(|| panic!("no code first in {said:?}")).to_owned()
}

/// The line of a monitoring plugin that got no answer.
#[track_caller]
fn assert_unknown(said: &Said) {
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.stdout.starts_with("UNANIMOUS UNKNOWN - error["), "{said:?}");
    assert_eq!((said.stdout.lines().count(), said.stderr.as_str()), (1, ""), "{said:?}");
}

/// Nothing that moves a cursor, colours, or rings.
#[track_caller]
fn assert_plain(said: &Said) {
    for text in [&said.stdout, &said.stderr] {
        let foreign = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        assert_eq!(foreign, None, "{said:?}");
        assert!(!text.contains('\u{202e}'), "{said:?}");
    }
    assert!(!said.stderr.contains("panicked"), "{said:?}");
}

#[test]
fn every_command_has_a_row() {
    let commands = commands();
    let leaves = commands.iter().filter(|command| {
        let inner =
            |other: &&Vec<String>| other.len() > command.len() && other.starts_with(command);
        // `dev` runs by itself too.
        commands.iter().find(inner).is_none() || command.join(" ") == "dev"
    });
    let leaves: BTreeSet<String> = leaves.map(|command| command.join(" ")).collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.command.to_owned()).collect();
    assert_eq!(leaves, rows);
    assert_eq!(rows.len(), ROWS.len());
}

#[test]
fn b_07_without_a_coordinator() {
    // Bound and dropped: nobody listens.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let world = World::at(&format!("http://127.0.0.1:{port}"));
    for row in ROWS {
        match row.kind {
            Kind::Asks | Kind::AsksForAnOutcome | Kind::AsksForTwo | Kind::Finds => {
                let said = row.run(&world, row.good);
                assert_fails(&said, 3, "UNREACHABLE");
                assert_eq!(said.stdout, "", "{}", row.command);
            }
            Kind::Checks => assert_unknown(&row.run(&world, row.good)),
            Kind::AsksDev => assert_fails(&row.run(&world, row.good), 3, "NO_DEV"),
            // They need none: the other tests run them so.
            Kind::Alone | Kind::Serves => {}
        }
    }
    assert_explained(&["UNREACHABLE", "NO_DEV"].map(ToOwned::to_owned).into());
}

#[test]
fn b_07_a_coordinator_that_accepts_and_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = World::at(&format!("http://{}", listener.local_addr().unwrap()));
    std::thread::spawn(move || {
        let mut held: Vec<TcpStream> = Vec::new();
        listener.incoming().for_each(|stream| held.extend(stream));
    });
    std::thread::scope(|scope| {
        let ask = |row: &'static Row| {
            let started = Instant::now();
            let said = row.run(&world, row.good);
            assert!(started.elapsed() < Duration::from_secs(30), "{}: {said:?}", row.command);
            match row.kind {
                Kind::AsksForAnOutcome => assert_fails(&said, 8, "NO_ANSWER_IN_TIME"),
                Kind::Checks => return assert_unknown(&said),
                _ => assert_fails(&said, 3, "NO_ANSWER"),
            }
            assert_eq!(said.stdout, "", "{}", row.command);
        };
        for row in ROWS.iter().filter(|row| row.asks()) {
            scope.spawn(move || ask(row));
        }
    });
    assert_explained(&["NO_ANSWER", "NO_ANSWER_IN_TIME"].map(ToOwned::to_owned).into());
}

#[test]
fn b_07_garbage_and_what_is_not_there() {
    let world = world();
    let mut codes = BTreeSet::new();
    for row in ROWS {
        for (args, exit, code) in row.unknown {
            let said = row.run(&world, args);
            assert_fails(&said, *exit, code);
            assert_plain(&said);
            codes.insert((*code).to_owned());
        }
        for args in row.garbage.iter().chain([&["--no-such-option"][..]].iter()) {
            let said = row.run(&world, args);
            let code = code_of(&said);
            assert_fails(&said, 2, &code);
            assert_eq!(said.stdout, "", "{} {args:?}", row.command);
            assert_plain(&said);
            codes.insert(code);
        }
        // Not UTF-8.
        for args in [["-o", "\u{0}"], ["--time", "\u{0}"]] {
            let mut command = row.command(&world, &args[..1]);
            let said: Said =
                command.arg(OsString::from_vec(vec![0xff, 0xfe])).output().unwrap().into();
            assert_fails(&said, 2, "USAGE");
            assert_plain(&said);
        }
    }
    assert!(codes.len() >= 10, "{codes:?}");
    assert_explained(&codes);
}

/// No terminal, as in a pipe or a service: no colour, no question, an end.
#[test]
fn b_07_without_a_terminal() {
    let world = world();
    for row in ROWS {
        for format in ["table", "wide", "json", "jsonl", "yaml", "id"] {
            if row.kind == Kind::Serves || (row.command == "man" && format != "table") {
                continue;
            }
            let mut command = row.command(&world, row.good);
            command.args(["-o", format]).env_remove("NO_COLOR").env("TERM", "xterm-256color");
            let said: Said = command.stdin(Stdio::piped()).output().unwrap().into();
            let exit = match row.kind {
                Kind::AsksDev => 3,
                Kind::AsksForTwo => 7,
                Kind::Finds => 11,
                _ => 0,
            };
            assert_eq!(said.code, Some(exit), "{} {format}: {said:?}", row.command);
            assert_plain(&said);
            let json = row.kind != Kind::AsksForTwo && !NO_JSON.contains(&row.command);
            if json && format == "json" && row.command != "tx watch" {
                said.json();
            }
            for line in said.stdout.lines().filter(|_| json && format == "jsonl") {
                let value = serde_json::from_str::<serde_json::Value>(line);
                assert!(value.is_ok_and(|value| value.is_object()), "{}: {line}", row.command);
            }
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = world();
    let ends_well = |row: &&Row| {
        !matches!(row.kind, Kind::AsksDev | Kind::AsksForTwo) && row.command != "serve"
    };
    for row in ROWS.iter().filter(ends_well) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = row.command(&world, row.good).stdout(writer).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}: {stderr}", row.command);
        let plans = row.command.starts_with("force") || row.command == "orphan resolve";
        let talks = plans || matches!(row.command, "dev" | "dev adjust");
        assert!(stderr.is_empty() || talks, "{}: {stderr}", row.command);
        assert!(!stderr.contains("panicked"), "{}: {stderr}", row.command);
    }
}
