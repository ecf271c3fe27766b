//! Both directions together: what the two agreed on.

use super::certificate::{self, Certificate};
use super::cipher::{KeyExchange, Strength, Suite};
use super::client::{self, ClientHello};
use super::ja4::Transport;
use super::message::{self, Alert, Spoken, kind};
use super::names::{Group, GroupKind, Version};
use super::server::{self, ServerHello};
use super::{dtls, quic};

/// What was read of a handshake.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Handshake {
    /// What carried it.
    pub transport: Transport,
    /// The first ClientHello.
    pub client: Option<ClientHello>,
    /// The ServerHello; where it only asked for another ClientHello and no second came, that one.
    pub server: Option<ServerHello>,
    /// The server asked for another ClientHello: one round trip more.
    pub retried: bool,
    /// The server's certificate, before TLS 1.3.
    pub certificate: Option<Certificate>,
    /// The group of the key exchange.
    pub group: Option<Group>,
    /// Bits of the prime, where the key exchange is in a finite field without a name.
    pub prime_bits: Option<u16>,
    /// An older session goes on: no certificate was shown.
    pub resumed: bool,
    /// Alerts in clear, the client's first.
    pub alerts: Vec<Alert>,
    /// Nothing more can be learnt of it.
    pub settled: bool,
}

impl Handshake {
    /// Reads what the opener and the receiver of a TLS stream sent first.
    pub fn read(opener: &[u8], receiver: &[u8]) -> Self {
        Self::of(message::records(opener), message::records(receiver), Transport::Tcp)
    }

    /// Reads the datagrams that the opener and the receiver sent first, of QUIC or DTLS.
    pub fn read_datagrams(opener: &[Vec<u8>], receiver: &[Vec<u8>]) -> Self {
        let first = opener.first().or(receiver.first()).and_then(|datagram| datagram.first());
        if first.is_some_and(|byte| byte & 0x80 != 0) {
            let [asked, answered] = quic::handshakes(opener, receiver);
            return Self::of(asked, answered, Transport::Quic);
        }
        Self::of(dtls::records(&opener.concat()), dtls::records(&receiver.concat()), Transport::Dtls)
    }

    fn of(asked: Spoken, answered: Spoken, transport: Transport) -> Self {
        let mut handshake = Self { transport, ..Self::default() };
        handshake.client = message::messages(&asked.before)
            .find(|message| message.kind == kind::CLIENT_HELLO)
            .and_then(|message| client::read(message.body, message.whole, transport));
        handshake.take_answer(&answered);
        handshake.alerts = [asked.alerts, answered.alerts].concat();
        handshake
    }

    /// The version that is spoken.
    pub fn version(&self) -> Option<Version> {
        self.server.as_ref().map(|server| server.version)
    }

    /// The cipher suite.
    pub fn cipher(&self) -> Option<Suite> {
        self.server.as_ref().map(|server| server.cipher)
    }

    /// What is to be thought of the cipher suite.
    pub fn strength(&self) -> Strength {
        self.cipher().map_or(Strength::Unknown, Suite::strength)
    }

    /// What protects the key exchange; unknown where no group was read.
    pub fn group_kind(&self) -> GroupKind {
        self.group.map_or(GroupKind::Unknown, Group::kind)
    }

    /// Whether the client offered a group that withstands a quantum computer; `None` where its offer was
    /// not read.
    pub fn offers_post_quantum(&self) -> Option<bool> {
        let client = self.client.as_ref()?;
        let offered = client.groups.iter().any(|group| group.is_post_quantum());
        (offered || client.complete).then_some(offered)
    }

    /// Whether anything at all was read.
    pub const fn is_empty(&self) -> bool {
        self.client.is_none() && self.server.is_none()
    }

    fn take_answer(&mut self, answered: &Spoken) {
        let mut ended = answered.turned;
        for message in message::messages(&answered.before) {
            self.take_message(message);
            ended |= message.kind == kind::SERVER_HELLO_DONE;
        }
        if self.retried && answered.turned {
            let hello = message::messages(&answered.after).find(|message| message.kind == kind::SERVER_HELLO);
            if let Some(message) = hello {
                self.take_message(message);
            }
        }
        let Some(server) = &self.server else { return };
        let modern = server.version.minor() == Some(4);
        if let (false, Some(client)) = (modern, &self.client) {
            // Before TLS 1.3 an older session goes straight on to encryption.
            let straight = answered.turned && self.certificate.is_none() && self.group.is_none();
            self.resumed = straight && client.complete && !server.session.is_empty();
        }
        self.resumed |= modern && server.pre_shared_key;
        self.settled = !server.retry && (modern || ended);
    }

    fn take_message(&mut self, message: message::Message<'_>) {
        let suite = self.cipher();
        match (message.kind, suite) {
            (kind::SERVER_HELLO, _) => {
                let Some(hello) = server::read(message.body, message.whole) else { return };
                self.retried |= hello.retry;
                // The answer repeats the group of the request, or goes without one.
                self.group = hello.group.or(self.group.filter(|_| hello.retry));
                self.server = Some(hello);
            }
            (kind::CERTIFICATE, Some(_)) => self.certificate = certificate::leaf(message.body),
            (kind::SERVER_KEY_EXCHANGE, Some(suite)) if suite.key_exchange() != KeyExchange::Negotiated => {
                self.group = server::exchanged_group(message.body, suite);
                if self.group.is_none() {
                    self.prime_bits = server::prime_bits(message.body, suite);
                }
            }
            _ => {}
        }
    }
}
