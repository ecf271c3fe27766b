//! Under `require`: what is accepted passes whole, and of what is not nothing but a beginning.

use bulkhead_abi::{Accept, App, Class, Demand, Inspection, Reason, Tls};

use crate::{
    flows,
    talk::{Flow, Talk, cuts, play},
};

fn require(accept: Accept) -> Demand {
    Demand { accept, ..Demand::REQUIRE }
}

fn dialogue(app: App) -> Accept {
    match app {
        App::Smtp => Accept::SMTP,
        App::Imap => Accept::IMAP,
        App::Pop3 => Accept::POP3,
        App::Ldap => Accept::LDAP,
        App::Xmpp => Accept::XMPP,
        App::Postgresql => Accept::POSTGRESQL,
        App::Mysql => Accept::MYSQL,
        App::Ftp => Accept::FTP,
        App::Rdp => Accept::RDP,
        _ => Accept::NONE,
    }
}

fn all(flow: &Flow, sender: u8) -> Vec<u8> {
    flow.iter().filter(|(who, _)| *who == sender).flat_map(|(_, bytes)| bytes.clone()).collect()
}

#[test]
fn accepted_dialogues_pass_whole() {
    for (name, flow, app) in flows::upgraded() {
        for (cut_name, cut) in cuts() {
            let talk = play(&flow, require(dialogue(app)), &cut);
            assert_eq!((talk.refused, talk.class()), (None, (Class::Tls, app)), "{name} {cut_name}");
            assert!(talk.has(Inspection::FLAG_UPGRADED));
            assert_eq!(talk.passed, [all(&flow, 0), all(&flow, 1)], "{name} {cut_name}");
        }
    }
}

/// What may stand at the beginning of a direction under a plain `require`.
fn is_beginning(passed: &[u8]) -> bool {
    let hello = |kind: u8| {
        let fits = |(at, byte): (usize, &u8)| match at {
            0 => *byte == 0x16,
            1 | 9 => *byte == 3,
            2 | 10 => *byte <= 3,
            5 => *byte == kind,
            6 => *byte == 0,
            _ => true,
        };
        passed.iter().enumerate().all(fits)
    };
    let known: [&[u8]; 9] = [
        // PostgreSQL's answer to a request that is accepted.
        b"N",
        b"SSH-2.0-",
        b"SSH-1.99-",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x08\x04\xd2\x16\x30",
        b"PROXY TCP4 ",
        b"PROXY UNKNOWN\r\n",
        b"CONNECT ",
        b"\r\n\r\n\0\r\nQUIT\n\x21",
    ];
    passed.is_empty() || hello(1) || hello(2) || known.iter().any(|known| known.starts_with(passed))
}

#[test]
fn no_byte_of_clear_text_passes_that_contradicts() {
    for (name, flow, _) in flows::clear() {
        for (cut_name, cut) in cuts() {
            let talk = play(&flow, Demand::REQUIRE, &cut);
            assert!(talk.refused.is_some(), "{name} {cut_name} {:?}", talk.passed);
            let [opener, receiver] = &talk.passed;
            assert!(is_beginning(opener) && is_beginning(receiver), "{name} {cut_name} {:?}", talk.passed);
            if cut_name == "whole" {
                // Three bytes of SOCKS could be anything.
                let reason = if name == "SOCKS 5" { Reason::Unclassified } else { Reason::ClearText };
                assert_eq!(talk.refused, Some(reason), "{name}");
                if !name.contains("TLS denied") {
                    assert_eq!(talk.passed, [vec![], vec![]], "{name}");
                }
            }
        }
    }
}

#[test]
fn dialogues_that_are_not_accepted_end_at_their_first_byte_or_close() {
    let upgraded = flows::upgraded();
    let late = flows::late();
    for (name, flow, app) in upgraded.iter().chain(&late) {
        for (cut_name, cut) in cuts() {
            let talk = play(flow, require(Accept::TLS), &cut);
            assert!(talk.refused.is_some(), "{name} {cut_name}");
            let [opener, receiver] = &talk.passed;
            assert!(is_beginning(opener) && is_beginning(receiver), "{name} {cut_name}");
            let sum = opener.len() + receiver.len();
            assert!(sum <= 1, "{name} {cut_name} {app:?} {sum}");
        }
    }
}

