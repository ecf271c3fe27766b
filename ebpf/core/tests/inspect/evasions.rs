//! Attempts to get clear text past a rule that wants it encrypted, and honest flows that look like one.

use bulkhead_abi::{Accept, App, Class, Demand, Inspection, Reason, Tls};
use bulkhead_core::inspect::{self, Ruling, stream};

use crate::{
    flows,
    talk::{Flow, Talk, cuts, play},
};

mod dialogues;
mod wrapped;

const REPORT: Demand = Demand { level: Tls::Report, accept: Accept::NONE, floor: 0 };
const CLEAR: Ruling = Ruling::Refuse(Reason::ClearText);
const WEAK: Ruling = Ruling::Refuse(Reason::WeakEncryption);
const UNCLASSIFIED: Ruling = Ruling::Refuse(Reason::Unclassified);

fn after(flow: &Flow, demand: Demand) -> Talk {
    let mut talk = Talk::new(demand);
    for (sender, bytes) in flow {
        assert_eq!(talk.say(*sender, bytes), Ruling::Pass);
    }
    talk
}

#[test]
fn a_lying_beginning_passes_no_more_than_is_still_true() {
    for (lie, most) in [
        (&b"\x16\x03GET / HTTP/1.1\r\n"[..], 2),
        (b"\x16\x03\x01GET / HTTP/1.1\r\n", 3),
        (b"\x16\x03\x01\x00\x2cGET / HTTP/1.1\r\n", 5),
        (b"\x16\x03\x01\x00\x2c\x01GET / HTTP/1.1\r\n", 6),
        (b"\x16\x03\x01\x00\x2c\x01\x00\x00\x28GET / HTTP/1.1\r\n", 9),
        (b"\x16\x03\x01\x00\x2c\x01\x00\x00\x28\x03GET / HTTP/1.1\r\n", 10),
        (b"\x16\x03\x01\xff\xff\x01", 3),
        (b"\x16\x03\x01\x00\x05\x01", 4),
        (b"\x16\x03\x01\x00\x2c\x01\x01", 6),
        (b"\x16\x03\x01\x00\x2c\x01\x00\x00\x10", 8),
        (b"\x16\x03\x01\x00\x14\x01\x00\x00\x10\x03\x03secret", 8),
        (b"SSH-GET / HTTP/1.1\r\n", 4),
        (b"SSH-1.5-x\r\n", 7),
    ] {
        let mut talk = Talk::new(Demand::REQUIRE);
        for byte in lie {
            if talk.say(0, &[*byte]) != Ruling::Pass {
                break;
            }
        }
        assert!(talk.refused.is_some(), "{lie:x?}");
        assert!(talk.passed[0].len() <= most, "{lie:x?} {:x?}", talk.passed[0]);
        // In one piece nothing passes.
        let mut talk = Talk::new(Demand::REQUIRE);
        assert_ne!(talk.say(0, lie), Ruling::Pass);
        assert_ne!(talk.say(0, b"x"), Ruling::Pass, "once refused, always refused");
    }
}

#[test]
fn a_record_passes_as_long_as_it_said_and_no_longer() {
    let mut hello = b"\x16\x03\x01\x00\x2c\x01\x00\x00\x28\x03\x03".to_vec();
    hello.resize(5 + 0x2c, b'A');
    let mut talk = Talk::new(Demand::REQUIRE);
    assert_eq!(talk.say(0, &hello), Ruling::Pass);
    assert_eq!(talk.say(0, b"G"), CLEAR);

    let mut talk = Talk::new(Demand::REQUIRE);
    hello.extend(b"GET /");
    assert_eq!(talk.say(0, &hello), CLEAR);
    let mut talk = Talk::new(REPORT);
    assert_eq!(talk.say(0, &hello), Ruling::Pass);
    assert_eq!(talk.class().0, Class::Clear, "five bytes of text where a record should begin");
}

