//! Clear text: which protocol the first sixteen bytes of a direction are of.
//!
//! A protocol is named only where it takes more than forty bits of coincidence for other bytes to look the
//! same; text that is nothing known is [`App::Text`], and only where a whole line or sixteen bytes of it
//! are there.

mod binary;
mod opener;
mod receiver;
mod text;

use bulkhead_abi::{App, Inspection};

use super::{Payload, head::Head, stream::side};

pub(super) use binary::is_ldap;
pub(super) use opener::NEGOTIATION_FLAGS;
pub(super) use text::{is_sip_request, is_syslog};

/// What an opener's first bytes are: [`Found::code`]. One family of protocols after the other.
#[inline(always)]
pub(super) fn of_opener(payload: &impl Payload, inspection: &mut Inspection) -> u32 {
    let mut found = payload.dialogue_request(inspection);
    if found == 0 {
        found = payload.binary_request(inspection);
    }
    if found == 0 {
        found = payload.late_binary_request(inspection);
    }
    if found == 0 {
        found = payload.text_request(inspection);
    }
    if found == 0 {
        found = payload.likely_request(inspection);
    }
    if found == 0 {
        found = payload.paired(inspection);
    }
    found
}

/// What a receiver's first bytes are: [`Found::code`].
#[inline(always)]
pub(super) fn of_receiver(payload: &impl Payload, inspection: &mut Inspection) -> u32 {
    let mut found = payload.dialogue_answer(inspection);
    if found == 0 {
        found = payload.text_answer(inspection);
    }
    if found == 0 {
        found = payload.binary_answer(inspection);
    }
    if found == 0 {
        found = payload.paired_answer(inspection);
    }
    found
}

/// A family's reader, behind [`Payload`]'s method of the same name, over the opener's bytes and the
/// receiver's.
macro_rules! families {
    ($($(#[$doc:meta])* $name:ident = $reader:path;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(inspection: &mut Inspection) -> u32 {
            $reader(Head::of(side(inspection, 0)), Head::of(side(inspection, 1))).code()
        }
    )*};
}

families! {
    /// What an opener says that may turn to TLS.
    dialogue_request = opener::dialogue;
    /// The protocols of numbers that an opener speaks.
    binary_request = opener::binary;
    /// More of them.
    late_binary_request = opener::late_binary;
    /// The protocols of words that an opener speaks.
    text_request = opener::text;
    /// The protocols of words that an opener probably speaks.
    likely_request = opener::likely;
    /// What takes both to tell.
    paired = opener::both;
    /// What a receiver says that may turn to TLS.
    dialogue_answer = receiver::dialogue;
    /// The protocols of words that a receiver speaks.
    text_answer = receiver::text;
    /// The protocols of numbers that a receiver speaks.
    binary_answer = receiver::binary;
    /// What takes both to tell, and what is text at all.
    paired_answer = receiver::both;
}

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

impl Found {
    /// Clear text, if it is of a protocol.
    #[inline(always)]
    fn clear(app: Option<App>) -> Self {
        app.map_or(Self::Nothing, Self::Clear)
    }

    /// As a number, for a function that hands it over in a register.
    #[inline(always)]
    const fn code(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Clear(app) => 1 << 8 | app as u32,
            Self::Likely(app) => 2 << 8 | app as u32,
            Self::Dialogue(app) => 3 << 8 | app as u32,
        }
    }

    /// From its number.
    #[inline(always)]
    pub(super) const fn from_code(code: u32) -> Self {
        let app = App::from_code(code as u8);
        match code >> 8 {
            1 => Self::Clear(app),
            2 => Self::Likely(app),
            3 => Self::Dialogue(app),
            _ => Self::Nothing,
        }
    }
}
