//! What is kept, what is given up, and what the filter lets through: wrong here is a way in, or an agent
//! that stops working where nobody looks.

#![allow(clippy::unwrap_used)]

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use super::*;

const SIGSYS: i32 = 31;

#[test]
fn what_is_missing_is_named() {
    assert!(capability::check("CapEff:\t000001ffffffffff\n").is_ok());
    let error = capability::check("CapEff:\t0000000000201800\n").unwrap_err().to_string();
    assert!(error.contains("CAP_SYS_PTRACE") && !error.contains("CAP_NET_ADMIN"), "{error}");
    assert!(capability::check("").unwrap_err().to_string().contains("CAP_SYS_ADMIN"));
}

#[test]
fn privileges_are_read_as_the_kernel_tells_them() {
    let status = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000001000\nCapEff:\t0000000000001000\n\
                  CapBnd:\t000003ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
                  Seccomp_filters:\t3\n";
    let told = Privileges::parse(status);
    assert_eq!(told.capabilities, ["CAP_NET_ADMIN"]);
    assert_eq!((told.bounding.len(), told.bounding.last().unwrap().as_str()), (42, "capability 41"));
    assert_eq!((told.no_new_privileges, told.seccomp), (true, "filter"));
    assert_eq!(Privileges::parse("").seccomp, "off");
}

/// What a confined thread does, by the name that [`in_a_confined_process`] is given.
#[test]
fn confined() {
    let Ok(what) = std::env::var("BULKHEAD_TEST_CONFINED") else { return };
    rustix::thread::set_no_new_privs(true).unwrap();
    filter::install(filter::Who::Agent { proxy: false }).unwrap();
    match what.as_str() {
        "exec" => {
            let error = Command::new("/bin/true").exec();
            unreachable!("{error}");
        }
        "ordinary work" => {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("a"), "text").unwrap();
            fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "text");
            assert_eq!(std::thread::spawn(|| vec![1; 1 << 20].len()).join().unwrap(), 1 << 20);
            drop(std::os::unix::net::UnixStream::pair().unwrap());
            assert_eq!(Privileges::read().unwrap().seccomp, "filter");
        }
        "what is not on the list" => {
            let denied = |result: io::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            };
            denied(std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
            denied(Command::new("/bin/true").status().map(drop));
            denied(std::os::unix::fs::symlink("a", "/tmp/never"));
        }
        other => unreachable!("{other}"),
    }
}

fn in_a_confined_process(what: &str) -> std::process::ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "privilege::tests::confined"]).env("BULKHEAD_TEST_CONFINED", what);
    let output = command.output().unwrap();
    if !output.status.success() {
        eprintln!("{what}: {}", String::from_utf8_lossy(&output.stdout));
    }
    output.status
}

#[test]
fn no_program_can_be_started() {
    assert_eq!(in_a_confined_process("exec").signal(), Some(SIGSYS));
}

#[test]
fn what_is_not_on_the_list_fails_and_the_rest_works() {
    assert!(in_a_confined_process("ordinary work").success());
    assert!(in_a_confined_process("what is not on the list").success());
}
