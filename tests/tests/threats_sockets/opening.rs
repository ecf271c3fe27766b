//! Rows 16 and 17: connections that are not opened by three packets: data in the SYN (TCP Fast Open),
//! and further subflows of Multipath TCP.

use std::fs;

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try, WEB_AND_DB};
use bulkhead_tests::harness::{Dial, Kind, Ns, Peer, Serve, wait_until};
use bulkhead_tests::require_agent;

use crate::acts::{LONG, WEB_SECOND, WEB_THIRD, at, hears, more_addresses, refusable};

/// Connects with data in the SYN, to a listener that takes it.
fn fast(run: &Try<'_>, from: &Peer, port: u16) -> Result<bool> {
    let to = at(DB, run.port(port));
    let ns = run.lab.ns("db")?;
    let before = fast_opens(ns)?;
    let arrived = hears(run, Kind::Tcp, to, || {
        refusable(from.connect(&Dial::tcp(to).fast_open(b"early").within(run.patience))).map(drop)
    })?;
    if arrived && fast_opens(ns)? == before {
        bail!("it arrived, but not with its SYN");
    }
    Ok(arrived)
}

/// How many connections were accepted with data in their SYN.
fn fast_opens(ns: &Ns) -> Result<u64> {
    let table = ns.enter(|| fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "TCPFastOpenPassive").context("no such counter")?;
    Ok(value.parse()?)
}

#[test]
fn row_16_data_in_a_syn_is_judged_as_any_connect() {
    require_agent!();
    let lab = Lab::new().unwrap();
    for name in ["web", "db", "outside"] {
        // Both ends of it, without a cookie, for every listener.
        lab.ns(name).unwrap().sysctl("ipv4/tcp_fastopen", "1543").unwrap();
    }
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = [\"web\", \"world\"]\nto = \"db\"\nports = [\"tcp/7000-7099\"]\n"
    );
    let from_web = |name: &str| {
        Case::new(name)
            .attempt(|run| fast(run, &run.lab.web, 9000))
            .twin(|run| fast(run, &run.lab.web, 7000))
            .counts("web", "db", "deny", "default", 1)
    };
    let from_outside = Case::new("refused by the listener's side")
        .attempt(|run| fast(run, &run.lab.outside, 9000))
        .twin(|run| fast(run, &run.lab.outside, 7000))
        .counts("world", "db", "deny", "default", 1);
    Threat::new(&policy).case(from_web("refused by the call")).case(from_outside).run(&lab).unwrap();
    more_addresses(&lab);
    Threat::new(&policy).case(from_web("refused by its packets")).run(&lab).unwrap();
}

/// A Multipath TCP connection, whose kernel opens a second subflow from `second`; whether that was
/// established, as the server's kernel sees it.
fn subflow(run: &Try<'_>, second: &str) -> Result<bool> {
    let (web, db) = (&run.lab.web, &run.lab.db);
    let endpoints = format!(
        "mptcp endpoint flush\nmptcp limits set subflow 2\nmptcp endpoint add {second} dev eth0 subflow"
    );
    run.lab.ns("web")?.ip(&endpoints)?;
    let server = run.lab.ns("db")?;
    server.ip("mptcp limits set subflow 2")?;
    let listener = db.listen(Kind::Mptcp, at(DB, run.port(7000)), Serve::Hold)?;
    let near = web.connect(&Dial::new(Kind::Mptcp, listener.local).within(LONG))?;
    let far = db.accept(&listener, LONG)?;
    let talk = || -> Result<()> {
        web.send(&near, b"question", None)?;
        db.recv(&far, LONG)?;
        db.send(&far, b"answer", None)?;
        web.recv(&near, LONG)?;
        Ok(())
    };
    talk()?;
    let remote = format!("{:08X}:", u32::from_ne_bytes(second.parse::<std::net::Ipv4Addr>()?.octets()));
    let port = format!(":{:04X} ", listener.local.port());
    let is_it = |line: &str| {
        // Local and remote address, and state 1: established.
        line.contains(&port) && line.contains(&remote) && line.split_whitespace().nth(3) == Some("01")
    };
    let seen = || {
        let table = server.enter(|| fs::read_to_string("/proc/thread-self/net/tcp"));
        table.is_ok_and(|table| table.is_ok_and(|table| table.lines().any(is_it)))
    };
    let joined = wait_until(run.patience, "the subflow is established", seen).is_ok();
    // Whatever became of it, the connection itself goes on.
    talk().context("the first subflow")?;
    for (peer, socket) in [(web, &near), (db, &far), (db, &listener)] {
        peer.close(socket)?;
    }
    Ok(joined)
}

#[test]
fn row_17_each_subflow_is_judged() {
    require_agent!();
    let lab = Lab::new().unwrap();
    more_addresses(&lab);
    let policy = "[zone.web]\ncidrs = [\"10.99.1.0/24\"]\n[zone.other]\ncidrs = [\"10.99.8.0/24\"]\n\
        [zone.db]\ncidrs = [\"10.99.2.0/24\"]\n\
        [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/7000-7099\"]\n";
    Threat::new(policy)
        .case(
            Case::new("a subflow from an address that no rule names")
                .attempt(|run| subflow(run, WEB_THIRD))
                .twin(|run| subflow(run, WEB_SECOND))
                .counts("web", "db", "allow", "allow-rule", 1)
                .counts("other", "db", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}
