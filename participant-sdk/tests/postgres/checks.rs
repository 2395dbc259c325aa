//! What the check at the start says about a server, and what is found later.

use crate::bank::{Bank, branch, gid, resource, shared};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use unanimous_databases::postgres::Postgres as Server;
use unanimous_sdk::Resource;

#[tokio::test]
async fn a_good_server_is_fit_for_an_ordinary_role() {
    let bank = Bank::open();
    assert_eq!(bank.postgres.check().await, Ok(()));
    assert_eq!(bank.postgres.findings().await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_reached_is_waited_for_and_then_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let nobody = resource(&format!("postgres://bank@127.0.0.1:{port}/bank"), |builder| builder);
    let begun = tokio::time::Instant::now();
    let unfit = nobody.check().await.unwrap_err();
    assert!(unfit.what.contains("cannot be used"), "{unfit}");
    let waited = begun.elapsed();
    let expected = std::time::Duration::from_secs(20)..std::time::Duration::from_secs(25);
    assert!(expected.contains(&waited), "{waited:?}, of the 30 s that a check has");
}

/// A block whose client's machine is gone must not keep its locks for hours.
#[tokio::test]
async fn the_server_looks_after_silent_connections() {
    let bank = Bank::open();
    let read = bank.postgres.pool().get().await.unwrap();
    for (setting, expected) in [
        ("tcp_keepalives_idle", "15"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "30000"),
    ] {
        assert_eq!(crate::bank::value(&read, &format!("SHOW {setting}")).await, expected);
    }
}

#[tokio::test]
async fn d_30_unsafe_settings_are_refused_unless_they_are_accepted_and_then_still_shown() {
    let unsafe_settings =
        [("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "off")];
    let server = Server::start(&unsafe_settings).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    let unfit = bank.postgres.check().await.unwrap_err();
    assert!(unfit.next.contains("ALTER SYSTEM SET"), "{unfit}");
    let url = server.url_as(&bank.database, &bank.database);
    let accepting = resource(&url, |builder| builder.accept_unsafe_settings());
    assert_eq!(accepting.check().await, Ok(()));
    let found = accepting.findings().await.unwrap();
    let codes: Vec<_> = found.iter().map(|finding| finding.code).collect();
    let expected = ["POSTGRES_FSYNC_OFF", "POSTGRES_TORN_PAGES", "POSTGRES_ASYNCHRONOUS_COMMIT"];
    assert_eq!(codes, expected);
}

#[tokio::test]
async fn prepared_transactions_switched_off_are_unfit_and_few_are_a_warning() {
    let server = Server::start(&[("max_prepared_transactions", "0")]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    let url = server.url_as(&bank.database, &bank.database);
    let accepting = resource(&url, |builder| builder.accept_unsafe_settings());
    let unfit = accepting.check().await.unwrap_err();
    assert_eq!(unfit.what, "max_prepared_transactions is 0");
    assert!(unfit.next.contains("ALTER SYSTEM SET max_prepared_transactions = 32"), "{unfit}");
    server.stop().unwrap();
    server.set("max_prepared_transactions", "3");
    server.run().unwrap();
    let bank = resource(&url, |builder| builder);
    assert_eq!(bank.check().await, Ok(()));
    assert_eq!(bank.findings().await.unwrap()[0].code, "POSTGRES_FEW_PREPARED_TRANSACTIONS");
}

#[tokio::test]
async fn a_role_that_may_not_call_what_is_needed_is_told_which() {
    for function in ["pg_xact_status(xid8)", "pg_control_system()"] {
        let bank = Bank::open();
        bank.sql(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC"));
        let unfit = bank.postgres.check().await.unwrap_err();
        let name = function.split('(').next().unwrap();
        assert!(unfit.what.contains(name), "{unfit}");
        bank.sql(&format!("GRANT EXECUTE ON FUNCTION {function} TO {}", bank.database));
        assert_eq!(bank.postgres.check().await, Ok(()));
    }
}

#[tokio::test]
async fn d_12_a_server_with_less_room_than_is_prepared_refuses_and_loses_nothing() {
    let server = Server::start(&[("max_prepared_transactions", "4")]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    let (first, _) = bank.prepared(1).await;
    let (second, evidence) = bank.prepared(2).await;
    server.stop().unwrap();
    server.set("max_prepared_transactions", "1");
    let refused = server.run().unwrap_err().to_string();
    assert!(refused.contains("maximum number of prepared transactions"), "{refused}");
    server.set("max_prepared_transactions", "4");
    server.run().unwrap();
    let another = bank.another();
    let mut listed = another.prepared().await.unwrap();
    listed.sort_by(|a, b| a.gid.cmp(&b.gid));
    let gids: Vec<_> = listed.iter().map(|listed| listed.gid.clone()).collect();
    assert_eq!(gids, [gid(&first), gid(&second)], "what blocks is listed");
    let done = crate::bank::committed(&another, &second, &evidence).await;
    assert_eq!((done, bank.cents(2)), (unanimous_sdk::Done::Done, 99));
}

#[tokio::test]
async fn d_19_a_branch_that_holds_the_horizon_back_is_found() {
    let bank = Bank::open();
    let (branch, _) = bank.prepared(1).await;
    let listed = bank.postgres.prepared().await.unwrap();
    let age_before = listed[0].xid_age;
    assert_eq!(listed[0].branch, Some(branch));
    bank.sql(
        "DO $$ BEGIN FOR i IN 1..50 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
    );
    let age = bank.postgres.prepared().await.unwrap()[0].xid_age;
    assert!(age >= age_before + 50, "{age_before}, {age}");
    assert_eq!(crate::bank::rolled_back(&bank.postgres, &branch).await, unanimous_sdk::Done::Done);
}

/// Each connection of the resource is two of the server: what comes after the first message goes
/// to the other, as with a proxy that pools transactions.
async fn pooling_proxy(to: u16, messages: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move { switched(client, to, messages).await });
        }
    });
    port
}

/// Until the server is ready for the next message. It is in one piece: the answers are small.
async fn answer(server: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let len = server.read(&mut buffer).await?;
        if len == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        all.extend_from_slice(&buffer[..len]);
        if all.len() >= 6 && all[all.len() - 6..all.len() - 1] == [b'Z', 0, 0, 0, 5] {
            return Ok(all);
        }
    }
}

async fn switched(mut client: TcpStream, to: u16, messages: usize) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    let len = client.read(&mut buffer).await?;
    let mut servers = Vec::new();
    let mut answered = Vec::new();
    for _ in 0..2 {
        let mut server = TcpStream::connect(("127.0.0.1", to)).await?;
        server.write_all(&buffer[..len]).await?;
        answered = answer(&mut server).await?;
        servers.push(server);
    }
    client.write_all(&answered).await?;
    for _ in 0..messages {
        let len = client.read(&mut buffer).await?;
        servers[0].write_all(&buffer[..len]).await?;
        let answered = answer(&mut servers[0]).await?;
        client.write_all(&answered).await?;
    }
    copy_bidirectional(&mut client, &mut servers[1]).await?;
    Ok(())
}

#[tokio::test]
async fn d_14_a_proxy_that_changes_the_backend_is_refused_and_never_votes_yes() {
    let bank = Bank::open();
    let url = |port| format!("postgres://{0}@127.0.0.1:{port}/{0}", bank.database);
    let refusing = resource(&url(pooling_proxy(shared().port(), 1).await), |builder| builder);
    let unfit = refusing.check().await.unwrap_err();
    assert!(unfit.what.contains("proxy"), "{unfit}");
    let working = resource(&url(pooling_proxy(shared().port(), 1).await), |builder| builder);
    let branch = branch();
    working.joined(&branch);
    let session = working.session(&branch, crate::bank::LONG).await.unwrap();
    crate::bank::debit(&session, 1).await.unwrap();
    drop(session);
    let vote = crate::bank::told(|| working.prepare(&branch)).await;
    assert!(matches!(vote, unanimous_sdk::Vote::Rollback { .. }), "{vote:?}");
    assert_eq!(bank.cents(1), 100);
    assert_eq!(bank.listed(), Vec::<String>::new());
}
