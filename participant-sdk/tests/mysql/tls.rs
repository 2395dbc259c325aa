//! A server that takes encrypted connections only.

use crate::stage::{DEBIT, Stage, database};
use mysql_async::{OptsBuilder, SslOpts};
use unanimous_databases::certificates::Certificates;
use unanimous_databases::mariadb::Mariadb;
use unanimous_sdk::mysql::Mysql;
use unanimous_sdk::{Done, Resource};

fn encrypted(certificates: &Certificates) -> Mariadb {
    let mut server = Mariadb::start(&[]).unwrap();
    server.encrypt(certificates).unwrap();
    server.stop().unwrap();
    server.run().unwrap();
    server
}

/// Trusts this authority and nobody else.
fn trusting(url: &str, certificates: &Certificates) -> OptsBuilder {
    let authority = certificates.authority.clone().into_bytes();
    let tls = SslOpts::default()
        .with_root_certs(vec![authority.into()])
        .with_disable_built_in_roots(true);
    OptsBuilder::from_opts(mysql_async::Opts::from_url(url).unwrap()).ssl_opts(tls)
}

#[tokio::test]
async fn branches_are_worked_on_prepared_finished_and_listed_over_tls() {
    let certificates = Certificates::new().unwrap();
    let server = encrypted(&certificates);
    let name = database(&server);
    let url = server.url(&name);
    let stage = Stage::with(Mysql::builder(trusting(&url, &certificates)), &url).await;
    let (tx, mut work) = stage.begin().await;
    let cipher: Option<(String, String)> =
        work.query_first("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await.unwrap();
    assert!(cipher.is_some_and(|(_, cipher)| !cipher.is_empty()), "it is encrypted");
    work.query_drop(DEBIT).await.unwrap();
    work.end();
    tx.commit().await.unwrap();
    let second = stage.worked(DEBIT).await;
    stage.votes_commit(&second.id).await;
    assert!(stage.is_listed(&second.id).await);
    assert_eq!(stage.mysql.rollback(&second.id).await, Ok(Done::Done));
    assert_eq!(server.sql(&name, "SELECT cents FROM account WHERE id = 1").unwrap(), "900");
}

/// What the start says, where it cannot be encrypted as it should be.
#[tokio::test]
async fn a_server_that_is_not_vouched_for_or_not_asked_for_tls_is_refused_in_words() {
    let certificates = Certificates::new().unwrap();
    let server = encrypted(&certificates);
    let url = server.url(&database(&server));
    let stranger = Certificates::new().unwrap();
    for (builder, words) in [
        (Mysql::builder(trusting(&url, &stranger)), "invalid peer certificate"),
        (Mysql::url(&url).unwrap(), "ssl_opts"),
    ] {
        let unfit = builder.build().check().await.unwrap_err();
        assert!(unfit.to_string().contains(words), "{unfit}");
    }
}
