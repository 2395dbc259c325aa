//! Where a demo bank keeps its accounts: in a store of its own, or in a database.

mod mysql;
mod postgres;

use super::bank::{ACCOUNTS, OPENING_CENTS};
use super::wire::{DescribeResponse, MoveRequest, MoveResponse};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tonic::{Request, Response, Status};
use unanimous_sdk::embedded::Accounts;
use unanimous_sdk::{Attached, ParticipantBuilder};

/// What went wrong, for people.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Where the accounts of a bank are, kept in a file that only its owner reads: an address may hold
/// a password.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Database {
    /// `postgres://`, `postgresql://`, `mysql://` or `mariadb://`.
    url: String,
    /// The beginning of its tables' names.
    tables: String,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("tables", &self.tables).finish_non_exhaustive()
    }
}

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Mysql,
}

/// What a database says of a bank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) sum_expected: i64,
    pub(crate) sum_actual: i64,
    pub(crate) in_doubt: usize,
}

impl Database {
    /// With tables whose names begin with `tables`.
    pub(crate) fn new(url: &str, tables: &str) -> Self {
        Self { url: url.to_owned(), tables: tables.to_owned() }
    }

    pub(crate) fn read(file: &Path) -> Result<Self, Broken> {
        let database: Self = serde_json::from_slice(&std::fs::read(file)?)?;
        let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        // They are put into statements.
        let good = (1..=40).contains(&database.tables.len()) && database.tables.bytes().all(word);
        if good { Ok(database) } else { Err("tables: 1 to 40 of a-z, 0-9 and _".into()) }
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), Broken> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(())
    }

    pub(crate) fn kind(&self) -> Result<Kind, Broken> {
        match self.url.split_once("://").map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Ok(Kind::Postgres),
            Some("mysql" | "mariadb") => Ok(Kind::Mysql),
            _ => {
                Err("an address begins with postgres://, postgresql://, mysql:// or mariadb://"
                    .into())
            }
        }
    }

    /// Makes the tables and opens the accounts.
    pub(crate) async fn create(&self) -> Result<(), Broken> {
        match self.kind()? {
            Kind::Postgres => postgres::create(self).await,
            Kind::Mysql => mysql::create(self).await,
        }
    }

    /// Removes the tables.
    pub(crate) async fn remove(&self) -> Result<(), Broken> {
        match self.kind()? {
            Kind::Postgres => postgres::remove(self).await,
            Kind::Mysql => mysql::remove(self).await,
        }
    }

    /// Changes a balance, against the rules.
    pub(crate) async fn adjust(&self, account: u32, cents: i64) -> Result<(), Broken> {
        let changed = match self.kind()? {
            Kind::Postgres => postgres::adjust(self, account, cents).await?,
            Kind::Mysql => mysql::adjust(self, account, cents).await?,
        };
        if changed { Ok(()) } else { Err(format!("there is no account {account}").into()) }
    }

    /// What there is, without a participant.
    pub(crate) async fn totals(&self) -> Result<Totals, Broken> {
        let (sum_actual, in_doubt) = match self.kind()? {
            Kind::Postgres => postgres::totals(self).await?,
            Kind::Mysql => mysql::totals(self).await?,
        };
        let sum_expected = i64::from(ACCOUNTS) * OPENING_CENTS;
        Ok(Totals { sum_expected, sum_actual, in_doubt })
    }

    /// Takes part in transactions with it.
    pub(crate) fn attach(
        &self,
        builder: &mut ParticipantBuilder,
        id: String,
    ) -> Result<Books, Broken> {
        Ok(match self.kind()? {
            Kind::Postgres => Books::Postgres(postgres::Books::attach(self, builder, id)?),
            Kind::Mysql => Books::Mysql(mysql::Books::attach(self, builder, id)?),
        })
    }

    fn accounts(&self) -> String {
        format!("{}_accounts", self.tables)
    }

    /// One row for each change of an account, numbered by account: the order of its writers.
    fn entries(&self) -> String {
        format!("{}_entries", self.tables)
    }
}

/// The accounts of a running bank.
pub(crate) enum Books {
    Embedded(Attached<Accounts>),
    Postgres(postgres::Books),
    Mysql(mysql::Books),
}

impl Books {
    pub(crate) async fn r#move(
        &self,
        request: Request<MoveRequest>,
    ) -> Result<Response<MoveResponse>, Status> {
        let mut response = Response::new(MoveResponse {});
        match self {
            Self::Embedded(accounts) => {
                let work = accounts.join(&request).await?;
                // `?` drops the work: it votes rollback.
                work.credit(request.get_ref().account, request.get_ref().cents)?;
                work.branch().announce(response.metadata_mut());
                work.end();
            }
            Self::Postgres(books) => books.r#move(&request, response.metadata_mut()).await?,
            Self::Mysql(books) => books.r#move(&request, response.metadata_mut()).await?,
        }
        Ok(response)
    }

    pub(crate) async fn describe(&self) -> Result<DescribeResponse, Status> {
        let count = |branches: usize| u32::try_from(branches).unwrap_or(u32::MAX);
        let (sum_cents, in_doubt, voted) = match self {
            Self::Embedded(accounts) => {
                (accounts.sum_cents(), accounts.in_doubt().len(), accounts.voted_len())
            }
            Self::Postgres(books) => books.describe().await?,
            Self::Mysql(books) => books.describe().await?,
        };
        Ok(DescribeResponse { in_doubt: count(in_doubt), sum_cents, voted: count(voted) })
    }
}
