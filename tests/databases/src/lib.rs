//! Real database servers for tests: each in a temporary directory, on a free port of this machine,
//! as an ordinary user, gone when the test process is, however that ends.

pub mod certificates;
pub mod daemon;
pub mod mariadb;
pub mod postgres;
