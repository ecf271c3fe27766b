//! Clear text: which protocol the first sixteen bytes of a direction are of.
//!
//! A protocol is named only where it takes more than forty bits of coincidence for other bytes to look the
//! same; text that is nothing known is [`App::Text`], and only where a whole line or sixteen bytes of it
//! are there.

mod binary;
mod opener;
mod receiver;
mod text;

use bulkhead_abi::App;

pub(super) use binary::is_ldap;
pub(super) use opener::opener;
pub(super) use receiver::receiver;
pub(super) use text::is_syslog;

/// What first bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Nothing that is known, or not enough of it.
    Nothing,
    /// Clear text.
    Clear(App),
    /// Clear text for certain, of a protocol that the other direction may put right.
    Likely(App),
    /// Clear text that may turn to TLS.
    Dialogue(App),
}
