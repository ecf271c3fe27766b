//! Dialogues that are to turn to TLS, and ways to stay in clear.

use super::*;

/// The greeting has begun a dialogue of both, of which one end is met in the middle of its part.
#[test]
fn an_end_that_is_met_in_the_middle_of_a_dialogue_is_unknown() {
    for (demand, ruling) in [(Demand::REQUIRE, UNCLASSIFIED), (REPORT, Ruling::Pass)] {
        let mut inspection = Inspection::default();
        inspect::demand(&mut inspection, Demand { accept: Accept::SMTP, ..demand });
        stream::begin(&mut inspection, 1, 700);
        let greeting: &[u8] = b"220 mail.example ESMTP\r\n";
        assert_eq!(stream::segment(&mut inspection, 1, 700, &greeting), Ruling::Pass);
        stream::begin_within(&mut inspection, 0, 5000);
        let request: &[u8] = b"EHLO web\r\n";
        assert_eq!(stream::segment(&mut inspection, 0, 5000, &request), ruling);
        assert_ne!(inspection.flags & Inspection::FLAG_MIDSTREAM, 0);
    }
}

#[test]
fn nobody_goes_on_before_starttls_is_answered() {
    for (name, flow, app) in flows::upgraded() {
        if app == App::Mysql {
            // Its client does not wait.
            continue;
        }
        let asked = flow
            .iter()
            .rposition(|(sender, bytes)| {
                *sender == 1 && bytes[0] != 0x17 && bytes[0] != 0x16 && bytes[0] != 0x14
            })
            .unwrap();
        for early in [&flow[asked + 1].1[..], b"MAIL FROM:<a@b>\r\n", b"x"] {
            let mut talk = Talk::new(Demand { accept: Accept(!Accept::UNKNOWN.0), ..Demand::REQUIRE });
            for (sender, bytes) in &flow[..asked] {
                assert_eq!(talk.say(*sender, bytes), Ruling::Pass, "{name}");
            }
            assert_eq!(talk.class(), (Class::StartTls, app), "{name}");
            assert!(matches!(talk.say(0, early), Ruling::Refuse(_)), "{name} {early:x?}");
        }
        // In the same segment.
        let (sender, question) = &flow[asked - 1];
        assert_eq!(*sender, 0);
        let mut talk = Talk::new(Demand { accept: Accept(!Accept::UNKNOWN.0), ..Demand::REQUIRE });
        for (sender, bytes) in &flow[..asked - 1] {
            assert_eq!(talk.say(*sender, bytes), Ruling::Pass, "{name}");
        }
        assert!(matches!(talk.say(0, &[question, &b"x"[..]].concat()), Ruling::Refuse(_)), "{name}");
    }
}

#[test]
fn clear_text_behind_the_answer_to_starttls_is_stopped() {
    for (name, flow, app) in flows::upgraded() {
        let tls = flow.len() - flows::tls().len();
        for (sender, text) in
            [(0, &b"MAIL FROM:<a@b>\r\n"[..]), (0, b"\x30\x0c\x02"), (1, b"250 x\r\n"), (0, b"\0\0\0\x54")]
        {
            let mut talk = Talk::new(Demand { accept: Accept(!Accept::UNKNOWN.0), ..Demand::REQUIRE });
            for (sender, bytes) in &flow[..tls] {
                assert_eq!(talk.say(*sender, bytes), Ruling::Pass, "{name}");
            }
            assert_eq!(talk.say(sender, &text[..1]), CLEAR, "{name}");
            let mut talk = after(&flow[..tls].to_vec(), Demand::OFF);
            let _ = talk.say(sender, text);
            assert_eq!(talk.class(), (Class::Clear, app), "{name}");
        }
    }
}

#[test]
fn no_other_extended_operation_passes_for_starttls() {
    let demand = Demand { accept: Accept::LDAP, ..Demand::REQUIRE };
    for request in [
        &b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20038"[..],
        b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.9466.20037",
        b"\x30\x84\0\0\0\x21\x02\x01\x01\x77\x84\0\0\0\x18\x80\x161.3.6.1.4.1.1466.20038",
        b"\x30\x84\0\0\0\x21\x02\x01\x01\x77\x84\0\0\0\x18\x80\x169.3.6.1.4.1.1466.20037",
    ] {
        assert_eq!(Talk::new(demand).say(0, request), CLEAR, "{request:x?}");
        let mut talk = Talk::new(demand);
        let passed = request.iter().take_while(|byte| talk.say(0, &[**byte]) == Ruling::Pass).count();
        assert!(passed < request.len());
    }
}
