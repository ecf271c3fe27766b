//! What becomes of a flow by what is known of it: whether its rule accepts that.

use bulkhead_abi::{Accept, App, Class, Inspection, Reason, Tls};

use super::{Ruling, codes::code};

/// Whether the rule accepts what is known of the flow.
#[inline(always)]
pub(crate) fn accepted(inspection: &Inspection) -> Result<(), Reason> {
    let app = App::from_code(inspection.app);
    let (wanted, reason) = match Class::from_code(inspection.class) {
        Class::Clear => return Err(Reason::ClearText),
        Class::Unknown => (Accept::UNKNOWN, Reason::Unclassified),
        Class::StartTls => (dialogue(app), Reason::ClearText),
        Class::Tls if inspection.flags & Inspection::FLAG_UPGRADED != 0 => {
            (dialogue(app), Reason::WeakEncryption)
        }
        Class::Tls => (Accept::TLS, Reason::WeakEncryption),
        Class::Ssh => (Accept::SSH, Reason::WeakEncryption),
        Class::Quic => (Accept::QUIC, Reason::WeakEncryption),
        Class::Dtls => (Accept::DTLS, Reason::WeakEncryption),
        Class::WireGuard => (Accept::WIREGUARD, Reason::WeakEncryption),
        Class::Ipsec => (Accept::IPSEC, Reason::WeakEncryption),
        // Told by how a flow goes, never by its bytes.
        Class::Mutual => (Accept::NONE, Reason::Inconsistent),
    };
    if inspection.accept.intersects(wanted) { Ok(()) } else { Err(reason) }
}

/// What must be accepted of a STARTTLS dialogue.
#[inline(always)]
pub(super) fn dialogue(app: App) -> Accept {
    match app {
        // A banner that either may have sent.
        App::Unknown => Accept::SMTP.or(Accept::FTP),
        App::Smtp => Accept::SMTP,
        App::Ftp => Accept::FTP,
        App::Imap => Accept::IMAP,
        App::Pop3 => Accept::POP3,
        App::Ldap => Accept::LDAP,
        App::Xmpp => Accept::XMPP,
        App::Postgresql => Accept::POSTGRESQL,
        App::Mysql => Accept::MYSQL,
        App::Rdp => Accept::RDP,
        _ => Accept::NONE,
    }
}

/// The class is known.
#[inline(always)]
pub(super) fn conclude(inspection: &mut Inspection, class: Class, app: App) -> u32 {
    inspection.class = class as u8;
    inspection.app = app as u8;
    inspection.flags &= !Inspection::FLAG_ASKED;
    let strict = is_strict(inspection);
    if strict && let Err(reason) = accepted(inspection) {
        return refuse(inspection, reason).code();
    }
    let goes_on = (class == Class::Tls && follows(inspection)) || (class == Class::Ssh && strict);
    inspection.phase = if goes_on { Inspection::FOLLOWING } else { Inspection::DONE };
    code::AGAIN
}

/// Ends the reading: nothing passes any more.
#[inline(always)]
pub(crate) fn refuse(inspection: &mut Inspection, reason: Reason) -> Ruling {
    inspection.phase = Inspection::REFUSED;
    let [opener, _] = &mut inspection.streams;
    opener.state = reason as u8;
    Ruling::Refuse(reason)
}

/// Why it was refused.
#[inline(always)]
pub(super) fn refusal(inspection: &Inspection) -> Reason {
    let [opener, _] = &inspection.streams;
    Reason::from_code(opener.state)
}

/// Whether what is not accepted is stopped.
#[inline(always)]
pub(super) fn is_strict(inspection: &Inspection) -> bool {
    Tls::from_code(inspection.level) == Tls::Require
}

/// Whether TLS is followed after its hellos.
#[inline(always)]
pub(super) fn follows(inspection: &Inspection) -> bool {
    matches!(Tls::from_code(inspection.level), Tls::Report | Tls::Require)
}
