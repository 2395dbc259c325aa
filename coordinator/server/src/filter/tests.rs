use super::*;
use proptest::prelude::*;
use unanimous_core::coordinator::{Coordinator, Recovered, Start};
use unanimous_core::message::{Action, Enlistment, Event, Request, Wait};
use unanimous_core::{
    Bqual, BranchId, CallerId, FrameNumber, InstanceId, Labels, LogId, Lsn, ParticipantName,
    ResourceId, Response, TransactionName,
};

fn comparison() -> impl Strategy<Value = Comparison> {
    let by = || prop_oneof![Just(By::Is), Just(By::IsNot), Just(By::Contains)];
    let order = prop::sample::select(vec![
        Order::Is,
        Order::IsNot,
        Order::Less,
        Order::AtMost,
        Order::More,
        Order::AtLeast,
    ]);
    let words = prop_oneof![
        Just(Word::Name),
        "[a-z0-9_.-]{1,32}".prop_map(Word::Label),
        Just(Word::Participant),
        Just(Word::Resource),
        Just(Word::WaitingOn),
    ];
    let quantities = prop::sample::select(vec![
        Quantity::Age,
        Quantity::Locked,
        Quantity::Remaining,
        Quantity::Tries,
        Quantity::Branches,
    ]);
    prop_oneof![
        (any::<bool>(), prop::sample::select(State::ALL.to_vec()))
            .prop_map(|(is, state)| Comparison::State(is, state)),
        (any::<bool>(), prop::sample::select(outcomes()))
            .prop_map(|(is, outcome)| Comparison::Outcome(is, outcome)),
        (by(), "[0-9a-f]{1,48}").prop_map(|(by, digits)| Comparison::Word(Word::Id, by, digits)),
        (words, by(), ".{0,20}").prop_map(|(word, by, text)| Comparison::Word(word, by, text)),
        (quantities, order, any::<u32>()).prop_map(|(what, order, amount)| Comparison::Quantity(
            what,
            order,
            amount.into()
        )),
        (any::<bool>(), any::<bool>()).prop_map(|(flag, is)| {
            Comparison::Flag(if flag { Flag::Stuck } else { Flag::Recovered }, is)
        }),
    ]
}

fn filters() -> impl Strategy<Value = Filter> {
    comparison().prop_map(Filter::Compare).prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::Any),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::All),
            inner.prop_map(|inner| Filter::Not(Box::new(inner))),
        ]
    })
}

proptest! {
    #[test]
    fn printing_and_parsing_agree(filter in filters()) {
        let text = filter.to_string();
        match parse(&text) {
            Ok(read) => prop_assert_eq!(read, filter),
            Err(mistake) => prop_assert!(text.len() > 1_024, "{}: {}", text, mistake),
        }
    }

    #[test]
    fn nothing_panics_and_every_mistake_has_a_place(text in ".{0,80}") {
        if let Err(mistake) = parse(&text) {
            prop_assert!((1..=text.chars().count() + 1).contains(&mistake.column));
        }
    }

    /// Nearly filters get further than any text.
    #[test]
    fn nothing_panics_on_pieces_of_filters(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "state", "=", "!=", "~", "<=", "(", ")", "not", "and", "or", " ", "\"", "'", "\\",
                "age", "1h30m", "COMMITTING", "label.", "label.a", "id", "abc", "é", "9999999y",
            ]),
            0..30,
        )
    ) {
        let text = pieces.concat();
        if let Ok(filter) = parse(&text) {
            prop_assert_eq!(parse(&filter.to_string()), Ok(filter));
        }
    }
}

fn printed(text: &str) -> String {
    parse(text).unwrap_or_else(|mistake| panic!("{text}: {mistake}")).to_string()
}

