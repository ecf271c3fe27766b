//! Every kind of broken zone file shows its diagnostic; `tests/broken` has one file for each kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::path::{Path, PathBuf};

use bulkhead_abi::Tls;
use bulkhead_policy::diagnostic::Severity;
use bulkhead_policy::{Capabilities, Diagnostics, Source, Sources, load};

#[test]
fn broken_files_show_their_diagnostics() {
    let files = broken_files();
    assert!(files.len() >= 25, "{} files", files.len());
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let shown = diagnostics([(path.file_name().unwrap().into(), std::fs::read(&path).unwrap())]);
        assert!(!shown.is_empty(), "{name} shows nothing");
        assert_eq!(shown.errors() == 0, name == "warnings", "{name}");
        insta::assert_snapshot!(name, shown.render(false));
    }
}

#[test]
fn every_diagnostic_says_what_to_do() {
    for path in broken_files() {
        for diagnostic in &diagnostics([(path.clone(), std::fs::read(&path).unwrap())]) {
            assert!(diagnostic.help.as_ref().is_some_and(|help| !help.is_empty()), "{diagnostic}");
            assert!(diagnostic.code.starts_with("bulkhead::"), "{diagnostic}");
            assert!(diagnostic.line > 0 && diagnostic.column > 0, "{diagnostic}");
        }
    }
}

#[test]
fn mistakes_between_files_name_the_other_file() {
    let a =
        "[zone.web]\ncidrs = [\"10.20.1.0/24\"]\n\n[[allow]]\nname = \"out\"\nfrom = \"web\"\nto = \"db\"\n";
    let b = "[zone.web]\ncgroups = [\"web\"]\n\n[[allow]]\nname = \"out\"\nfrom = \"web\"\nto = \"world\"\n";
    let shown = diagnostics([("a.toml".into(), a.into()), ("b.toml".into(), b.into())]);
    insta::assert_snapshot!("two-files", shown.render(false));
}

#[test]
fn virtual_addresses_are_declared_once_and_are_in_no_zone_of_any_file() {
    let a = "[virtual]\ncidrs = [\"10.96.0.0/12\", \"10.112.0.0/24\"]\n";
    let b = "[virtual]\ncidrs = [\"10.112.0.0/24\", \"10.96.0.0/12\", \"fd00:96::/108\"]\n";
    let c = "[zone.web]\ncidrs = [\"10.100.0.0/16\"]\n";
    let files = [("a.toml".into(), a.into()), ("b.toml".into(), b.into()), ("c.toml".into(), c.into())];
    let shown = diagnostics(files);
    insta::assert_snapshot!("virtual-files", shown.render(false));
}

#[test]
fn a_file_that_cannot_be_read_hides_no_zone_from_the_others() {
    let a = "[zone.web]\ncidrs = [\"10.20.1.0/24\"]\n[[allow]]\nfrom = \"web\"\nto = \"db\"\n";
    let shown = diagnostics([("a.toml".into(), a.into()), ("b.toml".into(), "[zone.db".into())]);
    let codes: Vec<_> = shown.iter().map(|diagnostic| diagnostic.code).collect();
    assert!(codes.iter().all(|code| *code == "bulkhead::syntax"), "{codes:?}");
}

#[test]
fn machines_read_json() {
    let path = broken_folder().join("unknown-zone.toml");
    let shown = diagnostics([("unknown-zone.toml".into(), std::fs::read(path).unwrap())]);
    let json = shown.to_json();
    let first = &json[0];
    assert_eq!(first["code"], "bulkhead::unknown-zone");
    assert_eq!(first["severity"], "error");
    assert_eq!((first["line"].as_u64(), first["column"].as_u64()), (Some(8), Some(9)));
    assert_eq!(first["path"], "unknown-zone.toml");
    assert_eq!(first["help"], "did you mean `web`?");
    assert_eq!(first["labels"][0]["span"]["end"], 95);
    // One line each in the log.
    let line = "unknown-zone.toml:8:9: unknown zone `wb` (bulkhead::unknown-zone)";
    assert!(shown.to_string().lines().any(|logged| logged == line), "{shown}");
}

#[test]
fn warnings_do_not_refuse_a_policy() {
    let text = std::fs::read(broken_folder().join("warnings.toml")).unwrap();
    let sources = Sources::new([Source::new("warnings.toml", text)]);
    let loaded = load(&sources, &Capabilities::this_build()).unwrap();
    assert_eq!(loaded.model.rules().len(), 3);
    assert_eq!(loaded.warnings.len(), 3);
    assert!(loaded.warnings.iter().all(|warning| warning.severity == Severity::Warning));
}