#[test]
fn tls_that_turns_clear_is_stopped_at_its_first_byte() {
    for (name, flow, class) in flows::encrypted() {
        if class != Class::Tls {
            continue;
        }
        for sender in 0..2 {
            let mut talk = after(&flow, Demand::REQUIRE);
            assert_eq!(talk.say(sender, b"G"), CLEAR, "{name}");
            let mut talk = after(&flow, Demand::REQUIRE);
            assert_eq!(
                talk.say(sender, b"\x17\x03\x03\x48\x01GET /"),
                CLEAR,
                "{name}: longer than a record may be"
            );
            let mut talk = after(&flow, Demand::REQUIRE);
            assert_eq!(
                talk.say(sender, b"\x17\x03\x03\x00\x05hello"),
                CLEAR,
                "{name}: shorter than encryption is"
            );
            let mut talk = after(&flow, Demand::REQUIRE);
            assert_eq!(talk.say(sender, b"\x17\x03\x03\x00\x20"), Ruling::Pass, "{name}");
            assert_eq!(talk.say(sender, &[b'x'; 40]), CLEAR, "{name}: longer than it said");

            let mut talk = after(&flow, REPORT);
            talk.inspection.flags |= Inspection::FLAG_TOLD;
            assert_eq!(talk.say(sender, b"GET / HTTP/1.1\r\n"), Ruling::Pass, "{name}");
            assert_eq!(talk.class().0, Class::Clear, "{name}");
            assert!(!talk.has(Inspection::FLAG_TOLD), "it has to be told again");

            let mut talk = after(&flow, Demand::OFF);
            assert_eq!(talk.say(sender, b"GET / HTTP/1.1\r\n"), Ruling::Pass);
            assert_eq!(talk.class().0, Class::Tls, "nobody asked to follow it");
        }
    }
}

#[test]
fn a_server_that_answers_in_clear_gets_no_byte_through() {
    let hello = flows::tls().remove(0).1;
    for answer in
        [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"+OK\r\n", b"220 x\r\n", b"SSH-2.0-x\r\n", b"\x17\x03\x03"]
    {
        let mut talk = Talk::new(Demand::REQUIRE);
        assert_eq!(talk.say(0, &hello), Ruling::Pass);
        assert!(matches!(talk.say(1, &answer[..1]), Ruling::Refuse(_)), "{answer:x?}");
    }
    // Nor one that says hello before it was greeted, or greets back.
    for early in [flows::tls().remove(1).1, hello.clone()] {
        let mut talk = Talk::new(Demand::REQUIRE);
        let _ = talk.say(0, &hello[..4]);
        assert!(matches!(talk.say(1, &early), Ruling::Refuse(_)));
    }
    let mut talk = Talk::new(Demand::OFF);
    let _ = talk.say(0, &hello);
    let _ = talk.say(1, b"HTTP/1.1 400 Bad Request\r\n");
    assert_eq!(talk.class(), (Class::Clear, App::Http1));
}

#[test]
fn whoever_connects_may_be_the_server() {
    // FTP's data connections are opened by the server.
    let flow: Flow = flows::tls().into_iter().map(|(sender, bytes)| (1 - sender, bytes)).collect();
    for (name, cut) in cuts() {
        for demand in [Demand::OFF, Demand::REQUIRE] {
            let talk = play(&flow, demand, &cut);
            assert_eq!((talk.refused, talk.class()), (None, (Class::Tls, App::Unknown)), "{name}");
        }
    }
}

#[test]
fn what_comes_twice_must_be_the_same() {
    let flow = flows::tls();
    let (hello, first) = (&flow[0].1, Talk::new(Demand::REQUIRE).next(0));
    for cut in 1..hello.len().min(40) {
        // The same again, and some more.
        let mut talk = Talk::new(Demand::REQUIRE);
        assert_eq!(talk.say_at(0, first, &hello[..cut]), Ruling::Pass);
        assert_eq!(talk.say_at(0, first, &hello[..cut]), Ruling::Pass);
        assert_eq!(talk.say_at(0, first.wrapping_add(cut as u32 / 2), &hello[cut / 2..]), Ruling::Pass);
        assert_eq!(talk.say_at(1, talk.next(1), &flow[1].1), Ruling::Pass);
        assert_eq!(talk.class().0, Class::Tls, "{cut}");
        // Other bytes in the place of those that were judged.
        for at in 0..cut.min(16) {
            let mut talk = Talk::new(Demand::REQUIRE);
            assert_eq!(talk.say_at(0, first, &hello[..cut]), Ruling::Pass);
            let mut other = hello[at..cut].to_vec();
            other[0] ^= 0x20;
            assert_eq!(talk.say_at(0, first.wrapping_add(at as u32), &other), UNCLASSIFIED, "{cut} {at}");
        }
    }
}