#[test]
fn not_binds_tighter_than_and_which_binds_tighter_than_or() {
    let table = [
        ("tries=1 or tries=2 and tries=3", "tries=1 or tries=2 and tries=3"),
        ("(tries=1 or tries=2) and tries=3", "(tries=1 or tries=2) and tries=3"),
        ("not tries=1 and tries=2", "not tries=1 and tries=2"),
        ("not (tries=1 and tries=2)", "not (tries=1 and tries=2)"),
        ("((tries=1))", "tries=1"),
        ("NOT tries=1 AND tries=2 OR tries=3", "not tries=1 and tries=2 or tries=3"),
    ];
    for (text, meant) in table {
        assert_eq!(printed(text), meant, "{text}");
    }
    let Ok(Filter::Any(either)) = parse("tries=1 or tries=2 and tries=3") else { panic!() };
    assert!(matches!(&either[..], [Filter::Compare(_), Filter::All(both)] if both.len() == 2));
}

#[test]
fn words_are_read_with_and_without_quotes() {
    let table = [
        ("name=transfer", "name=\"transfer\""),
        ("name = 'two words'", "name=\"two words\""),
        (r#"name="say \"hi\" \\ now""#, r#"name="say \"hi\" \\ now""#),
        (r#"name='say "hi"'"#, r#"name="say \"hi\"""#),
        ("name=\"and\"", "name=\"and\""),
        ("name=Überweisung", "name=\"Überweisung\""),
        ("resource~bank-b/acc", "resource~\"bank-b/acc\""),
        ("state=rolling-back", "state=ROLLING_BACK"),
        ("state='one phase'", "state=ONE_PHASE"),
        ("outcome!=heuristic_mixed", "outcome!=HEURISTIC_MIXED"),
        ("id=21F70C55", "id=\"21f70c55\""),
        ("age>1h30m", "age>5400s"),
        ("locked>='1h 30s'", "locked>=3630s"),
        ("stuck!=true", "stuck=false"),
    ];
    for (text, meant) in table {
        assert_eq!(printed(text), meant, "{text}");
    }
}

#[test]
fn regression_a_long_time_is_printed_as_it_is_read() {
    for text in ["age>0ms", "age>7ms", "age>60s", "locked<=566455680000s5ms"] {
        assert_eq!(printed(text), text);
    }
}

#[test]
fn a_mistake_is_told_with_its_place_and_what_was_meant() {
    let fields = "a field: state, outcome, name, id, label.KEY, participant, waiting_on, resource, \
                  age, locked, remaining, tries, branches, stuck, recovered, resolved";
    let table = [
        ("", 1, "found the end, expected a comparison such as state=COMMITTING, `not` or `(`"),
        ("stat=x", 1, &*format!("found `stat`, expected {fields}; did you mean state?")),
        ("age>1m and nme=x", 12, &format!("found `nme`, expected {fields}; did you mean name?")),
        (
            "state=COMMITING",
            7,
            "found `COMMITING`, expected a state: ACTIVE, MARKED_ROLLBACK, PREPARING, ONE_PHASE, \
             DECIDING, COMMITTING, ROLLING_BACK, HEURISTIC; did you mean COMMITTING?",
        ),
        ("state>ACTIVE", 6, "found `>`, expected one of = !="),
        ("name<x", 5, "found `<`, expected one of = != ~"),
        ("age~1m", 4, "found `~`, expected one of = != < <= > >="),
        ("age>", 5, "found the end, expected a time such as 90s, 5m or 1h30m"),
        ("age>5", 5, "found `5`, expected a time such as 90s, 5m or 1h30m"),
        ("tries>1m", 7, "found `1m`, expected a number such as 3"),
        (
            "tries=99999999999999999999",
            7,
            "found `99999999999999999999`, expected a number such as 3",
        ),
        ("id=xyz", 4, "found `xyz`, expected the last hexadecimal digits of an id"),
        ("stuck=maybe", 7, "found `maybe`, expected one of two: true, false"),
        ("name=and", 6, "found `and`, expected a word, in quotes if it is more than one"),
        ("name=two words", 10, "found `words`, expected `and`, `or` or the end"),
        ("(tries=1", 9, "found the end, expected `and`, `or` or `)`"),
        ("tries=1)", 8, "found `)`, expected `and`, `or` or the end"),
        ("name=\"open", 6, "found `\"open`, expected a closing quote"),
        (
            "\"state\"=ACTIVE",
            1,
            "found \"state\", expected a comparison such as state=COMMITTING, `not` or `(`",
        ),
        (
            "label.=x",
            1,
            "found `label.`, expected label.KEY with a key of 1 to 32 of a-z, 0-9, '-', '_' and \
             '.'",
        ),
        (
            "name=a;b",
            7,
            "found `;`, expected a word; others than letters, digits and _-.:/+@ stand in quotes",
        ),
        ("é=1", 1, &format!("found `é`, expected {fields}")),
    ];
    for (text, column, told) in table {
        let mistake = parse(text).unwrap_err();
        assert_eq!(mistake.to_string(), format!("column {column}: {told}"), "{text}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    let nested = |depth: usize| format!("{}tries=1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(16)).is_ok());
    assert_eq!(parse(&nested(17)).unwrap_err().column, 17);
    assert!(parse(&("not ".repeat(16) + "tries=1")).is_ok());
    assert_eq!(parse(&("not ".repeat(17) + "tries=1")).unwrap_err().column, 65);
    let long = |bytes: usize| format!("name=\"{}\"", "n".repeat(bytes - 7));
    assert!(parse(&long(1_024)).is_ok());
    assert_eq!(parse(&long(1_025)).unwrap_err().found, "1025 bytes");
}

const NOW: Millis = Millis(100_000);

/// A coordinator with a transaction that works, and one that has been preparing for 10 s.
struct World(Coordinator);

impl World {
    fn new() -> Self {
        let start = Start {
            log: LogId { cluster: 1, slot: 2, incarnation: 3 },
            frame: FrameNumber(0),
            next_lsn: Lsn(1),
            unix_seconds: 0,
            seed: 0,
        };
        let limits = Limits::default();
        let mut world = Self(Coordinator::start(limits, start, Millis(0), Recovered::default()));
        let frame = FrameNumber(1);
        world.0.handle(Millis(0), Event::Flushed { upto: Lsn(1), frame });
        world.begin(10_000, "lunch", &[]);
        let transfer = world.begin(40_000, "transfer", &[("order", "4711")]);
        for (number, name) in [(1, "bank-a"), (2, "bank-b")] {
            let participant = ParticipantName::new(name).unwrap();
            let resource = ResourceId::new(&format!("{name}/accounts")).unwrap();
            let manager = unanimous_core::id::resource_manager(&participant, &resource);
            let bqual = Bqual::new(manager, number, world.0.owner());
            world.request(
                50_000,
                Request::Enlist(Enlistment {
                    branch: BranchId { gtrid: transfer, bqual },
                    participant,
                    instance: InstanceId([1; 16]),
                    resource,
                    inquires: true,
                    vote: None,
                }),
            );
        }
        let commit =
            Request::Commit { gtrid: transfer, expected_branches: None, wait: Wait::Decided };
        world.request(90_000, commit);
        world
    }

    fn begin(&mut self, at: u64, name: &str, labels: &[(&str, &str)]) -> Gtrid {
        let name = TransactionName::new(name).unwrap();
        let labels = Labels::new(labels.iter().copied()).unwrap();
        let replies = self.request(at, Request::Begin { name, labels, timeout_ms: 70_000 });
        match replies.as_slice() {
            [Response::Begun { gtrid, .. }] => *gtrid,
            other => panic!("{other:?}"),
        }
    }

    fn request(&mut self, at: u64, request: Request) -> Vec<Response> {
        let by = CallerId(1);
        self.0.handle(Millis(at), Event::Requested { by, request });
        let mut replies = Vec::new();
        while let Some(action) = self.0.poll() {
            if let Action::Reply { response, .. } = action {
                replies.push(response);
            }
        }
        replies
    }

    /// The names of those that match.
    fn list(&self, filter: &str) -> Vec<&str> {
        let filter = parse(filter).unwrap_or_else(|mistake| panic!("{filter}: {mistake}"));
        let limits = self.0.limits();
        let rows = self.0.transactions(None).filter(|(gtrid, transaction)| {
            filter.matches(Row { gtrid, transaction, now: NOW, limits })
        });
        rows.map(|(_, transaction)| transaction.name.as_str()).collect()
    }
}

#[test]
fn every_field_means_what_it_says() {
    let world = World::new();
    let table: &[(&str, &[&str])] = &[
        ("state=ACTIVE", &["lunch"]),
        ("state!=ACTIVE", &["transfer"]),
        ("outcome=PENDING", &["lunch", "transfer"]),
        ("outcome=COMMITTED", &[]),
        ("name=lunch", &["lunch"]),
        ("name~n", &["lunch", "transfer"]),
        ("name!=lunch", &["transfer"]),
        ("label.order=4711", &["transfer"]),
        ("label.order~71", &["transfer"]),
        ("label.order!=4711", &["lunch"]),
        ("label.other=4711", &[]),
        ("participant=bank-a", &["transfer"]),
        ("participant!=bank-a", &["lunch"]),
        ("participant=bank", &[]),
        ("participant~bank", &["transfer"]),
        ("resource='bank-b/accounts'", &["transfer"]),
        ("waiting_on=bank-b", &["transfer"]),
        ("not waiting_on=bank-b", &["lunch"]),
        ("age>1m", &["lunch"]),
        ("age>=1m", &["lunch", "transfer"]),
        ("age=90s", &["lunch"]),
        ("age<90s", &["transfer"]),
        ("age<=90s", &["lunch", "transfer"]),
        ("age!=90s", &["transfer"]),
        ("remaining<5s", &["lunch"]),
        ("remaining<=10s", &["lunch", "transfer"]),
        ("remaining>5s", &["transfer"]),
        ("remaining=0s", &["lunch"]),
        ("locked>0s", &[]),
        ("locked>=0s", &[]),
        ("locked!=0s", &["lunch", "transfer"]),
        ("tries=0", &["lunch", "transfer"]),
        ("branches=2", &["transfer"]),
        ("branches<2", &["lunch"]),
        ("stuck=true", &[]),
        ("stuck=false", &["lunch", "transfer"]),
        ("recovered=true", &[]),
        ("resolved=true", &[]),
        ("state=PREPARING and age>1h or name=lunch", &["lunch"]),
        ("state=PREPARING and (age>1h or waiting_on=bank-a)", &["transfer"]),
    ];
    for (filter, names) in table {
        assert_eq!(world.list(filter), *names, "{filter}");
    }
}

#[test]
fn an_id_is_compared_digit_by_digit() {
    let gtrid: Gtrid = "010000000100020000000301020304000000000000abcdef".parse().unwrap();
    for suffix in ["", "f", "ef", "def", "abcdef", &gtrid.to_string()] {
        assert!(ends_with(&gtrid, suffix), "{suffix}");
    }
    for other in ["e", "fe", "0ef", "abcde", &format!("0{gtrid}")] {
        assert!(!ends_with(&gtrid, other), "{other}");
    }
    let world = World::new();
    let ids: Vec<String> = world.0.transactions(None).map(|(id, _)| id.to_string()).collect();
    assert_eq!(world.list(&format!("id={}", &ids[1][40..])), ["transfer"]);
    assert_eq!(world.list(&format!("id!={}", &ids[1][40..])), ["lunch"]);
    assert_eq!(world.list(&format!("id~{}", &ids[0][20..])), ["lunch"]);
}
