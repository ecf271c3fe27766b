//! `cargo xtask corpus`: records again how real programs begin to talk (`tests/corpus`).
//!
//! Only for whoever adds a protocol: the vectors are in the repository. It installs a mail server, a
//! database and other programs, starts each in a network namespace of its own, and ends it again.

use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{build, packages, process, setup};

/// Debian packages, each with a program that it brings; those that tests speak with are there already.
const PROGRAMS: [(&str, &str); 35] = [
    ("tshark", "tshark"),
    ("wireshark-common", "dumpcap"),
    ("stunnel4", "stunnel4"),
    ("mosquitto", "mosquitto"),
    ("mosquitto-clients", "mosquitto_pub"),
    ("memcached", "memcached"),
    ("libmemcached-tools", "memcstat"),
    ("slapd", "slapd"),
    ("ldap-utils", "ldapsearch"),
    ("dovecot-imapd", "dovecot"),
    ("dovecot-pop3d", "dovecot"),
    ("mariadb-server", "mariadbd"),
    ("swaks", "swaks"),
    ("vsftpd", "vsftpd"),
    ("prosody", "prosody"),
    ("lua-sec", "prosody"),
    ("nghttp2-server", "nghttpd"),
    ("rabbitmq-server", "rabbitmq-server"),
    ("amqp-tools", "amqp-publish"),
    ("nats-server", "nats-server"),
    ("netcat-openbsd", "nc"),
    ("inetutils-telnetd", "telnetd"),
    ("sipsak", "sipsak"),
    ("samba", "smbd"),
    ("smbclient", "smbclient"),
    ("snmpd", "snmpd"),
    ("ngircd", "ngircd"),
    ("coturn", "turnserver"),
    ("freeradius", "freeradius"),
    ("rpcbind", "rpcbind"),
    ("rsync", "rsync"),
    ("beanstalkd", "beanstalkd"),
    ("libcoap3-bin", "coap-server"),
    ("tinyproxy-bin", "tinyproxy"),
    ("bird2", "bird"),
];

/// The command; `scenarios` are the beginnings of names, none for all.
pub(crate) fn run(workspace: &Workspace, scenarios: &[String]) -> Result<()> {
    let tools = setup::for_tests(workspace)?;
    let python = setup::for_speakers(workspace)?.python;
    programs()?;
    let object = tools.build(&workspace.kernel_crate())?;
    let mut cargo = build::host_cargo(workspace, &object);
    cargo.args(["build", "--quiet", "--package", "bulkhead-tests", "--bin", "bulkhead-corpus"]);
    process::run(&mut cargo)?;
    let mut record = Command::new(workspace.binary("debug", "bulkhead-corpus"));
    process::run(record.args(scenarios).env("BULKHEAD_PYTHON", python))
}

/// Installs what is missing of [`PROGRAMS`], without letting any of it start by itself.
fn programs() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(_, program)| process::find(program).is_none())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !packages::can_install() {
        bail!("install these first: {}", packages::command_line(&missing));
    }
    packages::install_quietly(&missing)
}
