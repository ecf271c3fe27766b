//! The first sixteen bytes of each direction: what they are, and whether they may yet be what is accepted.

use bulkhead_abi::{Accept, App, Class, Inspection, Reason};

use super::{
    Cursor, Payload, clear,
    clear::Found,
    codes::{code, mark, mode},
    head::{Head, ROOM, begins, may_begin},
    ruling::{accepted, conclude, follows, is_strict, refuse},
    starttls,
    stream::{advance, hand_over, load, side, side_mut},
    tls::{self, Fit},
    wrap,
};

/// Takes as many bytes of the segment as there is room for.
#[inline(always)]
pub fn opening(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let own = side_mut(inspection, cursor.sender);
    let kept = Head::of(own);
    if kept.is_full() {
        return code::END;
    }
    if cursor.at < cursor.len {
        let piece = load(payload, cursor.at).first(ROOM - kept.have());
        kept.with(piece).keep(own);
        advance(own, cursor, piece.have());
    }
    if own.have == 0 { code::END } else { code::JUDGE }
}

/// How well the opening of a direction fits what [`judge`] looks for. Every part of it comes from a function
/// of its own as a number that the kernel's verifier knows nothing about: what they find out does not
/// multiply.
#[derive(Clone, Copy)]
struct Fits(u32);

impl Fits {
    /// A ClientHello.
    #[inline(always)]
    fn client(self) -> Fit {
        Fit::from_code(self.0)
    }

    /// What a server says to one.
    #[inline(always)]
    fn server(self) -> Fit {
        Fit::from_code(self.0 >> 2)
    }

    /// An SSH identification.
    #[inline(always)]
    fn ssh(self) -> Fit {
        Fit::from_code(self.0 >> 4)
    }

    /// An SSH identification, of the other direction.
    #[inline(always)]
    fn other_ssh(self) -> Fit {
        Fit::from_code(self.0 >> 6)
    }

    /// What a server says to a ClientHello in the format of SSL 2.0.
    #[inline(always)]
    fn old_server(self) -> bool {
        self.0 & 1 << 8 != 0
    }

    /// What is looked through, or a dialogue that is accepted.
    #[inline(always)]
    fn turns(self) -> bool {
        self.0 & 1 << 9 != 0
    }
}

/// What [`judge`] is to know: a [`Fits`].
#[inline(always)]
pub(super) fn compare(payload: &impl Payload, inspection: &mut Inspection, sender: u32) -> u32 {
    payload.fits_client(inspection, sender)
        | payload.fits_server(inspection, sender) << 2
        | payload.fits_ssh(inspection, sender) << 4
        | payload.fits_ssh(inspection, 1 - (sender & 1)) << 6
        | payload.fits_old_server(inspection, sender) << 8
        | payload.may_turn(inspection, sender) << 9
}

/// Whether a direction's first bytes are a ClientHello: a [`Fit`]'s code.
#[inline(always)]
pub fn fits_client(inspection: &mut Inspection, sender: u32) -> u32 {
    tls::client_hello(Head::of(side(inspection, sender))) as u32
}

/// Whether they are what a server says to a ClientHello: a [`Fit`]'s code.
#[inline(always)]
pub fn fits_server(inspection: &mut Inspection, sender: u32) -> u32 {
    answers(Head::of(side(inspection, sender))) as u32
}

/// Whether they are an SSH identification: a [`Fit`]'s code.
#[inline(always)]
pub fn fits_ssh(inspection: &mut Inspection, sender: u32) -> u32 {
    is_ssh(Head::of(side(inspection, sender))) as u32
}

/// Whether they are what a server says to a ClientHello in the format of SSL 2.0: 1 or 0.
#[inline(always)]
pub fn fits_old_server(inspection: &mut Inspection, sender: u32) -> u32 {
    let (own, other) = (side(inspection, sender), side(inspection, 1 - (sender & 1)));
    let asked = other.marks & mark::OWES == 0 && tls::old_client_hello(Head::of(other));
    u32::from(asked && tls::server_hello(Head::of(own)) == Fit::Is)
}

/// Whether they may yet be something that is looked through, or the beginning of a dialogue that is
/// accepted: 1 or 0.
#[inline(always)]
pub fn may_turn(inspection: &mut Inspection, sender: u32) -> u32 {
    let (own, other) = (side(inspection, sender), side(inspection, 1 - (sender & 1)));
    let head = Head::of(own);
    let alone = sender == 0 && (other.have == 0 || other.marks & mark::OWES != 0);
    u32::from(
        (alone && wrap::may_wrap(inspection, head)) || starttls::may_begin(inspection.accept, sender, head),
    )
}

