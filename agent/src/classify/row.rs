//! What is told of one flow.

use std::net::IpAddr;

use bulkhead_detect::hello::Summary;
use serde::Serialize;

/// A flow. Its field names are those of JSON: a field, once there, keeps its name and its meaning; `null`
/// means that it was not seen.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The opener's address.
    pub src: IpAddr,
    /// The opener's port; 0 where the transport has none.
    pub src_port: u16,
    /// The receiver's address.
    pub dst: IpAddr,
    /// The receiver's port.
    pub dst_port: u16,
    /// `tcp`, `udp`, `esp`, `ah`.
    pub transport: &'static str,
    /// How it is encrypted, by the words of the metrics: `tls`, `clear`, `unknown`, …
    pub class: &'static str,
    /// The application protocol, by the words of the metrics; of what is encrypted, the protocol of the
    /// STARTTLS dialogue before it.
    pub protocol: &'static str,
    /// It turned from clear text to TLS by STARTTLS.
    pub upgraded: bool,
    /// A PROXY protocol header or an HTTP CONNECT was looked through.
    pub tunnelled: bool,
    /// The capture does not have its beginning.
    pub midstream: bool,
    /// Payload bytes of both directions that had passed when class and protocol were known.
    pub known_after: Option<u64>,
    /// Payload bytes of both directions that the capture has.
    pub bytes: u64,
    /// Packets of both directions.
    pub packets: u64,
    /// When its first packet was captured, in seconds since 1970.
    pub first_seen: f64,
    /// What the inventory would say of its handshake.
    pub tls: Option<Summary>,
}
