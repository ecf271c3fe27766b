//! Lists of prefixes.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::de::DeTable;

use crate::diagnostic::Diagnostic;
use crate::prefix::{Prefix, from_ip};
use crate::reader::{Reader, Text};

/// The prefixes under `key`, with their places; none if the key is not there.
pub(super) fn prefixes(reader: &mut Reader, table: &DeTable<'_>, key: &str) -> Vec<(Prefix, Text)> {
    let Some(value) = table.get(key) else { return Vec::new() };
    let mut found: Vec<(Prefix, Text)> = Vec::new();
    for text in reader.strings(value, &format!("`{key}`")) {
        if let Some(prefix) = prefix(reader, &text) {
            found.push((prefix, text));
        }
    }
    // Written differently, the same all the same.
    let mut by_prefix: Vec<&(Prefix, Text)> = found.iter().collect();
    by_prefix.sort_by_key(|(prefix, text)| (*prefix, text.span.start));
    for (first, second) in by_prefix.iter().zip(by_prefix.iter().skip(1)).filter(|(a, b)| a.0 == b.0) {
        let message = format!("`{}` stands twice in `{key}`", second.0);
        let diagnostic = Diagnostic::error(
            "bulkhead::duplicate-entry",
            &reader.source,
            second.1.span.clone(),
            message,
            "the second time",
        );
        let diagnostic = diagnostic.also(first.1.span.clone(), "the first time");
        reader.diagnostics.push(diagnostic.help("take one of them out"));
    }
    found
}

fn prefix(reader: &mut Reader, text: &Text) -> Option<Prefix> {
    let Text { text, span } = text;
    let span = span.clone();
    let Ok(net) = text.parse::<IpNet>() else {
        let (label, help) = explain_prefix(text);
        reader.error("bulkhead::bad-prefix", span, format!("`{text}` is not a prefix"), label, help);
        return None;
    };
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        let help = format!("write `{v4}/{}`", v6.prefix_len() - 96);
        let message = format!("`{text}` is IPv4 written as IPv6");
        reader.error("bulkhead::mapped-prefix", span, message, "an IPv4-mapped address", help);
        return None;
    }
    if net.trunc() != net {
        let help = format!(
            "the network is `{}`; one address is `{}/{}`",
            net.trunc(),
            net.addr(),
            net.max_prefix_len()
        );
        let message = format!("`{text}` has bits set behind its length");
        reader.error("bulkhead::host-bits", span, message, "host bits set", help);
        return None;
    }
    let v4_bits = if net.addr().is_ipv4() { 96 } else { 0 };
    Some(Prefix::new(from_ip(net.addr()), v4_bits + net.prefix_len()))
}

fn explain_prefix(text: &str) -> (&'static str, String) {
    let (addr, len) = match text.split_once('/') {
        Some((addr, len)) => (addr, Some(len)),
        None => (text, None),
    };
    match (addr.parse::<IpAddr>(), len) {
        (Ok(addr), None) => {
            let bits = if addr.is_ipv4() { 32 } else { 128 };
            ("no length", format!("one address is `{addr}/{bits}`"))
        }
        (Ok(addr), Some(_)) => {
            let bits = if addr.is_ipv4() { 32 } else { 128 };
            ("bad length", format!("behind the slash stands a number from 0 to {bits}"))
        }
        (Err(_), _) => {
            ("bad address", "write an address and a length, as in `10.20.1.0/24` or `fd00:20:1::/64`".into())
        }
    }
}
