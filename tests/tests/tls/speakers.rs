//! Real programs in pairs: who answers, who asks, and what that is.
//!
//! All answers are checked by content, so a conversation that was cut short, or tampered with, is none.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bulkhead_abi::{App, Class};
use bulkhead_tests::harness::threat::DB;
use bulkhead_tests::harness::{Launch, Said};
use tempfile::TempDir;

/// Limit for a conversation that must come to its end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Two programs that speak to each other, in one of the ways they can.
pub(crate) struct Speaker {
    pub(crate) name: &'static str,
    /// What a flow of theirs is.
    pub(crate) class: Class,
    pub(crate) app: App,
    /// What `require` has to list for it to pass; `None`: it is clear text, which nothing accepts.
    pub(crate) word: Option<&'static str>,
    pub(crate) udp: bool,
    pub(crate) port: u16,
    asks: fn(&Kit, SocketAddr) -> Launch,
    right: Right,
}

/// How an answer is known to be right.
enum Right {
    /// The client says so itself.
    Ended,
    /// It holds all that was asked for, unchanged.
    Blob,
    /// It holds this.
    Holds(&'static str),
}

impl Speaker {
    /// The client, on its way to a server or to somebody who hands everything on to it.
    pub(crate) fn client(&self, kit: &Kit, to: SocketAddr) -> Launch {
        (self.asks)(kit, to)
    }

    /// Whether the client got all of its answer.
    pub(crate) fn is_answered(&self, kit: &Kit, said: &Said) -> bool {
        match self.right {
            Right::Ended => said.succeeded(),
            Right::Blob => holds(said, &String::from_utf8_lossy(kit.blob.trim_ascii_end())),
            Right::Holds(text) => holds(said, text),
        }
    }

    /// Whether plain `require` accepts it.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.word.is_some_and(|word| word != "starttls/smtp")
    }

    const fn clear(name: &'static str, app: App, port: u16, asks: fn(&Kit, SocketAddr) -> Launch) -> Speaker {
        Speaker { name, class: Class::Clear, app, word: None, udp: false, port, asks, right: Right::Blob }
    }

    const fn tls(name: &'static str, port: u16, asks: fn(&Kit, SocketAddr) -> Launch) -> Speaker {
        Speaker { class: Class::Tls, word: Some("tls"), ..Speaker::clear(name, App::Unknown, port, asks) }
    }
}

const HTTP: u16 = 8080;
const H2C: u16 = 8081;
const HTTPS: u16 = 8443;
const POSTGRESQL: u16 = 5432;
const REDIS: u16 = 6379;
const REDIS_TLS: u16 = 6380;
const SMTP: u16 = 2525;
const SSH: u16 = 2222;
const DNS: u16 = 53;
const OPENSSL: u16 = 9001;
const GNUTLS: u16 = 9002;
const POSTQUANTUM: u16 = 9003;
const QUIC: u16 = 9004;
const DTLS: u16 = 9005;

