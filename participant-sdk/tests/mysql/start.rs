//! D-30: what is asked at the start.

use crate::stage::{DEBIT, Stage, database, may_list, new_user, server, soon};
use unanimous_databases::mariadb::{Mariadb, is_mysql};
use unanimous_sdk::mysql::{Mysql, MysqlBuilder};
use unanimous_sdk::{Done, InProcess, Resource, StartError};

async fn refused(url: &str) -> String {
    let mysql = Mysql::url(url).unwrap().build();
    mysql.check().await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn d_30_settings_that_lose_what_was_said_are_refused_or_accepted_explicitly() {
    let settings = [
        ("innodb-flush-log-at-trx-commit", "2"),
        ("log-bin", "binlog"),
        ("sync-binlog", "0"),
        ("server-id", "7"),
    ];
    let server = Mariadb::start(&settings).unwrap();
    let url = server.url(&database(&server));
    let words = refused(&url).await;
    assert!(words.contains("SET GLOBAL innodb_flush_log_at_trx_commit = 1"), "{words}");
    let coordinator = InProcess::start().await.unwrap();
    let mut builder = coordinator.participant("bank");
    builder.attach("mysql/bank", Mysql::url(&url).unwrap().build());
    let error = builder.start().await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StartError::Unfit { .. }), "{error}");

    let stage = Stage::at(&url, MysqlBuilder::accept_unsafe_settings).await;
    let found = stage.mysql.findings().await.unwrap();
    let codes: Vec<&str> = found.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["MYSQL_FLUSH_LOG", "MYSQL_SYNC_BINLOG"]);

    // A plain commit could be lost, so one phase is two.
    let worked = stage.worked(DEBIT).await;
    assert_eq!(stage.mysql.commit_one_phase(&worked.id).await, Ok(Done::Done));
    let status = "SHOW GLOBAL STATUS LIKE 'Com_xa_prepare'";
    assert_eq!(server.sql("", status).unwrap(), "Com_xa_prepare\t1");
    assert_eq!(stage.cents().await, 900);

    server
        .sql("", "SET GLOBAL innodb_flush_log_at_trx_commit = 1, GLOBAL sync_binlog = 1")
        .unwrap();
    assert_eq!(Mysql::url(&url).unwrap().build().findings().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn d_30_a_user_who_may_not_do_what_is_needed_is_told_the_statement_that_mends_it() {
    let (server, database) = (server(), database(server()));
    let user = new_user(server, &database);
    let grant = |what: &str| server.sql("", &format!("GRANT {what} TO {user}")).unwrap();
    let url = server.url_as(&user, &database);
    let words = refused(&url).await;
    assert!(words.contains("the database lets nobody in"), "{words}");

    grant(&format!("SELECT, UPDATE ON {database}.account"));
    let words = refused(&url).await;
    let wanted = format!("unanimous_marker` TO '{user}'@'%'");
    assert!(words.contains("CREATE TABLE IF NOT EXISTS") && words.ends_with(&wanted), "{words}");

    // Made by somebody else who may.
    server
        .sql(
            &database,
            "CREATE TABLE unanimous_marker (gtrid BINARY(24) NOT NULL, \
         bqual BINARY(24) NOT NULL, created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         PRIMARY KEY (gtrid, bqual)) ENGINE=InnoDB",
        )
        .unwrap();
    grant(&format!("SELECT, INSERT ON {database}.unanimous_marker"));
    let words = refused(&url).await;
    assert!(words.contains("DELETE command denied"), "{words}");
    grant(&format!("DELETE ON {database}.unanimous_marker"));
    if is_mysql() {
        let words = refused(&url).await;
        let wanted = format!("next: GRANT XA_RECOVER_ADMIN ON *.* TO '{user}'@'%'");
        assert!(words.ends_with(&wanted), "{words}");
        server.sql("", words.split_once("next: ").unwrap().1).unwrap();
    }

    // Nothing else is needed, for anything.
    let stage = Stage::at(&url, |builder| builder).await;
    let (worked, evidence) = stage.prepared().await;
    assert!(stage.is_listed(&worked.id).await);
    assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
    let (_tx, mut work) = stage.begin().await;
    let id = *work.branch().id();
    let late = work.query_drop("SELECT SLEEP(30)");
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), late).await.is_err());
    drop(work);
    assert_eq!(soon("a rollback", stage.mysql.rollback(&id)).await, Ok(Done::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn d_30_an_address_without_a_database_and_a_marker_table_without_transactions_are_refused() {
    let words = refused(&server().url("")).await;
    assert!(words.contains("names no database"), "{words}");
    let database = database(server());
    server()
        .sql(
            &database,
            "CREATE TABLE unanimous_marker (gtrid BINARY(24) NOT NULL, \
         bqual BINARY(24) NOT NULL, PRIMARY KEY (gtrid, bqual)) ENGINE=MyISAM",
        )
        .unwrap();
    let words = refused(&server().url(&database)).await;
    assert!(words.contains("has no transactions: drop it first"), "{words}");
}

/// A server that comes up together with its participants.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut server = Mariadb::start(&[]).unwrap();
    let url = server.url(&database(&server));
    server.stop().unwrap();
    let mut checking = tokio::spawn(async move { Mysql::url(&url).unwrap().build().check().await });
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut checking).await;
    assert!(early.is_err(), "{early:?}");
    let run = tokio::task::spawn_blocking(move || server.run().map(|()| server));
    let _server = run.await.unwrap().unwrap();
    let checked = soon("the check", checking).await.unwrap();
    assert!(checked.is_ok(), "{checked:?}");
}

