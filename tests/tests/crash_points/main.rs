//! kill -9 of the coordinator and of the banks at every named point of a transaction's life, of a
//! start and of a stop: the first time, again while the recovery that follows runs, and two
//! processes at once (catalogue 3.2 and 3.3). Built with the feature `crash-points` in a target
//! folder of its own.
#![cfg(feature = "crash-points")]
#![allow(clippy::print_stdout, reason = "a test")]

mod load;
mod world;

use anyhow::{Result, bail, ensure};
use load::Load;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use world::{ROLES, Role, World};

/// No case takes so long; what does, hangs.
const HANG: Duration = Duration::from_secs(120);
/// Cases that run at the same time: mostly they wait for disks and for back-off.
const AT_ONCE: usize = 4;
const KILLED: i32 = 9;

/// Points that are passed before the load is there: killed at a later pass as well, in the middle
/// of it. The third is always reached, with one commit for each lane at a time.
const LATER: (&str, u32) = ("log.", 3);

/// Points that are not passed: by whom, whether also the first time, and why. Exactly these.
const NOT_PASSED: &[(&str, &[Role], bool, &str)] = &[
    ("init.", &ROLES, false, "the log was made before"),
    ("pair.", &ROLES, true, "one directory; the log's own sweep passes it with two"),
];

/// Killed at the same moment: whoever is first at its point takes the other with it.
const TOGETHER: &[(&str, Role, &str)] = &[
    ("serve.enlist.before_reply", Role::BankA, "participant.join.enlisted"),
    ("serve.prepare.after_send", Role::BankA, "participant.prepare.durable"),
    ("serve.vote.received", Role::BankB, "participant.vote.after_send"),
    ("serve.decided.before_append", Role::BankA, "participant.vote.after_send"),
    ("serve.decided.durable", Role::BankB, "log.after_sync"),
    ("serve.commit.after_send", Role::BankA, "participant.commit.durable"),
    ("serve.commit.after_send", Role::BankB, "participant.commit.received"),
    ("serve.ack.received", Role::BankA, "participant.ack.after_send"),
    ("serve.end.before_append", Role::BankB, "participant.commit.durable"),
];

/// Six deaths in a row, five of them while recovering from the one before.
const AGAIN_AND_AGAIN: &[(Role, &[&str])] = &[
    (
        Role::Coordinator,
        &["open.half", "open.copied", "open.switched", "log.after_insert", "witness.before"],
    ),
    (
        Role::BankA,
        &[
            "open.half",
            "participant.recover.listed",
            "open.identified",
            "log.after_sync",
            "participant.commit.durable",
        ],
    ),
];

#[derive(Clone, Copy, Debug)]
enum Case {
    /// Dies when it passes the point for the n-th time.
    FirstTime(Role, &'static str, u32),
    /// Dies in the middle of work, and again at the n-th pass, in the life that follows.
    Recovering(Role, &'static str, u32),
    AgainAndAgain(Role, &'static [&'static str]),
    Together(&'static str, Role, &'static str),
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstTime(role, point, pass) => {
                write!(f, "{} {point}:{pass}, first time", role.name())
            }
            Self::Recovering(role, point, pass) => {
                write!(f, "{} {point}:{pass}, recovering", role.name())
            }
            Self::AgainAndAgain(role, points) => {
                write!(f, "{} {}", role.name(), points.join(", then "))
            }
            Self::Together(point, bank, bank_point) => {
                write!(f, "coordinator {point} with {} {bank_point}", bank.name())
            }
        }
    }
}

/// Whether the process died where it was to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Passed,
    NotPassed,
}

fn points(role: Role) -> Vec<&'static str> {
    let own = match role {
        Role::Coordinator => unanimous_server::CRASH_POINTS,
        Role::BankA | Role::BankB => unanimous_sdk::CRASH_POINTS,
    };
    [unanimous_recovery::CRASH_POINTS, own].concat()
}

/// Where a process dies first, so that the life that follows has something to recover: decided and
/// not told, or prepared and not committed.
fn in_the_middle(role: Role) -> &'static str {
    match role {
        Role::Coordinator => "serve.decided.durable:3",
        Role::BankA | Role::BankB => "participant.commit.received:3",
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for role in ROLES {
        for point in points(role) {
            let (prefix, later) = LATER;
            for pass in std::iter::once(1).chain(point.starts_with(prefix).then_some(later)) {
                cases.push(Case::FirstTime(role, point, pass));
                cases.push(Case::Recovering(role, point, pass));
            }
        }
    }
    cases.extend(AGAIN_AND_AGAIN.iter().map(|(role, at)| Case::AgainAndAgain(*role, at)));
    cases.extend(TOGETHER.iter().map(|(point, bank, at)| Case::Together(point, *bank, at)));
    cases
}

/// A world, the load on it, and the transfers under way.
struct Run {
    world: World,
    load: Rc<Load>,
    lanes: JoinSet<()>,
}

impl Run {
    fn new() -> Result<Self> {
        let world = World::new()?;
        let load = Load::new(&world)?;
        Ok(Self { world, load, lanes: JoinSet::new() })
    }

    /// The victim lives until it dies, or until the load is through and it was asked to stop.
    async fn live(&mut self, victim: Role, point: &str) -> Result<ExitStatus> {
        self.world.start(victim, Some(point))?;
        self.world.start_all()?;
        self.load.go_on(&mut self.lanes);
        tokio::select! {
            status = self.world.ended(victim) => return status,
            () = through(&mut self.lanes) => {}
        }
        self.world.end(victim, Signal::TERM).await
    }