/// Every conversation.
pub(crate) const SPEAKERS: &[Speaker] = &[
    Speaker::clear("curl by HTTP/1.1 to nginx", App::Http1, HTTP, |_, to| {
        curl(&["--http1.1"], &format!("http://{to}/blob"))
    }),
    Speaker::clear("curl by HTTP/2 in clear to nginx", App::Http2, H2C, |_, to| {
        curl(&["--http2-prior-knowledge"], &format!("http://{to}/blob"))
    }),
    Speaker::tls("curl by HTTP/1.1 and TLS to nginx", HTTPS, |_, to| {
        curl(&["--http1.1"], &format!("https://{to}/blob"))
    }),
    Speaker::tls("curl by HTTP/2 and TLS to nginx", HTTPS, |_, to| {
        curl(&["--http2"], &format!("https://{to}/blob"))
    }),
    Speaker {
        class: Class::Clear,
        word: None,
        ..psql("psql with sslmode=disable", |kit, to| query(kit, to, "disable"))
    },
    psql("psql with sslmode=require", |kit, to| query(kit, to, "require")),
    Speaker::clear("redis-cli", App::Redis, REDIS, |kit, to| redis(kit, to, &[])),
    Speaker::tls("redis-cli with TLS", REDIS_TLS, |kit, to| redis(kit, to, &["--tls", "--insecure"])),
    Speaker {
        right: Right::Ended,
        ..Speaker::clear("SMTP without STARTTLS", App::Smtp, SMTP, |kit, to| mail(kit, to, "clear"))
    },
    Speaker {
        app: App::Smtp,
        word: Some("starttls/smtp"),
        right: Right::Ended,
        ..Speaker::tls("SMTP with STARTTLS", SMTP, |kit, to| mail(kit, to, "starttls"))
    },
    Speaker { class: Class::Ssh, word: Some("ssh"), ..Speaker::tls("ssh", SSH, ssh) },
    Speaker {
        right: Right::Holds(DNS_ANSWER),
        ..Speaker::clear("dig over TCP", App::Dns, DNS, |_, to| dig(to, "+tcp"))
    },
    Speaker {
        udp: true,
        right: Right::Holds(DNS_ANSWER),
        ..Speaker::clear("dig over UDP", App::Dns, DNS, |_, to| dig(to, "+notcp"))
    },
    Speaker::tls("openssl by TLS 1.0", OPENSSL, |_, to| openssl(to, "-tls1")),
    Speaker::tls("openssl by TLS 1.1", OPENSSL, |_, to| openssl(to, "-tls1_1")),
    Speaker::tls("openssl by TLS 1.2", OPENSSL, |_, to| openssl(to, "-tls1_2")),
    Speaker::tls("openssl by TLS 1.3", OPENSSL, |_, to| openssl(to, "-tls1_3")),
    Speaker::tls("gnutls-cli to openssl", OPENSSL, |_, to| gnutls(to)),
    Speaker {
        right: Right::Holds("GnuTLS"),
        ..Speaker::tls("openssl to gnutls-serv", GNUTLS, |_, to| openssl(to, "-tls1_3"))
    },
    Speaker::tls("X25519MLKEM768", POSTQUANTUM, |kit, to| kit.python("postquantum.py", to, &[])),
    Speaker {
        class: Class::Quic,
        word: Some("quic"),
        udp: true,
        ..Speaker::tls("QUIC", QUIC, |kit, to| kit.python("quic.py", to, &[]))
    },
    Speaker {
        class: Class::Dtls,
        word: Some("dtls"),
        udp: true,
        right: Right::Holds(DTLS_MESSAGE),
        ..Speaker::tls("openssl to gnutls-serv by DTLS 1.2", DTLS, |_, to| dtls(to))
    },
];

fn holds(said: &Said, text: &str) -> bool {
    String::from_utf8_lossy(&said.output).contains(text)
}

const fn psql(name: &'static str, asks: fn(&Kit, SocketAddr) -> Launch) -> Speaker {
    Speaker {
        app: App::Postgresql,
        word: Some("starttls/postgresql"),
        ..Speaker::tls(name, POSTGRESQL, asks)
    }
}

/// A list for `require` that accepts every one that is encrypted somehow.
pub(crate) fn every_word(udp: bool) -> String {
    let of = SPEAKERS.iter().filter(|speaker| udp || !speaker.udp);
    let words: BTreeSet<&str> = of.filter_map(|speaker| speaker.word).collect();
    format!("{:?}", words.into_iter().collect::<Vec<_>>())
}

/// What is sent over DTLS, and comes back.
const DTLS_MESSAGE: &str = "hello over DTLS";

const DNS_ANSWER: &str = "192.0.2.77";

/// A certificate, something to be asked for, and where the programs are.
pub(crate) struct Kit {
    folder: TempDir,
    python: PathBuf,
    pub(crate) blob: Vec<u8>,
}

/// A server, and the ports that it answers at once it is ready.
pub(crate) struct Server {
    pub(crate) launch: Launch,
    pub(crate) ports: &'static [u16],
}

impl Kit {
    /// Makes what all programs need. `None`: a program is missing.
    pub(crate) fn new() -> Result<Option<Kit>> {
        let Some(python) = std::env::var_os("BULKHEAD_PYTHON").map(PathBuf::from) else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("bh-kit-").tempdir()?;
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        // Text, in lines, without an end of its own that a program might add or take away.
        let blob: String = (10_000..20_000).map(|n| format!("{n}\n")).collect();
        let kit = Kit { folder, python, blob: blob.into_bytes() };
        std::fs::write(kit.path("blob"), &kit.blob)?;
        std::fs::write(kit.path("request"), "GET /blob HTTP/1.0\r\n\r\n")?;
        let make =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bulkhead.test";
        kit.make(Command::new("openssl").args(make.split(' ')).args(["-keyout", "key", "-out", "cert"]))?;
        let keygen = ["-q", "-t", "ed25519", "-N", "", "-f", "ssh"];
        kit.make(Command::new("ssh-keygen").args(keygen))?;
        Ok(Some(kit))
    }

