//! The inventory's own tests: what is kept, what makes room, what an auditor reads.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::hello::{Certificate, ClientHello, Group, ServerHello, Suite, Version};

fn service(port: u16) -> Service {
    Service { from: "web".into(), to: "db".into(), protocol: 6, port }
}

fn handshake(name: &str, group: u16) -> Handshake {
    Handshake {
        client: Some(ClientHello {
            server_name: Some(name.to_owned()),
            groups: vec![Group(0x11ec), Group(0x1d)],
            alpn: vec![b"h2".to_vec()],
            complete: true,
            ..ClientHello::default()
        }),
        server: Some(ServerHello {
            version: Version::TLS1_2,
            cipher: Suite(0xc02f),
            group: None,
            alpn: None,
            retry: false,
            pre_shared_key: false,
            session: Vec::new(),
        }),
        group: Some(Group(group)),
        certificate: Some(Certificate {
            subject: "CN=server, O=\"x\"".to_owned(),
            names: Vec::new(),
            more_names: 0,
            issuer: "CN=server".to_owned(),
            self_issued: true,
            not_before: 0,
            not_after: 2_000_000_000,
            key: "EC 256".to_owned(),
            serial: "01".to_owned(),
        }),
        ..Handshake::default()
    }
}

#[test]
fn alike_handshakes_are_one_row_and_others_another() {
    let mut inventory = Inventory::default();
    for (at, group) in [(10, 0x1d), (20, 0x1d), (15, 0x17)] {
        inventory.handshake(service(5432), App::Postgresql, &handshake("db.example", group), at);
    }
    let services: Vec<ServiceView> = inventory.services().collect();
    assert_eq!(services.len(), 1);
    let rows: Vec<(&str, u64)> =
        services[0].handshakes.iter().map(|row| (row.group.as_str(), row.flows)).collect();
    assert_eq!(rows, [("secp256r1", 1), ("x25519", 2)]);
    assert_eq!((services[0].first_seen, services[0].last_seen), (10, 20));
    assert_eq!(services[0].post_quantum_offered, 3);
    assert_eq!(services[0].server_names.names, [("db.example".to_owned(), 3)]);
    assert_eq!(inventory.expiries(0)[&("web".into(), "db".into())], 2_000_000_000);
    assert!(inventory.expiries(21).is_empty(), "a certificate that nobody shows any more does not warn");
}

#[test]
fn names_and_services_make_room_and_say_so() {
    let mut inventory = Inventory::default();
    for at in 0..100 {
        inventory.handshake(service(443), App::Unknown, &handshake(&format!("{at}.example"), 0x1d), at);
    }
    let view = inventory.services().next().unwrap();
    assert_eq!((view.server_names.names.len(), view.server_names.more), (NAMES, 100 - NAMES as u64));
    for at in 100 - NAMES..100 {
        assert!(view.server_names.names.contains(&(format!("{at}.example"), 1)), "the latest are kept");
    }
    assert!(view.server_names.joined(", ").ends_with("and 76 more"));
    for port in 0..6000 {
        inventory.class(service(port), Class::Clear, App::Redis, 200 + u64::from(port));
    }
    assert_eq!(inventory.services().count(), SERVICES);
    assert_eq!(inventory.forgotten(), 6000 - SERVICES as u64);
}

#[test]
fn it_can_be_written_down_and_read_again() {
    let mut inventory = Inventory::default();
    inventory.handshake(service(5432), App::Postgresql, &handshake("db.example", 0x1d), 10);
    inventory.class(service(6379), Class::Clear, App::Redis, 11);
    let text = serde_json::to_string(&inventory).unwrap();
    assert_eq!(serde_json::from_str::<Inventory>(&text).unwrap(), inventory);
}

#[test]
fn the_auditors_table_has_a_row_for_each_and_no_formulas() {
    let mut inventory = Inventory::default();
    inventory.handshake(service(5432), App::Postgresql, &handshake("=cmd, \"x\"", 0x11ec), 0);
    inventory.class(service(5432), Class::Tls, App::Postgresql, 0);
    inventory.class(service(6379), Class::Clear, App::Redis, 86_400);
    let mut lines: Vec<Line> = inventory.services().map(|view| Line::Service(Box::new(view))).collect();
    lines.push(Line::Edge(EdgeClass {
        from: "web".to_owned(),
        to: "db".to_owned(),
        class: "clear".to_owned(),
        protocol: "redis".to_owned(),
        tls: "report".to_owned(),
        verdict: "allow".to_owned(),
        flows: 7,
    }));
    let text = csv(&lines);
    let rows: Vec<&str> = text.trim_end().split("\r\n").collect();
    assert_eq!(rows.len(), 4, "{text}");
    assert_eq!(rows[0], COLUMNS.join(","));
    assert_eq!(
        rows[1],
        "web,db,tcp,5432,tls,postgresql,1.2,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,strong,X25519MLKEM768,hybrid,1,,,\
         X25519MLKEM768 x25519,\"'=cmd, \"\"x\"\"\",h2,2033-05-18T03:33:20Z,1970-01-01T00:00:00Z,1970-01-01T00:00:00Z"
    );
    assert!(rows[2].starts_with("web,db,tcp,6379,clear,redis,,"), "{}", rows[2]);
    assert!(rows[2].ends_with("1970-01-02T00:00:00Z,1970-01-02T00:00:00Z"), "{}", rows[2]);
    assert_eq!(rows[3], "web,db,,,clear,redis,,,,,,7,report,allow,,,,,,");
}
