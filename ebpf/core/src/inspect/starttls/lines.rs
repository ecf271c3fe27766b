//! Dialogues of lines. Of each line the first sixteen bytes are kept, which is enough for every command.
//!
//! Commands and answers are counted, because a client may send several at once: the answer to STARTTLS is
//! the one with its number.

use bulkhead_abi::{Accept, App, Class, Inspection, Reason};

use crate::inspect::{
    Cursor, Payload,
    codes::{code, mark, mode},
    head::{Head, ROOM, begins, may_begin, may_say, says},
    ruling::{conclude, is_strict, refuse},
    stream::{advance, load, side, side_mut},
};

/// The most that a client, and a server, may say before STARTTLS where clear text is stopped.
const MOST: [u16; 2] = [1024, 8192];

/// Reads to the end of the line, or of the segment.
#[inline(always)]
pub fn lines(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let strict = is_strict(inspection);
    let sender = cursor.sender;
    let end_of_line = terminator(inspection);
    let own = side_mut(inspection, sender);
    let kept = Head::of(own);
    // Of what is new, only how much it is, and whether it is text.
    let (count, text) = if own.marks & mark::REPLAY != 0 {
        // Lines that were read as an opening; the last one may go on.
        if kept.find(end_of_line) == 0 {
            own.marks &= !mark::REPLAY;
        } else {
            own.marks |= mark::ENDED;
        }
        (kept.have(), kept.is_text())
    } else {
        let piece = load(payload, cursor.at);
        let end = piece.find(end_of_line);
        let piece = if end == 0 { piece } else { piece.first(end) };
        let count = piece.have();
        if count == 0 {
            return code::END;
        }
        kept.with(piece).keep(own);
        advance(own, cursor, count);
        if end != 0 {
            own.marks |= mark::ENDED;
        }
        (count, piece.is_text())
    };
    own.spent = own.spent.saturating_add(count as u16);
    let [most_asked, most_answered] = MOST;
    let too_much = own.spent > if sender == 0 { most_asked } else { most_answered };
    if strict && (too_much || !text) {
        return refuse(inspection, Reason::ClearText).code();
    }
    if !strict && own.spent == u16::MAX {
        let app = App::from_code(inspection.app);
        return conclude(inspection, Class::Clear, app);
    }
    code::LINE
}

/// Judges a server's line.
#[inline(always)]
pub fn answer(inspection: &mut Inspection, sender: u32) -> u32 {
    if !is_complete(inspection, sender) {
        return code::AGAIN;
    }
    let app = App::from_code(inspection.app);
    let (line, end) = at_hand(inspection, app, sender);
    let is_final = answers(app, line);
    next_line(inspection, sender, end);
    if is_final { answered(inspection) } else { code::AGAIN }
}

/// Judges a client's line, complete or not: where clear text is stopped, whether it may pass.
#[inline(always)]
pub fn allow(inspection: &mut Inspection, sender: u32) -> u32 {
    if !is_strict(inspection) {
        return code::AGAIN;
    }
    let app = App::from_code(inspection.app);
    let (line, _) = at_hand(inspection, app, sender);
    if is_allowed(inspection, app, line) {
        return code::AGAIN;
    }
    refuse(inspection, Reason::ClearText).code()
}

/// Judges a client's line: what it asks for.
#[inline(always)]
pub fn ask(inspection: &mut Inspection, sender: u32) -> u32 {
    if !is_complete(inspection, sender) {
        return code::AGAIN;
    }
    let app = App::from_code(inspection.app);
    let (line, end) = at_hand(inspection, app, sender);
    let (app, command) = command(app, line);
    inspection.app = app as u8;
    next_line(inspection, sender, end);
    if command == Command::Other {
        return conclude(inspection, Class::Clear, app);
    }
    let [opener, _] = &mut inspection.streams;
    opener.turns = opener.turns.wrapping_add(u8::from(command != Command::Header));
    if command == Command::StartTls {
        inspection.flags |= Inspection::FLAG_ASKED;
        inside(opener);
    }
    code::AGAIN
}

