//! Row 18, second part: a source address of the sender's choice (`IP_PKTINFO`).

use anyhow::{Result, bail};
use bulkhead_tests::harness::threat::{Case, Lab, OUTSIDE, Threat, Try};
use bulkhead_tests::harness::{Dial, Kind, Serve};
use bulkhead_tests::require_agent;

use crate::acts::{WEB_SECOND, WEB_THIRD, at, more_addresses, refusable};

/// Zones by address alone: two of the workload's addresses may talk to the world, the third may not.
const BY_ADDRESS: &str = "[zone.web]\ncidrs = [\"10.99.1.0/24\"]\n[zone.other]\ncidrs = [\"10.99.8.0/24\"]\n\
    [[allow]]\nfrom = \"web\"\nto = \"world\"\nports = [\"udp/7000-7299\"]\nside = \"egress\"\n";

/// A datagram as it should be, and then one by the same socket from `source`.
fn overridden(run: &Try<'_>, source: &str, connected: bool) -> Result<bool> {
    let (web, outside) = (&run.lab.web, &run.lab.outside);
    let to = at(OUTSIDE, run.port(7000));
    let server = outside.listen(Kind::Udp, to, Serve::Hold)?;
    let socket = if connected { web.connect(&Dial::udp(to))? } else { web.open(Kind::Udp, None, false)? };
    let target = (!connected).then_some(to);
    web.send(&socket, b"first", target)?;
    let (_, from) = outside.recv(&server, crate::acts::LONG)?;
    let first = from.map(|from| from.ip());
    refusable(web.send_from(&socket, source.parse()?, b"second", target))?;
    let second = refusable(outside.recv(&server, run.patience))?;
    if let Some((_, from)) = second.as_ref()
        && (from.map(|from| from.ip()) == first || from.map(|from| from.ip()) != Some(source.parse()?))
    {
        bail!("it came from {from:?}, after {first:?}");
    }
    web.close(&socket)?;
    outside.close(&server)?;
    Ok(second.is_some())
}

#[test]
fn row_18_a_chosen_source_address_is_the_one_that_is_judged() {
    require_agent!();
    let lab = Lab::new().unwrap();
    more_addresses(&lab);
    let case = |name: &str, connected: bool| {
        Case::new(name)
            .attempt(move |run| overridden(run, WEB_THIRD, connected))
            .twin(move |run| overridden(run, WEB_SECOND, connected))
            .counts("web", "world", "allow", "allow-rule", 1)
            .counts("other", "world", "deny", "default", 1)
    };
    Threat::new(BY_ADDRESS).case(case("unconnected", false)).case(case("connected", true)).run(&lab).unwrap();
}
