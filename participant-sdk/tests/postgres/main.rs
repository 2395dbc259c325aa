//! The PostgreSQL resource on a real server. Tests are named after the catalogue of cases.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod alone;
mod bank;
mod by_hand;
mod checks;
mod lost;
mod pools;
mod proxy;
mod restarts;
mod silence;
mod standbys;
mod tls;
mod transactions;
mod votes;
