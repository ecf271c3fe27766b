//! The last hop: a program answers a proxy in its own network namespace as if that were the client.
//!
//! The proxy's socket comes from the client's address (`IP_TRANSPARENT`) and is marked. What the program
//! answers must find back to it instead of leaving for the client: the accepted socket takes the mark over
//! (`net.ipv4.tcp_fwmark_accept`, also for IPv6), and a rule sends what bears the mark to a table in which
//! every address is local. Where nobody listens the kernel answers itself, and must do it marked as well
//! (`fwmark_reflect`): the reset would leave for the client, and the proxy wait in vain. That is all that is
//! needed: reverse path filters and the like make no difference.
//!
//! The settings are the whole namespace's: what comes in marked is answered marked while they are set. Where
//! other rules go by marks, that may lead answers elsewhere.

use std::fs;
use std::path::Path;

use zerocopy::IntoBytes;

use super::NetNs;
use super::rtmsg::Header;
use crate::netlink::{self, Socket};
use crate::{Error, Result};

/// What tells the last hop's packets, and where they are routed. The same numbers in every namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marking {
    /// The packet mark, whole: no other may use it.
    pub mark: u32,
    /// The routing table, which nobody else may use.
    pub table: u32,
    /// The rule's priority: ahead of the main table's (32766), behind the local one's (0).
    pub priority: u32,
}

/// A namespace that is ready for last hops, and what it was before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastHop {
    marking: Marking,
    /// Settings that were others, as they were.
    settings: Vec<(&'static str, String)>,
    /// Families that were made ready.
    families: Vec<u8>,
}

/// What must be 1.
const SETTINGS: [&str; 3] = [
    "/proc/sys/net/ipv4/tcp_fwmark_accept",
    "/proc/sys/net/ipv4/fwmark_reflect",
    "/proc/sys/net/ipv6/fwmark_reflect",
];

