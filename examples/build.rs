//! Compiles the example's .proto file with protox: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=transfer/bank.proto");
    let descriptors = protox::compile(["bank.proto"], ["transfer"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
