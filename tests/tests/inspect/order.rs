//! TLS whose segments overtake one another, or are lost, from a sender whose node has no agent: what is honest
//! passes whole and nearly as fast as without `require`, and nobody gets clear text past it that way.

use std::time::{Duration, Instant};

use bulkhead_tests::harness::{Agent, Cgroup, Kind, Launch, Pair, Peer, Serve, Step, Topology, wait_until};
use bulkhead_tests::require_agent;

use crate::lab::SOON;
use crate::wire::{Fate, Wire};

const INSIDE: &str = "10.78.0.2";
const OUTSIDE: &str = "10.78.0.1";
const PORT: u16 = 7443;
const LIMIT: Duration = Duration::from_secs(120);

/// A node with a workload, a machine without an agent, and a wire between them.
struct Lab {
    // Before the namespaces that its ends are in.
    wire: Wire,
    net: Topology,
    root: Cgroup,
    inside: Cgroup,
    outside: Cgroup,
}

impl Lab {
    fn new() -> Lab {
        let net = Topology::pair().unwrap();
        let (a, b) = (net.ns("a").unwrap(), net.ns("b").unwrap());
        let wire = Wire::new((a, OUTSIDE), (b, INSIDE));
        let root = Cgroup::new("node").unwrap();
        let (inside, outside) = (root.child("inside").unwrap(), Cgroup::new("outside").unwrap());
        Lab { wire, net, root, inside, outside }
    }

    fn agent(&self, level: &str) -> Agent {
        Agent::start(&self.root, &policy(level)).unwrap()
    }
}

fn policy(level: &str) -> String {
    format!(
        "[zone.inside]\ncgroups = [\"inside\"]\n[[allow]]\nfrom = \"inside\"\nto = \"world\"\n\
         ports = [\"tcp/{PORT}\"]\ntls = \"{level}\"\n"
    )
}