impl NetNs {
    /// Makes the namespace ready for last hops. What is there already is taken for the rest of an earlier
    /// life, so this can be said again, and [`LastHop::close`] then takes that away, too. IPv6 is left alone
    /// where it is switched off.
    ///
    /// Errors: those of netlink and of writing to /proc/sys, which some containers mount read-only.
    pub fn open_last_hop(&self, marking: Marking) -> Result<LastHop> {
        let interface = self.way_out()?;
        let mut socket = self.netlink()?;
        let mut last_hop = LastHop { marking, settings: Vec::new(), families: Vec::new() };
        let mut old = false;
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            match last_hop.add(&mut socket, family, interface) {
                Ok(was_there) => {
                    old |= was_there;
                    last_hop.families.push(family);
                }
                Err(error) if family == libc::AF_INET6 as u8 && is_off(&error) => {
                    let _gone = last_hop.remove(&mut socket, family);
                }
                Err(error) => {
                    last_hop.close(self)?;
                    return Err(error);
                }
            }
        }
        for setting in SETTINGS {
            match self.set(setting, "1") {
                // An earlier life set it, and found what is usual.
                Ok(Some(_)) if old => last_hop.settings.push((setting, "0".to_owned())),
                Ok(Some(before)) if before != "1" => last_hop.settings.push((setting, before)),
                Ok(_) => {}
                Err(error) => {
                    last_hop.close(self)?;
                    return Err(error);
                }
            }
        }
        Ok(last_hop)
    }

    /// Takes away what an earlier life left there, and sets the settings to what is usual; whether there was
    /// anything. A namespace that was never opened is left as it is.
    pub fn close_last_hop(&self, marking: Marking) -> Result<bool> {
        let settings = SETTINGS.map(|setting| (setting, "0".to_owned())).to_vec();
        let left = LastHop { marking, settings, families: Vec::new() };
        let mut socket = self.netlink()?;
        let mut found = false;
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            match left.remove(&mut socket, family) {
                Ok(there) => found |= there,
                Err(error) if is_off(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if found {
            left.close(self)?;
        }
        Ok(found)
    }

    /// The interface that programs are reached by: the one of the default route's address, else the first
    /// that is up, else loopback.
    fn way_out(&self) -> Result<u32> {
        const LOOPBACK: u32 = 1;
        let survey = self.survey()?;
        let likely = survey.addresses.iter().find(|address| survey.sources.contains(&address.addr));
        let first = survey.interfaces.iter().filter(|interface| interface.up && !interface.loopback);
        let first = first.map(|interface| interface.index).min();
        Ok(likely.map(|address| address.interface).or(first).unwrap_or(LOOPBACK))
    }

    /// Sets a setting; what it was. One that is not there, as those of IPv6 where it is switched off, is let be.
    fn set(&self, setting: &str, value: &str) -> Result<Option<String>> {
        let path = Path::new(setting);
        self.run(|| match fs::read_to_string(path) {
            Ok(before) => {
                fs::write(path, value).map_err(Error::path("write", path))?;
                Ok(Some(before.trim().to_owned()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::path("read", path)(error)),
        })?
    }
}

impl LastHop {
    /// What it was opened with.
    pub fn marking(&self) -> Marking {
        self.marking
    }

    /// Takes away what was made, and sets back what was set. What is gone already is passed over.
    pub fn close(&self, ns: &NetNs) -> Result<()> {
        let mut socket = ns.netlink()?;
        for family in &self.families {
            self.remove(&mut socket, *family)?;
        }
        self.settings.iter().try_for_each(|(setting, before)| ns.set(setting, before).map(|_| ()))
    }

    /// Whether the rule was there already.
    fn add(&self, socket: &mut Socket, family: u8, interface: u32) -> Result<bool> {
        let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let there = |result| match result {
            Ok(()) => Ok(false),
            Err(error) => match Error::errno(&error) {
                Some(libc::EEXIST) => Ok(true),
                _ => Err(error),
            },
        };
        let route = self.route(family, Some(interface));
        there(socket.request_with("netlink(RTM_NEWROUTE)", libc::RTM_NEWROUTE, create, &route))?;
        there(socket.request_with("netlink(RTM_NEWRULE)", libc::RTM_NEWRULE, create, &self.rule(family)))
    }

    /// Whether the rule was there.
    fn remove(&self, socket: &mut Socket, family: u8) -> Result<bool> {
        let there = |result| match result {
            Ok(()) => Ok(true),
            Err(error) => match Error::errno(&error) {
                Some(libc::ENOENT | libc::ESRCH) => Ok(false),
                _ => Err(error),
            },
        };
        let rule = there(socket.request("netlink(RTM_DELRULE)", libc::RTM_DELRULE, &self.rule(family)))?;
        there(socket.request("netlink(RTM_DELROUTE)", libc::RTM_DELROUTE, &self.route(family, None)))?;
        Ok(rule)
    }

    /// `fwmark MARK lookup TABLE`.
    fn rule(&self, family: u8) -> Vec<u8> {
        // <linux/fib_rules.h>
        const FR_ACT_TO_TBL: u8 = 1;
        const FRA_PRIORITY: u16 = 6;
        const FRA_FWMARK: u16 = 10;
        const FRA_TABLE: u16 = 15;
        const FRA_FWMASK: u16 = 16;
        let header = Header { family, kind: FR_ACT_TO_TBL, ..Header::default() };
        let mut rule = header.as_bytes().to_vec();
        for (attribute, value) in [
            (FRA_PRIORITY, self.marking.priority),
            (FRA_FWMARK, self.marking.mark),
            (FRA_FWMASK, u32::MAX),
            (FRA_TABLE, self.marking.table),
        ] {
            netlink::push_attribute(&mut rule, attribute, &value.to_ne_bytes());
        }
        rule
    }

    /// `local default dev INTERFACE table TABLE`.
    fn route(&self, family: u8, interface: Option<u32>) -> Vec<u8> {
        let header = Header {
            family,
            protocol: libc::RTPROT_STATIC,
            scope: libc::RT_SCOPE_HOST,
            kind: libc::RTN_LOCAL,
            ..Header::default()
        };
        let mut route = header.as_bytes().to_vec();
        netlink::push_attribute(&mut route, libc::RTA_TABLE, &self.marking.table.to_ne_bytes());
        if let Some(interface) = interface {
            netlink::push_attribute(&mut route, libc::RTA_OIF, &interface.to_ne_bytes());
        }
        route
    }
}

/// Whether IPv6 is switched off, for the namespace or the kernel.
fn is_off(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;
    use crate::testing;

    const MARKING: Marking = Marking { mark: 0x0bad_cafe, table: 15_008, priority: 9 };

    fn state(ns: &NetNs) -> (String, String, String) {
        ns.run(|| {
            let ip = |arguments: &[&str]| {
                let output = Command::new("ip").args(arguments).output().unwrap();
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            let rules = ip(&["rule"]) + &ip(&["-6", "rule"]);
            let routes =
                ip(&["route", "show", "table", "15008"]) + &ip(&["-6", "route", "show", "table", "15008"]);
            let settings = SETTINGS.map(|setting| fs::read_to_string(setting).unwrap());
            (rules, routes, settings.concat().replace('\n', ""))
        })
        .unwrap()
    }

    #[test]
    fn what_is_opened_is_closed_and_nothing_else() {
        if !testing::root("last hops") {
            return;
        }
        let ns = testing::netns();
        testing::ip(&ns, "link add name eth0 type veth peer name far");
        testing::ip(&ns, "link set far up");
        testing::ip(&ns, "link set eth0 up");
        testing::ip(&ns, "addr add 10.0.0.1/24 dev eth0");
        testing::ip(&ns, "addr add fd00::1/64 dev eth0 nodad");
        testing::ip(&ns, "route add default via 10.0.0.2");
        let before = state(&ns);
        let open = ns.open_last_hop(MARKING).unwrap();
        let (rules, routes, setting) = state(&ns);
        assert_eq!(rules.matches("fwmark 0xbadcafe lookup 15008").count(), 2, "{rules}");
        assert_eq!(routes.matches("local default dev eth0").count(), 2, "{routes}");
        assert_eq!(setting, "111");
        // Another life of the same agent.
        let again = ns.open_last_hop(MARKING).unwrap();
        assert_eq!(state(&ns), (rules, routes, setting));
        again.close(&ns).unwrap();
        assert_eq!(state(&ns), before);
        open.close(&ns).unwrap();
        assert_eq!(state(&ns), before, "twice is no harm");
        // What a life that ended without a word left is taken away by whoever cleans up.
        assert!(!ns.close_last_hop(MARKING).unwrap(), "nothing is there");
        let _forgotten = ns.open_last_hop(MARKING).unwrap();
        assert!(ns.close_last_hop(MARKING).unwrap());
        assert_eq!(state(&ns), before);
    }

    #[test]
    fn without_interfaces_or_ipv6_there_is_still_a_way() {
        if !testing::root("last hops without IPv6") {
            return;
        }
        let ns = testing::netns();
        ns.run(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap()).unwrap();
        ns.run(|| fs::write(SETTINGS[0], "1").unwrap()).unwrap();
        let before = state(&ns);
        let open = ns.open_last_hop(MARKING).unwrap();
        let (_, routes, _) = state(&ns);
        assert!(routes.contains("local default dev lo"), "{routes}");
        open.close(&ns).unwrap();
        assert_eq!(state(&ns), before, "also the setting, which was somebody else's");
    }
}
