//! Dialogues in clear text that turn to TLS: of lines ([`lines`]: SMTP, FTP, POP3, IMAP, XMPP, NATS), and
//! of one message and its answer ([`messages`]: PostgreSQL, MySQL, LDAP, RDP).
//!
//! Where clear text is stopped, a dialogue passes its own commands and nothing else. Behind the answer to
//! STARTTLS, whatever it was, only TLS makes sense: so a refusal needs no reading.

mod lines;
mod messages;

use bulkhead_abi::{Accept, App, Inspection};

pub use lines::{allow, answer, ask, lines};
pub use messages::skip;
pub(super) use messages::{ask_again, message};

use super::{
    codes::{code, mark, mode},
    head::{Head, may_begin as may_be, may_say},
    opening::accepts_dialogue,
    ruling::refuse,
    stream::{hand_over, restart, side_mut},
};

/// Whether a direction's first bytes may yet be those of a dialogue that is accepted.
#[inline(always)]
pub(super) fn may_begin(accept: Accept, sender: u32, head: Head) -> bool {
    if sender == 0 {
        return (accept.contains(Accept::POSTGRESQL)
            && may_be!(head, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"\x00\x00\x00\x08\x04\xd2\x16\x30"))
            || (accept.contains(Accept::SMTP) && may_say!(head, b"EHLO ", b"HELO ", b"LHLO "))
            || (accept.contains(Accept::XMPP) && may_be!(head, b"<?xml ", b"<stream:stream "))
            || (accept.contains(Accept::LDAP) && messages::may_be_start_tls(head))
            || (accept.contains(Accept::RDP) && messages::may_be_rdp(head));
    }
    (accept.intersects(Accept::SMTP.or(Accept::FTP)) && may_be!(head, b"220 ", b"220-"))
        || (accept.contains(Accept::POP3) && may_be!(head, b"+OK ", b"+OK\r"))
        || (accept.contains(Accept::IMAP) && may_be!(head, b"* OK "))
        || (accept.contains(Accept::MYSQL) && messages::may_be_greeting(head))
}

/// A dialogue begins with this opening.
#[inline(always)]
pub(super) fn begin(inspection: &mut Inspection, _sender: u32, app: App, head: Head) -> u32 {
    if let Err(reason) = accepts_dialogue(inspection, app) {
        return refuse(inspection, reason).code();
    }
    let [opener, receiver] = &mut inspection.streams;
    match app {
        App::Postgresql | App::Ldap | App::Rdp | App::Amqp | App::Tds => {
            // PostgreSQL's clients ask for TLS when they were denied GSSAPI, and only then a second time.
            opener.turns = u8::from(app == App::Postgresql && head.byte::<7>() == 0x30);
            restart(opener, messages::len(app, head));
            opener.marks |= mark::INNER;
            inspection.flags |= Inspection::FLAG_ASKED;
        }
        App::Mysql => {
            restart(receiver, messages::len(app, head));
            receiver.marks |= mark::INNER;
        }
        App::Nats => {
            hand_over(receiver, mode::LINES);
            opener.marks |= mark::INNER;
        }
        _ => {
            // A banner is the answer to a command that nobody gave.
            opener.turns = u8::from(matches!(app, App::Unknown | App::Smtp | App::Ftp | App::Pop3));
            receiver.turns = 0;
            hand_over(opener, mode::LINES);
            hand_over(receiver, mode::LINES);
        }
    }
    code::AGAIN
}

/// The opener of an FTP dialogue was denied one mechanism and names another (RFC 4217, 4): the dialogue goes on.
#[inline(always)]
pub(super) fn go_on(inspection: &mut Inspection, head: Head) -> u32 {
    if head.have() < 5 {
        return code::END;
    }
    let [opener, receiver] = &mut inspection.streams;
    opener.marks &= !mark::INNER;
    receiver.marks &= !mark::INNER;
    hand_over(opener, mode::LINES);
    hand_over(receiver, mode::LINES);
    code::AGAIN
}

/// A tag of XMPP ends that was opened and closed apart.
#[inline(always)]
pub(super) fn close(inspection: &mut Inspection, sender: u32, head: Head) -> u32 {
    let end = head.find(b'>');
    if end == 0 {
        return code::END;
    }
    restart(side_mut(inspection, sender), end);
    code::AGAIN
}
