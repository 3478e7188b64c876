//! The wire contract of Courser, generated from `proto/courser/v1/` by protox and prost.
//!
//! Nothing is written by hand here: to change the contract, change the `.proto` files.

/// Package `courser.v1`.
pub mod v1 {
    #![allow(clippy::all, unused_qualifications, unreachable_pub)]
    tonic::include_proto!("courser.v1");
}

/// The descriptors of every file of the contract, as server reflection serves them.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/courser_descriptor.bin"));