#[test]
fn an_accepted_dialogue_passes_nothing_else() {
    for (name, flow, app) in flows::clear() {
        let accept = dialogue(app);
        if accept == Accept::NONE {
            continue;
        }
        for (cut_name, cut) in cuts() {
            let talk = play(&flow, require(accept.or(Accept::TLS)), &cut);
            assert!(talk.refused.is_some(), "{name} {cut_name} {:?}", talk.passed);
            let opener = String::from_utf8_lossy(&talk.passed[0]).into_owned();
            for secret in ["MAIL", "AUTH P", "LOGIN", "USER", "user", "<iq"] {
                assert!(!opener.contains(secret), "{name} {cut_name} {opener:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_told_needs_the_rule_to_say_so() {
    for (name, flow) in flows::unknown() {
        for (cut_name, cut) in cuts() {
            let talk = play(&flow, Demand::REQUIRE, &cut);
            assert!(talk.refused.is_some(), "{name} {cut_name}");
            let [opener, receiver] = &talk.passed;
            assert!(is_beginning(opener) && is_beginning(receiver), "{name} {cut_name}");
            if !name.contains("SQL Server") {
                let talk = play(&flow, require(Accept::ENCRYPTED.or(Accept::UNKNOWN)), &cut);
                assert_eq!(talk.refused, None, "{name} {cut_name}");
            }
        }
    }
    for (name, flow, _) in flows::clear() {
        for (cut_name, cut) in cuts() {
            let talk = play(&flow, require(Accept::ENCRYPTED.or(Accept::UNKNOWN)), &cut);
            assert!(talk.refused.is_some(), "{name} {cut_name}");
        }
    }
}

#[test]
fn a_floor_that_shows_in_the_hellos_is_kept() {
    for (name, flow, class) in flows::encrypted() {
        if class != Class::Tls || name.contains("refused") {
            continue;
        }
        let version = match name {
            "TLS 1.0" => 1,
            "TLS 1.1" => 2,
            // What is above shows only to user space.
            _ => 4,
        };
        for (cut_name, cut) in cuts() {
            for floor in 0..=4 {
                let talk = play(&flow, Demand { floor, ..Demand::REQUIRE }, &cut);
                let expected = if floor > version { Some(Reason::WeakEncryption) } else { None };
                assert_eq!(talk.refused, expected, "{name} {floor} {cut_name}");
            }
        }
    }
}

#[test]
fn a_class_that_is_not_accepted_is_weak() {
    let tls = flows::tls();
    for (cut_name, cut) in cuts() {
        for accept in [Accept::SSH, Accept::QUIC, Accept::SMTP] {
            let talk = play(&tls, require(accept), &cut);
            assert_eq!(talk.refused, Some(Reason::WeakEncryption), "{cut_name}");
            assert_eq!(talk.passed, [vec![], vec![]]);
        }
    }
    let mut talk = Talk::new(require(Accept::SSH));
    let _ = talk.say(0, b"SSH-1.5-old\r\n");
    assert_eq!(talk.refused, Some(Reason::WeakEncryption));
}

#[test]
fn below_require_nothing_is_refused() {
    let report = Demand { level: Tls::Report, accept: Accept::NONE, floor: 4 };
    for demand in [Demand::OFF, report] {
        let every = flows::clear().into_iter().map(|(name, flow, _)| (name, flow)).chain(flows::unknown());
        for (name, flow) in every.chain(flows::encrypted().into_iter().map(|(name, flow, _)| (name, flow))) {
            for (cut_name, cut) in cuts() {
                assert_eq!(play(&flow, demand, &cut).refused, None, "{name} {cut_name}");
            }
        }
    }
}
