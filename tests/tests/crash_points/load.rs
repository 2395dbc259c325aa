//! Transfers from bank-a to the other banks, or within it if it is alone, and what their client was
//! told.

use crate::world::{ACCOUNTS, OPENING_CENTS, Role, Told, World, shares};
use anyhow::{Result, ensure};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use unanimous_sdk::{Client, CommitError, Gtrid};
use unanimous_tests::real::wire::bank_service_client::BankServiceClient;
use unanimous_tests::real::wire::{DescribeRequest, MoveRequest};

/// Longer than a whole case may take: what a client waits for is not what ends it.
const PATIENCE: Duration = Duration::from_secs(600);
/// Transfers at the same time, and one after the other in each lane: enough that each point of a
/// transaction is passed.
const LANES: u32 = 3;
const TRANSFERS_PER_LANE: u32 = 12;
/// Between two questions whether a bank has anything in doubt; its answer is what counts.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

struct Bank {
    client: BankServiceClient<Channel>,
    open: watch::Receiver<bool>,
}

/// One client with a few transfers at a time.
pub(crate) struct Load {
    client: Client,
    banks: Vec<Bank>,
    number: Cell<u32>,
    told: RefCell<BTreeMap<Gtrid, Told>>,
    violations: RefCell<Vec<String>>,
}

impl Load {
    pub(crate) fn new(world: &World) -> Result<Rc<Self>> {
        let bank = |role: &Role| -> Result<Bank> {
            let endpoint = Endpoint::from_shared(world.url(role.name()))?;
            let endpoint = endpoint.connect_timeout(Duration::from_secs(1));
            let client = BankServiceClient::new(endpoint.connect_lazy());
            Ok(Bank { client, open: world.is_open(*role) })
        };
        let client = Client::builder(world.url("coordinator"), "crash points")
            .begin_within(PATIENCE)
            .resolve_within(PATIENCE)
            .connect()?;
        Ok(Rc::new(Self {
            client,
            banks: world.banks().iter().map(bank).collect::<Result<_>>()?,
            number: Cell::new(0),
            told: RefCell::default(),
            violations: RefCell::default(),
        }))
    }

    /// Transfers until each lane has made its number of them. They go on whoever is killed.
    pub(crate) fn go_on(self: &Rc<Self>, lanes: &mut JoinSet<()>) {
        for _ in 0..LANES {
            let load = Rc::clone(self);
            lanes.spawn_local(async move {
                for number in 1..=TRANSFERS_PER_LANE {
                    // More than there is: a rollback passes the points as well.
                    let cents = if number % 3 == 0 { OPENING_CENTS * 10 } else { 7 };
                    // Many fail while a process is down.
                    let _ = load.transfer(cents).await;
                }
            });
        }
    }

    /// As far as it gets. A commit that has begun waits until the coordinator is back and tells.
    async fn transfer(&self, cents: i64) -> Result<()> {
        let number = self.number.get();
        self.number.set(number + 1);
        for bank in &self.banks {
            bank.open.clone().wait_for(|open| *open).await?;
        }
        let transaction = self.client.begin("transfer").timeout(Duration::from_secs(3)).await?;
        for (bank, shares) in self.banks.iter().zip(shares(self.banks.len())) {
            for (place, share) in shares.iter().enumerate() {
                let mut client = bank.client.clone();
                let account = (number + u32::try_from(place)?) % ACCOUNTS + 1;
                let message = MoveRequest { account, cents: cents * share };
                let send = |request| async move { client.r#move(request).await };
                transaction.call(message, send).await?;
            }
        }
        let gtrid = transaction.gtrid();
        let ended = transaction.commit().await;
        let committed = match &ended {
            Ok(_) => true,
            Err(CommitError::RolledBack { .. }) => false,
            // A one-phase commit whose answer is lost leaves nobody who knows.
            Err(CommitError::Unknown { .. }) if self.banks.len() == 1 => false,
            Err(error) => {
                self.violations.borrow_mut().push(format!("{gtrid}: {error}"));
                false
            }
        };
        self.told.borrow_mut().insert(gtrid, Told { committed, cents });
        ended?;
        Ok(())
    }

    /// New work goes through, and nothing is in doubt.
    pub(crate) async fn heal(&self) {
        while self.transfer(5).await.is_err() {}
        for bank in &self.banks {
            let mut client = bank.client.clone();
            while client.describe(DescribeRequest {}).await.map_or(1, |r| r.get_ref().in_doubt) > 0
            {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
        }
    }

    /// What was told about each transfer whose commit was asked for.
    ///
    /// # Errors
    /// One has no outcome.
    pub(crate) fn told(&self) -> Result<BTreeMap<Gtrid, Told>> {
        let violations = self.violations.borrow();
        ensure!(violations.is_empty(), "no outcome: {}", violations.join("; "));
        Ok(self.told.borrow().clone())
    }
}
