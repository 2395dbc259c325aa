//! Compiles the demo banks' .proto file for the tests that drive real banks.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = "../coordinator/proto";
    let file = "unanimous/dev/v1/bank.proto";
    println!("cargo::rerun-if-changed={folder}/{file}");
    let descriptors = protox::compile([file], [folder])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
