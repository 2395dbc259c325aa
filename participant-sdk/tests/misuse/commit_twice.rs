async fn pay(tx: unanimous_sdk::Transaction) {
    let _ = tx.commit().await;
    let _ = tx.rollback().await;
}

fn main() {}
