//! The least that a coordinator in a process of its own adds to the bare loop: once both branches
//! are prepared, one question to that process, which answers when the decision is durable. BEGIN
//! goes with the first statement, as in ours.
//!
//! It enlists nobody, counts no votes, tracks no time and could not recover: whatever coordinates
//! has more to do. One thread, one connection, one byte a question; what has arrived meanwhile
//! becomes one write into a file that has its length already, and one `fdatasync`.

use super::bare::Bare;
use anyhow::{Context as _, ensure};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

const FILE_BYTES: u64 = 16 << 20;
/// What a decision takes in the file.
const RECORD_BYTES: usize = 128;
/// So many questions become one group at most.
const GROUP_MAX: usize = 4_096;

/// The process that decides, and the connection to it.
pub(super) struct Decider {
    child: Child,
    asks: mpsc::UnboundedSender<oneshot::Sender<()>>,
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
        let (asks, inbox) = mpsc::unbounded_channel();
        tokio::spawn(carry(stream, inbox));
        Ok(Self { child, asks })
    }

    async fn decide(&self) -> anyhow::Result<()> {
        let (decided, answer) = oneshot::channel();
        self.asks.send(decided)?;
        Ok(answer.await?)
    }

    /// A transaction of the bare loop, decided here between its two phases.
    pub(super) async fn transact(&self, client: &Bare) -> anyhow::Result<()> {
        let gid = client.prepare(true).await?;
        self.decide().await?;
        client.commit(&gid).await
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Questions out, answers back, which come in the same order.
async fn carry(mut stream: TcpStream, mut inbox: mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
    let mut open = VecDeque::new();
    let (mut asked, mut answers) = (Vec::new(), [0; GROUP_MAX]);
    loop {
        tokio::select! {
            count = inbox.recv_many(&mut asked, GROUP_MAX) => {
                if count == 0 || stream.write_all(&vec![1; count]).await.is_err() {
                    return;
                }
                open.extend(asked.drain(..));
            }
            read = stream.read(&mut answers) => {
                let Ok(count @ 1..) = read else { return };
                for decided in open.drain(..count.min(open.len())) {
                    let _: Result<(), ()> = decided.send(());
                }
            }
        }
    }
}

/// The process itself.
pub(super) fn run(file: &Path) -> anyhow::Result<()> {
    let file = File::create(file)?;
    file.write_all_at(&vec![0; usize::try_from(FILE_BYTES)?], 0)?;
    file.sync_all()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?)?;
    stdout.flush()?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let (mut questions, mut at) = ([0; GROUP_MAX], 0);
    loop {
        let count = stream.read(&mut questions)?;
        if count == 0 {
            return Ok(());
        }
        let records = vec![7; count * RECORD_BYTES];
        let bytes = u64::try_from(records.len())?;
        if at + bytes > FILE_BYTES {
            at = 0;
        }
        ensure!(bytes <= FILE_BYTES, "a group is longer than the file");
        file.write_all_at(&records, at)?;
        file.sync_data()?;
        at += bytes;
        stream.write_all(&questions[..count])?;
    }
}
