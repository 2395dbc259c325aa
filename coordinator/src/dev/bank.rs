//! `dev bank`: a service with accounts that takes part in transactions, as a user of the SDK would
//! write it.

use super::books::{Books, Broken, Database};
use super::wire::bank_service_server::{BankService, BankServiceServer};
use super::wire::{DescribeRequest, DescribeResponse, MoveRequest, MoveResponse};
use crate::cli::{BankArgs, Global};
use crate::codes::Code;
use crate::connect::causes;
use crate::errors::Failure;
use crate::{process, runtime, serve};
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimous_sdk::Participant;
use unanimous_sdk::embedded::{Accounts, Opening};

/// Accounts of each bank, numbered from 1.
pub(crate) const ACCOUNTS: u32 = 1_000;
/// What is in each at first, in hundredths.
pub(crate) const OPENING_CENTS: i64 = 1_000 * 100;
/// Calls that are still running when the bank stops get this long.
const CALLS_END_MAX: Duration = Duration::from_secs(2);

struct Bank {
    books: Books,
}

#[tonic::async_trait]
impl BankService for Bank {
    async fn r#move(
        &self,
        request: Request<MoveRequest>,
    ) -> Result<Response<MoveResponse>, Status> {
        self.books.r#move(request).await
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(self.books.describe().await?))
    }
}

/// Serves until a signal stops it, then closes its store.
pub(crate) fn run(args: &BankArgs, global: &Global) -> Result<(), Failure> {
    process::begin(&args.process)?;
    let (stop, stopped) = watch::channel(false);
    process::on_signals(move |name, _| {
        tracing::info!(signal = name, "stopping");
        stop.send_replace(true);
    })?;
    let listener = serve::listen("--listen", args.listen)?;
    let kept = match &args.database {
        Some(file) => Kept::Database(Database::read(file).map_err(opening)?),
        None => Kept::Store(open(args)?),
    };
    let ran = runtime()?.block_on(async {
        let mut builder = Participant::builder(&args.name).coordinator(&global.address);
        if let Some(policy) = args.alone {
            builder = builder.heuristic_policy(policy);
        }
        let id = format!("{}/accounts", args.name);
        let books = match &kept {
            Kept::Store(accounts) => Books::Embedded(builder.attach(id, accounts.clone())),
            Kept::Database(database) => database.attach(&mut builder, id).map_err(opening)?,
        };
        let participant =
            builder.start().await.map_err(|error| failed("starting the participant", &error))?;
        tracing::info!(bank = args.name, "open");
        serve_calls(listener, books, stopped).await?;
        participant.stop().await;
        Ok(())
    });
    if let Kept::Store(accounts) = kept {
        accounts.close().map_err(|error| failed("closing the accounts", &error))?;
    }
    ran
}

/// Where the accounts are.
enum Kept {
    Store(Accounts),
    Database(Database),
}

fn open(args: &BankArgs) -> Result<Accounts, Failure> {
    let opening = Opening {
        init: Some((ACCOUNTS, OPENING_CENTS)),
        log_bytes_compact: args.log_bytes_compact,
    };
    Accounts::open(&args.data_dir, opening).map_err(|error| failed("opening the accounts", &error))
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn opening(error: Broken) -> Failure {
    failed("opening the database", error.as_ref())
}

async fn serve_calls(
    listener: std::net::TcpListener,
    books: Books,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(listener))
        .map_err(|error| failed("listening", &error))?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let bank = Bank { books };
    let mut asked = stopped.clone();
    let graceful = async move {
        // The sender lives as long as the process.
        let _ = asked.wait_for(|stopped| *stopped).await;
    };
    let serving = Server::builder()
        .add_service(BankServiceServer::new(bank))
        .serve_with_incoming_shutdown(incoming, graceful);
    let too_late = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(CALLS_END_MAX).await;
    };
    tokio::select! {
        served = serving => served.map_err(|error| failed("serving", &error)),
        () = too_late => Ok(()),
    }
}

fn failed(doing: &str, error: &dyn std::error::Error) -> Failure {
    let next = "unanimous dev, for the whole of it";
    Failure::new(Code::Bank, format!("{doing} failed"), causes(error), next)
}
