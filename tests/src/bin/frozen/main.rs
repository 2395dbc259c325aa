//! `frozen`: twenty participants in processes of their own, one of them stopped with SIGSTOP for a
//! while, again and again. Transactions without it must not notice.
//!
//! The machine's noise is larger than the effect: phases alternate, and what is compared are the
//! medians of the 99th percentiles of many windows of a second.

mod member;

use clap::Parser;
use member::Member;
use rustix::process::Signal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use unanimous_sdk::Client;
use unanimous_tests::real::latency::median;
use unanimous_tests::real::memory::Counts;
use unanimous_tests::real::{Coordinator, Report, Window};

const MEMBERS: usize = 20;
/// The one that is frozen.
const VICTIM: usize = MEMBERS - 1;
const CLIENTS: usize = 64;
/// Between two transactions of a client: the machine is not to be saturated, or freezing a process
/// would give the others its share of it.
const THINK: Duration = Duration::from_millis(100);
/// Transactions with the frozen one that hang at a time; clients do not wait for them.
const HANGING_MAX: usize = 1_000;
const WINDOW: Duration = Duration::from_secs(1);
/// The 99th percentile while one is frozen, against before.
const RATIO_MAX: f64 = 1.5;
const HANG: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Arguments {
    /// Frozen for 5 s instead of 60 s each time.
    #[arg(long)]
    quick: bool,
    /// How often it is frozen.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Be one of the twenty.
    #[arg(long, hide = true, num_args = 3, value_names = ["NAME", "URL", "ADDRESS"])]
    member: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    if !arguments.member.is_empty() {
        return match member::serve(&arguments.member) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report.say(format!("{error:#}"));
                ExitCode::FAILURE
            }
        };
    }
    let ran = run(&arguments, &mut report);
    report.end(ran)
}

#[tokio::main]
async fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let mut coordinator = Coordinator::new(home.path(), &home.path().join("log"))?;
    coordinator.start().await?;
    let mut members = Vec::new();
    for number in 0..MEMBERS {
        members.push(Member::start(home.path(), &coordinator.url(), number)?);
    }
    for member in &members {
        member.wait_until_it_listens()?;
    }
    let load = Load::start(&coordinator, &members)?;
    let phase = Duration::from_secs(if arguments.quick { 5 } else { 60 });
    let (mut before, mut during) = (Phase::default(), Phase::default());
    // Connections are made and caches filled before anything counts.
    load.phase(phase / 2).await;
    report.row(&["", "transactions", "p50 ms", "p99 ms", "max ms"].map(str::to_owned));
    for round in 1..=arguments.rounds {
        let seen = load.phase(phase).await;
        seen.show(&format!("{round} before"), report);
        before.merge(&seen);
        members[VICTIM].process.signal(Signal::STOP)?;
        let seen = load.phase(phase).await;
        seen.show(&format!("{round} frozen"), report);
        during.merge(&seen);
        let hanging = load.hanging.load(Ordering::Relaxed);
        report.must(hanging > 0, || "no transaction waits for the frozen one".to_owned());
        members[VICTIM].process.signal(Signal::CONT)?;
        let healed = load.until_nothing_hangs().await?;
        report.say(format!("{hanging} transactions hung; healed in {:.1} s", healed.as_secs_f64()));
    }
    load.stop().await;
    coordinator.settled(HANG).await?;
    before.show("all before", report);
    during.show("all frozen", report);
    let (p99_before, p99_during) = (before.p99_ms(), during.p99_ms());
    let ratio = p99_during / p99_before.max(0.001);
    report.say(format!("median p99 of windows: {p99_before:.2} ms, frozen {p99_during:.2} ms"));
    report.must(ratio <= RATIO_MAX, || format!("p99 is {ratio:.2} times that without"));
    report.field("p99_ms_before", p99_before);
    report.field("p99_ms_during", p99_during);
    report.field("p50_ms_before", before.all.quantile_ms(0.5));
    report.field("p50_ms_during", during.all.quantile_ms(0.5));
    report.field("max_ms_before", before.all.quantile_ms(1.0));
    report.field("max_ms_during", during.all.quantile_ms(1.0));
    report.field("ratio", (ratio * 100.0).round() / 100.0);
    report.field("transactions", before.all.len() + during.all.len());
    for member in members {
        member.process.stop()?;
    }
    coordinator.stop()
}

