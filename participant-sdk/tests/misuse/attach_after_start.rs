async fn serve<R: unanimous_sdk::Resource>(
    mut builder: unanimous_sdk::ParticipantBuilder,
    resource: R,
) {
    let _ = builder.start().await;
    builder.attach("seats", resource);
}

fn main() {}
