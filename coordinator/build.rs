//! Compiles the demo banks' .proto file with protox: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "unanimous/dev/v1/bank.proto";
    println!("cargo::rerun-if-changed=proto/{file}");
    let descriptors = protox::compile([file], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
