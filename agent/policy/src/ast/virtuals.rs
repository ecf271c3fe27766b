//! `[virtual]`.

use bulkhead_abi::Addr;

use super::prefixes::prefixes;
use crate::prefix::{Prefix, V4_BITS};
use crate::reader::{Reader, Text, Value};

const KEYS: [&str; 2] = ["description", "cidrs"];

/// The prefixes of `[virtual]`, with their places.
pub(super) fn read(reader: &mut Reader, value: &Value<'_>) -> Vec<(Prefix, Text)> {
    let Some(table) = reader.table(value, "`virtual`") else { return Vec::new() };
    reader.check_keys(table, &KEYS, "`[virtual]`");
    if let Some(value) = table.get("description") {
        reader.string(value, "`description`");
    }
    if table.get("cidrs").is_none() {
        let help = "write `cidrs = [\"10.96.0.0/12\"]`, for example, or take the table out";
        reader.error("bulkhead::missing-key", value.span(), "`[virtual]` needs `cidrs`", "no `cidrs`", help);
    }
    let mut found = prefixes(reader, table, "cidrs");
    found.retain(|(prefix, text)| can_be_virtual(reader, prefix, text));
    found
}

fn can_be_virtual(reader: &mut Reader, prefix: &Prefix, text: &Text) -> bool {
    let is_in = |(addr, len, _): &&(Addr, u8, &str)| prefix.intersection(&Prefix::new(*addr, *len)).is_some();
    let Some((_, _, kind)) = NEVER.iter().find(is_in) else { return true };
    let message = format!("`{}` holds {kind} addresses, which are never virtual", text.text);
    let help = "declare what your services have: addresses that are translated on their way";
    reader.error("bulkhead::bad-virtual", text.span.clone(), message, *kind, help);
    false
}

/// Addresses that mean the same to everyone (RFC 6890), and so cannot be a service's.
const NEVER: [(Addr, u8, &str); 8] = [
    (Addr::v4([0, 0, 0, 0]), V4_BITS + 8, "unspecified"),
    (Addr::v4([127, 0, 0, 0]), V4_BITS + 8, "loopback"),
    (Addr::v4([169, 254, 0, 0]), V4_BITS + 16, "link-local"),
    (Addr::v4([224, 0, 0, 0]), V4_BITS + 3, "multicast and broadcast"),
    (Addr::ANY, 128, "unspecified"),
    (Addr::from_octets([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), 128, "loopback"),
    (Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 10, "link-local"),
    (Addr::from_octets([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 8, "multicast"),
];