#[test]
fn what_comes_too_early_waits() {
    let flow = flows::tls();
    let hello = &flow[0].1;
    for cut in 1..64 {
        let mut talk = Talk::new(Demand::REQUIRE);
        let first = talk.next(0);
        let later = first.wrapping_add(cut as u32);
        assert_eq!(talk.say_at(0, later, &hello[cut..]), Ruling::Hold, "{cut}");
        assert_eq!(talk.say_at(0, later, b"GET / HTTP/1.1"), Ruling::Hold);
        assert_eq!(talk.say_at(0, first, &hello[..cut]), Ruling::Pass, "{cut}");
        assert_eq!(talk.say_at(0, later, &hello[cut..]), Ruling::Pass, "{cut}");
        assert_eq!(talk.say_at(1, talk.next(1), &flow[1].1), Ruling::Pass);
        assert_eq!(talk.class().0, Class::Tls);
        // Nobody is held up where nobody is stopped.
        let mut talk = Talk::new(Demand::OFF);
        assert_eq!(talk.say_at(0, later, &hello[cut..]), Ruling::Pass);
        assert_eq!(talk.say_at(0, first, &hello[..cut]), Ruling::Pass);
    }
    let mut talk = Talk::new(REPORT);
    for number in 0..40u32 {
        assert_eq!(talk.say_at(0, talk.next(0).wrapping_add(1 + number), b"x"), Ruling::Pass);
    }
    assert!(talk.is_settled(), "what is missing does not come any more");
    assert_eq!(talk.class().0, Class::Unknown);
}

#[test]
fn what_is_missing_inside_a_record_holds_nobody_up() {
    for demand in [REPORT, Demand::REQUIRE] {
        let mut talk = after(&flows::tls(), demand);
        let next = talk.next(1);
        let at = |offset: u32| next.wrapping_add(offset);
        let record = [&b"\x17\x03\x03\x10\0"[..], &[0xa5; 0x1000]].concat();
        assert_eq!(talk.say_at(1, next, &record[..1000]), Ruling::Pass);
        assert_eq!(talk.say_at(1, at(2000), &record[2000..3000]), Ruling::Pass, "its thousand comes later");
        // Behind the end of the record nothing is known before its header was read.
        let held = if demand.level == Tls::Require { Ruling::Hold } else { Ruling::Pass };
        assert_eq!(talk.say_at(1, at(record.len() as u32 + 1), b"GET / HTTP/1.1\x17"), held);
        assert_eq!(talk.say_at(1, at(1000), &record[1000..2000]), Ruling::Pass);
        assert_eq!(talk.say_at(1, at(3000), &[&record[3000..], b"\x17\x03"].concat()), Ruling::Pass);
        let ruling = talk.say_at(1, at(record.len() as u32 + 2), b"GET /");
        if demand.level == Tls::Require {
            assert_eq!(ruling, CLEAR);
        }
        assert_eq!(talk.class().0, Class::Clear);
    }
}

