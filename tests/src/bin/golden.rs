//! `golden`: writes what this version leaves behind for later ones to understand: its wire, its
//! conversations, its logs. Done once for a release, when nothing of it changes any more; what is
//! kept of other releases is never written again.
#![allow(clippy::print_stderr)]

use prost::Message as _;
use std::process::ExitCode;
use unanimous_tests::golden::{VERSION, folder, logs, script, wire};

fn main() -> ExitCode {
    match bless() {
        Ok(()) => {
            eprintln!("written: golden files of {VERSION} in {}", folder("").display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bless() -> anyhow::Result<()> {
    wire::bless()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        sessions().await?;
        logs::bless().await
    })
}

async fn sessions() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let running = script::Running::start(home.path()).await?;
    let mut scene = script::Scene::open(script::connect(running.sessions).await?).await?;
    script::sessions(&mut scene, &running).await?;
    let conversation = scene.finish();
    let folder = folder("sessions").join(VERSION);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("all.bin"), conversation.encode_to_vec())?;
    let text = conversation.text(&wire::pool(VERSION)?)?;
    Ok(std::fs::write(folder.join("all.txt"), text)?)
}