/// Numbers that are as good as random, and the same every time.
fn numbers() -> impl FnMut() -> u64 + Send {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// How many segments this namespace's TCP has sent again.
fn repeated(lab: &Lab, ns: &str) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let text = lab.net.ns(ns).unwrap().enter(read).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (mut names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.position(|name| name == "RetransSegs").unwrap();
    values.nth(at).unwrap().parse().unwrap()
}

#[test]
fn what_overtakes_and_what_is_lost_slows_require_no_more_than_it_must() {
    require_agent!();
    let lab = Lab::new();
    let mut number = numbers();
    let blob: Vec<u8> = std::iter::repeat_with(|| number().to_le_bytes()).take(1 << 20).flatten().collect();
    let key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert \
               -subj /CN=x -days 2 2>/dev/null && exec openssl s_server -quiet -WWW -accept 7443 -cert cert -key key";
    let launch = Launch::new(["sh", "-c", key]).file("blob", blob.clone());
    let mut server = launch.start(lab.net.ns("a").unwrap(), lab.outside.path()).unwrap();
    let to = std::net::SocketAddr::new(OUTSIDE.parse().unwrap(), PORT);
    server
        .wait_until(SOON, || {
            lab.net.ns("b").unwrap().enter(|| std::net::TcpStream::connect(to).is_ok()).unwrap()
        })
        .unwrap();

    let agent = lab.agent("off");
    let mut wrong = Vec::new();
    for (name, every, out_of_order) in
        [("reordered", u64::MAX, true), ("lost", 100, false), ("both", 100, true)]
    {
        let mut figures = Vec::new();
        for level in ["off", "require"] {
            agent.apply(&policy(level)).unwrap();
            let before = agent.counters().unwrap();
            // As `netem delay 5ms reorder 25%` does: a quarter goes at once, what is before it comes later.
            let mut number = numbers();
            lab.wire.decide(move |_| match number() {
                number if number % every == 0 => Fate::Lost,
                number if out_of_order && number >> 32 & 3 != 0 => Fate::After(Duration::from_millis(5)),
                _ => Fate::Now,
            });
            let (started, again) = (Instant::now(), repeated(&lab, "a"));
            let url = format!("https://{OUTSIDE}:{PORT}/blob");
            let said = Launch::new(["curl", "-skS", "--max-time", "100", &url])
                .run(lab.net.ns("b").unwrap(), lab.inside.path(), LIMIT)
                .unwrap();
            let (took, again) = (started.elapsed(), repeated(&lab, "a") - again);
            if said.output != blob {
                wrong.push(format!("{name}, {level}: {} bytes arrived: {}", said.output.len(), said.errors));
            }
            let moved = agent.counters().unwrap().since(&before).flows();
            if moved.keys().any(|pair| pair.verdict == "deny") {
                wrong.push(format!("{name}, {level}: {moved:?}"));
            }
            println!(
                "{name}, {level}: {:.1} MB/s, {again} segments again",
                blob.len() as f64 / took.as_secs_f64() / 1e6
            );
            figures.push((took, again));
        }
        let [off, require] = figures[..] else { unreachable!() };
        // Where every segment that comes early is dropped, as many go again as there are, and more.
        let segments = blob.len() as u64 / 1448;
        if require.1 > 2 * off.1 + segments / 10 {
            wrong.push(format!("{name}: {} segments again, {} where nothing is required", require.1, off.1));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A TLS handshake and what a server says behind it: records, all as long as each other.
pub(crate) fn conversation() -> (Vec<Vec<u8>>, Vec<u8>) {
    let recorded = include_str!("../../../ebpf/core/tests/inspect/flows/tls13.txt");
    let digits = |text: &str| -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let turns = recorded.lines().filter(|line| !line.is_empty()).take(2);
    let hellos = turns.map(|line| digits(line.split_once(' ').unwrap().1)).collect();
    let mut record = vec![0x17, 3, 3, 0x03, 0xe3];
    record.resize(1000, 0xa5);
    (hellos, record.repeat(60))
}

/// Puts another payload into a TCP segment, or changes it, and makes its checksum right.
fn rewrite(packet: &mut [u8], change: impl FnOnce(&mut [u8])) {
    let transport = usize::from(packet[0] & 15) * 4;
    let payload = transport + usize::from(packet[transport + 12] >> 4) * 4;
    change(&mut packet[payload..]);
    packet[transport + 16..transport + 18].fill(0);
    let segment = &packet[transport..];
    let mut sum = 6 + segment.len() as u32;
    for pair in packet[12..20].chunks(2).chain(segment.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[transport + 16..transport + 18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Where a segment stands in its stream, and how long it is.
fn place(packet: &[u8]) -> (u32, usize) {
    let transport = usize::from(packet[0] & 15) * 4;
    let payload = transport + usize::from(packet[transport + 12] >> 4) * 4;
    let seq = packet[transport + 4..transport + 8].try_into().unwrap();
    (u32::from_be_bytes(seq), packet.len() - payload)
}

/// What stands on the way makes clear text of a part of the stream, in a segment that others overtake or that
/// comes twice: nothing of it arrives.
#[test]
fn clear_text_behind_what_overtakes_it_does_not_arrive() {
    require_agent!();
    const TEXT: &[u8] = b"GET /secret HTTP/1.1\r\n\r\n";
    let lab = Lab::new();
    let inside = Peer::spawn(Some(lab.net.ns("b").unwrap()), Some(&lab.inside)).unwrap();
    let outside = Peer::spawn(Some(lab.net.ns("a").unwrap()), Some(&lab.outside)).unwrap();
    let (hellos, bulk) = conversation();
    let answer = [&hellos[1][..], &bulk].concat();
    let play = |port: u16| {
        let to = std::net::SocketAddr::new(OUTSIDE.parse().unwrap(), port);
        let listener = outside.listen(Kind::Tcp, to, Serve::Hold).unwrap();
        let script = vec![Step::Receive(hellos[0].len()), Step::Send(answer.clone()), Step::Receive(1)];
        let far = outside.begin_play_accepted(&listener, script, LIMIT);
        let script = vec![Step::Send(hellos[0].clone()), Step::Receive(answer.len())];
        let near = inside.begin_play(to, None, script, Duration::from_secs(20)).wait().unwrap();
        let _ = outside.close(&listener);
        drop(far);
        near
    };
    // The third segment of the bulk waits until six others have overtaken it. In it, a record becomes clear
    // text, or longer than it was, so that what went early is none where it should be.
    type Change = fn(&mut [u8], usize);
    let ways: [(&str, Change); 3] = [
        ("unchanged", |_, _| {}),
        ("clear text where a record begins", |payload, at| {
            payload[at..at + TEXT.len()].copy_from_slice(TEXT)
        }),
        ("a record that ends elsewhere", |payload, at| {
            payload[at + 4] ^= 0x10;
        }),
    ];
    let attempt = |change: Change| {
        let head = hellos[1].len();
        let (mut first, mut seen) = (None, 0usize);
        lab.wire.decide(move |packet| {
            let (seq, len) = place(packet);
            if len == 0 {
                return Fate::Now;
            }
            let first = *first.get_or_insert(seq);
            let at = seq.wrapping_sub(first) as usize;
            seen += 1;
            if seen < 3 {
                return Fate::Now;
            }
            // The first record that begins in it.
            let begins =
                (0..len).find(|offset| at + offset >= head && (at + offset - head).is_multiple_of(1000));
            if seen == 3 || (seen > 3 && at < 3 * 1448) {
                rewrite(packet, |payload| change(payload, begins.unwrap().min(len - TEXT.len())));
            }
            if seen == 3 { Fate::Behind(6) } else { Fate::Now }
        });
    };
    // Agent off: all arrives as it is changed.
    for (name, change) in ways {
        attempt(change);
        let played = play(PORT);
        assert!(played.complete, "{name} {:?}", played.errno);
    }
    let agent = lab.agent("require");
    for (name, change) in ways {
        let before = agent.counters().unwrap();
        attempt(change);
        let played = play(PORT);
        if name == "unchanged" {
            assert_eq!(played.received, answer, "{:?}", played.errno);
            continue;
        }
        let denied = || {
            let moved = agent.counters().unwrap().since(&before);
            ["clear-text", "unclassified"]
                .iter()
                .map(|reason| moved.get(&Pair::new("inside", "world", "deny", reason)).flows)
                .sum::<u64>()
        };
        wait_until(SOON, "it is refused", || denied() == 1).unwrap();
        assert!(answer.starts_with(&played.received), "{name}: something else arrived");
        assert!(played.received.len() <= 3 * 1448, "{name}: {} bytes arrived", played.received.len());
    }
}