    /// Both die: the one by itself, the other with it.
    async fn die_together(&mut self, armed: [(Role, &str); 2]) -> Result<()> {
        for (role, point) in armed {
            self.world.start(role, Some(point))?;
        }
        self.world.start_all()?;
        self.load.go_on(&mut self.lanes);
        let (first, status) = self.world.any_ended().await?;
        died(status)?;
        for (role, _) in armed.into_iter().filter(|(role, _)| *role != first) {
            died(self.world.end(role, Signal::KILL).await?)?;
        }
        Ok(())
    }

    /// Everything runs, everything finishes, and everything is right.
    async fn finish(&mut self) -> Result<()> {
        self.world.start_all()?;
        let healed = async {
            through(&mut self.lanes).await;
            self.load.heal().await;
        };
        tokio::select! {
            ended = self.world.any_ended() => bail!("ended by itself: {ended:?}"),
            () = healed => {}
        }
        self.world.stop_all().await?;
        self.world.verify(&self.load.told()?)
    }

    /// A log to open, closed cleanly.
    async fn make_log(&mut self, victim: Role) -> Result<()> {
        self.world.start_all()?;
        self.load.heal().await;
        let status = self.world.end(victim, Signal::TERM).await?;
        ensure!(status.success(), "did not stop cleanly: {status}");
        Ok(())
    }

    /// Dies so that the life that follows has something to recover.
    async fn die_in_the_middle(&mut self, victim: Role) -> Result<()> {
        died(self.live(victim, in_the_middle(victim)).await?)?;
        ensure!(self.world.unfinished(victim)? > 0, "there is nothing to recover");
        Ok(())
    }

    async fn run(&mut self, case: Case) -> Result<Point> {
        let (victim, points) = match case {
            Case::Together(point, bank, bank_point) => {
                self.die_together([(Role::Coordinator, point), (bank, bank_point)]).await?;
                return Ok(Point::Passed);
            }
            Case::FirstTime(victim, point, pass) => {
                if point.starts_with("open.") {
                    self.make_log(victim).await?;
                }
                (victim, vec![format!("{point}:{pass}")])
            }
            Case::Recovering(victim, point, pass) => {
                self.die_in_the_middle(victim).await?;
                (victim, vec![format!("{point}:{pass}")])
            }
            Case::AgainAndAgain(victim, points) => {
                self.die_in_the_middle(victim).await?;
                (victim, points.iter().map(|point| (*point).to_owned()).collect())
            }
        };
        for point in points {
            let status = self.live(victim, &point).await?;
            if status.success() {
                return Ok(Point::NotPassed);
            }
            died(status)?;
        }
        Ok(Point::Passed)
    }
}

async fn through(lanes: &mut JoinSet<()>) {
    while lanes.join_next().await.is_some() {}
}

fn died(status: ExitStatus) -> Result<()> {
    ensure!(status.signal() == Some(KILLED), "not killed: {status}");
    Ok(())
}

/// What became of the case; a violation comes with the processes' last words.
async fn judge(case: Case) -> Result<Point> {
    let mut run = Run::new()?;
    let ran = timeout(HANG, async {
        let point = run.run(case).await?;
        run.finish().await?;
        Ok(point)
    });
    let point = ran.await.unwrap_or_else(|_| bail!("hangs"));
    let point = point.map_err(|error| error.context(run.world.last_words()))?;
    ensure!(point == expected(case).0, "{point:?}");
    Ok(point)
}

fn expected(case: Case) -> (Point, &'static str) {
    let (role, point, first_time) = match case {
        Case::FirstTime(role, point, _) => (role, point, true),
        Case::Recovering(role, point, _) => (role, point, false),
        Case::AgainAndAgain(..) | Case::Together(..) => return (Point::Passed, ""),
    };
    for (prefix, roles, first_time_too, why) in NOT_PASSED {
        if point.starts_with(prefix) && roles.contains(&role) && (*first_time_too || !first_time) {
            return (Point::NotPassed, why);
        }
    }
    (Point::Passed, "")
}

/// Judges cases until none is left, and says what became of each.
fn work(cases: &Mutex<std::vec::IntoIter<Case>>, ended: &Mutex<Vec<(Case, Result<Point>)>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let next = || cases.lock().expect("no worker panics").next();
    while let Some(case) = next() {
        let begun = Instant::now();
        let result = LocalSet::new().block_on(&runtime, judge(case));
        let elapsed_ms = begun.elapsed().as_millis();
        match &result {
            Ok(Point::Passed) => println!("ok {elapsed_ms:>6} ms  {case}"),
            Ok(Point::NotPassed) => {
                println!("ok {elapsed_ms:>6} ms  {case}: not passed, {}", expected(case).1);
            }
            Err(error) => println!("VIOLATION  {case}: {}\n{error}", error.root_cause()),
        }
        ended.lock().expect("no worker panics").push((case, result));
    }
}

#[test]
fn nothing_is_lost_wherever_a_process_is_killed() {
    let begun = Instant::now();
    let all = cases();
    let runs = all.len();
    let (left, ended) = (Mutex::new(all.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| work(&left, &ended));
        }
    });
    let ended = ended.into_inner().expect("no worker panics");
    let points: BTreeSet<&str> = ROLES.into_iter().flat_map(points).collect();
    let not_passed = ended.iter().filter(|(_, r)| matches!(r, Ok(Point::NotPassed))).count();
    let violations = ended.iter().filter(|(_, result)| result.is_err()).count();
    println!("{runs} runs in {} s", begun.elapsed().as_secs());
    println!(
        r#"{{"points":{},"runs":{runs},"not_passed":{not_passed},"violations":{violations}}}"#,
        points.len()
    );
    assert_eq!((ended.len(), violations), (runs, 0), "violations are above");
}