/// Says what the opening of a direction is, as far as it is encrypted, looked through, or a dialogue that
/// is being followed; leaves the rest to [`look`].
#[inline(always)]
pub fn judge(inspection: &mut Inspection, sender: u32, fits: u32) -> u32 {
    let fits = Fits(fits);
    let (own, other) = (side(inspection, sender), side(inspection, 1 - (sender & 1)));
    let (marks, other_marks) = (own.marks, other.marks);
    let head = Head::of(own);
    let other_owes = other_marks & mark::OWES != 0;
    let other_have = if other_owes { 0 } else { u32::from(other.have) };
    if marks & mark::OWES != 0 {
        return wrap::answer(inspection, head);
    }
    let inner = marks & mark::INNER != 0;
    if inspection.class == Class::StartTls as u8 && !inner {
        return starttls::message(inspection, sender, head);
    }
    let strict = is_strict(inspection);
    // Nobody greets who has been spoken to; below `require`, what was said may have been anything.
    let greeted = other_marks & (mark::CLIENT | mark::SSH) != 0 || (strict && other_have != 0);
    let client = if greeted { Fit::No } else { fits.client() };
    let server = if other_marks & mark::CLIENT == 0 { Fit::No } else { fits.server() };
    if strict && inner && sender == 0 && inspection.flags & Inspection::FLAG_ASKED != 0 {
        // Nobody who takes STARTTLS seriously goes on before the answer (RFC 3207, 4).
        return refuse(inspection, Reason::ClearText).code();
    }
    if client == Fit::Is || server == Fit::Is {
        return hello(inspection, sender, head, server == Fit::Is);
    }
    if other_marks & mark::CLIENT == 0 && fits.old_server() {
        return conclude(inspection, Class::Tls, App::Unknown);
    }
    let ssh = if inner || other_marks & mark::CLIENT != 0 { Fit::No } else { fits.ssh() };
    if ssh == Fit::Is {
        return identification(inspection, sender, head);
    }
    if inner {
        if !strict && sender != 0 && client == Fit::No && server == Fit::No && fits.server() != Fit::No {
            // What it answers was missed.
            let is = fits.server() == Fit::Is;
            let app = App::from_code(inspection.app);
            return if is { conclude(inspection, Class::Unknown, app) } else { code::END };
        }
        return inside(inspection, sender, head, client != Fit::No || server != Fit::No);
    }
    if strict {
        let accept = inspection.accept;
        let tls =
            accept.contains(Accept::TLS) && (server != Fit::No || (client != Fit::No && other_have == 0));
        let ssh = accept.contains(Accept::SSH)
            && ssh != Fit::No
            && (other_have == 0 || other_marks & mark::SSH != 0 || fits.other_ssh() != Fit::No);
        if !tls && !ssh && !fits.turns() && !accept.contains(Accept::UNKNOWN) {
            side_mut(inspection, sender).marks |= mark::ODD;
            return code::LOOK;
        }
    }
    if sender == 0 && other_have == 0 { wrap::begin(inspection, head) } else { code::LOOK }
}

/// What the opening of a direction is, as clear text, for [`look`].
#[inline(always)]
pub(super) fn find(payload: &impl Payload, inspection: &mut Inspection, sender: u32) -> u32 {
    if sender == 0 { clear::of_opener(payload, inspection) } else { clear::of_receiver(payload, inspection) }
}

/// Says whether the opening of a direction is clear text, and of which protocol.
#[inline(always)]
pub fn look(inspection: &mut Inspection, sender: u32, found: u32) -> u32 {
    let (own, other) = (side(inspection, sender), side(inspection, 1 - (sender & 1)));
    let (head, other_head, odd) = (Head::of(own), Head::of(other), own.marks & mark::ODD != 0);
    let strict = is_strict(inspection);
    match Found::from_code(found) {
        Found::Clear(app) => conclude(inspection, Class::Clear, app),
        // A server of SSH may say something before it says who it is (RFC 4253, 4.2).
        Found::Likely(_) if !strict && other.marks & mark::SSH != 0 => {
            conclude(inspection, Class::Unknown, App::Unknown)
        }
        Found::Likely(app) if strict || says_enough(other_head) => {
            // What the other end's words were taken for says more than that these are words.
            let told = App::from_code(inspection.app);
            let app = if app == App::Text && told != App::Unknown { told } else { app };
            conclude(inspection, Class::Clear, app)
        }
        Found::Likely(app) => {
            inspection.class = Class::Clear as u8;
            inspection.app = app as u8;
            code::END
        }
        Found::Dialogue(app) => starttls::begin(inspection, sender, app, head),
        Found::Nothing if odd => reject(inspection, head),
        Found::Nothing if inspection.class == Class::Clear as u8 && says_enough(head) => {
            let app = App::from_code(inspection.app);
            conclude(inspection, Class::Clear, app)
        }
        Found::Nothing if head.is_full() && other_head.is_full() => {
            conclude(inspection, Class::Unknown, App::Unknown)
        }
        Found::Nothing => code::END,
    }
}

/// Whether an answer is long enough to put right what a request was taken for: sixteen bytes, a line, or
/// no text at all.
#[inline(always)]
fn says_enough(answer: Head) -> bool {
    answer.have() != 0 && (answer.is_full() || answer.find(b'\n') != 0 || !answer.is_text())
}

/// Refuses what cannot be anything that is accepted.
#[inline(always)]
fn reject(inspection: &mut Inspection, head: Head) -> u32 {
    let encrypted =
        tls::client_hello(head) != Fit::No || is_ssh(head) != Fit::No || tls::old_client_hello(head);
    let reason = if encrypted {
        Reason::WeakEncryption
    } else if head.is_text() {
        Reason::ClearText
    } else {
        Reason::Unclassified
    };
    refuse(inspection, reason).code()
}