#[test]
fn what_is_met_in_its_middle_is_unknown() {
    for (_, flow, _) in flows::encrypted() {
        let mut inspection = Inspection::default();
        inspect::demand(&mut inspection, Demand::REQUIRE);
        let bytes = &flow[0].1.as_slice();
        assert_eq!(stream::segment(&mut inspection, 0, 5000, bytes), UNCLASSIFIED);
        assert_ne!(inspection.flags & Inspection::FLAG_MIDSTREAM, 0);
    }
    let mut inspection = Inspection::default();
    inspect::demand(&mut inspection, Demand::OFF);
    let middle: &[u8] = b"\x17\x03\x03\x01\x00\x9a\x8b\x7c\x6d\x5e\x4f\x30\x21\x12\x03\xf4\xe5";
    for sender in 0..2 {
        assert_eq!(stream::segment(&mut inspection, sender, 5000, &middle), Ruling::Pass);
    }
    assert_eq!(inspection.class, Class::Unknown as u8);
    assert_eq!(inspection.phase, Inspection::DONE);
}

#[test]
fn ssh_is_followed_until_it_is_encrypted() {
    let ssh = flows::encrypted().remove(5).1;
    for (sender, text) in
        [(0, &b"GET / HTTP/1.1\r\n"[..]), (1, b"\0\0\0\x14\x06ABCDEF"), (0, b"\0\0\xff\xff")]
    {
        // Behind the identifications, where the key exchange has to begin.
        let mut talk = after(&ssh[..2].to_vec(), Demand::REQUIRE);
        assert_eq!(talk.class().0, Class::Ssh);
        assert_eq!(talk.say(sender, text), CLEAR, "{text:x?}");
    }
    let mut talk = after(&ssh[..4].to_vec(), Demand::REQUIRE);
    assert_eq!(talk.say(0, b"GET / HTTP/1.1\r\n"), CLEAR);
    let mut talk = Talk::new(Demand::REQUIRE);
    assert_eq!(talk.say(0, b"SSH-2.0-"), Ruling::Pass);
    assert_eq!(talk.say(0, &[b'x'; 300]), CLEAR, "an identification has an end");
    let talk = after(&ssh, Demand::REQUIRE);
    assert_eq!(talk.inspection.phase, Inspection::DONE);
}

