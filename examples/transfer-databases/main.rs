//! The two banks of `transfer` with their accounts in PostgreSQL and in MariaDB. The applications
//! are the same: `transfer move`, and `transfer-axum` behind a web server.
//!
//! ```text
//! transfer-databases postgres postgres://bank@127.0.0.1/bank     bank-a
//! transfer-databases mariadb mysql://bank@127.0.0.1/bank         bank-b
//! transfer move 7 8 250                                          250 cents, in both or in none
//! ```
//! In each of the databases: `CREATE TABLE account (id bigint PRIMARY KEY, cents bigint NOT NULL,
//! CHECK (cents >= 0))`, and the accounts.

use anyhow::{Result, bail};
use std::net::Ipv4Addr;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use unanimous_sdk::mysql::Mysql;
use unanimous_sdk::postgres::{self, Postgres};
use unanimous_sdk::{Attached, Participant, Resource, ServerLayer};

tonic::include_proto!("bank");
use bank_server::{Bank, BankServer};

struct InPostgres(Attached<Postgres>);

#[tonic::async_trait]
impl Bank for InPostgres {
    async fn change(&self, call: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let work = self.0.join(&call).await?;
        let (account, cents) = (i64::from(call.get_ref().account), call.get_ref().cents);
        let sql = "UPDATE account SET cents = cents + $1 WHERE id = $2 RETURNING cents";
        work.query_one(sql, &[&cents, &account]).await.map_err(postgres::status)?;
        work.end();
        Ok(Response::new(ChangeReply {}))
    }
}

struct InMariadb(Attached<Mysql>);

#[tonic::async_trait]
impl Bank for InMariadb {
    async fn change(&self, call: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let mut work = self.0.join(&call).await?;
        let ChangeRequest { account, cents } = call.get_ref();
        let sql = "UPDATE account SET cents = cents + ? WHERE id = ?";
        work.exec_drop(sql, (cents, account)).await?;
        if work.affected_rows() == 0 {
            return Err(Status::not_found("no such account"));
        }
        work.end();
        Ok(Response::new(ChangeReply {}))
    }
}

type Make<R, B> = fn(Attached<R>) -> B;

async fn serve<R: Resource, B: Bank>(name: &str, db: R, bank: Make<R, B>, port: u16) -> Result<()> {
    let mut participant = Participant::builder(name).coordinator("http://127.0.0.1:7450");
    let service = BankServer::new(bank(participant.attach(format!("{name}/accounts"), db)));
    let _running = participant.start().await?;
    let server = Server::builder().layer(ServerLayer).add_service(service);
    Ok(server.serve((Ipv4Addr::LOCALHOST, port).into()).await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["postgres", url] => serve("bank-a", Postgres::url(url)?.build(), InPostgres, 7461).await,
        ["mariadb", url] => serve("bank-b", Mysql::url(url)?.build(), InMariadb, 7462).await,
        _ => bail!("transfer-databases postgres URL | transfer-databases mariadb URL"),
    }
}
