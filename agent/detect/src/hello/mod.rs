//! The opening of an encrypted flow, read out of the first bytes of both directions: what was offered,
//! what was chosen, and by which certificate.
//!
//! [`Handshake::read`] takes the bytes of a stream, [`Handshake::read_datagrams`] datagrams, [`Reassembly`]
//! gathers both from pieces. Nothing is verified, and nothing decrypted but QUIC's first packets, whose keys
//! everybody can compute; what is missing, cut or not understood is absent from the result, never guessed.

mod bytes;
mod certificate;
mod cipher;
mod cipher_names;
mod client;
mod dtls;
mod handshake;
mod ja4;
mod message;
mod names;
mod quic;
mod reassembly;
mod server;
mod summary;

pub use certificate::Certificate;
pub use cipher::{Strength, Suite};
pub use client::ClientHello;
pub use handshake::Handshake;
pub use ja4::Transport;
pub use message::Alert;
pub use names::{Group, GroupKind, Version, is_grease};
pub use reassembly::{Limits, Opening, Reassembly, Stage, Stream};
pub use server::ServerHello;
pub use summary::{CertificateSummary, Summary};
