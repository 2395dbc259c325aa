//! A server that takes encrypted connections only.

use crate::bank::{Bank, gid, resource, shared, value};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;
use unanimous_databases::certificates::Certificates;
use unanimous_databases::postgres::Postgres as Server;
use unanimous_sdk::{Done, Resource};

fn encrypted(certificates: &Certificates) -> Server {
    let server = Server::start(&[]).unwrap();
    server.encrypt(certificates).unwrap();
    server.stop().unwrap();
    server.run().unwrap();
    server
}

/// Trusts this authority and nobody else.
fn trusting(certificates: &Certificates) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificates.authority.as_bytes()).unwrap()).unwrap();
    MakeRustlsConnect::new(
        ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
    )
}

#[tokio::test]
async fn branches_are_worked_on_prepared_finished_and_listed_over_tls() {
    let certificates = Certificates::new().unwrap();
    let server = encrypted(&certificates);
    let bank = Bank::open_on(&server, |builder| builder.tls(trusting(&certificates)));
    bank.postgres.check().await.unwrap();
    let (first, session) = bank.debit(1).await;
    let asked = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(value(&session, asked).await, "t");
    drop(session);
    let evidence = bank.vote_commit(&first).await;
    assert_eq!(bank.postgres.commit(&first, Some(&evidence)).await, Ok(Done::Done));
    let (second, session) = bank.debit(1).await;
    drop(session);
    bank.vote_commit(&second).await;
    // Another process finishes it, on connections that are not for work.
    let url = server.url_as(&bank.database, &bank.database);
    let another = resource(&url, |builder| builder.tls(trusting(&certificates)));
    assert_eq!(another.recover().await.unwrap().len(), 1);
    assert_eq!(bank.listed(), [gid(&second)]);
    assert_eq!(another.rollback(&second).await, Ok(Done::Done));
    assert_eq!(bank.cents(1), 99);
    bank.assert_clean();
}

/// What the start says, where it cannot be encrypted as it should be.
#[tokio::test]
async fn what_is_not_encrypted_as_it_should_be_is_refused_in_words() {
    let certificates = Certificates::new().unwrap();
    let server = encrypted(&certificates);
    let encrypted = server.url("postgres");
    let required = format!("{encrypted}?sslmode=require");
    let plain = shared().url("postgres");
    let stranger = trusting(&Certificates::new().unwrap());
    let known = trusting(&certificates);
    let refused = [
        (resource(&encrypted, |builder| builder.tls(stranger)), "invalid peer certificate"),
        (resource(&encrypted, |builder| builder), "no encryption"),
        (resource(&required, |builder| builder), "no TLS implementation configured"),
        // By itself the driver would go on without.
        (resource(&plain, |builder| builder.tls(known)), "server does not support TLS"),
    ];
    let refused = refused.map(async |(resource, words)| {
        let unfit = resource.check().await.unwrap_err();
        assert!(unfit.what.contains(words), "{unfit}");
        assert!(unfit.next.contains("PostgresBuilder::tls"), "{unfit}");
    });
    futures_util::future::join_all(refused).await;
}
