//! The PostgreSQL resource on a real server. Tests are named after the catalogue of cases.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod bank;
mod by_hand;
mod checks;
mod lost;
mod pools;
mod proxy;
mod restarts;
mod standbys;
mod transactions;
mod votes;
