//! The wire contract of Unanimous, package `unanimous.v1`.
//!
//! The `.proto` files in this folder are the documentation: their comments are enough to write a
//! participant in another language. This crate holds the code made from them and nothing else;
//! conversions to and from the protocol's own types live with those who speak the wire.

/// Messages and services of package `unanimous.v1`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::too_many_lines)]
pub mod v1 {
    tonic::include_proto!("unanimous.v1");
}

/// The encoded `FileDescriptorSet` of package `unanimous.v1`, for reflection and canonical JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/unanimous.v1.bin"));
