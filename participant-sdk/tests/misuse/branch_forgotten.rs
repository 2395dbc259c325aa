#![deny(unused_must_use)]

async fn work<R: unanimous_sdk::Resource>(
    seats: unanimous_sdk::Attached<R>,
    call: unanimous_sdk::Context,
) -> Result<(), unanimous_sdk::JoinError> {
    seats.enlist(&call).await?;
    Ok(())
}

fn main() {}
