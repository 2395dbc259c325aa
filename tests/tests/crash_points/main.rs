//! kill -9 of the coordinator and of the banks at every named point of a transaction's life, of a
//! start and of a stop, and the loss of its power there: the first time, again while the recovery
//! that follows runs, and two processes at once; with one, two and three banks. `rows` says which
//! cases of the catalogue (3.2 and 3.3) these are. Built with the feature `crash-points` in a
//! target folder of its own; `UNANIMOUS_SWEEP=full` tries everything.
#![cfg(feature = "crash-points")]
#![allow(clippy::print_stdout, reason = "a test")]

mod load;
mod rows;
mod world;

use anyhow::{Result, bail, ensure};
use load::Load;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use world::{Loss, ROLES, Role, World};

/// No case takes so long; what does, hangs.
const HANG: Duration = Duration::from_secs(120);
/// Cases that run at the same time: mostly they wait for disks and for back-off.
const AT_ONCE: usize = 6;
const KILLED: i32 = 9;

/// Points that are passed before the load is there: killed at a later pass as well, in the middle
/// of it. The third is always reached, with one commit for each lane at a time.
const LATER: (&str, u32) = ("log.", 3);

/// A process that was asked to stop is killed so long after that.
const STOP_FOR: Duration = Duration::from_secs(1);

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Dies when it passes the point for the n-th time.
    FirstTime(Role, &'static str, u32),
    /// Dies in the middle of work, and again at the n-th pass, in the life that follows.
    Recovering(Role, &'static str, u32),
    /// Is asked to stop when it passes the point for the first time, and dies 1 s later.
    Stopping(Role, &'static str),
    AgainAndAgain(Role, &'static [&'static str]),
    Together(&'static str, Role, &'static str),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    act: Act,
    loss: Loss,
    banks: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.act {
            Act::FirstTime(role, point, pass) => {
                write!(f, "{} {point}:{pass}, first time", role.name())?;
            }
            Act::Recovering(role, point, pass) => {
                write!(f, "{} {point}:{pass}, recovering", role.name())?;
            }
            Act::Stopping(role, point) => write!(f, "{} {point}, stopping", role.name())?,
            Act::AgainAndAgain(role, points) => {
                write!(f, "{} {}", role.name(), points.join(", then "))?;
            }
            Act::Together(point, bank, bank_point) => {
                write!(f, "coordinator {point} with {} {bank_point}", bank.name())?;
            }
        }
        write!(f, ", {:?}, {} banks", self.loss, self.banks)?;
        let rows = rows::of(self);
        if rows.is_empty() { Ok(()) } else { write!(f, " ({})", rows.join(", ")) }
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
        Role::BankA | Role::BankB | Role::BankC => unanimous_sdk::CRASH_POINTS,
    };
    [unanimous_recovery::CRASH_POINTS, own].concat()
}

/// Where a process dies first, so that the life that follows has something to recover: decided and
/// not told, or prepared and not committed.
fn in_the_middle(role: Role) -> &'static str {
    match role {
        Role::Coordinator => "serve.decided.durable:3",
        Role::BankA | Role::BankB | Role::BankC => "participant.commit.received:3",
    }
}

