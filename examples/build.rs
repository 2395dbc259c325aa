//! Compiles the examples' .proto files with protox: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (file, folder) in [("bank.proto", "transfer"), ("theatre.proto", "seats")] {
        println!("cargo::rerun-if-changed={folder}/{file}");
        let descriptors = protox::compile([file], [folder])?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
    }
    Ok(())
}
