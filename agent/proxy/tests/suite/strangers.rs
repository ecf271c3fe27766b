//! Other TLS libraries at the tunnel's port. What they may not do without is checked from their side too.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::common::{Pair, soon};

/// What `program` says, with an input that stays open long enough for an answer of the server.
async fn says(program: &str, arguments: &[&str], folder: &Path) -> Option<String> {
    let started = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = started else {
        assert!(std::env::var_os("CI").is_none(), "{program} is missing: run `cargo xtask setup`");
        eprintln!("SKIPPED: {program} is missing");
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let holding = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let _ = input.shutdown().await;
    });
    let output = soon(child.wait_with_output()).await.unwrap();
    holding.abort();
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_is_let_in_with_a_certificate_and_tls_1_3_only() {
    let mut pair = Pair::new().await;
    let folder = pair.authority.files("web");
    let at = pair.server.at.to_string();
    let base = ["s_client", "-connect", &at, "-alpn", "h2", "-CAfile", "ca.crt"];
    let own = ["-cert", "tls.crt", "-cert_chain", "tls.crt", "-key", "tls.key"];
    let Some(said) = says("openssl", &[&base[..], &own[..]].concat(), folder.path()).await else { return };
    assert!(said.contains("TLSv1.3") && said.contains("ALPN protocol: h2"), "{said}");
    assert!(said.contains("Verify return code: 0"), "{said}");

    let said = says("openssl", &base, folder.path()).await.unwrap();
    assert!(said.contains("certificate required"), "{said}");
    let said = says("openssl", &[&base[..], &own[..], &["-tls1_2"]].concat(), folder.path()).await.unwrap();
    assert!(said.contains("alert protocol version"), "{said}");
    let mut reasons = Vec::new();
    while reasons.len() < 2 {
        // The first handshake was good; that nothing came after it is not what is asked here.
        let reason = pair.server.record().await.reason;
        if reason != Some("closed") {
            reasons.extend(reason);
        }
    }
    assert_eq!(reasons, ["no-certificate", "tls-version"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gnutls_finishes_its_handshake() {
    let pair = Pair::new().await;
    let folder = pair.authority.files("web");
    let port = pair.server.at.port().to_string();
    // Its check of names is for DNS; ours is for URI names.
    let arguments = [
        "--no-ca-verification",
        "--alpn",
        "h2",
        "--x509certfile",
        "tls.crt",
        "--x509keyfile",
        "tls.key",
        "-p",
        &port,
        "127.0.0.1",
    ];
    let Some(said) = says("gnutls-cli", &arguments, folder.path()).await else { return };
    assert!(said.contains("TLS1.3") && said.contains("Application protocol: h2"), "{said}");
    assert!(said.contains("Handshake was completed"), "{said}");
}