/// Some windows of a second, and everything in them.
#[derive(Default)]
struct Phase {
    windows: Vec<Window>,
    all: Window,
}

impl Phase {
    fn merge(&mut self, other: &Self) {
        self.windows.extend(other.windows.iter().cloned());
        self.all.merge(&other.all);
    }

    fn p99_ms(&self) -> f64 {
        let p99: Vec<f64> = self.windows.iter().map(|window| window.quantile_ms(0.99)).collect();
        median(&p99)
    }

    fn show(&self, name: &str, report: &Report) {
        let quantiles = [0.5, 0.99, 1.0].map(|share| self.all.quantile_ms(share));
        let cells = quantiles.iter().map(|ms| format!("{ms:.2}"));
        let cells = [name.to_owned(), self.all.len().to_string()].into_iter().chain(cells);
        report.row(&cells.collect::<Vec<_>>());
    }
}

/// Clients with transactions over two members each.
struct Load {
    /// Of transactions without the victim.
    counts: Arc<Counts>,
    /// Transactions with the victim that have not ended.
    hanging: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(coordinator: &Coordinator, members: &[Member]) -> anyhow::Result<Self> {
        let client = Client::builder(coordinator.url(), "frozen").connect()?;
        let calls: Vec<_> = members.iter().map(Member::calls).collect::<Result<_, _>>()?;
        let calls: Arc<[_]> = calls.into();
        let (counts, hanging) = (Arc::<Counts>::default(), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, calls) = (client.clone(), Arc::clone(&calls));
            let (counts, hanging) = (Arc::clone(&counts), Arc::clone(&hanging));
            clients.spawn(async move {
                while !counts.is_stopped() {
                    let first = rand::random_range(0..MEMBERS);
                    let second = (first + rand::random_range(1..MEMBERS)) % MEMBERS;
                    let pair = [calls[first].clone(), calls[second].clone()];
                    if first != VICTIM && second != VICTIM {
                        let begun = Instant::now();
                        let ended = member::transact(&client, pair).await;
                        counts.count(&ended, begun.elapsed());
                    } else if hanging.load(Ordering::Relaxed) < HANGING_MAX {
                        hanging.fetch_add(1, Ordering::Relaxed);
                        let (client, hanging) = (client.clone(), Arc::clone(&hanging));
                        tokio::spawn(async move {
                            member::transact(&client, pair).await;
                            hanging.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                    let think = THINK.mul_f64(rand::random_range(0.5..1.5));
                    tokio::time::sleep(think).await;
                }
            });
        }
        Ok(Self { counts, hanging, clients })
    }

    /// What happens from now on for so long.
    async fn phase(&self, length: Duration) -> Phase {
        drop(self.counts.take_window());
        let mut phase = Phase::default();
        let started = Instant::now();
        while started.elapsed() < length {
            tokio::time::sleep(WINDOW).await;
            let window = self.counts.take_window();
            phase.all.merge(&window);
            phase.windows.push(window);
        }
        phase
    }

    async fn until_nothing_hangs(&self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        // The clients go on: some are always on their way.
        while self.hanging.load(Ordering::Relaxed) > CLIENTS / 4 {
            anyhow::ensure!(started.elapsed() < HANG, "transactions still hang");
            tokio::time::sleep(unanimous_tests::real::LOOK).await;
        }
        Ok(started.elapsed())
    }

    async fn stop(self) {
        self.counts.stop();
        self.clients.join_all().await;
    }
}