/// Several processes start for the first time, at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn one_marker_table_with_one_name_is_made_by_whoever_comes_first() {
    let url = server().url(&database(server()));
    let starting = (0..6).map(|_| {
        let mysql = Mysql::url(&url).unwrap().build();
        tokio::spawn(async move {
            mysql.check().await.unwrap();
            mysql
        })
    });
    let mut evidence = Vec::new();
    for mysql in starting.collect::<Vec<_>>() {
        let mysql = mysql.await.unwrap();
        let stage = Stage::at(&url, |_| Mysql::url(&url).unwrap()).await;
        let (worked, voted) = stage.prepared().await;
        let listed = mysql.recover().await.unwrap();
        let own = listed.into_iter().find(|found| found.branch == worked.id).unwrap();
        assert_eq!(own.evidence, Some(voted.clone()));
        evidence.push(voted);
        assert_eq!(stage.mysql.rollback(&worked.id).await, Ok(Done::Done));
    }
    evidence.dedup();
    assert_eq!(evidence.len(), 1, "{evidence:?}");
}

/// What is left open there sees markers as they were, and finishes no branch.
#[tokio::test(flavor = "multi_thread")]
async fn regression_findings_on_a_table_that_cannot_be_written_leave_no_transaction_open() {
    let (server, database) = (server(), database(server()));
    let user = new_user(server, &database);
    may_list(server, &user);
    let sql = |sql: &str| server.sql("", &format!("{sql} {user}")).unwrap();
    Mysql::url(&server.url(&database)).unwrap().build().check().await.unwrap();
    sql(&format!("GRANT SELECT, UPDATE ON {database}.account TO"));
    sql(&format!("GRANT SELECT, INSERT, DELETE ON {database}.unanimous_marker TO"));
    let stage = Stage::at(&server.url_as(&user, &database), |builder| builder).await;
    let (worked, evidence) = stage.prepared().await;
    assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
    sql(&format!("REVOKE INSERT ON {database}.unanimous_marker FROM"));
    let found = stage.mysql.findings().await.unwrap();
    assert!(found.iter().any(|finding| finding.code == "MYSQL_MARKER_TABLE"), "{found:?}");
    for _ in 0..4 {
        let told = stage.mysql.commit(&worked.id, Some(&evidence)).await;
        assert_eq!(told, Ok(Done::Done));
    }
}
