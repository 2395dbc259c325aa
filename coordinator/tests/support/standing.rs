//! A transaction of two participants in each state that it can stand in, on a coordinator of its
//! own.

use super::disk::Disk;
use super::hand::Hand;
use super::{Said, Served, eventually};
use serde_json::Value;
use unanimous_proto::v1;
use v1::{Capability, Done};

/// The states of protocol.md, section 7, that a root coordinator has today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Active,
    MarkedRollback,
    Preparing,
    OnePhase,
    Deciding,
    Committing,
    RollingBack,
    Heuristic,
}

impl At {
    /// As a filter names it.
    fn word(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::MarkedRollback => "MARKED_ROLLBACK",
            Self::Preparing => "PREPARING",
            Self::OnePhase => "ONE_PHASE",
            Self::Deciding => "DECIDING",
            Self::Committing => "COMMITTING",
            Self::RollingBack => "ROLLING_BACK",
            Self::Heuristic => "HEURISTIC",
        }
    }
}

/// `bank-a` has answered where there was something to answer, `bank-b` has not; in one phase there
/// is only `bank-b`.
pub(crate) struct Standing {
    pub(crate) served: Served,
    pub(crate) disk: Option<Disk>,
    pub(crate) bank_a: Hand,
    pub(crate) bank_b: Hand,
    pub(crate) gtrid: String,
}

impl Standing {
    pub(crate) fn at(at: At) -> Self {
        let (served, disk) = match at {
            At::Deciding => {
                let (served, disk) = Disk::start();
                (served, Some(disk))
            }
            _ => (Served::start(), None),
        };
        served.until_serving();
        // Whoever does not ask is told for ever.
        let [mut bank_a, mut bank_b] =
            ["bank-a", "bank-b"].map(|name| Hand::connect_as(&served, name, Capability::OnePhase));
        let gtrid = bank_b.begin("transfer", 1);
        if at != At::OnePhase {
            bank_a.enlist(&gtrid, 1);
        }
        let mut standing = Self { served, disk, bank_a, bank_b, gtrid };
        standing.bring_to(at);
        let filter = format!("state={}", at.word());
        eventually(at.word(), || {
            let said = standing.served.ask(&["tx", "list", "--filter", &filter, "-o", "id"]);
            (said.stdout == format!("{}\n", standing.gtrid)).then_some(())
        });
        standing
    }

    fn bring_to(&mut self, at: At) {
        let Self { bank_a, bank_b, gtrid, disk, .. } = self;
        match at {
            At::Active => {}
            At::MarkedRollback => bank_a.vote_rollback(gtrid, 1),
            At::Preparing => bank_b.commit(gtrid),
            At::OnePhase => {
                bank_b.commit(gtrid);
                assert_eq!(bank_b.decision(), v1::Decision::CommitOnePhase);
            }
            At::Deciding => {
                disk.as_ref().unwrap().hold();
                bank_b.commit(gtrid);
                bank_a.vote_commit(1);
                bank_b.vote_commit(1);
            }
            At::Committing | At::Heuristic => {
                bank_b.commit(gtrid);
                bank_a.vote_commit(1);
                bank_b.vote_commit(1);
                bank_a.acknowledge(1, Done::Done, "");
                if at == At::Heuristic {
                    bank_b.acknowledge(1, Done::HeuristicHazard, "restored from a copy");
                } else {
                    assert_eq!(bank_b.decision(), v1::Decision::Commit);
                    self.until_done(1);
                }
            }
            At::RollingBack => {
                bank_b.roll_back(gtrid);
                bank_a.acknowledge(1, Done::Done, "");
                assert_eq!(bank_b.decision(), v1::Decision::Rollback);
                self.until_done(1);
            }
        }
    }

    /// Until so many branches have answered: the version stands still then.
    fn until_done(&self, branches: u64) {
        eventually("the other's answer", || {
            (self.described()["branchesDone"] == branches).then_some(())
        });
    }

    /// The transaction as it is now.
    pub(crate) fn described(&self) -> Value {
        self.served.ask(&["tx", "describe", &self.gtrid, "-o", "json"]).json()
    }

    /// What makes an act on another state one: its state and its version.
    pub(crate) fn stands(&self) -> (Value, Value) {
        let now = self.described();
        (now["state"].clone(), now["version"].clone())
    }

    /// The entries about it, the oldest first.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let said = self.served.ask(&["audit", "list", "--id", &self.gtrid, "-o", "jsonl"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `force`, with these words between the id and the reason.
    pub(crate) fn force(&self, act: &str, words: &[&str]) -> Said {
        let given = ["force", act, &self.gtrid, "--reason", "INC-4411"];
        self.served.ask(&[&given, words].concat())
    }
}
