//! ESP and AH: the IP protocol says how a packet is encrypted.

use bulkhead_tests::harness::{Agent, Kind, Serve, wait_until};
use bulkhead_tests::require_agent;

use crate::lab::{Lab, SOON};

/// A security parameters index, a number, and what may be anything.
const ESP: &[u8] = b"\0\0\x12\x34\0\0\0\x01\x8e\x15\x99\x41\x0b\xf2\x77\x30\xd1\x5c\x66\x90\x2e\x2f\x01\x7a";

#[test]
fn esp_is_encrypted_and_ah_is_not() {
    require_agent!();
    let lab = Lab::one_node();
    let rule = |protocol: u8, level: &str| {
        format!(
            "[[allow]]\nfrom = \"client\"\nto = \"server\"\nports = [\"proto/{protocol}\"]\ntls = \"{level}\"\n"
        )
    };
    // By address: a raw socket is no listener that its opener's end could know.
    let zones = "[zone.client]\ncidrs = [\"10.77.0.1/32\"]\n[zone.server]\ncidrs = [\"10.77.0.2/32\"]\n";
    let policy = zones.to_owned() + &rule(50, "require") + &rule(51, "report");
    let agent = Agent::prepare(&lab.root, &policy).with_metrics().start().unwrap();
    let at = "10.77.0.2:0".parse().unwrap();
    // Of AH's header the first byte says what it carries: TCP.
    let signed =
        [b"\x06\x04\0\0\0\0\x12\x34\0\0\0\x01".as_slice(), &[0x5a; 12], b"GET / HTTP/1.1\r\n"].concat();
    for (protocol, packet) in [(50, ESP), (51, &signed)] {
        let far = lab.server.listen(Kind::Raw(protocol), at, Serve::Hold).unwrap();
        let near = lab.client.open(Kind::Raw(protocol), None, false).unwrap();
        for _ in 0..3 {
            lab.client.send(&near, packet, Some(at)).unwrap();
            let (data, _) = lab.server.recv(&far, SOON).unwrap();
            assert!(data.ends_with(packet), "protocol {protocol}");
        }
    }
    let classed = |class: &str, level: &str, verdict: &str| {
        let page = agent.metrics().unwrap();
        let words = [class, level, verdict].map(|word| format!("\"{word}\""));
        page.lines()
            .find(|line| {
                line.starts_with("bulkhead_flow_classes_total{")
                    && words.iter().all(|word| line.contains(word))
            })
            .and_then(|line| line.rsplit_once(' '))
            .and_then(|(_, count)| count.parse().ok())
            .unwrap_or(0.0)
    };
    wait_until(SOON, "both are counted", || {
        classed("ipsec", "require", "allow") == 1.0 && classed("clear", "report", "allow") == 1.0
    })
    .unwrap();
}
