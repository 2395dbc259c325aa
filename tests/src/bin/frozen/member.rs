//! One of the twenty: this executable again, a participant without a disk that takes work calls.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use unanimous_sdk::{Attached, Client, Participant};
use unanimous_tests::real::Process;
use unanimous_tests::real::coordinator::{free_port, wait_for_port};
use unanimous_tests::real::memory::{Agreeable, Ended, ended};
use unanimous_tests::real::wire::bank_service_client::BankServiceClient;
use unanimous_tests::real::wire::bank_service_server::{BankService, BankServiceServer};
use unanimous_tests::real::wire::{DescribeRequest, DescribeResponse, MoveRequest, MoveResponse};

/// A transaction that has not ended by then is rolled back.
const TRANSACTION_MAX: Duration = Duration::from_secs(2);
const LISTENS_MAX: Duration = Duration::from_secs(60);

/// A member as its starter sees it.
pub(crate) struct Member {
    pub(crate) process: Process,
    listen: SocketAddr,
}

impl Member {
    pub(crate) fn start(home: &Path, url: &str, number: usize) -> anyhow::Result<Self> {
        let (name, listen) = (format!("member-{number}"), free_port()?);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--member", &name, url, &listen.to_string()]);
        let process = Process::start(&name, command, &home.join(format!("{name}.log")))?;
        Ok(Self { process, listen })
    }

    pub(crate) fn wait_until_it_listens(&self) -> anyhow::Result<()> {
        wait_for_port(self.listen, LISTENS_MAX)
    }

    pub(crate) fn calls(&self) -> anyhow::Result<BankServiceClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.listen))?;
        Ok(BankServiceClient::new(endpoint.tcp_nodelay(true).connect_lazy()))
    }
}

/// One transaction with a work call to each of two members.
pub(crate) async fn transact(client: &Client, pair: [BankServiceClient<Channel>; 2]) -> Ended {
    let transaction = match client.begin("frozen").timeout(TRANSACTION_MAX).await {
        Ok(transaction) => transaction,
        Err(error) => return Ended::NotBegun(error.to_string()),
    };
    for mut member in pair {
        let work = MoveRequest { account: 1, cents: 1 };
        let done = transaction.call(work, async |request| member.r#move(request).await);
        if let Err(status) = done.await {
            return Ended::RolledBack(status.to_string());
        }
    }
    ended(transaction.commit().await.map(drop))
}

struct Work(Attached<Agreeable>);

#[tonic::async_trait]
impl BankService for Work {
    async fn r#move(
        &self,
        request: Request<MoveRequest>,
    ) -> Result<Response<MoveResponse>, Status> {
        let branch = self.0.enlist(&request).await?;
        let mut reply = Response::new(MoveResponse {});
        branch.announce(reply.metadata_mut());
        branch.end();
        Ok(reply)
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(DescribeResponse::default()))
    }
}

/// Serves until SIGTERM, or until whoever started it is gone.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn serve(words: &[String]) -> anyhow::Result<()> {
    let [name, url, listen] = words else { anyhow::bail!("--member NAME URL ADDRESS") };
    let mut builder = Participant::builder(name).coordinator(url);
    let work = Work(builder.attach(name, Agreeable::default()));
    let participant = builder.start().await?;
    let listener = TcpListenerStream::new(tokio::net::TcpListener::bind(listen).await?);
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let serving =
        Server::builder().add_service(BankServiceServer::new(work)).serve_with_incoming(listener);
    let (gone, orphaned) = tokio::sync::oneshot::channel::<()>();
    // On a thread of its own: the read would keep a runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(gone);
    });
    tokio::select! {
        served = serving => served?,
        _ = terminated.recv() => participant.stop().await,
        _ = orphaned => {}
    }
    Ok(())
}