#[inline(always)]
fn is_complete(inspection: &Inspection, sender: u32) -> bool {
    side(inspection, sender).marks & mark::ENDED != 0
}

/// The line at hand, and where it ends; 0 where it does not yet.
#[inline(always)]
fn at_hand(inspection: &Inspection, app: App, sender: u32) -> (Head, u32) {
    let kept = Head::of(side(inspection, sender));
    let end = kept.find(terminator(inspection));
    (trimmed(app, if end == 0 { kept } else { kept.first(end) }), end)
}

/// What ends a line; of XMPP, a tag.
#[inline(always)]
fn terminator(inspection: &Inspection) -> u8 {
    if inspection.app == App::Xmpp as u8 { b'>' } else { b'\n' }
}

/// Without the white space that may stand between tags, and without an IMAP command's tag.
#[inline(always)]
fn trimmed(app: App, line: Head) -> Head {
    match app {
        App::Xmpp => {
            let mut line = line;
            for _ in 0..3 {
                if line.have() != 0 && matches!(line.byte::<0>(), b'\r' | b'\n' | b' ') {
                    line = line.behind(1);
                }
            }
            line
        }
        _ => line,
    }
}

/// The line was judged: the next one begins.
#[inline(always)]
fn next_line(inspection: &mut Inspection, sender: u32, end: u32) {
    let own = side_mut(inspection, sender);
    own.marks &= !mark::ENDED;
    if own.marks & mark::REPLAY == 0 {
        own.have = 0;
        own.start = own.next;
        return;
    }
    let rest = Head::of(own).behind(end);
    rest.keep(own);
    own.start = own.start.wrapping_add(end);
    if rest.have() == 0 {
        own.marks &= !mark::REPLAY;
    }
}

/// An opening follows, of TLS.
#[inline(always)]
fn inside(own: &mut bulkhead_abi::inspect::Stream) {
    own.state = mode::OPENING;
    own.marks |= mark::INNER;
    own.marks &= !(mark::REPLAY | mark::ENDED);
}

/// A command was answered; if it was STARTTLS, what follows is TLS.
#[inline(always)]
fn answered(inspection: &mut Inspection) -> u32 {
    let [opener, receiver] = &mut inspection.streams;
    receiver.turns = receiver.turns.wrapping_add(1);
    let asked = inspection.flags & Inspection::FLAG_ASKED != 0 && receiver.turns == opener.turns;
    if asked || inspection.app == App::Nats as u8 {
        inspection.flags &= !Inspection::FLAG_ASKED;
        inside(receiver);
    }
    code::AGAIN
}

