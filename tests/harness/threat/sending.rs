//! What a try sends, and how it is seen to arrive: on the wire in the receiver's namespace, or at the
//! receiving program's socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result};

use super::super::{CallError, Dial, Kind, Peer, Serve, Socket};
use super::{Try, heard, lab};

/// An address and a port. For literals: panics at what is no address.
#[must_use]
#[expect(clippy::panic, reason = "a mistake in the test's own text")]
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap_or_else(|_| panic!("no address: {address}")), port)
}

impl Try<'_> {
    /// A port of this try alone, from a range that begins at `base` and has [`TRIES`](super::TRIES) ports:
    /// what one try left behind is in no other's way.
    #[must_use]
    pub fn port(&self, base: u16) -> u16 {
        base + self.number
    }

    /// An address of this try alone, for which the outside machine answers.
    #[must_use]
    pub fn stranger(&self, v6: bool) -> String {
        self.own(if v6 { lab::STRANGERS6 } else { lab::STRANGERS })
    }

    /// An address of this try alone that leads to the outside machine, whose kernel does not know it.
    #[must_use]
    pub fn puppet(&self, v6: bool) -> String {
        self.own(if v6 { lab::PUPPETS6 } else { lab::PUPPETS })
    }

    fn own(&self, prefix: &str) -> String {
        format!("{prefix}{}", 10 + self.number)
    }

    /// Sends one datagram by an ordinary socket; whether the program at `to` got it.
    pub fn datagram(&self, from: &Peer, receiver: &Peer, to: SocketAddr) -> Result<bool> {
        self.at_program(receiver, to, || {
            let client = from.open(Kind::Udp, None, to.is_ipv6())?;
            refused(from.send(&client, b"bulkhead", Some(to)))?;
            Ok(from.close(&client)?)
        })
    }

    /// Connects; whether the program at the other end accepted a connection.
    pub fn connection(&self, from: &Peer, receiver: &Peer, dial: &Dial) -> Result<bool> {
        let server = receiver.listen(Kind::Tcp, bindable(dial.to()), Serve::Hold)?;
        let connecting = from.begin_connect(&dial.clone().within(self.patience));
        let arrived = heard(receiver.accept(&server, self.patience));
        if let Ok(client) = connecting.wait() {
            from.reset(&client)?;
        }
        receiver.close(&server)?;
        arrived
    }

    /// Sends packets by a raw socket; whether a UDP socket at `to` got something.
    pub fn reaches(&self, from: &Peer, receiver: &Peer, to: SocketAddr, packets: &[Vec<u8>]) -> Result<bool> {
        self.at_program(receiver, to, || send_raw(from, packets))
    }

    /// Does `work`; whether a UDP socket at `to` got something by it.
    pub fn at_program(
        &self,
        receiver: &Peer,
        to: SocketAddr,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let server = receiver.listen(Kind::Udp, bindable(to), Serve::Hold)?;
        work()?;
        let arrived = heard(receiver.recv(&server, self.patience));
        receiver.close(&server)?;
        arrived
    }

    /// Does `work`; whether a raw socket of this protocol and family got a packet by it that holds
    /// `marker`.
    pub fn at_raw_socket(
        &self,
        receiver: &Peer,
        (protocol, v6): (u8, bool),
        marker: &[u8],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let server = receiver.open(Kind::Raw(protocol), None, v6)?;
        work()?;
        let until = Instant::now() + self.patience;
        let arrived = loop {
            let left = until.saturating_duration_since(Instant::now());
            match receiver.recv(&server, left) {
                Ok((packet, _)) if holds(&packet, marker) => break true,
                Ok(_) => {}
                other => break heard(other)?,
            }
        };
        receiver.close(&server)?;
        Ok(arrived)
    }

    /// Sends packets by a raw socket; whether they came by the wire to the receiver's namespace.
    pub fn crosses(&self, from: &Peer, receiver: &Peer, packets: &[Vec<u8>]) -> Result<bool> {
        self.on_wire(receiver, packets, || send_raw(from, packets))
    }

    /// Does `work`; whether these packets came by the wire to the receiver's namespace by it. Time to
    /// live, checksum and an IPv4 header's identification may differ.
    pub fn on_wire(
        &self,
        receiver: &Peer,
        packets: &[Vec<u8>],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let captures = packets.iter().map(|_| receiver.capture()).collect::<Result<Vec<Socket>, _>>()?;
        work()?;
        let mut arrived = 0;
        for (capture, packet) in captures.iter().zip(packets) {
            let unchanged = packet.get(if is_v6(packet) { 8 } else { 12 }..).unwrap_or_default();
            arrived += usize::from(heard(receiver.captured(capture, unchanged, self.patience))?);
            receiver.close(capture)?;
        }
        Ok(if self.expected { arrived == packets.len() } else { arrived > 0 })
    }
}

/// Sends packets as they are. A refusal is no error: what counts is what arrives.
pub fn send_raw(from: &Peer, packets: &[Vec<u8>]) -> Result<()> {
    for packet in packets {
        let socket = from.raw(is_v6(packet))?;
        refused(from.send(&socket, packet, Some(SocketAddr::new(destination(packet)?, 0))))?;
        from.close(&socket)?;
    }
    Ok(())
}

/// Lets an error of the kernel's be: the receiver tells whether it was one.
fn refused<T>(sent: Result<T, CallError>) -> Result<()> {
    heard(sent).map(drop)
}

/// Programs on the outside machine answer for more addresses than may be bound in IPv6.
fn bindable(to: SocketAddr) -> SocketAddr {
    let any = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, to.port())
}

fn destination(packet: &[u8]) -> Result<IpAddr> {
    let octets = |at: usize| packet.get(at..).context("a packet without a header");
    Ok(if is_v6(packet) {
        let octets: [u8; 16] = *octets(24)?.first_chunk().context("half a header")?;
        octets.into()
    } else {
        let octets: [u8; 4] = *octets(16)?.first_chunk().context("half a header")?;
        octets.into()
    })
}

fn is_v6(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6)
}

fn holds(packet: &[u8], marker: &[u8]) -> bool {
    packet.windows(marker.len()).any(|part| part == marker)
}
