//! Branches of a real MariaDB server, with a whole coordinator in this process. Most tests make the
//! resource's calls themselves, where the coordinator would.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod alone;
mod broken;
mod by_hand;
mod crash;
mod listed;
mod markers;
mod proxy;
mod reads;
mod stage;
mod start;
mod tls;
mod whole;
mod work;
