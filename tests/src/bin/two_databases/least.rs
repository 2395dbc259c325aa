//! What a coordinator in a process of its own costs at the least, in two measures.
//!
//! *least*: the bare loop with one question to that process, once both branches are prepared, which
//! is answered when the decision is durable. *steps*: the guard that a block needs, and one message
//! for each step of the protocol, as a coordinator that knows who takes part must have it.
//!
//! A message is one byte on one connection, without gRPC or anything else around it. The process
//! has a thread that answers and one for the decisions: what has arrived meanwhile becomes one
//! write into a file that has its length already, and one `fdatasync`. It counts no votes, tracks
//! no time, keeps no table and could not recover: whatever coordinates has more to do.

use super::bare::{Bare, Manner};
use anyhow::Context as _;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

const FILE_BYTES: usize = 16 << 20;
/// What a decision takes in the file.
const RECORD_BYTES: usize = 128;
/// So many messages are taken at a time.
const GROUP_MAX: usize = 4_096;

/// Answered at once.
const STEP: u8 = b'S';
/// Answered when it is durable.
const DECIDE: u8 = b'D';
/// Not answered: a vote before the last one, an acknowledgement.
const TELL: u8 = b'T';

/// A message, and who waits for its answer.
type Sent = (u8, Option<oneshot::Sender<()>>);

/// The process that decides, and the connection to it.
pub(super) struct Decider {
    child: Child,
    messages: mpsc::UnboundedSender<Sent>,
}

impl Decider {
    /// `file` is where it keeps its decisions.
    pub(super) async fn start(file: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--decider").arg(file).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address)?;
        let stream = TcpStream::connect(address.trim()).await?;
        stream.set_nodelay(true)?;
        let (messages, inbox) = mpsc::unbounded_channel();
        tokio::spawn(carry(stream, inbox));
        Ok(Self { child, messages })
    }

    async fn ask(&self, message: u8) -> anyhow::Result<()> {
        let (answered, answer) = oneshot::channel();
        self.messages.send((message, Some(answered)))?;
        Ok(answer.await?)
    }

    fn tell(&self) -> anyhow::Result<()> {
        Ok(self.messages.send((TELL, None))?)
    }

    /// A transaction of the bare loop, decided here between its two phases.
    pub(super) async fn least(&self, client: &Bare) -> anyhow::Result<()> {
        let gid = client.prepare_both(Manner::AtOnce).await?;
        self.ask(DECIDE).await?;
        client.commit_both(&gid).await
    }

    /// The same step by step: begin, two branches that enlist, the wish to commit, which comes back
    /// as the order to prepare, two votes, the decision, two acknowledgements. `early`: each branch
    /// votes when its work is done, and the wish to commit is answered with the decision.
    pub(super) async fn steps(&self, client: &Bare, early: bool) -> anyhow::Result<()> {
        self.ask(STEP).await?;
        let (gid, account) = (client.name(), client.account());
        let work = async |at: usize| {
            self.ask(STEP).await?;
            client.work(at, &gid, account, Manner::Guarded).await?;
            if early {
                client.prepare(at, &gid, Manner::Guarded).await?;
                self.tell()?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(work(0), work(1))?;
        if early {
            self.ask(DECIDE).await?;
        } else {
            self.ask(STEP).await?;
            let votes = AtomicUsize::new(0);
            let vote = async |at: usize| {
                client.prepare(at, &gid, Manner::Guarded).await?;
                match votes.fetch_add(1, Ordering::SeqCst) {
                    0 => self.tell(),
                    _ => self.ask(DECIDE).await,
                }
            };
            tokio::try_join!(vote(0), vote(1))?;
        }
        let commit = async |at: usize| {
            client.commit(at, &gid).await?;
            self.tell()
        };
        tokio::try_join!(commit(0), commit(1))?;
        Ok(())
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Messages out, answers back: of each kind in the order of its questions.
async fn carry(mut stream: TcpStream, mut inbox: mpsc::UnboundedReceiver<Sent>) {
    let (mut steps, mut decisions) = (VecDeque::new(), VecDeque::new());
    let (mut sent, mut answers) = (Vec::new(), [0; GROUP_MAX]);
    loop {
        tokio::select! {
            count = inbox.recv_many(&mut sent, GROUP_MAX) => {
                let bytes: Vec<u8> = sent.iter().map(|(message, _)| *message).collect();
                if count == 0 || stream.write_all(&bytes).await.is_err() {
                    return;
                }
                for (message, waits) in sent.drain(..) {
                    let waiting = if message == DECIDE { &mut decisions } else { &mut steps };
                    waiting.extend(waits);
                }
            }
            read = stream.read(&mut answers) => {
                let Ok(count @ 1..) = read else { return };
                for answer in &answers[..count] {
                    let waiting = if *answer == DECIDE { &mut decisions } else { &mut steps };
                    let waits: Option<oneshot::Sender<()>> = waiting.pop_front();
                    let _ = waits.map(|waits| waits.send(()));
                }
            }
        }
    }
}

/// The process itself.
pub(super) fn run(path: &Path) -> anyhow::Result<()> {
    let file = File::create(path)?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?)?;
    stdout.flush()?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let (decisions, queue) = channel();
    let answers = stream.try_clone()?;
    let deciding = std::thread::spawn(move || decide(&file, &queue, answers));
    let mut messages = [0; GROUP_MAX];
    loop {
        let count = stream.read(&mut messages)?;
        if count == 0 {
            drop(decisions);
            return deciding.join().map_err(|_| anyhow::anyhow!("the decisions ended badly"))?;
        }
        let of = |kind: u8| messages[..count].iter().filter(|message| **message == kind).count();
        // Whoever decides does not wait for whoever takes a step.
        if of(DECIDE) > 0 {
            decisions.send(of(DECIDE))?;
        }
        stream.write_all(&vec![STEP; of(STEP)])?;
    }
}

fn decide(
    file: &File,
    queue: &Receiver<usize>,
    mut answers: impl std::io::Write,
) -> anyhow::Result<()> {
    let mut at = 0;
    while let Ok(first) = queue.recv() {
        let count = first + queue.try_iter().sum::<usize>();
        let records = vec![7; count * RECORD_BYTES];
        if at + records.len() > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&records, at as u64)?;
        file.sync_data()?;
        at += records.len();
        answers.write_all(&vec![DECIDE; count])?;
    }
    Ok(())
}