/// Each point of a process: what happens there, at the first pass and at a later one.
fn each(role: Role, acts: &[fn(Role, &'static str, u32) -> Act]) -> Vec<Act> {
    let mut all = Vec::new();
    for point in points(role) {
        let (prefix, later) = LATER;
        for pass in std::iter::once(1).chain(point.starts_with(prefix).then_some(later)) {
            all.extend(acts.iter().map(|act| act(role, point, pass)));
        }
    }
    all
}

/// Of what a full sweep tries with one bank and with three, what is always tried.
fn is_sampled(act: &Act) -> bool {
    matches!(act, Act::FirstTime(Role::Coordinator, point, _) if point.starts_with("serve."))
}

fn cases() -> Vec<Case> {
    let in_rows = AGAIN_AND_AGAIN.iter().map(|(role, at)| Act::AgainAndAgain(*role, at));
    let at_once = TOGETHER.iter().map(|(point, bank, at)| Act::Together(point, *bank, at));
    let stopping = [Role::Coordinator, Role::BankA].into_iter().flat_map(|role| {
        let own =
            points(role).into_iter().filter(|p| !unanimous_recovery::CRASH_POINTS.contains(p));
        own.map(move |point| Act::Stopping(role, point))
    });
    let once: &[fn(Role, &'static str, u32) -> Act] = &[Act::FirstTime];
    let twice: &[fn(Role, &'static str, u32) -> Act] = &[Act::FirstTime, Act::Recovering];
    let all = |roles: &[Role], acts| roles.iter().flat_map(|role| each(*role, acts)).collect();
    let plain: Vec<Act> = all(&ROLES[..3], twice);
    let special: Vec<Act> = in_rows.chain(at_once).chain(stopping).collect();
    let full = std::env::var_os("UNANIMOUS_SWEEP").is_some_and(|sweep| sweep == "full");
    let power: Vec<Act> = if full { plain.clone() } else { all(&ROLES[..2], once) };
    let mut sets = Vec::new();
    for loss in [Loss::Kill, Loss::Power] {
        let (mut one, mut three) =
            (all(&ROLES[..2], once), all(&[Role::Coordinator, Role::BankC], twice));
        if !full {
            for acts in [&mut one, &mut three] {
                acts.retain(|act| loss == Loss::Power && is_sampled(act));
            }
        }
        sets.extend([(one, loss, 1), (three, loss, 3)]);
    }
    sets.extend([
        (plain, Loss::Kill, 2),
        (special.clone(), Loss::Kill, 2),
        (power, Loss::Power, 2),
        (special, Loss::Power, 2),
    ]);
    let case = |(acts, loss, banks): (Vec<Act>, Loss, usize)| {
        acts.into_iter().map(move |act| Case { act, loss, banks })
    };
    sets.into_iter().flat_map(case).collect()
}

/// A world, the load on it, and the transfers under way.
struct Run {
    world: World,
    load: Rc<Load>,
    lanes: JoinSet<()>,
}

impl Run {
    fn new(case: Case, seed: u64) -> Result<Self> {
        let world = World::new(case.banks, case.loss, seed)?;
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

    /// Asks itself to stop at the point, and is killed a while after that if it still runs.
    async fn stop_at(&mut self, victim: Role, point: &str) -> Result<Point> {
        self.world.start_to_stop(victim, point)?;
        self.world.start_all()?;
        self.load.go_on(&mut self.lanes);
        tokio::select! {
            stops = self.world.stops(victim) => stops?,
            () = through(&mut self.lanes) => {
                self.world.end(victim, Signal::TERM).await?;
                return Ok(Point::NotPassed);
            }
        }
        if let Ok(ended) = timeout(STOP_FOR, self.world.ended(victim)).await {
            let status = ended?;
            ensure!(status.success(), "did not stop cleanly: {status}");
        } else {
            self.world.end(victim, Signal::KILL).await?;
        }
        Ok(Point::Passed)
    }

    async fn run(&mut self, act: Act) -> Result<Point> {
        let (victim, points) = match act {
            Act::Together(point, bank, bank_point) => {
                self.die_together([(Role::Coordinator, point), (bank, bank_point)]).await?;
                return Ok(Point::Passed);
            }
            Act::Stopping(victim, point) => return self.stop_at(victim, point).await,
            Act::FirstTime(victim, point, pass) => {
                if point.starts_with("open.") {
                    self.make_log(victim).await?;
                }
                (victim, vec![format!("{point}:{pass}")])
            }
            Act::Recovering(victim, point, pass) => {
                self.die_in_the_middle(victim).await?;
                (victim, vec![format!("{point}:{pass}")])
            }
            Act::AgainAndAgain(victim, points) => {
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
async fn judge(case: Case, seed: u64) -> Result<Point> {
    let mut run = Run::new(case, seed)?;
    let ran = timeout(HANG, async {
        let point = run.run(case.act).await?;
        run.finish().await?;
        Ok(point)
    });
    let point = ran.await.unwrap_or_else(|_| bail!("hangs"));
    let point = point.map_err(|error| error.context(run.world.last_words()))?;
    // Which points a commit in one phase passes is not held on to here.
    ensure!(point == expected(case).0 || case.banks == 1, "{point:?}");
    Ok(point)
}

fn expected(case: Case) -> (Point, &'static str) {
    let (role, point, first_time) = match case.act {
        Act::FirstTime(role, point, _) => (role, point, true),
        Act::Recovering(role, point, _) => (role, point, false),
        Act::Stopping(..) | Act::AgainAndAgain(..) | Act::Together(..) => {
            return (Point::Passed, "");
        }
    };
    for (prefix, roles, first_time_too, why) in NOT_PASSED {
        if point.starts_with(prefix) && roles.contains(&role) && (*first_time_too || !first_time) {
            return (Point::NotPassed, why);
        }
    }
    (Point::Passed, "")
}

/// Judges cases until none is left, and says what became of each.
fn work(cases: &Mutex<impl Iterator<Item = (u64, Case)>>, ended: &Mutex<Vec<Ended>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let next = || cases.lock().expect("no worker panics").next();
    while let Some((seed, case)) = next() {
        let begun = Instant::now();
        let result = LocalSet::new().block_on(&runtime, judge(case, seed));
        let elapsed_ms = begun.elapsed().as_millis();
        match &result {
            Ok(Point::Passed) => println!("ok {elapsed_ms:>6} ms  {case}"),
            Ok(Point::NotPassed) => {
                let (_, why) = expected(case);
                let why = if case.banks == 1 { "one bank commits in one phase" } else { why };
                println!("ok {elapsed_ms:>6} ms  {case}: not passed, {why}");
            }
            Err(error) => println!("VIOLATION  {case}: {}\n{error}", error.root_cause()),
        }
        ended.lock().expect("no worker panics").push((case, result));
    }
}

/// A case and what became of it.
type Ended = (Case, Result<Point>);

/// All cases, judged once for all tests.
static SWEEP: LazyLock<Vec<Ended>> = LazyLock::new(|| {
    let (left, ended) = (Mutex::new((0..).zip(cases())), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| work(&left, &ended));
        }
    });
    ended.into_inner().expect("no worker panics")
});

#[test]
fn nothing_is_lost_wherever_a_process_dies() {
    let begun = Instant::now();
    let (ended, runs) = (&*SWEEP, cases().len());
    let points: BTreeSet<&str> = ROLES.into_iter().flat_map(points).collect();
    let not_passed = ended.iter().filter(|(_, r)| matches!(r, Ok(Point::NotPassed))).count();
    let power_losses = ended.iter().filter(|(case, _)| case.loss == Loss::Power).count();
    let violations = ended.iter().filter(|(_, result)| result.is_err()).count();
    println!("{runs} runs in {} s", begun.elapsed().as_secs());
    let report = serde_json::json!({
        "points": points.len(),
        "runs": runs,
        "power_losses": power_losses,
        "not_passed": not_passed,
        "violations": violations,
    });
    println!("{report}");
    assert_eq!((ended.len(), violations), (runs, 0), "violations are above");
}
