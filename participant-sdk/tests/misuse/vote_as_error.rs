use unanimous_sdk::{BranchId, Done, Evidence, Prepared, Resource, Retry, Vote};

struct Seats;

impl Resource for Seats {
    async fn prepare(&self, _: &BranchId) -> Result<Vote, String> {
        Err("no seats".to_owned())
    }

    async fn commit(&self, _: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        Ok(Done::Done)
    }

    async fn rollback(&self, _: &BranchId) -> bool {
        true
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(Vec::new())
    }
}

fn main() {}
