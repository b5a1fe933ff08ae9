//! What lies where.

use crate::nft::expr::{Ip, Register};

/// The registers' use. Keys are read from consecutive ones, hence the order: a client, a frontend
/// (address, protocol, port), the number of an endpoint, an endpoint (address, port).
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    /// Address of the client.
    pub(super) client: Register,
    /// Address of a frontend.
    pub(super) frontend: Register,
    pub(super) protocol: Register,
    pub(super) port: Register,
    /// Number of an endpoint.
    pub(super) number: Register,
    /// Address of an endpoint.
    pub(super) target: Register,
    pub(super) target_port: Register,
    /// Behind a frontend: the range that a client is in, and how many bits that fixes.
    pub(super) range: Register,
    pub(super) bits: Register,
    /// For what is looked at at once; the client's place. Two addresses, one behind the other.
    pub(super) scratch: Register,
    pub(super) scratch_next: Register,
}

impl Registers {
    /// An address takes one register, or four.
    pub(super) fn of(ip: Ip) -> Self {
        let width = ip.address_length() / 4;
        Self {
            client: Register(0),
            frontend: Register(width),
            protocol: Register(2 * width),
            port: Register(2 * width + 1),
            number: Register(2 * width + 2),
            target: Register(2 * width + 3),
            target_port: Register(3 * width + 3),
            range: Register(2 * width + 2),
            bits: Register(3 * width + 2),
            scratch: Register(0),
            scratch_next: Register(width),
        }
    }
}