/// How well this fits what a server says to a ClientHello.
#[inline(always)]
fn answers(head: Head) -> Fit {
    match (tls::server_hello(head), tls::alert(head)) {
        (Fit::Is, _) | (_, Fit::Is) => Fit::Is,
        (Fit::May, _) | (_, Fit::May) => Fit::May,
        _ => Fit::No,
    }
}

/// Whether this is an SSH identification of version 2 (RFC 4253, 4.2 and 5.1), or of any other.
#[inline(always)]
fn is_ssh(head: Head) -> Fit {
    let new = begins!(head, b"SSH-2.0-", b"SSH-1.99-");
    let old = begins!(head, b"SSH-1.") && head.have() >= 8 && !begins!(head, b"SSH-1.99");
    if new || old {
        Fit::Is
    } else if may_begin!(head, b"SSH-2.0-", b"SSH-1.") {
        Fit::May
    } else {
        Fit::No
    }
}

/// A hello is there: what follows it is a sequence of records.
#[inline(always)]
fn hello(inspection: &mut Inspection, sender: u32, head: Head, answer: bool) -> u32 {
    let strict = is_strict(inspection);
    let upgraded = inspection.class == Class::StartTls as u8;
    let is_alert = head.byte::<0>() == 21;
    let floor = match inspection.floor {
        // SSL 3.0 is no TLS.
        0 => 1,
        floor if floor < 3 => floor,
        // What is higher does not show here.
        _ => 3,
    };
    if strict {
        let wrong = !is_alert && tls::version(head) < floor;
        if wrong || (!upgraded && !inspection.accept.contains(Accept::TLS)) {
            inspection.class = Class::Tls as u8;
            return refuse(inspection, Reason::WeakEncryption).code();
        }
    }
    let followed = follows(inspection);
    let own = side_mut(inspection, sender);
    own.marks |= if answer { mark::SERVER } else { mark::CLIENT };
    own.state = if followed { mode::RECORDS } else { mode::FREE };
    own.header_have = 0;
    own.record = own.start.wrapping_add(tls::record_len(head));
    if is_alert && head.have() > 7 {
        // The next record's header has been read already.
        own.start = own.start.wrapping_add(7);
        head.behind(7).keep(own);
        own.marks |= mark::REPLAY;
    }
    if !answer {
        return code::AGAIN;
    }
    let app = App::from_code(inspection.app);
    if upgraded {
        inspection.flags |= Inspection::FLAG_UPGRADED;
        return conclude(inspection, Class::Tls, app);
    }
    conclude(inspection, Class::Tls, App::Unknown)
}

/// An SSH identification is there.
#[inline(always)]
fn identification(inspection: &mut Inspection, sender: u32, head: Head) -> u32 {
    let strict = is_strict(inspection);
    let old = !begins!(head, b"SSH-2.0-", b"SSH-1.99-");
    if strict && (old || !inspection.accept.contains(Accept::SSH)) {
        inspection.class = Class::Ssh as u8;
        return refuse(inspection, Reason::WeakEncryption).code();
    }
    let own = side_mut(inspection, sender);
    own.marks |= mark::SSH;
    if strict {
        hand_over(own, mode::IDENT);
        own.turns = 0;
    } else {
        own.state = mode::FREE;
    }
    if side(inspection, 1 - (sender & 1)).marks & mark::SSH != 0 {
        return conclude(inspection, Class::Ssh, App::Unknown);
    }
    code::AGAIN
}

/// What comes behind a STARTTLS dialogue and is not TLS.
#[inline(always)]
fn inside(inspection: &mut Inspection, sender: u32, head: Head, may_be_tls: bool) -> u32 {
    let app = App::from_code(inspection.app);
    if may_be_tls {
        return code::END;
    }
    let again = app == App::Postgresql && sender == 0 && side(inspection, 0).turns != 0;
    if again && may_begin!(head, b"\x00\x00\x00\x08\x04\xd2\x16\x2f") {
        return starttls::ask_again(inspection, head);
    }
    if app == App::Ftp && sender == 0 && may_begin!(head, b"AUTH ") {
        return starttls::go_on(inspection, head);
    }
    if app == App::Xmpp && may_begin!(head, b"</starttls>", b"</proceed>") {
        return starttls::close(inspection, sender, head);
    }
    if app == App::Tds && begins!(head, b"\x12") {
        // TLS in the protocol's own packets; whether for the login alone does not show here.
        return conclude(inspection, Class::Unknown, app);
    }
    conclude(inspection, Class::Clear, app)
}

/// Whether the rule accepts a dialogue of this protocol.
#[inline(always)]
pub(super) fn accepts_dialogue(inspection: &mut Inspection, app: App) -> Result<(), Reason> {
    inspection.class = Class::StartTls as u8;
    inspection.app = app as u8;
    if is_strict(inspection) { accepted(inspection) } else { Ok(()) }
}
