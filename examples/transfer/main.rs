//! A transfer between two banks that happens in both or in none. Two services and an application:
//!
//! ```text
//! transfer bank bank-a 7461        a bank, its accounts are kept in the directory `bank-a`
//! transfer bank bank-b 7462
//! transfer move 7 8 250            250 cents from account 7 of bank-a to account 8 of bank-b
//! ```

use anyhow::{Result, bail};
use std::net::Ipv4Addr;
use std::time::Duration;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use unanimous_sdk::embedded::{Accounts, Opening};
use unanimous_sdk::{Attached, Client, ClientLayer, Participant, ServerLayer};

tonic::include_proto!("bank");
use bank_client::BankClient;
use bank_server::BankServer;

struct Bank(Attached<Accounts>);

#[tonic::async_trait]
impl bank_server::Bank for Bank {
    async fn change(&self, call: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let work = self.0.join(&call).await?;
        work.credit(call.get_ref().account, call.get_ref().cents)?;
        work.end();
        Ok(Response::new(ChangeReply {}))
    }
}

async fn bank(name: &str, port: u16) -> Result<()> {
    let opening = Opening { init: Some((100, 100_000)), ..Opening::default() };
    let mut participant = Participant::builder(name).coordinator("http://127.0.0.1:7450");
    let accounts = participant.attach("accounts", Accounts::open(name.as_ref(), opening)?);
    let _running = participant.start().await?;
    let service = BankServer::new(Bank(accounts));
    let server = Server::builder().layer(ServerLayer).add_service(service);
    Ok(server.serve((Ipv4Addr::LOCALHOST, port).into()).await?)
}

async fn transfer(from: u32, to: u32, cents: u32) -> Result<()> {
    let unanimous = Client::builder("http://127.0.0.1:7450", "transfer").connect()?;
    let connect = |at| BankClient::new(ClientLayer.layer(Endpoint::from_static(at).connect_lazy()));
    let mut bank_a = connect("http://127.0.0.1:7461");
    let mut bank_b = connect("http://127.0.0.1:7462");
    let tx = unanimous.begin("transfer").timeout(Duration::from_secs(5)).await?;
    bank_a.change(tx.request(ChangeRequest { account: from, cents: -i64::from(cents) })).await?;
    bank_b.change(tx.request(ChangeRequest { account: to, cents: cents.into() })).await?;
    println!("{} committed", tx.commit().await?.gtrid);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bank", name, port] => bank(name, port.parse()?).await,
        ["move", from, to, cents] => transfer(from.parse()?, to.parse()?, cents.parse()?).await,
        _ => bail!("transfer bank NAME PORT | transfer move FROM TO CENTS"),
    }
}
