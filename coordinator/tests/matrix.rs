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
use support::rows::{Kind, NOBODYS, ROWS, Row};
use support::{Said, Served, assert_fails, commands, eventually, run, unanimous};
use unanimous_proto::v1::Done;

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