/// Whether a server's line is the last one of an answer.
#[inline(always)]
fn answers(app: App, line: Head) -> bool {
    match app {
        App::Pop3 => begins!(line, b"+OK", b"-ERR"),
        // Everything but what it says unasked, and the request to go on with a command.
        App::Imap => !begins!(line, b"*", b"+"),
        App::Xmpp => begins!(line, b"<proceed", b"<failure"),
        App::Nats => true,
        _ => {
            let digits = line.byte::<0>().is_ascii_digit()
                && line.byte::<1>().is_ascii_digit()
                && line.byte::<2>().is_ascii_digit();
            digits && matches!(line.byte::<3>(), b' ' | b'\r' | b'\n')
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    /// It asks for TLS.
    StartTls,
    /// It leaves open what comes.
    Neutral,
    /// It asks for no answer.
    Header,
    /// The dialogue goes on in clear text.
    Other,
}

/// What a client's line commands, and of which protocol it is.
#[inline(always)]
fn command(app: App, line: Head) -> (App, Command) {
    match app {
        App::Pop3 => {
            let command = if says!(line, b"STLS\r", b"STLS\n") {
                Command::StartTls
            } else if says!(line, b"CAPA\r", b"CAPA\n", b"NOOP\r", b"QUIT\r", b"AUTH\r", b"UTF8\r") {
                Command::Neutral
            } else {
                Command::Other
            };
            (app, command)
        }
        App::Imap => {
            // Behind a long tag there is only room for the first letters of the command.
            let cut = line.is_full();
            let line = line.behind(line.find(b' '));
            let cut = cut && line.have() >= ROOM - LONGEST_TAG;
            let command =
                if says!(line, b"STARTTLS\r", b"STARTTLS\n") || (cut && may_say!(line, b"STARTTLS\r")) {
                    Command::StartTls
                } else if says!(line, b"CAPABILIT", b"NOOP", b"ID ", b"LOGOUT", b"ENABLE ")
                    || (cut && may_say!(line, b"CAPABILIT"))
                {
                    Command::Neutral
                } else {
                    Command::Other
                };
            (app, command)
        }
        App::Xmpp => {
            let command = if begins!(line, b"<starttls") {
                Command::StartTls
            } else if begins!(line, b"<?xml", b"<stream:stream", b"</stream:stream", b"</starttls") {
                Command::Header
            } else {
                Command::Other
            };
            (app, command)
        }
        _ => {
            if app != App::Ftp && says!(line, b"STARTTLS\r", b"STARTTLS\n") {
                return (App::Smtp, Command::StartTls);
            }
            if app != App::Smtp && says!(line, b"AUTH TLS", b"AUTH SSL") {
                return (App::Ftp, Command::StartTls);
            }
            if says!(line, b"EHLO ", b"HELO ", b"LHLO ", b"EHLO\r", b"HELO\r") {
                return (App::Smtp, Command::Neutral);
            }
            if says!(line, b"FEAT", b"SYST", b"OPTS ", b"CLNT ", b"HOST ", b"CSID ") {
                return (App::Ftp, Command::Neutral);
            }
            if says!(line, b"NOOP", b"RSET", b"QUIT", b"HELP") {
                return (app, Command::Neutral);
            }
            if app != App::Unknown {
                return (app, Command::Other);
            }
            if says!(line, b"MAIL ", b"RCPT ", b"AUTH ", b"VRFY ", b"EXPN ", b"DATA\r") {
                return (App::Smtp, Command::Other);
            }
            if says!(
                line, b"USER ", b"PASS ", b"ACCT ", b"PASV", b"EPSV", b"PORT ", b"TYPE ", b"CWD ", b"PWD"
            ) {
                return (App::Ftp, Command::Other);
            }
            (App::Text, Command::Other)
        }
    }
}

/// Whether a client's line, as far as it is there, is a command that passes where clear text is stopped.
#[inline(always)]
fn is_allowed(inspection: &Inspection, app: App, line: Head) -> bool {
    match app {
        App::Pop3 => may_say!(line, b"STLS\r\n", b"CAPA\r\n", b"NOOP\r\n", b"QUIT\r\n"),
        App::Imap => {
            let tag = line.find(b' ');
            let rest = line.behind(tag);
            if tag == 0 {
                return line.have() < LONGEST_TAG;
            }
            tag <= LONGEST_TAG
                && may_say!(
                    rest,
                    b"STARTTLS\r\n",
                    b"CAPABILITY\r\n",
                    b"NOOP\r\n",
                    b"LOGOUT\r\n",
                    b"ID (",
                    b"ID NIL\r\n"
                )
        }
        App::Xmpp => may_begin!(
            line,
            b"<?xml ",
            b"<stream:stream ",
            b"<starttls xmlns=",
            b"</stream:stream>",
            b"</starttls>"
        ),
        App::Unknown | App::Smtp | App::Ftp => {
            let accept = inspection.accept;
            let smtp = app != App::Ftp
                && accept.contains(Accept::SMTP)
                && may_say!(line, b"EHLO ", b"HELO ", b"LHLO ", b"STARTTLS\r\n", b"RSET\r\n");
            let ftp = app != App::Smtp
                && accept.contains(Accept::FTP)
                && may_say!(line, b"AUTH TLS\r\n", b"AUTH SSL\r\n", b"AUTH TLS-C\r\n", b"FEAT\r\n");
            smtp || ftp || may_say!(line, b"NOOP\r\n", b"QUIT\r\n")
        }
        _ => false,
    }
}

/// The longest tag of an IMAP command, with its space, that leaves enough of the line to tell the command by.
const LONGEST_TAG: u32 = 10;

const _: () = assert!(ROOM - LONGEST_TAG >= 6);
