//! What is said of flows is true, however they are cut; and nothing but the truth.

use bulkhead_abi::{Accept, App, Class, Demand, Inspection, Tls};
use proptest::prelude::*;

use crate::{
    flows,
    talk::{Talk, cuts, play},
};

const REPORT: Demand = Demand { level: Tls::Report, accept: Accept::NONE, floor: 0 };

#[test]
fn encrypted_flows_are_what_they_are() {
    for (name, flow, class) in flows::encrypted() {
        for (cut_name, cut) in cuts() {
            for demand in [Demand::OFF, REPORT, Demand::REQUIRE] {
                let talk = play(&flow, demand, &cut);
                assert_eq!(
                    talk.class(),
                    (class, App::Unknown),
                    "{name} {cut_name} {demand:?} {:?}",
                    talk.refused
                );
                assert_eq!(talk.refused, None);
                assert!(talk.is_settled());
            }
        }
    }
}

#[test]
fn dialogues_are_followed_to_their_tls() {
    let late = flows::late();
    let upgraded = flows::upgraded();
    for (name, flow, app) in upgraded.iter().chain(&late) {
        for (cut_name, cut) in cuts() {
            for demand in [Demand::OFF, REPORT] {
                let talk = play(flow, demand, &cut);
                assert_eq!(talk.class(), (Class::Tls, *app), "{name} {cut_name} {demand:?}");
                assert!(talk.has(Inspection::FLAG_UPGRADED), "{name} {cut_name}");
            }
        }
    }
}

#[test]
fn clear_text_is_named() {
    let mut wrong = Vec::new();
    for (name, flow, app) in flows::clear() {
        for (cut_name, cut) in cuts() {
            let talk = play(&flow, Demand::OFF, &cut);
            if talk.class() != (Class::Clear, app) {
                wrong.push(format!("{name}, {cut_name}: {:?}", talk.class()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_cannot_be_told_is_not_told() {
    for (name, flow) in flows::unknown() {
        for (cut_name, cut) in cuts() {
            assert_eq!(play(&flow, Demand::OFF, &cut).class().0, Class::Unknown, "{name} {cut_name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn random_bytes_are_nothing(opener in prop::array::uniform20(any::<u8>()), receiver in prop::array::uniform20(any::<u8>()), first in 0..2u8) {
        let both = [&opener[..], &receiver[..]];
        // Sixteen bytes of text are text, and once in a million times what is random is.
        let is_text = |bytes: &&[u8]| bytes.iter().take(16).all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
        prop_assume!(!both.iter().any(is_text));
        let mut talk = Talk::new(Demand::OFF);
        let _ = talk.say(first, both[usize::from(first)]);
        let _ = talk.say(1 - first, both[usize::from(1 - first)]);
        prop_assert_eq!(talk.class().0, Class::Unknown);
    }
}
