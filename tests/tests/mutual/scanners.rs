//! What others find out about the tunnels' port: OpenSSL and GnuTLS as clients, and sslyze, which tries all that
//! there is.

use bulkhead_tests::harness::{Launch, Said};
use serde_json::Value;

use crate::lab::{DB, Lab};
use crate::peers::Stranger;
use crate::require_python;

const SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
/// Groups for the key exchange, as sslyze names them. It does not know X25519MLKEM768, which Go does.
const GROUPS: [&str; 3] = ["X25519", "secp256r1", "secp384r1"];

/// A node, and who knocks at its port with a certificate of `web` in a folder.
struct Door {
    lab: Lab,
    stranger: Stranger,
    shows: std::path::PathBuf,
}

impl Door {
    fn new() -> Door {
        let lab = Lab::two_nodes();
        let shows = lab.authority.issue_workload("web").unwrap();
        Door { lab, stranger: Stranger::new(), shows }
    }

    fn file(&self, name: &str) -> String {
        self.shows.join(name).to_string_lossy().into_owned()
    }

    fn run(&self, launch: &Launch) -> String {
        let Said { output, errors, .. } = self.stranger.run(self.lab.web_ns(), launch);
        format!("{}\n{errors}", String::from_utf8_lossy(&output))
    }

    /// `openssl s_client` that shows its certificate and waits for what the server says after the handshake.
    fn openssl(&self, certificate: bool, more: &[&str]) -> String {
        let own = [self.file("tls.crt"), self.file("tls.crt"), self.file("tls.key"), self.file("ca.crt")];
        let [leaf, chain, key, roots] = own;
        let mut words = vec!["openssl", "s_client", "-connect", "10.77.0.2:15008", "-alpn", "h2"];
        words.extend(["-CAfile", &roots]);
        if !more.contains(&"-servername") {
            words.push("-noservername");
        }
        if certificate {
            words.extend(["-cert", &leaf, "-cert_chain", &chain, "-key", &key]);
        }
        words.extend(more);
        // It ends when its input does: after the answer, or when the server ends it.
        let script = "(sleep 2) | \"$@\"";
        self.run(&Launch::new(["sh", "-c", script, "sh"]).and(words))
    }

    fn gnutls(&self, certificate: bool, more: &[&str]) -> String {
        let mut words =
            vec!["gnutls-cli", "--port=15008", "--alpn=h2", "--disable-sni", "--no-ca-verification"];
        let own = [
            format!("--x509certfile={}", self.file("tls.crt")),
            format!("--x509keyfile={}", self.file("tls.key")),
        ];
        if certificate {
            words.extend(own.iter().map(String::as_str));
        }
        words.extend(more);
        words.push(DB);
        self.run(&Launch::new(["sh", "-c", "(sleep 2) | \"$@\"", "sh"]).and(words))
    }
}

fn assert_holds(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
}

#[test]
fn openssl_and_gnutls_find_tls_1_3_and_nothing_else() {
    require_python!();
    let door = Door::new();
    for (group, named) in [("X25519", "X25519"), ("P-256", "prime256v1"), ("P-384", "secp384r1")] {
        let said = door.openssl(true, &["-groups", group]);
        assert_holds(&said, &["New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384", "ALPN protocol: h2"]);
        assert_holds(&said, &[&format!("Key: {}", if named == "X25519" { "" } else { "ECDH, " }), named]);
        assert_holds(&said, &["Verify return code: 0 (ok)", "Compression: NONE"]);
        // Whatever tickets there are, nothing may be said before the handshake is over.
        let early: Vec<_> = said.lines().filter(|line| line.contains("Max Early Data")).collect();
        assert!(early.iter().all(|line| line.trim().ends_with(": 0")), "{early:?}");
    }
    for suite in SUITES {
        let said = door.openssl(true, &["-ciphersuites", suite]);
        assert_holds(&said, &[&format!("New, TLSv1.3, Cipher is {suite}")]);
    }
    // Whom it asks for by name is nothing to us.
    let named = door.openssl(true, &["-servername", "db.example.org"]);
    assert_holds(&named, &["New, TLSv1.3", "ALPN protocol: h2", "Verify return code: 0 (ok)"]);
    for refused in
        [&["-groups", "P-521"][..], &["-groups", "ffdhe2048"], &["-ciphersuites", "TLS_AES_128_CCM_SHA256"]]
    {
        assert_holds(&door.openssl(true, refused), &["SSL alert number 40", "Cipher is (NONE)"]);
    }
    assert_holds(&door.openssl(true, &["-tls1_2"]), &["alert protocol version", "Cipher is (NONE)"]);
    assert_holds(&door.openssl(false, &[]), &["alert certificate required"]);

    assert_holds(
        &door.gnutls(true, &[]),
        &["(TLS1.3-X.509)", "Application protocol: h2", "requested a certificate"],
    );
    let old = door.gnutls(true, &["--priority=NORMAL:-VERS-TLS1.3"]);
    assert_holds(&old, &["Received alert [70]"]);
    assert_holds(&door.gnutls(false, &[]), &["Received alert [116]: Certificate is required"]);

    // Each of those without a certificate was told, and is a finding's beginning.
    Lab::wait_metric(door.lab.far(), &["bulkhead_proxy_handshake_failures_total", "\"no-certificate\""]);
    Lab::wait_metric(door.lab.far(), &["bulkhead_proxy_handshake_failures_total", "\"tls-version\""]);
}

