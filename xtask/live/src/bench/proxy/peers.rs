//! How the proxies that Bulkhead is measured beside are set up: as their manuals say, with their defaults,
//! a worker for each processor, mutual TLS 1.3 between the hops, and the peer's name checked.
//!
//! The near hop listens on the client's own address, since none of them takes connections over unseen.
// What the two nodes have is arrays of two, and JSON that is written here is an object: an index that is not
// there is a defect of this bench, which then has no figure.
#![allow(clippy::indexing_slicing)]

use std::net::SocketAddrV4;
use std::path::Path;

use anyhow::{Result, bail};
use bulkhead_tests::harness::Launch;
use serde_json::{Value, json};

use super::certificates::{Certificates, ZONES, dns, spiffe};
use super::stage::{CLIENT, PORT, SERVER, TUNNEL};
use super::subject::{NGINX_STREAM, Subject};

/// A hop: where it listens, where it goes, and on which side TLS is.
struct Hop<'a> {
    near: bool,
    listen: SocketAddrV4,
    to: SocketAddrV4,
    certificate: &'a str,
    key: &'a str,
    both: &'a str,
    authority: &'a str,
    workers: usize,
}

/// Where the two hops listen.
pub(crate) const LISTEN: [SocketAddrV4; 2] =
    [SocketAddrV4::new(CLIENT, PORT), SocketAddrV4::new(SERVER, TUNNEL)];

/// The programs of the two hops.
pub(crate) fn hops(subject: Subject, certificates: &Certificates, workers: usize) -> Result<[Launch; 2]> {
    let launch = |near: bool| {
        let folder = certificates.of(ZONES[usize::from(!near)]);
        let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let hop = Hop {
            near,
            listen: LISTEN[usize::from(!near)],
            to: if near { LISTEN[1] } else { SocketAddrV4::new(SERVER, PORT) },
            certificate: &file("tls.crt"),
            key: &file("tls.key"),
            both: &file("both.pem"),
            authority: &file("ca.crt"),
            workers,
        };
        let program = subject.program();
        Ok(match subject {
            Subject::Nginx => nginx(&program, &hop),
            Subject::Haproxy => haproxy(&program, &hop),
            Subject::Stunnel => stunnel(&program, &hop),
            Subject::Envoy => envoy(&program, &hop),
            Subject::Direct | Subject::Bulkhead => bail!("{} is no peer", subject.name()),
        })
    };
    Ok([launch(true)?, launch(false)?])
}

/// Most connections, where somebody must be told.
const MANY: usize = 8_192;

fn start(program: &Path, arguments: &[&str]) -> Launch {
    Launch::new([program.to_string_lossy().as_ref()]).and(arguments)
}

fn nginx(program: &Path, hop: &Hop<'_>) -> Launch {
    let Hop { listen, to, certificate, key, authority, workers, .. } = hop;
    let server = if hop.near {
        let name = dns(ZONES[1]);
        format!(
            "listen {listen}; proxy_pass {to}; proxy_ssl on; proxy_ssl_protocols TLSv1.3;
             proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key};
             proxy_ssl_trusted_certificate {authority}; proxy_ssl_verify on; proxy_ssl_name {name};"
        )
    } else {
        format!(
            "listen {listen} ssl; proxy_pass {to}; ssl_protocols TLSv1.3; ssl_certificate {certificate};
             ssl_certificate_key {key}; ssl_client_certificate {authority}; ssl_verify_client on;"
        )
    };
    let config = format!(
        "load_module {NGINX_STREAM};
         daemon off; pid nginx.pid; error_log stderr warn; worker_processes {workers};
         worker_rlimit_nofile {0};
         events {{ worker_connections {0}; }}
         stream {{ server {{ {server} }} }}\n",
        2 * MANY
    );
    start(program, &["-p", ".", "-e", "stderr", "-c", "nginx.conf"]).file("nginx.conf", config)
}

fn haproxy(program: &Path, hop: &Hop<'_>) -> Launch {
    let Hop { listen, to, both, authority, workers, .. } = hop;
    let (bind, server) = if hop.near {
        let name = dns(ZONES[1]);
        let tls = format!("ssl crt {both} ca-file {authority} verify required verifyhost {name}");
        (String::new(), format!("{tls} ssl-min-ver TLSv1.3"))
    } else {
        (format!("ssl crt {both} ca-file {authority} verify required ssl-min-ver TLSv1.3"), String::new())
    };
    let config = format!(
        "global\n  nbthread {workers}\n  maxconn {MANY}\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen hop\n  bind {listen} {bind}\n  server next {to} {server}\n"
    );
    start(program, &["-db", "-f", "haproxy.cfg"]).file("haproxy.cfg", config)
}

fn stunnel(program: &Path, hop: &Hop<'_>) -> Launch {
    let Hop { listen, to, certificate, key, authority, .. } = hop;
    let side = if hop.near {
        format!("client = yes\nverifyChain = yes\ncheckHost = {}\n", dns(ZONES[1]))
    } else {
        "verifyChain = yes\n".to_owned()
    };
    let config = format!(
        "foreground = yes\npid =\nsyslog = no\ndebug = warning\n\
         socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
         [hop]\naccept = {listen}\nconnect = {to}\ncert = {certificate}\nkey = {key}\n\
         CAfile = {authority}\nsslVersion = TLSv1.3\n{side}"
    );
    start(program, &["stunnel.conf"]).file("stunnel.conf", config)
}

fn envoy(program: &Path, hop: &Hop<'_>) -> Launch {
    let validation = if hop.near {
        json!({
            "trusted_ca": {"filename": hop.authority},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": spiffe(ZONES[1])}}],
        })
    } else {
        json!({
            "trusted_ca": {"filename": hop.authority},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": spiffe(ZONES[0])}}],
        })
    };
    let common = json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": hop.certificate},
            "private_key": {"filename": hop.key},
        }],
        "validation_context": validation,
    });
    let tls = |context: &str, mut config: Value| {
        let package = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
        config["@type"] = json!(format!("{package}.{context}"));
        config["common_tls_context"] = common.clone();
        json!({"name": "envoy.transport_sockets.tls", "typed_config": config})
    };
    let at = |address: SocketAddrV4| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let mut chain = json!({"filters": [{
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "hop", "cluster": "next",
        },
    }]});
    let mut cluster = json!({
        "name": "next", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": MANY, "max_pending_requests": MANY}]},
        "load_assignment": {
            "cluster_name": "next",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(hop.to)}}]}],
        },
    });
    if hop.near {
        cluster["transport_socket"] = tls("UpstreamTlsContext", json!({}));
    } else {
        chain["transport_socket"] = tls("DownstreamTlsContext", json!({"require_client_certificate": true}));
    }
    let config = json!({"static_resources": {
        "listeners": [{"name": "hop", "address": at(hop.listen), "filter_chains": [chain]}],
        "clusters": [cluster],
    }});
    let workers = hop.workers.to_string();
    let arguments = ["-c", "envoy.json", "--concurrency", &workers, "--disable-hot-restart", "-l", "warning"];
    start(program, &arguments).file("envoy.json", config.to_string())
}
