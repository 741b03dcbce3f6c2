//! The U-Net on a server, everything else here: KServe v2 over gRPC, as NVIDIA Triton, KServe and others speak it.
//!
//! [`Servers::connect`] asks servers what they have, [`RemoteUnet`] sends them the rows of every call, several servers their share of
//! them. A call holds all that its answer depends on, so that whoever is free may answer it, and one that got no answer is sent again.

mod address;
mod error;
mod prompt;
pub mod proto;
pub mod serve;
mod server;
mod servers;
mod tensor;
mod unet;

pub use self::address::Address;
pub use self::error::RemoteError;
pub use self::server::Described;
pub use self::servers::{GIVEN_UP, Patience, Servers};
pub use self::unet::RemoteUnet;
