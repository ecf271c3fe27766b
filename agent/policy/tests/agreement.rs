//! The compiled image must say of every flow what the oracle says.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use bulkhead_abi::tables::SideAnswer;
use bulkhead_policy::oracle::{self, SideDecision};
use bulkhead_policy::testing::{Case, cases};
use bulkhead_policy::{Endpoint, Image, Numbers, compile};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// 256 policies of 64 flows, and 64 of many zones, so that wide zones occur.
const FLOWS: usize = 64;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn image_agrees_with_oracle(case in cases(5, 8, FLOWS)) {
        agree(&case)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn image_agrees_with_oracle_where_many_zones_overlap(case in cases(14, 20, 4 * FLOWS)) {
        agree(&case)?;
    }
}

fn agree(case: &Case) -> Result<(), TestCaseError> {
    let image = compile(&case.model, &case.facts, &mut Numbers::default()).unwrap();
    for flow in &case.flows {
        let expected = oracle::judge(&case.model, &case.facts, flow);
        let [from, to] = [&flow.from, &flow.to].map(|end| identity(&image, case, end));
        let cell = image.judge(from, to, flow);
        let context = || format!("{flow:?}\n{} to {}\n{image}", image.label(from), image.label(to));
        prop_assert_eq!(answer(&image, cell.egress()), expected.egress, "{}", context());
        prop_assert_eq!(answer(&image, cell.ingress()), expected.ingress, "{}", context());
        prop_assert_eq!(cell.demand(), expected.tls, "{}", context());
    }
    Ok(())
}

fn identity(image: &Image, case: &Case, end: &Endpoint) -> bulkhead_abi::Identity {
    let id = |path: &String| case.facts.cgroups.iter().find(|(_, known)| *known == path).map(|(id, _)| *id);
    let cgroup = end.cgroup.as_ref().map_or(0, |path| id(path).unwrap());
    image.identity(cgroup, end.addr).expect("every combination that can occur has an identity")
}

fn answer(image: &Image, answer: SideAnswer) -> SideDecision {
    let rule = image.rules.get(&answer.rule).map(|rule| rule.reference());
    SideDecision { verdict: answer.verdict, reason: answer.reason, rule }
}
