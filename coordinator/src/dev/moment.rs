//! The worst moment to kill a bank: it has voted commit, the coordinator has decided, and the bank
//! does not know.

use super::BANKS;
use super::session::Ports;
use super::supervise::{Act, Supervisor};
use super::wire::DescribeRequest;
use super::wire::bank_service_client::BankServiceClient;
use crate::connect;
use crate::errors::Failure;
use std::time::{Duration, Instant};
use unanimous_proto::v1;
use unanimous_sdk::Credentials;

/// With a transfer a second the moment comes soon, unless nothing can be transferred.
const COMES_WITHIN: Duration = Duration::from_secs(6);
/// A coordinator that has all votes decides within this time, or has not got them.
const DECIDES_WITHIN: Duration = Duration::from_millis(200);

/// Freezes the bank at that moment. `false`: it did not come, or it is no bank, or one that is
/// down; then it runs on.
pub(crate) async fn freeze_in_doubt(
    ports: &Ports,
    supervisor: &Supervisor,
    name: &str,
) -> Result<bool, Failure> {
    let Some(bank) = BANKS.iter().position(|bank| *bank == name) else { return Ok(false) };
    let address = ports.bank_address(bank);
    let until = Instant::now() + COMES_WITHIN;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        if tokio::time::timeout(left, voted(&address)).await != Ok(true) {
            return Ok(false);
        }
        supervisor.act(name, Act::Freeze).await?;
        let decided = tokio::time::timeout(DECIDES_WITHIN, decided(ports, name)).await;
        if decided == Ok(true) {
            return Ok(true);
        }
        // The vote has not gone out, or it knew already.
        supervisor.act(name, Act::Start).await?;
    }
    Ok(false)
}

/// Asks until the bank has voted and does not know the decision. Without a pause: that is only two
/// forced writes away.
async fn voted(address: &str) -> bool {
    let Ok(endpoint) = connect::endpoint(address) else { return false };
    let Ok(channel) = endpoint.connect().await else { return false };
    let mut bank = BankServiceClient::new(channel);
    loop {
        match bank.describe(DescribeRequest {}).await {
            Ok(described) if described.get_ref().voted > 0 => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// Asks until a decided transaction waits for the bank.
async fn decided(ports: &Ports, name: &str) -> bool {
    let Ok(mut admin) = connect::admin_at(&ports.admin_address(), &Credentials::new()).await else {
        return false;
    };
    let filter = format!("state=COMMITTING and waiting_on={name:?}");
    loop {
        let filter = filter.clone();
        let request = v1::ListTransactionsRequest { page_size: 1, filter, ..Default::default() };
        match admin.list_transactions(request).await {
            Ok(listed) if listed.get_ref().total > 0 => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}
