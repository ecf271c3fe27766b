//! What is asked of an agent: on its control socket, of the kernel's maps, of its metrics and its log.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bulkhead::control::protocol::{FindingFilter, FindingView, FlowFilter, FlowView, Status, ZoneView};
use bulkhead::control::{Client, Reply, Request};
use bulkhead::datapath::Reader;
use serde_json::Value;

use super::{Agent, PATIENCE, inside};
use crate::harness::counters::Counters;
use crate::harness::wait::wait_until;

impl Agent {
    /// `bulkhead status`, from the control socket.
    pub fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status)?.pop() {
            Some(Reply::Status(status)) => Ok(*status),
            other => bail!("no status: {other:?}"),
        }
    }

    /// `bulkhead flows`, from the control socket.
    pub fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowView>> {
        let flow = |reply| if let Reply::Flow(flow) = reply { Some(*flow) } else { None };
        Ok(self.ask(&Request::Flows(filter))?.into_iter().filter_map(flow).collect())
    }

    /// `bulkhead findings`, from the control socket.
    pub fn findings(&self, filter: FindingFilter) -> Result<Vec<FindingView>> {
        let finding = |reply| if let Reply::Finding(finding) = reply { Some(*finding) } else { None };
        Ok(self.ask(&Request::Findings(filter))?.into_iter().filter_map(finding).collect())
    }

    /// `bulkhead zones`, from the control socket.
    pub fn zones(&self) -> Result<Vec<ZoneView>> {
        let zone = |reply| if let Reply::Zone(zone) = reply { Some(zone) } else { None };
        Ok(self.ask(&Request::Zones)?.into_iter().filter_map(zone).collect())
    }

    /// Asks on the control socket.
    pub fn ask(&self, request: &Request) -> Result<Vec<Reply>> {
        Ok(Client::new(&self.run_folder().join("control.sock")).ask(request)?)
    }

    /// The kernel's maps, with or without a running agent.
    pub fn reader(&self) -> Result<Reader> {
        Ok(Reader::open(&self.pins())?)
    }

    /// What the kernel has counted so far, by zone pair, verdict and reason; with or without a running
    /// agent.
    pub fn counters(&self) -> Result<Counters> {
        self.books()?.counters()
    }

    /// What the kernel counts, for whoever looks at it while others have the agent.
    pub fn books(&self) -> Result<Books> {
        Ok(Books { reader: self.reader()?, numbers: self.run_folder().join("numbers.json") })
    }

    /// Where its metrics are served, in the network namespace that it runs in.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// The text of `/metrics`; the agent must have been started [`with_metrics`](Setup::with_metrics).
    pub fn metrics(&self) -> Result<String> {
        let address = self.metrics.context("this agent serves no metrics: start it with_metrics()")?;
        let scrape = || -> Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
            if !head.starts_with("HTTP/1.1 200") {
                bail!("no metrics: {answer}");
            }
            Ok(body.to_owned())
        };
        inside(self.setup.ns.as_deref(), scrape)?
    }

    /// The whole log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The log's lines as JSON objects: `message`, `level`, and the fields of each. A line that is still
    /// being written is left out.
    #[must_use]
    pub fn log_lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line of the log for which `matches` holds, and answers it.
    pub fn wait_log(&self, what: &str, mut matches: impl FnMut(&Value) -> bool) -> Result<Value> {
        let mut found = None;
        let waited = wait_until(PATIENCE, what, || {
            found = self.log_lines().into_iter().find(|line| matches(line));
            found.is_some()
        });
        match (found, waited) {
            (Some(line), _) => Ok(line),
            (None, Err(error)) => bail!("{error}:\n{}", self.log_tail()),
            (None, Ok(())) => bail!("not found: {what}"),
        }
    }
}

/// What the kernel counts, with or without a running agent.
#[derive(Clone, Debug)]
pub struct Books {
    /// The kernel's maps.
    pub reader: Reader,
    numbers: PathBuf,
}

impl Books {
    /// What was counted so far, by zone pair, verdict and reason.
    pub fn counters(&self) -> Result<Counters> {
        let state: Value = serde_json::from_slice(&fs::read(&self.numbers)?)?;
        let label = |identity: bulkhead_abi::Identity| match identity {
            bulkhead_abi::Identity::WORLD => "world".to_owned(),
            bulkhead_abi::Identity::NODE => "node".to_owned(),
            bulkhead_abi::Identity::VIRTUAL => "virtual".to_owned(),
            bulkhead_abi::Identity(number) => state
                .pointer(&format!("/labels/{number}"))
                .and_then(Value::as_str)
                .map_or_else(|| format!("unknown {number}"), str::to_owned),
        };
        Ok(Counters::new(self.reader.counters()?, label))
    }
}
