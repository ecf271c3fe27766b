//! The inventory as a table for an auditor (RFC 4180): a row for each edge, port, class, protocol,
//! version, cipher suite and group.
//!
//! Cells that strangers had a part in cannot become formulas: a spreadsheet takes what begins with `=`,
//! `+`, `-` or `@` for one, so those get an apostrophe in front.

use super::view::{EdgeClass, Line, RowView, ServiceView};

/// The columns, in order.
pub const COLUMNS: [&str; 20] = [
    "from_zone",
    "to_zone",
    "transport",
    "port",
    "class",
    "protocol",
    "tls_version",
    "cipher",
    "cipher_strength",
    "group",
    "group_kind",
    "flows",
    "tls_level",
    "verdict",
    "groups_offered",
    "server_names",
    "alpn",
    "certificate_expires",
    "first_seen",
    "last_seen",
];

/// The whole table, with its head.
pub fn csv(lines: &[Line]) -> String {
    let mut text = row(&COLUMNS.map(str::to_owned));
    for line in lines {
        match line {
            Line::Edge(class) => text.push_str(&row(&edge(class))),
            Line::Service(service) => {
                for handshakes in &service.handshakes {
                    text.push_str(&row(&handshake(service, handshakes)));
                }
                let told = |class: &str| service.handshakes.iter().any(|row| row.class == class);
                for class in service.classes.iter().filter(|class| !told(&class.class)) {
                    let mut cells = named(service);
                    set(&mut cells, "class", &class.class);
                    set(&mut cells, "protocol", &class.protocol);
                    set(&mut cells, "first_seen", &time(class.first_seen));
                    set(&mut cells, "last_seen", &time(class.last_seen));
                    text.push_str(&row(&cells));
                }
            }
        }
    }
    text
}

type Cells = [String; COLUMNS.len()];

fn edge(class: &EdgeClass) -> Cells {
    let mut cells = Cells::default();
    set(&mut cells, "from_zone", &class.from);
    set(&mut cells, "to_zone", &class.to);
    set(&mut cells, "class", &class.class);
    set(&mut cells, "protocol", &class.protocol);
    set(&mut cells, "flows", &class.flows.to_string());
    set(&mut cells, "tls_level", &class.tls);
    set(&mut cells, "verdict", &class.verdict);
    cells
}

fn named(service: &ServiceView) -> Cells {
    let mut cells = Cells::default();
    set(&mut cells, "from_zone", &service.from);
    set(&mut cells, "to_zone", &service.to);
    set(&mut cells, "transport", &service.transport);
    set(&mut cells, "port", &service.port.to_string());
    cells
}

fn handshake(service: &ServiceView, handshakes: &RowView) -> Cells {
    let mut cells = named(service);
    let expires = service.certificates.iter().map(|certificate| certificate.not_after).min();
    let expires = expires.map(|end| time(u64::try_from(end).unwrap_or(0))).unwrap_or_default();
    for (column, value) in [
        ("class", handshakes.class.as_str()),
        ("protocol", &handshakes.protocol),
        ("tls_version", &handshakes.version),
        ("cipher", &handshakes.cipher),
        ("cipher_strength", &handshakes.cipher_strength),
        ("group", &handshakes.group),
        ("group_kind", &handshakes.group_kind),
        ("flows", &handshakes.flows.to_string()),
        ("groups_offered", &service.groups_offered.joined(" ")),
        ("server_names", &service.server_names.joined(" ")),
        ("alpn", &service.alpn.joined(" ")),
        ("certificate_expires", &expires),
        ("first_seen", &time(handshakes.first_seen)),
        ("last_seen", &time(handshakes.last_seen)),
    ] {
        set(&mut cells, column, value);
    }
    cells
}

fn set(cells: &mut Cells, column: &str, value: &str) {
    let named = COLUMNS.iter().zip(cells).find(|(name, _)| **name == column);
    if let Some((_, cell)) = named {
        value.clone_into(cell);
    }
}

fn row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
    format!("{}\r\n", cells.join(","))
}

fn quoted(cell: &str) -> String {
    let harmless =
        if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.to_owned() };
    if harmless.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", harmless.replace('"', "\"\""))
    } else {
        harmless
    }
}

/// Seconds since 1970 as `2026-11-22T17:00:00Z`.
fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    let (year, month, day) = crate::calendar::date(seconds);
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
