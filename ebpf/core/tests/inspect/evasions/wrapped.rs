//! What stands before a flow and is looked through: the PROXY protocol, HTTP CONNECT.

use super::*;

#[test]
fn what_wraps_a_flow_is_looked_through() {
    for wrap in wraps() {
        let name = format!("{:?}", String::from_utf8_lossy(wrap[0].1));
        for (cut_name, cut) in cuts() {
            for (inner_name, inner, class) in flows::encrypted() {
                let flow = wrapped(&wrap, inner);
                for demand in [Demand::OFF, Demand::REQUIRE] {
                    let talk = play(&flow, demand, &cut);
                    assert_eq!(
                        (talk.refused, talk.class().0),
                        (None, class),
                        "{name} {inner_name} {cut_name} {demand:?}"
                    );
                    assert!(talk.has(Inspection::FLAG_TUNNELLED));
                }
            }
        }
        for (inner_name, inner, app) in flows::clear() {
            let flow = wrapped(&wrap, inner);
            let cut: crate::talk::Cut = Box::new(|_, _| false);
            assert_eq!(play(&flow, Demand::OFF, &cut).class(), (Class::Clear, app), "{name} {inner_name}");
            assert!(play(&flow, Demand::REQUIRE, &cut).refused.is_some(), "{name} {inner_name}");
        }
    }
}

#[test]
fn a_wrapper_is_only_what_it_is() {
    for text in [
        &b"PROXY TCP4 secret message\r\n"[..],
        b"PROXY SECRET",
        b"PROXY UNKNOWN secret\r\n",
        b"CONNECT {\"user\":\"a\"}\r\n",
    ] {
        assert_eq!(Talk::new(Demand::REQUIRE).say(0, text), CLEAR, "{:?}", String::from_utf8_lossy(text));
    }
    let mut long = b"PROXY TCP4 ".to_vec();
    long.resize(200, b'1');
    assert_eq!(Talk::new(Demand::REQUIRE).say(0, &long), CLEAR);
    assert_eq!(Talk::new(Demand::REQUIRE).say(0, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"), CLEAR);
    let mut long = b"CONNECT a:1 HTTP/1.1\r\nX: ".to_vec();
    long.resize(5000, b'x');
    assert_eq!(Talk::new(Demand::REQUIRE).say(0, &long), CLEAR);
    // A proxy that denies is HTTP in clear.
    let mut talk = Talk::new(Demand::REQUIRE);
    assert_eq!(talk.say(0, CONNECT), Ruling::Pass);
    assert_eq!(talk.say(1, b"HTTP/1.1 407 Proxy Authentication Required\r\n"), CLEAR);
    let mut talk = Talk::new(Demand::OFF);
    let _ = talk.say(0, CONNECT);
    let _ = talk.say(1, b"HTTP/1.1 407 Proxy Authentication Required\r\n");
    assert_eq!(talk.class(), (Class::Clear, App::Http1));
    // Once.
    let mut talk = Talk::new(Demand::REQUIRE);
    assert_eq!(talk.say(0, b"PROXY UNKNOWN\r\n"), Ruling::Pass);
    assert_eq!(talk.say(0, b"PROXY UNKNOWN\r\n"), CLEAR);
}

fn wrapped(wrap: &[(u8, &[u8])], flow: Flow) -> Flow {
    wrap.iter().map(|(sender, bytes)| (*sender, bytes.to_vec())).chain(flow).collect()
}

/// A proxy that wants to know who asks (RFC 9110, 15.5.8), asked again on the same connection.
#[test]
fn who_is_asked_for_a_password_may_ask_again() {
    let refusal = [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 3000\r\n\r\n".as_slice(),
        &[b'x'; 3000],
    ]
    .concat();
    // Also within what comes behind the second answer.
    let behind = 2 * CONNECT.len();
    let later: crate::talk::Cut = Box::new(move |who, at| who == 0 && (behind..behind + 20).contains(&at));
    for (cut_name, cut) in cuts().into_iter().chain([("behind it".to_owned(), later)]) {
        let flow = wrapped(&[(0, CONNECT), (1, &refusal), (0, CONNECT), (1, CONNECTED)], flows::tls());
        let talk = play(&flow, Demand::OFF, &cut);
        assert_eq!(talk.class(), (Class::Tls, App::Unknown), "{cut_name}");
        // And who is not let through speaks HTTP.
        let clear =
            wrapped(&[(0, CONNECT), (1, &refusal), (0, b"GET http://a/ HTTP/1.1\r\n\r\n")], Flow::new());
        let talk = play(&clear, Demand::OFF, &cut);
        assert_eq!(talk.class(), (Class::Clear, App::Http1), "{cut_name}");
        let talk = play(&flow, Demand::REQUIRE, &cut);
        assert_eq!(talk.refused, Some(Reason::ClearText), "{cut_name}");
    }
}

const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x30\x39\x01\xbb";
const CONNECT: &[u8] =
    b"CONNECT db.example:443 HTTP/1.1\r\nHost: db.example:443\r\nUser-Agent: curl/8\r\n\r\n";

fn wraps() -> Vec<Vec<(u8, &'static [u8])>> {
    vec![
        vec![(0, b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 443\r\n")],
        vec![(0, b"PROXY TCP6 2001:db8::1 2001:DB8::2 12345 443\r\n")],
        vec![(0, b"PROXY UNKNOWN\r\n")],
        vec![(0, V2)],
        vec![(0, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")],
        vec![(0, CONNECT), (1, b"HTTP/1.1 200 Connection established\r\nVia: proxy\r\n\r\n")],
        vec![(0, b"CONNECT a:1 HTTP/1.0\n\n"), (1, b"HTTP/1.0 200 OK\r\n\r\n")],
    ]
}
