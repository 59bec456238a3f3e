//! Which sockets of a guest wait for somebody.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Most sockets that are told of.
pub const LISTENERS_MAX: usize = 512;

/// Sockets that wait for somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Listeners {
    /// By protocol and port; at most [`LISTENERS_MAX`].
    pub sockets: Vec<ListeningSocket>,
    /// There were more.
    pub is_cut: bool,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListeningSocket {
    /// Of what kind.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// Its address; `0.0.0.0` and `::` are all of them.
    pub address: IpAddr,
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}