/// The words in `all` under `name`, sorted.
fn names(all: &Value, name: impl Fn(&Value) -> &Value) -> Vec<String> {
    let mut names: Vec<_> = all
        .as_array()
        .unwrap_or_else(|| panic!("no list: {all}"))
        .iter()
        .map(|one| name(one).as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn sslyze_finds_tls_1_3_and_nothing_else() {
    require_python!();
    let door = Door::new();
    let python = std::env::var("BULKHEAD_SSLYZE").expect("the Python that has sslyze");
    let scan = |more: &[&str]| -> Value {
        let words = ["-m", "sslyze", "--mozilla_config=disable", "--json_out=-"];
        let launch = Launch::new([python.as_str()]).and(words).and(more).and(["10.77.0.2:15008"]);
        let said = door.stranger.run(door.lab.web_ns(), &launch);
        assert!(said.succeeded(), "{:?}: {}", said.status, said.errors);
        let mut told: Value = serde_json::from_slice(&said.output).unwrap();
        told["server_scan_results"][0].take()
    };
    let without = scan(&["--tlsv1_3"]);
    assert_eq!(without["connectivity_result"]["client_auth_requirement"], "REQUIRED");

    let (leaf, key) = (door.file("tls.crt"), door.file("tls.key"));
    let old = ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2"];
    let told = scan(&[
        "--cert",
        &leaf,
        "--key",
        &key,
        "--sslv2",
        "--sslv3",
        "--tlsv1",
        "--tlsv1_1",
        "--tlsv1_2",
        "--tlsv1_3",
        "--elliptic_curves",
        "--reneg",
        "--resum",
        "--compression",
        "--heartbleed",
        "--openssl_ccs",
        "--robot",
    ]);
    let result = |name: &str| {
        let one = &told["scan_result"][name];
        assert_eq!(one["status"], "COMPLETED", "{name}: {one}");
        &one["result"]
    };
    for version in old {
        assert_eq!(
            result(&format!("{version}_cipher_suites"))["is_tls_version_supported"],
            false,
            "{version}"
        );
    }
    let suites = &result("tls_1_3_cipher_suites")["accepted_cipher_suites"];
    assert_eq!(names(suites, |one| &one["cipher_suite"]["name"]), SUITES);
    let groups = &result("elliptic_curves")["supported_curves"];
    assert_eq!(names(groups, |one| &one["name"]), GROUPS);
    assert_eq!(result("tls_compression")["supports_compression"], false);
    assert_eq!(result("session_renegotiation")["client_renegotiations_success_count"], 0);
    assert_eq!(result("heartbleed")["is_vulnerable_to_heartbleed"], false);
    assert_eq!(result("openssl_ccs_injection")["is_vulnerable_to_ccs_injection"], false);
    assert_eq!(result("robot")["robot_result"], "NOT_VULNERABLE_RSA_NOT_SUPPORTED");
    let resumed = result("session_resumption");
    for way in ["session_id", "tls_ticket"] {
        // What it knows of is TLS 1.2's.
        assert_eq!(resumed[format!("{way}_successful_resumptions_count")], 0, "{way}");
    }
}
