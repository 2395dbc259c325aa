//! Branches that end without their coordinator: on record first, found out from the record by
//! whoever comes later, and an order wins as long as nothing has come of the decision.

use crate::stage::{
    COMMITTED, DEBIT, HAZARD, ROLLED_BACK, Stage, Worked, at_last, database, may_list, new_user,
    server, soon, until, xid,
};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::time::Duration;
use unanimous_databases::mariadb::{Mariadb, is_mysql};
use unanimous_proto::v1::admin_service_client::AdminServiceClient;
use unanimous_proto::v1::{GetTransactionRequest, TransactionState};
use unanimous_sdk::mysql::{Mysql, MysqlBuilder};
use unanimous_sdk::{
    BranchId, BranchResult, Decision, Done, EndedAlone, EndedMark, Evidence, HeuristicPolicy,
    Resource, Vote,
};

const WHY: &str = "no word for 7 s, 'tis \u{e4}";

/// A database with the table for it.
async fn set() -> Stage {
    let stage = Stage::set().await;
    stage.mysql.check_alone().await.unwrap();
    stage
}

/// Another process of the same participant, or the next life of this one.
fn another(stage: &Stage) -> Mysql {
    Mysql::url(&stage.url).unwrap().build()
}

/// A branch that voted commit, and whose session is gone: whoever comes may end it.
async fn left(stage: &Stage) -> (Worked, Evidence) {
    let (tx, mut work) = stage.begin().await;
    work.query_drop(DEBIT).await.unwrap();
    let (id, connection) = (*work.branch().id(), Stage::connection(&mut work).await);
    work.end();
    let evidence = stage.votes_commit(&id).await;
    stage.kill(connection).await;
    (Worked { id, tx }, evidence)
}

/// What is on record: committed, done, why.
async fn rows(stage: &Stage) -> Vec<(bool, bool, String)> {
    let asked = "SELECT committed, done, why FROM unanimous_alone";
    stage.other().await.query(asked).await.unwrap()
}

/// A decision whose life died before it had any effect.
async fn decided(conn: &mut Conn, id: &BranchId, committed: bool, evidence: Option<&Evidence>) {
    let insert = "INSERT INTO unanimous_alone (gtrid, bqual, committed, why, evidence) \
                  VALUES (?, ?, ?, 'by hand', ?)";
    let evidence = evidence.map(|evidence| evidence.data.clone()).unwrap_or_default();
    let key = (id.gtrid.as_bytes().as_slice(), id.bqual.as_bytes().as_slice());
    conn.exec_drop(insert, (key.0, key.1, committed, evidence)).await.unwrap();
}

async fn by_hand(stage: &Stage, verb: &str, id: &BranchId) {
    stage.other().await.query_drop(format!("XA {verb} {}", xid(id))).await.unwrap();
}

/// Until somebody waits for a row of this database. (`innodb_trx` is not made anew for whoever asks
/// again and again; MySQL does not list statements that hold bytes.)
async fn until_waiting(stage: &Stage) {
    let mut other = stage.other().await;
    let asked = if is_mysql() {
        "SELECT COUNT(*) FROM performance_schema.data_lock_waits w \
         JOIN performance_schema.data_locks l \
         ON l.ENGINE_LOCK_ID = w.REQUESTING_ENGINE_LOCK_ID \
         WHERE l.OBJECT_SCHEMA = DATABASE() AND l.OBJECT_NAME = 'unanimous_alone'"
    } else {
        "SELECT COUNT(*) FROM information_schema.processlist \
         WHERE DB = DATABASE() AND ID <> CONNECTION_ID() AND COMMAND = 'Query' \
         AND INFO LIKE '%unanimous_alone%' AND TIME_MS > 50"
    };
    until("somebody waits", async || other.query_first(asked).await.unwrap() == Some(1)).await;
}

fn decision(commits: bool) -> Decision {
    if commits { Decision::Commit } else { Decision::Rollback }
}