#[test]
fn old_hellos_are_weak() {
    let old = [&b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"[..], &[7; 0x25]].concat();
    let server = flows::encrypted().remove(0).1.remove(1).1;
    let mut talk = Talk::new(Demand::OFF);
    let _ = talk.say(0, &old);
    let _ = talk.say(1, &server);
    assert_eq!(talk.class().0, Class::Tls);
    assert_eq!(Talk::new(Demand::REQUIRE).say(0, &old), WEAK);
    // SSL 3.0.
    let mut hello = flows::tls().remove(0).1;
    (hello[9], hello[10]) = (3, 0);
    assert_eq!(Talk::new(Demand::REQUIRE).say(0, &hello), WEAK);
}

#[test]
fn many_records_in_a_segment_are_all_followed() {
    let record = [&b"\x17\x03\x03\0\x20"[..], &[0xa5; 0x20]].concat();
    let mut talk = after(&flows::tls(), Demand::REQUIRE);
    let many = record.repeat(65_535 / record.len());
    assert_eq!(talk.say(1, &many), Ruling::Pass);
    assert_eq!(talk.say(1, &[&many[..], b"G"].concat()), CLEAR);
}

#[test]
fn a_client_that_nobody_answers_does_not_go_on_for_ever() {
    let mut talk = after(&flows::tls()[..1].to_vec(), Demand::REQUIRE);
    let record = [&b"\x17\x03\x03\x40\0"[..], &[0xa5; 0x4000]].concat();
    let refused = (0..20).find(|_| talk.say(0, &record) != Ruling::Pass);
    assert!(matches!(refused, Some(5..=9)), "{refused:?}");
}

#[test]
fn a_rule_that_gets_stricter_judges_what_is_known() {
    let mut talk = after(&flows::tls(), Demand::OFF);
    assert_eq!(inspect::judge_again(&mut talk.inspection, Demand::REQUIRE), Ruling::Pass);
    assert_eq!(
        inspect::judge_again(&mut talk.inspection, Demand { accept: Accept::SSH, ..Demand::REQUIRE }),
        WEAK
    );
    let http = flows::clear().remove(0).1;
    let mut talk = after(&http, Demand::OFF);
    assert_eq!(inspect::judge_again(&mut talk.inspection, REPORT), Ruling::Pass);
    assert_eq!(inspect::judge_again(&mut talk.inspection, Demand::REQUIRE), CLEAR);
    assert_eq!(talk.say(0, b"GET / HTTP/1.1\r\n"), CLEAR);
    let mut talk = after(&flows::unknown().remove(1).1, Demand::OFF);
    assert_eq!(inspect::judge_again(&mut talk.inspection, Demand::REQUIRE), UNCLASSIFIED);
    let mut talk = Talk::new(Demand::OFF);
    assert_eq!(inspect::judge_again(&mut talk.inspection, Demand::REQUIRE), Ruling::Pass);
}

#[test]
fn what_was_missed_before_a_rule_got_stricter_is_not_waited_for() {
    // Records were missed: the class stands, and nobody knows where the next one begins.
    let mut talk = after(&flows::tls(), REPORT);
    let next = talk.next(1);
    assert_eq!(talk.say_at(1, next.wrapping_add(100), &[0xa5; 100]), Ruling::Pass);
    assert_eq!(inspect::judge_again(&mut talk.inspection, Demand::REQUIRE), Ruling::Pass);
    assert_eq!(talk.say_at(1, next.wrapping_add(200), &[0xa5; 100]), Ruling::Pass);
    // Of a flow that was not known yet nothing is.
    let mut talk = Talk::new(REPORT);
    assert_eq!(talk.say(0, b"\x16"), Ruling::Pass);
    let next = talk.next(0);
    assert_eq!(talk.say_at(0, next.wrapping_add(10), &[0xa5; 10]), Ruling::Pass);
    assert_eq!(inspect::judge_again(&mut talk.inspection, Demand::REQUIRE), Ruling::Pass);
    assert_eq!(talk.say_at(0, next.wrapping_add(20), &[0xa5; 10]), UNCLASSIFIED);
}

#[test]
fn hellos_are_found_for_whoever_reads_them() {
    let flow = flows::tls();
    for demand in [Demand::OFF, Demand::REQUIRE] {
        let mut talk = Talk::new(demand);
        let first = [talk.next(0), talk.next(1)];
        assert_eq!(stream::hello_offset(&talk.inspection, 0, first[0]), None);
        for (sender, bytes) in &flow {
            let at = talk.next(*sender);
            let _ = talk.say(*sender, bytes);
            let offset = at.wrapping_sub(first[usize::from(*sender)]);
            assert_eq!(stream::hello_offset(&talk.inspection, *sender, at), Some(offset));
        }
    }
    // Behind a dialogue, from the hello on.
    let (_, smtp, _) = flows::upgraded().remove(0);
    let mut talk = Talk::new(Demand::OFF);
    for (sender, bytes) in &smtp[..smtp.len() - flow.len()] {
        let _ = talk.say(*sender, bytes);
    }
    let at = talk.next(0);
    let _ = talk.say(0, &flow[0].1);
    assert_eq!(stream::hello_offset(&talk.inspection, 0, at), Some(0));
    assert_eq!(stream::hello_offset(&talk.inspection, 0, at.wrapping_sub(1)), None);
}

/// A server of SSH may say something before it says who it is (RFC 4253, 4.2): nobody can tell yet.
#[test]
fn what_a_server_of_ssh_says_first_is_not_called_clear() {
    let asks = (0, b"SSH-2.0-x\r\n".to_vec());
    let greets = (1, b"Welcome to this host\r\nSSH-2.0-y\r\n".to_vec());
    let web = (1, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    for (cut_name, cut) in cuts() {
        let talk = play(&vec![asks.clone(), greets.clone()], Demand::OFF, &cut);
        assert_eq!(talk.class().0, Class::Unknown, "{cut_name}");
        let talk = play(&vec![asks.clone(), web.clone()], Demand::OFF, &cut);
        assert_eq!(talk.class(), (Class::Clear, App::Http1), "{cut_name}");
        let talk = play(&vec![asks.clone(), greets.clone()], Demand::REQUIRE, &cut);
        assert_eq!(talk.refused, Some(Reason::ClearText), "{cut_name}");
    }
}
