//! A theatre that sells its seats in transactions, with a resource written by hand:
//!
//! ```text
//! seats theatre FILE 7463          the theatre, its seats are kept in FILE
//! seats book 12 ada                a seat for a guest
//! seats sold
//! ```
//! What there is to learn from is in `theatre.rs`. The coordinator is found at
//! `UNANIMOUS_ADDRESS`, by itself at http://127.0.0.1:7450.

mod theatre;

use anyhow::{Result, bail};
use std::net::Ipv4Addr;
use std::path::Path;
use theatre::Theatre;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use unanimous_sdk::{Attached, Client, ClientLayer, Participant, ServerLayer};

mod wire {
    tonic::include_proto!("theatre");
}
use wire::theatre_client::TheatreClient;
use wire::{BookReply, BookRequest, SoldReply, SoldRequest};

struct Office(Attached<Theatre>);

#[tonic::async_trait]
impl wire::theatre_server::Theatre for Office {
    async fn book(&self, call: Request<BookRequest>) -> Result<Response<BookReply>, Status> {
        let branch = self.0.enlist(&call).await?;
        // `?` drops the branch: the whole transaction rolls back.
        self.0.book(&branch, call.get_ref().seat, &call.get_ref().guest)?;
        branch.end();
        Ok(Response::new(BookReply {}))
    }

    async fn sold(&self, _: Request<SoldRequest>) -> Result<Response<SoldReply>, Status> {
        Ok(Response::new(SoldReply { guests: self.0.sold().into_iter().collect() }))
    }
}

fn coordinator() -> String {
    std::env::var("UNANIMOUS_ADDRESS").unwrap_or_else(|_| "http://127.0.0.1:7450".to_owned())
}

async fn theatre(file: &Path, port: u16) -> Result<()> {
    let mut participant = Participant::builder("theatre").coordinator(coordinator());
    let theatre = participant.attach("theatre/seats", Theatre::open(file)?);
    let _running = participant.start().await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("the theatre is open at http://{}", listener.local_addr()?);
    let service = wire::theatre_server::TheatreServer::new(Office(theatre));
    let server = Server::builder().layer(ServerLayer).add_service(service);
    Ok(server.serve_with_incoming(TcpIncoming::from(listener)).await?)
}

async fn book(seat: u32, guest: &str) -> Result<()> {
    let unanimous = Client::builder(coordinator(), "seats").connect()?;
    let mut theatre = TheatreClient::new(ClientLayer.layer(channel()));
    let tx = unanimous.begin("book").await?;
    theatre.book(tx.request(BookRequest { seat, guest: guest.to_owned() })).await?;
    println!("{} committed", tx.commit().await?.gtrid);
    Ok(())
}

async fn sold() -> Result<()> {
    let sold = TheatreClient::new(channel()).sold(SoldRequest {}).await?.into_inner();
    for (seat, guest) in sold.guests {
        println!("{seat} {guest}");
    }
    Ok(())
}

fn channel() -> tonic::transport::Channel {
    Endpoint::from_static("http://127.0.0.1:7463").connect_lazy()
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["theatre", file, port] => theatre(file.as_ref(), port.parse()?).await,
        ["book", seat, guest] => book(seat.parse()?, guest).await,
        ["sold"] => sold().await,
        _ => bail!("seats theatre FILE PORT | seats book SEAT GUEST | seats sold"),
    }
}
