//! The transfer of the example `transfer` behind a web server. The banks are that example's:
//!
//! ```text
//! transfer bank bank-a 7461
//! transfer bank bank-b 7462
//! transfer-axum 7460
//! curl -d '{"from":7,"to":8,"cents":250}' -H 'content-type: application/json' http://127.0.0.1:7460/transfer
//! ```
//! The calls name no transaction: they are made in the work of `run`, through channels with a
//! layer, and belong to it by themselves.

use anyhow::{Context as _, Result};
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::routing::{Router, post};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use unanimous_sdk::layer::Outbound;
use unanimous_sdk::{Client, ClientLayer, CommitError, RunError};

tonic::include_proto!("bank");

type Bank = bank_client::BankClient<Outbound<Channel>>;

#[derive(serde::Deserialize)]
struct Order {
    from: u32,
    to: u32,
    cents: u32,
}

async fn transfer(
    State((unanimous, mut bank_a, mut bank_b)): State<(Client, Bank, Bank)>,
    Json(Order { from, to, cents }): Json<Order>,
) -> Result<String, (StatusCode, String)> {
    let transfer = unanimous.begin("transfer").timeout(Duration::from_secs(5)).run(async |tx| {
        bank_a.change(ChangeRequest { account: from, cents: -i64::from(cents) }).await?;
        bank_b.change(ChangeRequest { account: to, cents: cents.into() }).await?;
        Ok::<_, Status>(tx.gtrid())
    });
    match transfer.await {
        Ok(gtrid) => Ok(format!("{gtrid}\n")),
        Err(error @ (RunError::Work(_) | RunError::Commit(CommitError::RolledBack { .. }))) => {
            Err((StatusCode::CONFLICT, error.to_string()))
        }
        // Not begun, or begun and not known to have ended: the text names the transaction.
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let port = std::env::args().nth(1).context("transfer-axum PORT")?.parse()?;
    let unanimous = Client::builder("http://127.0.0.1:7450", "transfer-axum").connect()?;
    let connect = |at| ClientLayer.layer(Endpoint::from_static(at).connect_lazy());
    let [bank_a, bank_b] =
        ["http://127.0.0.1:7461", "http://127.0.0.1:7462"].map(|at| Bank::new(connect(at)));
    let routes =
        Router::new().route("/transfer", post(transfer)).with_state((unanimous, bank_a, bank_b));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    Ok(axum::serve(listener, routes).await?)
}
