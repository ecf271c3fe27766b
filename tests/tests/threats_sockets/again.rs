//! Row 18, first part, and its like for TCP (row 13): a socket that was allowed to talk to one, and then
//! talks to another. What it was allowed before is worth nothing.

use bulkhead_tests::harness::threat::{Case, Lab, OUTSIDE, Threat, Try};
use bulkhead_tests::harness::{Kind, Peer};
use bulkhead_tests::require_agent;

use crate::acts::{LONG, at, hears, more_addresses, refusable, talks};

/// The web may talk to the world on some ports. Only the opener's side is judged: nobody else could
/// make up for what it misses.
const TO_WORLD: &str = "[zone.web]\ncgroups = [\"web\"]\n\
    [[allow]]\nfrom = \"web\"\nto = \"world\"\nports = [\"tcp/7000-7299\", \"udp/7000-7299\"]\nside = \"egress\"\n";

/// A stream that is disconnected after its use, and connected to another port of the same host.
fn stream_again(run: &Try<'_>, port: u16) -> anyhow::Result<bool> {
    let (web, outside) = (&run.lab.web, &run.lab.outside);
    let echo = outside.tcp_echo(at(OUTSIDE, run.port(7000)))?;
    let socket = talks(web, echo.local)?;
    web.disconnect(&socket)?;
    let to = at(OUTSIDE, run.port(port));
    let arrived = hears(run, Kind::Tcp, to, || {
        if refusable(web.connect_socket(&socket, to, run.patience))?.is_some() {
            refusable(web.send(&socket, b"again", None))?;
        }
        Ok(())
    })?;
    let _ = web.reset(&socket);
    outside.close(&echo)?;
    Ok(arrived)
}

#[test]
fn row_13_a_stream_that_is_connected_again_is_judged_again() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let stream = |name: &str| {
        Case::new(name)
            .attempt(|run| stream_again(run, 9000))
            .twin(|run| stream_again(run, 7100))
            // The connection before, and the one that is denied.
            .counts("web", "world", "allow", "allow-rule", 1)
            .counts("web", "world", "deny", "default", 1)
    };
    Threat::new(TO_WORLD).case(stream("refused by the call")).run(&lab).unwrap();
    more_addresses(&lab);
    Threat::new(TO_WORLD).case(stream("refused by its packets")).run(&lab).unwrap();
}

/// A datagram socket that is connected, used, and then does `more`.
fn connected(
    run: &Try<'_>,
    more: impl FnOnce(&Peer, &bulkhead_tests::harness::Socket) -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let (web, outside) = (&run.lab.web, &run.lab.outside);
    let echo = outside.udp_echo(at(OUTSIDE, run.port(7000)))?;
    let socket = web.connect(&bulkhead_tests::harness::Dial::udp(echo.local))?;
    web.exchange(&socket, 1, LONG)?;
    let arrived = more(web, &socket)?;
    web.close(&socket)?;
    outside.close(&echo)?;
    Ok(arrived)
}

fn connected_elsewhere(run: &Try<'_>, port: u16) -> anyhow::Result<bool> {
    let to = at(OUTSIDE, run.port(port));
    connected(run, |web, socket| {
        hears(run, Kind::Udp, to, || refusable(web.send(socket, b"elsewhere", Some(to))).map(drop))
    })
}

fn connected_again(run: &Try<'_>, port: u16) -> anyhow::Result<bool> {
    let to = at(OUTSIDE, run.port(port));
    connected(run, |web, socket| {
        web.disconnect(socket)?;
        hears(run, Kind::Udp, to, || {
            if refusable(web.connect_socket(socket, to, run.patience))?.is_some() {
                refusable(web.send(socket, b"again", None))?;
            }
            Ok(())
        })
    })
}

/// One unconnected socket, that sends to an allowed port first.
fn unconnected(run: &Try<'_>, port: u16) -> anyhow::Result<bool> {
    let (web, outside) = (&run.lab.web, &run.lab.outside);
    let echo = outside.udp_echo(at(OUTSIDE, run.port(7000)))?;
    let socket = web.open(Kind::Udp, None, false)?;
    web.exchange_with(&socket, echo.local, 1, LONG)?;
    let to = at(OUTSIDE, run.port(port));
    let arrived = hears(run, Kind::Udp, to, || refusable(web.send(&socket, b"next", Some(to))).map(drop))?;
    web.close(&socket)?;
    outside.close(&echo)?;
    Ok(arrived)
}

#[test]
fn row_18_unconnected_udp_is_judged_per_datagram() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let counts = |case: Case<'static>| {
        case.counts("web", "world", "allow", "allow-rule", 1).counts("web", "world", "deny", "default", 1)
    };
    let cases = || {
        Threat::new(TO_WORLD)
            .case(counts(
                Case::new("unconnected, then to another port")
                    .attempt(|run| unconnected(run, 9000))
                    .twin(|run| unconnected(run, 7100)),
            ))
            .case(counts(
                Case::new("connected, then sendto elsewhere")
                    .attempt(|run| connected_elsewhere(run, 9200))
                    .twin(|run| connected_elsewhere(run, 7100)),
            ))
            .case(counts(
                Case::new("connected, then connected elsewhere")
                    .attempt(|run| connected_again(run, 9400))
                    .twin(|run| connected_again(run, 7100)),
            ))
    };
    cases().run(&lab).unwrap();
    more_addresses(&lab);
    cases().run(&lab).unwrap();
}
