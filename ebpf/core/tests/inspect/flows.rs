//! Flows that were recorded from real programs, and flows put together from their specifications.

use bulkhead_abi::Class;

use crate::talk::Flow;

mod clear;
mod upgraded;

pub use clear::{PRELOGIN, PRELOGIN_ANSWER, clear};
pub use upgraded::{late, upgraded};

pub fn recorded(text: &str) -> Flow {
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (who, digits) = line.split_once(' ').unwrap();
            let bytes = digits
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            (u8::from(who == "<"), bytes.collect())
        })
        .collect()
}

/// Flows that are encrypted from their first byte on, with their class and the lowest floor that refuses
/// them where the kernel can see it.
pub fn encrypted() -> Vec<(&'static str, Flow, Class)> {
    vec![
        ("TLS 1.0", recorded(include_str!("flows/tls10.txt")), Class::Tls),
        ("TLS 1.1", recorded(include_str!("flows/tls11.txt")), Class::Tls),
        ("TLS 1.2", recorded(include_str!("flows/tls12.txt")), Class::Tls),
        ("TLS 1.3", recorded(include_str!("flows/tls13.txt")), Class::Tls),
        ("TLS refused by the server", recorded(include_str!("flows/alert.txt")), Class::Tls),
        ("SSH", recorded(include_str!("flows/ssh.txt")), Class::Ssh),
    ]
}

/// TLS 1.3 alone.
pub fn tls() -> Flow {
    recorded(include_str!("flows/tls13.txt"))
}

fn says(sender: u8, bytes: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    (sender, bytes.as_ref().to_vec())
}

fn opens(bytes: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    says(0, bytes)
}

fn answers(bytes: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    says(1, bytes)
}

fn then_tls(mut dialogue: Flow) -> Flow {
    dialogue.extend(tls());
    dialogue
}

/// Flows of which nobody can tell what they are: no class may be claimed.
pub fn unknown() -> Vec<(&'static str, Flow)> {
    vec![
        (
            "OpenVPN",
            vec![
                opens(b"\0\x0e\x38\x91\x22\x33\x44\x55\x66\x77\x88\0\0\0\0\0"),
                answers(b"\0\x1a\x40\x11\x22\x33\x44\x55\x66\x77\x88\x01\0\0\0\0\0"),
            ],
        ),
        (
            "random",
            vec![
                opens(b"\x8f\x12\xe5\x99\x01\xaa\x03\x77\x20\xfe\xdc\xba\x98\x76\x54\x32\x10"),
                answers(b"\x91\xa2\xb3\xc4\xd5\xe6\xf7\x08\x19\x2a\x3b\x4c\x5d\x6e\x7f\x80\x91"),
            ],
        ),
        (
            "SQL Server with TLS for the login",
            vec![
                opens(PRELOGIN),
                answers(PRELOGIN_ANSWER),
                opens(b"\x12\x01\0\xf3\0\0\0\0\x16\x03\x01\0\xe6\x01\0\0\xe2\x03\x03"),
            ],
        ),
    ]
}