/// A rule speaks for a side of a zone that it names, unless its `side` is the other one.
#[test]
fn a_rule_that_speaks_for_nobody_is_warned_of() {
    for (from, opens) in [("web", true), ("world", false), ("node", false), ("any", true)] {
        for (to, receives) in [("web", true), ("world", false), ("node", false), ("any", true)] {
            for (side, egress, ingress) in
                [("both", true, true), ("egress", true, false), ("ingress", false, true)]
            {
                let text = format!(
                    "[zone.web]\ncidrs = [\"10.20.1.0/24\"]\n\
                     [[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nside = \"{side}\"\n"
                );
                let shown = diagnostics([("x.toml".into(), text.clone().into())]);
                let speaks = opens && egress || receives && ingress;
                assert_eq!(shown.is_empty(), speaks, "{text}{shown}");
                assert!(shown.iter().all(|warning| warning.code == "bulkhead::idle-rule"), "{shown}");
            }
        }
    }
}

/// The proxy can do one thing with a flow; rules that share no flow may ask it for different things.
#[test]
fn levels_conflict_where_rules_share_a_flow() {
    let capabilities = Capabilities { tls: vec![Tls::Off, Tls::Mutual, Tls::Terminate] };
    let zones = "[zone.web]\ncidrs = [\"10.20.1.0/24\"]\n[zone.api]\ncidrs = [\"10.20.2.0/24\"]\n\
                 [zone.db]\ncidrs = [\"10.20.3.0/24\"]\n";
    let rule = |from: &str, to: &str, ports: &str, tls: &str| {
        format!("[[allow]]\nfrom = [{from}]\nto = [{to}]\nports = [{ports}]\ntls = \"{tls}\"\n")
    };
    let first = rule("'web'", "'api'", "'tcp/80', 'tcp/100-200'", "mutual");
    for (from, to, ports, conflict) in [
        ("'web'", "'api'", "'tcp/80'", true),
        ("'web'", "'api'", "'tcp/90', 'tcp/200-300'", true),
        ("'web'", "'api'", "'tcp/81-99', 'tcp/201'", false),
        ("'db', 'web'", "'api'", "'tcp/80'", true),
        ("'db'", "'api'", "'tcp/80'", false),
        ("'web'", "'db', 'web'", "'tcp/80'", false),
        ("'any'", "'api'", "'tcp/80'", true),
        ("'web'", "'any'", "'tcp/80'", true),
        ("'any'", "'db'", "'tcp/80'", false),
    ] {
        let text = format!("{zones}{first}{}", rule(from, to, ports, "terminate"));
        let loaded = load(&Sources::new([Source::new("x.toml", text.clone().into())]), &capabilities);
        let codes: Vec<_> = loaded.err().iter().flat_map(|shown| shown.iter().map(|d| d.code)).collect();
        let expected: &[&str] = if conflict { &["bulkhead::tls-conflict"] } else { &[] };
        assert_eq!(codes, expected, "{text}");
    }
}

/// What the proxy cannot do yet is refused by the capabilities of this build, and said so.
#[test]
fn levels_that_this_build_has_no_proxy_for_are_refused() {
    for (level, codes) in [
        ("mutual", &[][..]),
        ("terminate", &["bulkhead::tls-unsupported"][..]),
        ("originate", &["bulkhead::tls-unsupported"][..]),
    ] {
        let text = format!(
            "[zone.web]\ncidrs = [\"10.20.1.0/24\"]\n\
             [[allow]]\nfrom = \"any\"\nto = \"web\"\nports = [\"tcp/443\"]\ntls = \"{level}\"\n"
        );
        let shown = diagnostics([("x.toml".into(), text.into())]);
        let found: Vec<&str> = shown.iter().map(|diagnostic| diagnostic.code).collect();
        assert_eq!(found, codes, "{shown}");
        let named = |d: &bulkhead_policy::Diagnostic| d.help.as_ref().is_some_and(|h| h.contains("`mutual`"));
        assert!(shown.iter().all(named), "{shown}");
    }
}

#[test]
fn colour_is_a_choice() {
    let shown = diagnostics([("x.toml".into(), b"x = 1".to_vec())]);
    assert!(shown.render(true).contains('\u{1b}') && !shown.render(false).contains('\u{1b}'));
}

/// The mistakes of a policy of these files; its warnings, if it has no error.
fn diagnostics(files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> Diagnostics {
    let sources = Sources::new(files.into_iter().map(|(path, bytes)| Source::new(path, bytes)));
    match load(&sources, &Capabilities::this_build()) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    }
}

fn broken_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken")
}

fn broken_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(broken_folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