fn heuristic(committed: bool) -> Done {
    if committed { COMMITTED } else { ROLLED_BACK }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_ends_alone_and_every_call_says_so_until_it_is_forgotten() {
    for (commits, result, cents) in
        [(true, BranchResult::Committed, 900), (false, BranchResult::RolledBack, 1_000)]
    {
        let stage = set().await;
        let (worked, evidence) = stage.prepared().await;
        let (id, told) = (&worked.id, Ok(Done::Heuristic(result)));
        assert_eq!(stage.mysql.end_alone(id, decision(commits), WHY).await, told);
        assert!(!stage.is_locked().await && !stage.is_listed(id).await);
        assert_eq!(stage.cents().await, cents);
        assert_eq!(rows(&stage).await, [(commits, true, WHY.to_owned())]);
        for mysql in [&stage.mysql, &another(&stage)] {
            let alone = EndedAlone { branch: *id, result, why: WHY.to_owned() };
            assert_eq!(mysql.ended_alone().await, Ok(vec![alone]));
            assert_eq!(mysql.commit(id, Some(&evidence)).await, told);
            assert_eq!(mysql.commit_one_phase(id).await, told);
            assert_eq!(mysql.recall(id).await, told);
            assert_eq!(mysql.rollback(id).await, told);
            assert_eq!(mysql.end_alone(id, decision(!commits), "later").await, told);
            assert!(matches!(mysql.prepare(id).await, Ok(Vote::Rollback { .. })));
        }
        for _ in 0..2 {
            assert_eq!(stage.mysql.forget(id).await, Ok(()));
            assert_eq!(stage.mysql.ended_alone().await, Ok(vec![]));
        }
        assert_eq!(rows(&stage).await, []);
        assert_eq!(stage.cents().await, cents);
    }
}

/// A branch that is found on record and still prepared: recover lists it, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_wins_over_a_decision_without_effect_and_its_row_is_gone() {
    let stage = set().await;
    let mut cents = 1_000;
    for (commits, decided_commit, held) in [
        (true, false, true),
        (true, true, false),
        (true, false, false),
        (false, true, true),
        (false, false, false),
        (false, true, false),
    ] {
        let (worked, evidence) = if held { stage.prepared().await } else { left(&stage).await };
        let (id, mysql) = (&worked.id, if held { stage.mysql.clone() } else { another(&stage) });
        decided(&mut stage.other().await, id, decided_commit, Some(&evidence)).await;
        assert_eq!(mysql.ended_alone().await, Ok(vec![]));
        assert!(stage.is_listed(id).await);
        if held {
            // Before, it is on nobody's record.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let done = match commits {
            true => mysql.commit(id, Some(&evidence)).await,
            false => mysql.rollback(id).await,
        };
        assert_eq!(done, Ok(Done::Done), "{commits}, {decided_commit}, {held}");
        assert_eq!(rows(&stage).await, []);
        cents -= if commits { 100 } else { 0 };
        assert_eq!(stage.cents().await, cents);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_record_is_carried_out_whatever_the_policy_says_now() {
    let stage = set().await;
    for (committed, cents) in [(false, 1_000), (true, 900)] {
        let (worked, _) = left(&stage).await;
        // Without a word on where the marker would be: what is done here needs no proof.
        decided(&mut stage.other().await, &worked.id, committed, None).await;
        let told = another(&stage).end_alone(&worked.id, decision(!committed), WHY).await;
        assert_eq!(told, Ok(heuristic(committed)));
        assert_eq!(rows(&stage).await, [(committed, true, "by hand".to_owned())]);
        assert_eq!(stage.cents().await, cents);
        assert_eq!(stage.mysql.forget(&worked.id).await, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_ended_before_does_not_end_alone() {
    let stage = set().await;
    for verb in ["COMMIT", "ROLLBACK"] {
        let (worked, _) = left(&stage).await;
        by_hand(&stage, verb, &worked.id).await;
        for mysql in [another(&stage), stage.mysql.clone()] {
            let told = mysql.end_alone(&worked.id, Decision::Rollback, WHY).await;
            assert_eq!(told, Ok(Done::Done), "XA {verb}");
            assert_eq!(rows(&stage).await, []);
        }
    }
    let worked = stage.worked(DEBIT).await;
    let told = stage.mysql.end_alone(&worked.id, Decision::Rollback, WHY).await;
    assert!(told.unwrap_err().why.contains("not known to be prepared"));
}

/// It died after the effect, and before the row said so.
#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_is_not_on_record_is_found_out_by_the_marker() {
    let stage = set().await;
    for committed in [true, false] {
        let (worked, evidence) = left(&stage).await;
        let (id, told) = (&worked.id, Ok(heuristic(committed)));
        assert_eq!(stage.mysql.end_alone(id, decision(committed), WHY).await, told);
        for asked in ["ended_alone", "commit", "rollback", "end_alone"] {
            let undo = "UPDATE unanimous_alone SET done = FALSE";
            stage.other().await.query_drop(undo).await.unwrap();
            let mysql = another(&stage);
            let found = match asked {
                "commit" => mysql.commit(id, Some(&evidence)).await,
                "rollback" => mysql.rollback(id).await,
                "end_alone" => mysql.end_alone(id, decision(!committed), WHY).await,
                _ => {
                    let alone = mysql.ended_alone().await.unwrap();
                    assert_eq!(alone.len(), 1, "{alone:?}");
                    Ok(Done::Heuristic(alone[0].result))
                }
            };
            assert_eq!(found, told, "{asked}");
            assert_eq!(rows(&stage).await, [(committed, true, WHY.to_owned())], "{asked}");
        }
        assert_eq!(stage.mysql.forget(id).await, Ok(()));
    }
}

/// Somebody else ended it, the other way: nothing has come of the decision.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_the_marker_contradicts_was_none() {
    let stage = set().await;
    for (committed, verb, commits, expected) in [
        (true, "ROLLBACK", None, Done::Done),
        (true, "ROLLBACK", Some(false), Done::Done),
        (true, "ROLLBACK", Some(true), ROLLED_BACK),
        (false, "COMMIT", None, Done::Done),
        (false, "COMMIT", Some(true), Done::Done),
        (false, "COMMIT", Some(false), COMMITTED),
    ] {
        let (worked, evidence) = left(&stage).await;
        let (id, mysql) = (&worked.id, another(&stage));
        decided(&mut stage.other().await, id, committed, Some(&evidence)).await;
        by_hand(&stage, verb, id).await;
        let done = match commits {
            Some(true) => mysql.commit(id, Some(&evidence)).await,
            Some(false) => mysql.rollback(id).await,
            None => {
                assert_eq!(mysql.ended_alone().await, Ok(vec![]));
                mysql.end_alone(id, decision(committed), WHY).await
            }
        };
        assert_eq!(done, Ok(expected), "XA {verb}, then {commits:?}");
        assert_eq!(rows(&stage).await, []);
    }
}

/// The markers were thrown away meanwhile, or are another server's.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_of_which_nothing_proves_what_came_is_a_hazard_until_it_is_forgotten() {
    let stage = set().await;
    for committed in [true, false] {
        let (worked, evidence) = left(&stage).await;
        let (id, mysql) = (&worked.id, another(&stage));
        let mut elsewhere = evidence.clone();
        elsewhere.data[0] ^= 1;
        decided(&mut stage.other().await, id, committed, Some(&elsewhere)).await;
        by_hand(&stage, "ROLLBACK", id).await;
        assert_eq!(mysql.ended_alone().await, Ok(vec![]));
        let told = mysql.end_alone(id, decision(committed), WHY).await;
        assert!(told.unwrap_err().why.contains("nothing proves"));
        assert_eq!(mysql.rollback(id).await, Ok(HAZARD));
        assert_eq!(mysql.commit(id, Some(&elsewhere)).await, Ok(HAZARD));
        assert_eq!(rows(&stage).await, [(committed, false, "by hand".to_owned())]);
        assert_eq!(mysql.forget(id).await, Ok(()));
        assert_eq!(mysql.rollback(id).await, Ok(Done::Done));
    }
}

/// An order is not answered before a row that is just being written is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_waits_for_a_decision_that_is_being_written() {
    let stage = set().await;
    for listed in [true, false] {
        let (worked, evidence) = left(&stage).await;
        let (id, mysql) = (worked.id, another(&stage));
        // Met before: what is seen waiting below is the order.
        assert_eq!(mysql.ended_alone().await, Ok(vec![]));
        let mut writer = stage.other().await;
        writer.query_drop("START TRANSACTION").await.unwrap();
        decided(&mut writer, &id, false, Some(&evidence)).await;
        if !listed {
            by_hand(&stage, "COMMIT", &id).await;
        }
        let order = tokio::spawn(async move { mysql.commit(&id, Some(&evidence)).await });
        until_waiting(&stage).await;
        writer.query_drop("COMMIT").await.unwrap();
        assert_eq!(soon("the order", order).await.unwrap(), Ok(Done::Done), "listed: {listed}");
        assert_eq!(rows(&stage).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_two_policies_end_a_branch_one_way() {
    let stage = set().await;
    let mut cents = 1_000;
    for _ in 0..8 {
        let (worked, _) = left(&stage).await;
        let (one, two, id) = (another(&stage), another(&stage), worked.id);
        let ends = async |mysql: &Mysql, decision| {
            at_last("an end", async || mysql.end_alone(&id, decision, WHY).await).await
        };
        let (one, two) = tokio::join!(ends(&one, Decision::Commit), ends(&two, Decision::Rollback));
        assert_eq!(one, two);
        cents -= if one == COMMITTED { 100 } else { 0 };
        assert_eq!(stage.cents().await, cents);
        assert_eq!(rows(&stage).await, [(one == COMMITTED, true, WHY.to_owned())]);
        assert_eq!(stage.mysql.forget(&id).await, Ok(()));
    }
}

/// An operator has said how the transaction ended, so the mark passes it; the row needs its marker
/// still.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_stays_as_long_as_a_decision_needs_it() {
    let stage = set().await;
    let (first, evidence) = left(&stage).await;
    decided(&mut stage.other().await, &first.id, true, Some(&evidence)).await;
    by_hand(&stage, "COMMIT", &first.id).await;
    let (second, evidence) = stage.prepared().await;
    assert_eq!(stage.mysql.commit(&second.id, Some(&evidence)).await, Ok(Done::Done));
    let owner = second.id.gtrid.owner();
    let mark = || EndedMark {
        log: owner.log,
        epoch: owner.epoch,
        sequence: second.id.gtrid.sequence(),
        exceptions: Vec::new(),
    };
    let mut other = stage.other().await;
    let mut markers = async || -> Vec<Vec<u8>> {
        let asked = "SELECT gtrid FROM unanimous_marker WHERE HEX(gtrid) <> REPEAT('00', 24)";
        other.query(asked).await.unwrap()
    };
    stage.mysql.ended(&mark());
    until("one marker", async || markers().await == [first.id.gtrid.as_bytes()]).await;
    let alone = another(&stage).ended_alone().await.unwrap();
    assert_eq!(alone.len(), 1, "{alone:?}");
    stage.mysql.ended(&mark());
    until("no marker", async || markers().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_table_nothing_is_on_record_and_nothing_is_in_the_way() {
    let stage = Stage::set().await;
    for seen in [false, true] {
        if seen {
            stage.mysql.check_alone().await.unwrap();
            stage.other().await.query_drop("DROP TABLE unanimous_alone").await.unwrap();
        }
        let (worked, evidence) = left(&stage).await;
        let id = &worked.id;
        let told = stage.mysql.end_alone(id, Decision::Rollback, WHY).await;
        assert!(told.unwrap_err().why.contains("1146"));
        assert!(stage.is_listed(id).await);
        let mysql = another(&stage);
        for _ in 0..2 {
            assert_eq!(mysql.commit(id, Some(&evidence)).await, Ok(Done::Done));
            assert_eq!(mysql.ended_alone().await, Ok(vec![]));
            assert_eq!(mysql.forget(id).await, Ok(()));
        }
        let (worked, _) = left(&stage).await;
        for _ in 0..2 {
            assert_eq!(mysql.rollback(&worked.id).await, Ok(Done::Done));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d_30_who_may_not_keep_such_records_is_told_what_mends_it() {
    let (server, database) = (server(), database(server()));
    let user = new_user(server, &database);
    may_list(server, &user);
    let grant = |what: &str| server.sql("", &format!("GRANT {what} TO {user}")).unwrap();
    let stage = Stage::at(&server.url(&database), |builder| builder).await;
    grant(&format!("SELECT, UPDATE ON {database}.account"));
    grant(&format!("SELECT, INSERT, DELETE ON {database}.unanimous_marker"));
    let mysql = Mysql::url(&server.url_as(&user, &database)).unwrap().build();
    mysql.check().await.unwrap();
    let refused = async || mysql.check_alone().await.unwrap_err().to_string();
    let words = refused().await;
    let (create, rest) = words.split_once("next: ").unwrap().1.split_once(';').unwrap();
    assert!(rest.starts_with(" GRANT SELECT, INSERT, UPDATE, DELETE ON "), "{words}");
    assert!(rest.contains(&format!("TO '{user}'@'%'; or take")), "{words}");
    // Without the right to see it, there is none.
    assert_eq!(mysql.ended_alone().await, Ok(vec![]));

    // Made by somebody else who may, by the words that were said.
    server.sql(&database, create).unwrap();
    for right in ["SELECT", "INSERT", "UPDATE"] {
        grant(&format!("{right} ON {database}.unanimous_alone"));
        let words = refused().await;
        assert!(words.contains("command denied"), "{words}");
    }
    grant(&format!("DELETE ON {database}.unanimous_alone"));
    mysql.check_alone().await.unwrap();
    let (worked, _) = left(&stage).await;
    let told = mysql.end_alone(&worked.id, Decision::Commit, WHY).await;
    assert_eq!(told, Ok(COMMITTED));
    assert_eq!(mysql.forget(&worked.id).await, Ok(()));

    server.sql(&database, "ALTER TABLE unanimous_alone ENGINE=MyISAM").unwrap();
    let words = refused().await;
    assert!(words.contains("has no transactions: drop it first"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn d_30_records_that_may_be_lost_with_the_machine_are_refused() {
    let server = Mariadb::start(&[("log-bin", "binlog"), ("sync-binlog", "0")]).unwrap();
    let url = server.url(&database(&server));
    let build = |with: fn(MysqlBuilder) -> MysqlBuilder| with(Mysql::url(&url).unwrap()).build();
    let words = build(|builder| builder).check_alone().await.unwrap_err().to_string();
    assert!(words.contains("SET GLOBAL sync_binlog = 1"), "{words}");
    build(MysqlBuilder::accept_unsafe_settings).check_alone().await.unwrap();
    server.sql("", "SET GLOBAL sync_binlog = 1").unwrap();
    build(|builder| builder).check_alone().await.unwrap();
}

/// An order came after the branch was seen to be prepared, and before the row was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_ended_while_its_row_is_written_does_not_end_alone() {
    let stage = set().await;
    let (worked, evidence) = left(&stage).await;
    let (id, mysql) = (worked.id, another(&stage));
    let mut writer = stage.other().await;
    writer.query_drop("START TRANSACTION").await.unwrap();
    decided(&mut writer, &id, true, Some(&evidence)).await;
    let ends = tokio::spawn(async move { mysql.end_alone(&id, Decision::Commit, WHY).await });
    until_waiting(&stage).await;
    by_hand(&stage, "COMMIT", &id).await;
    writer.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(soon("an answer", ends).await.unwrap(), Ok(Done::Done));
    assert_eq!(rows(&stage).await, []);
}

/// By itself, with a policy; and reported by the next life, which has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_coordinator_is_silent_ends_alone_and_is_told_when_it_is_back() {
    let mut stage = Stage::set().await;
    let mut builder = stage
        .coordinator
        .participant("silenced")
        .heuristic_policy(HeuristicPolicy::commit_after(Duration::from_secs(1)));
    let bank = builder.attach("mysql/silenced", another(&stage));
    let silenced = builder.start().await.unwrap();
    let tx = stage.client.begin("transfer").await.unwrap();
    let mut work = bank.join(&tx.context()).await.unwrap();
    work.query_drop(DEBIT).await.unwrap();
    let id = *work.branch().id();
    work.vote();
    until("an early vote", async || stage.is_listed(&id).await).await;
    stage.coordinator.stop().await.unwrap();
    until("an end alone", async || stage.cents().await == 900).await;
    until("its record", async || rows(&stage).await.iter().all(|(_, done, _)| *done)).await;
    assert!(!stage.is_locked().await);
    let why = "decided alone by policy: no word of its coordinator for 1 s";
    assert_eq!(rows(&stage).await, [(true, true, why.to_owned())]);
    silenced.stop().await;

    let mut builder = stage.coordinator.participant("silenced");
    builder.attach("mysql/silenced", another(&stage));
    let _next = builder.start().await.unwrap();
    stage.coordinator.restart().await.unwrap();
    until("the coordinator's list", async || rows(&stage).await.is_empty()).await;
    let request = GetTransactionRequest { gtrid: id.gtrid.to_string() };
    let mut admin = AdminServiceClient::connect(stage.coordinator.admin_address()).await.unwrap();
    let found = admin.get_transaction(request).await.unwrap().into_inner().transaction.unwrap();
    assert_eq!(found.state(), TransactionState::Heuristic);
    assert_eq!(stage.cents().await, 900);
}
