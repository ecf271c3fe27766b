//! Policy tests: the shop's own, and what happens when they fail or are wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};

use bulkhead_policy::expect::{ExpectError, Report, run};
use bulkhead_policy::{Capabilities, Sources, load};

const POLICY: &str = r#"
[zone.web]
cidrs = ["10.20.1.0/24"]
[zone.db]
cidrs = ["10.20.3.0/24"]
mode = "audit"
[[allow]]
name = "out"
from = "web"
to = "world"
side = "egress"
ports = ["icmp/echo", "tcp/443"]
[virtual]
cidrs = ["10.96.0.0/12"]
"#;

#[test]
fn the_shop_keeps_its_promises() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/shop");
    let loaded = load(&Sources::read_dir(&folder).unwrap(), &Capabilities::this_build()).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let report = run(&folder.join("shop.test.toml"), &Capabilities::this_build()).unwrap();
    assert!(report.results.len() >= 12);
    assert_eq!(report.failed(), 0, "{report}");
}

#[test]
fn a_test_that_fails_says_what_it_got() {
    let report = tests(
        r#"
        [[test]]
        name = "wrong verdict"
        from = "web"
        to = "world"
        port = "tcp/443"
        expect = "deny"
        [[test]]
        name = "wrong rule"
        from = "10.20.1.1"
        to = "10.20.1.2"
        port = "tcp/1"
        expect = "allow"
        rule = "out"
        [[test]]
        name = "audit"
        from = "world"
        to = "db"
        port = "tcp/5432"
        expect = "audit"
        [[test]]
        name = "both families"
        from = "web"
        to = "world"
        port = "icmp/echo"
        expect = "allow"
        [[test]]
        name = "unzoned ends are open"
        from = "node"
        to = "world"
        port = "proto/47"
        expect = "allow"
        "#,
    )
    .unwrap();
    let passed: Vec<bool> = report.results.iter().map(|result| result.passed).collect();
    assert_eq!(passed, [false, false, true, true, true], "{report}");
    assert_eq!(report.failed(), 2);
    let folder = format!("{}/", report.path.parent().unwrap().display());
    insta::assert_snapshot!("failing-tests", report.to_string().replace(&folder, ""));
}

#[test]
fn mistakes_in_a_test_file_are_diagnosed() {
    let error = tests(
        r#"
        polcy = "."
        [[test]]
        name = "x"
        from = "any"
        to = { addr = "10.20.1.0/24" }
        port = "tcp/80-90"
        expect = "pass"
        [[test]]
        to = { cgroup = "web" }
        port = "tcp"
        "#,
    )
    .unwrap_err();
    insta::assert_snapshot!("broken-tests", text(&error));
}

#[test]
fn unknown_names_in_a_test_file_are_diagnosed() {
    let error = tests(
        r#"
        [[test]]
        name = "x"
        from = "wbe"
        to = "db"
        port = "tcp/80"
        expect = "allow"
        rule = "ou"
        "#,
    )
    .unwrap_err();
    insta::assert_snapshot!("unknown-names-in-tests", text(&error));
}

/// What a test says of a virtual address would promise something that only the guard can keep.
#[test]
fn a_virtual_address_receives_nothing_in_a_test() {
    let test = |from: &str, to: &str| {
        tests(&format!("[[test]]\nname = 'x'\nfrom = {from}\nto = {to}\nport = 'tcp/80'\nexpect = 'audit'"))
    };
    assert_eq!(test("'10.96.0.1'", "'10.20.3.1'").unwrap().failed(), 0);
    insta::assert_snapshot!("virtual-in-tests", text(&test("'web'", "'10.96.0.1'").unwrap_err()));
    assert!(test("'web'", "{ addr = '10.96.0.1', cgroup = 'api' }").is_err());
}

#[test]
fn a_broken_policy_is_the_policys_mistake() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.toml"), "[zone.web]").unwrap();
    let path = folder.path().join("x.test.toml");
    std::fs::write(
        &path,
        "[[test]]\nname = 'x'\nfrom = 'node'\nto = 'node'\nport = 'tcp/1'\nexpect = 'allow'",
    )
    .unwrap();
    assert!(matches!(run(&path, &Capabilities::this_build()), Err(ExpectError::Policy(_))));
    std::fs::remove_file(folder.path().join("a.toml")).unwrap();
    assert!(matches!(run(&path, &Capabilities::this_build()), Err(ExpectError::Source(_))));
}

/// Runs this test file beside [`POLICY`].
fn tests(content: &str) -> Result<Report, ExpectError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.toml"), POLICY).unwrap();
    let path: PathBuf = folder.path().join("x.test.toml");
    std::fs::write(&path, content).unwrap();
    run(&path, &Capabilities::this_build())
}

/// The diagnostics without the name of the temporary folder.
fn text(error: &ExpectError) -> String {
    let rendered = error.diagnostics().unwrap().render(false);
    let line = |line: &str| match (line.find("─["), line.find("x.test.toml")) {
        (Some(open), Some(name)) => format!("{}─[{}", &line[..open], &line[name..]),
        _ => line.to_string(),
    };
    rendered.lines().map(line).collect::<Vec<_>>().join("\n")
}