    /// The same with something shorter to be asked for.
    pub(crate) fn with_lines(self, lines: usize) -> Result<Kit> {
        let blob = self.blob.split_inclusive(|byte| *byte == b'\n').take(lines).flatten().copied().collect();
        std::fs::write(self.path("blob"), &blob)?;
        Ok(Kit { blob, ..self })
    }

    /// A file of the kit.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// Every server.
    pub(crate) fn servers(&self) -> Vec<Server> {
        let server = |launch, ports| Server { launch, ports };
        let (cert, key) = (self.path("cert"), self.path("key"));
        let python = |script: &str, port: u16| {
            Launch::new([self.program(), self.script(script), "serve".into(), port.to_string()])
                .and([cert.clone(), key.clone()])
        };
        vec![
            server(nginx(self), &[HTTP, H2C, HTTPS]),
            server(postgresql(self), &[POSTGRESQL]),
            server(redis_server(self), &[REDIS, REDIS_TLS]),
            server(python("smtp.py", SMTP), &[SMTP]),
            server(sshd(self), &[SSH]),
            server(dnsmasq(), &[DNS]),
            server(openssl_server(self), &[OPENSSL]),
            server(gnutls_server(self), &[GNUTLS]),
            server(python("postquantum.py", POSTQUANTUM), &[POSTQUANTUM]),
            server(python("quic.py", QUIC), &[]),
            server(dtls_server(self), &[]),
        ]
    }

    fn make(&self, command: &mut Command) -> Result<()> {
        let output = command.current_dir(self.folder.path()).output().context("cannot make keys")?;
        if !output.status.success() {
            bail!("cannot make keys: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn program(&self) -> String {
        self.python.to_string_lossy().into_owned()
    }

    fn script(&self, name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/python");
        folder.join(name).to_string_lossy().into_owned()
    }

    fn python(&self, script: &str, to: SocketAddr, more: &[&str]) -> Launch {
        let command = [self.program(), self.script(script), "ask".into(), to.ip().to_string()];
        Launch::new(command).and([to.port().to_string()]).and(more).input(&self.blob)
    }
}

fn curl(way: &[&str], url: &str) -> Launch {
    Launch::new(["curl", "--silent", "--show-error", "--insecure", "--noproxy", "*"]).and(way).and([url])
}

fn query(kit: &Kit, to: SocketAddr, mode: &str) -> Launch {
    let place = format!("host={} port={} user=postgres dbname=postgres", to.ip(), to.port());
    let blob = String::from_utf8_lossy(&kit.blob).trim_end().to_owned();
    Launch::new(["psql", "--no-psqlrc", "--no-align", "--tuples-only", "--file=-"])
        .and([format!("{place} sslmode={mode} gssencmode=disable connect_timeout=20")])
        .input(format!("SELECT '{blob}';\n").as_bytes())
}

fn redis(kit: &Kit, to: SocketAddr, way: &[&str]) -> Launch {
    Launch::new(["redis-cli", "-h", &to.ip().to_string(), "-p", &to.port().to_string()])
        .and(way)
        .and(["-x", "ECHO"])
        .input(&kit.blob)
}

fn mail(kit: &Kit, to: SocketAddr, way: &str) -> Launch {
    kit.python("smtp.py", to, &[way])
}

fn ssh(kit: &Kit, to: SocketAddr) -> Launch {
    let options = "BatchMode=yes StrictHostKeyChecking=no UserKnownHostsFile=/dev/null IdentitiesOnly=yes";
    let options = options.split(' ').map(|option| format!("-o{option}"));
    Launch::new(["ssh", "-F", "none", "-i", &kit.path("ssh"), "-p", &to.port().to_string()])
        .and(options)
        .and([format!("root@{}", to.ip()), format!("cat {}", kit.path("blob"))])
}

fn dig(to: SocketAddr, way: &str) -> Launch {
    Launch::new(["dig", &format!("@{}", to.ip()), "-p", &to.port().to_string()]).and([
        "+tries=1",
        "+time=2",
        "+short",
        way,
        "bulkhead.test",
    ])
}

fn openssl(to: SocketAddr, version: &str) -> Launch {
    Launch::new(["openssl", "s_client", "-quiet", "-connect", &to.to_string(), version])
        .and(["-cipher", "DEFAULT:@SECLEVEL=0"])
        .input(b"GET /blob HTTP/1.0\r\n\r\n")
}

fn gnutls(to: SocketAddr) -> Launch {
    // It ends with its input, before the answer has come: so its input stays open until it ends itself.
    let script = "mkfifo input && { gnutls-cli --insecure --port \"$1\" \"$0\" <input & } && exec 3>input && \
                  cat .input >&3 && wait $!";
    Launch::new(["sh", "-c", script, &to.ip().to_string(), &to.port().to_string()])
        .input(b"GET /blob HTTP/1.0\r\n\r\n")
}

fn dtls(to: SocketAddr) -> Launch {
    // It ends with its input, which ends when the answer has come.
    let script = "mkfifo input && { openssl s_client -dtls1_2 -connect \"$0\" <input & } && client=$! && \
                  exec 3>input && cat .input >&3; \
                  while kill -0 $client 2>/dev/null && ! grep -q \"$1\" .output; do sleep 0.05; done; \
                  exec 3>&-; wait $client";
    let message = format!("{DTLS_MESSAGE}\n");
    Launch::new(["sh", "-c", script, &to.to_string(), DTLS_MESSAGE]).input(message.as_bytes())
}

fn nginx(kit: &Kit) -> Launch {
    let (cert, key, root) = (kit.path("cert"), kit.path("key"), kit.path(""));
    let config = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;\n\
         uwsgi_temp_path t4; scgi_temp_path t5;\n\
         server {{ listen {HTTP}; listen {H2C} http2; listen {HTTPS} ssl http2; root {root};\n\
         ssl_certificate {cert}; ssl_certificate_key {key}; }} }}\n"
    );
    Launch::new(["nginx", "-p", "./", "-e", "stderr", "-c", "nginx.conf"]).file("nginx.conf", config)
}

fn postgresql(kit: &Kit) -> Launch {
    let script = format!(
        "set -- /usr/lib/postgresql/*/bin && bin=$1 && mkdir data && cp {cert} cert && cp {key} key && \
         chmod 600 key && chown postgres data cert key && as='setpriv --reuid=postgres --regid=postgres --clear-groups' && \
         $as $bin/initdb --pgdata=data --auth=trust --no-sync --no-instructions --locale=C >&2 && \
         echo 'host all all all trust' >>data/pg_hba.conf && \
         exec $as $bin/postgres -D data -p {POSTGRESQL} -h 0.0.0.0 -k '' -c fsync=off -c ssl=on \
         -c ssl_cert_file=$PWD/cert -c ssl_key_file=$PWD/key",
        cert = kit.path("cert"),
        key = kit.path("key"),
    );
    Launch::new(["sh", "-c", &script])
}

fn redis_server(kit: &Kit) -> Launch {
    let (port, tls) = (REDIS.to_string(), REDIS_TLS.to_string());
    Launch::new(["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""])
        .and(["--port", &port, "--tls-port", &tls, "--tls-auth-clients", "no"])
        .and(["--tls-cert-file", &kit.path("cert"), "--tls-key-file", &kit.path("key")])
}

fn sshd(kit: &Kit) -> Launch {
    let key = kit.path("ssh");
    let config = format!(
        "Port {SSH}\nListenAddress 0.0.0.0\nHostKey {key}\nAuthorizedKeysFile {key}.pub\nStrictModes no\n\
         UsePAM no\nPermitRootLogin yes\nPidFile none\n"
    );
    Launch::new(["sh", "-c", "mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e -f \"$PWD/config\""])
        .file("config", config)
}

fn dnsmasq() -> Launch {
    Launch::new(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"])
        .and([
            "--no-hosts",
            "--no-resolv",
            "--log-facility=-",
            &format!("--address=/bulkhead.test/{DNS_ANSWER}"),
        ])
        .and([format!("--port={DNS}"), format!("--listen-address={DB}"), "--bind-interfaces".to_owned()])
}

fn openssl_server(kit: &Kit) -> Launch {
    let script = format!(
        "cd {} && exec openssl s_server -quiet -WWW -accept {OPENSSL} -cert cert -key key -min_protocol TLSv1 \
         -cipher DEFAULT:@SECLEVEL=0",
        kit.path("")
    );
    Launch::new(["sh", "-c", &script])
}

fn gnutls_server(kit: &Kit) -> Launch {
    Launch::new(["gnutls-serv", "--http", "--quiet", "--port", &GNUTLS.to_string()]).and([
        "--x509certfile",
        &kit.path("cert"),
        "--x509keyfile",
        &kit.path("key"),
    ])
}

fn dtls_server(kit: &Kit) -> Launch {
    Launch::new(["gnutls-serv", "--udp", "--echo", "--quiet", "--port", &DTLS.to_string()]).and([
        "--x509certfile",
        &kit.path("cert"),
        "--x509keyfile",
        &kit.path("key"),
    ])
}
