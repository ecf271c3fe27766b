//! Answers: to other commands on the control socket, to scrapers and probes over HTTP.
//!
//! On a thread and a runtime of its own, reading maps and snapshots: however slow somebody asks, the
//! reconciler does not wait.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bulkhead_abi::names::Loss;
use bulkhead_abi::tables::FailsafeKey;
use bulkhead_abi::{Counter, CounterKey, Identity, Reason};
use tokio::sync::{mpsc, oneshot};

use super::RunError;
use super::snapshot::Shared;
use crate::config::Config;
use crate::control::protocol::{
    Acknowledge, DriftView, Explanation, FindingFilter, FindingView, FlowFilter, InventoryFilter, Question,
    Reply, Request,
};
use crate::control::server::Answers;
use crate::datapath::{Features, MapUsage, ProgramStats, Reader};
use crate::explain::Case;
use crate::findings::{Desk, Wanted};
use crate::guard::{self, Guards};
use crate::instance::Instance;
use crate::inventory::Book;
use crate::metrics::http::Pages;
use crate::metrics::kernel::Rows;
use crate::metrics::{Metrics, Source};
use crate::proxy::parent::Asker;
use crate::proxy::view::View;
use crate::sockets::FlowTable;
use crate::tamper::Record;

/// A loop whose pulse is older than this is taken for dead.
const PULSE: Duration = Duration::from_secs(30);

/// What the reconciler is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Compare the kernel's tables with the policy, and write right what differs.
    Verify(oneshot::Sender<Result<DriftView, String>>),
    /// Stop; answered at once.
    Stop(oneshot::Sender<()>),
}

/// Everything that an answer may need.
#[derive(Debug)]
pub struct Admin {
    pub(super) shared: Arc<Shared>,
    pub(super) reader: Reader,
    pub(super) config: Config,
    pub(super) instance: Instance,
    pub(super) features: Features,
    pub(super) started: SystemTime,
    pub(super) tamper: Arc<Record>,
    pub(super) guards: Guards,
    pub(super) findings: Desk,
    pub(super) book: Book,
    pub(super) proxy: (View, Option<Asker>),
    pub(super) commands: mpsc::Sender<Command>,
}

/// Serves until the process ends.
pub fn start(
    admin: Arc<Admin>,
    metrics: Metrics,
    control: UnixListener,
    http: Option<std::net::TcpListener>,
    uid: u32,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let pages = Arc::new(AgentPages {
                shared: Arc::clone(&admin.shared),
                proxy: admin.proxy.1.as_ref().map(|_| admin.proxy.0.clone()),
                metrics,
            });
            if let Some(listener) = http {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => {
                        tokio::spawn(crate::metrics::http::serve(listener, pages));
                    }
                    Err(error) => tracing::error!(%error, "the metrics are not served"),
                }
            }
            if let Err(error) = crate::control::server::serve(control, uid, admin).await {
                tracing::error!(%error, "the control socket is not served");
            }
            // The metrics go on.
            std::future::pending::<()>().await;
        });
    })
}

/// Binds the metrics' address, so that a taken one is an error at start.
pub fn bind_http(address: SocketAddr) -> Result<std::net::TcpListener, RunError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| RunError::Listen { address, source })
}

impl Answers for Admin {
    fn answer(&self, request: Request) -> Result<Vec<Reply>, String> {
        match request {
            Request::Status => Ok(vec![Reply::Status(Box::new(self.status()))]),
            Request::Zones => Ok(self.zones()?.into_iter().map(Reply::Zone).collect()),
            Request::Flows(filter) => self.filtered_flows(&filter),
            Request::Explain(question) => Ok(vec![Reply::Explanation(Box::new(self.explain(&question)?))]),
            Request::Findings(filter) => Ok(self.wanted_findings(filter)),
            Request::Acknowledge(Acknowledge { id, seconds, note }) => {
                let acknowledged = self.findings.acknowledge(&id, seconds.map(Duration::from_secs), note);
                let finding = acknowledged.map_err(|error| error.to_string())?;
                Ok(vec![Reply::Finding(Box::new(FindingView::from(&finding)))])
            }
            Request::Unacknowledge { id } => {
                let finding = self.findings.unacknowledge(&id).map_err(|error| error.to_string())?;
                Ok(vec![Reply::Finding(Box::new(FindingView::from(&finding)))])
            }
            Request::Inventory(filter) => self.inventory(&filter),
            Request::ProxyConnections => {
                let connections = self.proxy.1.as_ref().and_then(Asker::connections);
                let connections = connections.ok_or_else(|| self.no_proxy())?;
                Ok(connections.into_iter().map(|record| Reply::ProxyConnection(Box::new(record))).collect())
            }
            Request::ProxyTrace { after } => {
                if self.proxy.1.is_none() {
                    return Err(self.no_proxy());
                }
                let traced = self.proxy.0.traced(after).into_iter();
                Ok(traced
                    .map(|(number, record)| Reply::ProxyTraced { number, record: Box::new(record) })
                    .collect())
            }
            Request::ProxyCertificates => {
                if self.proxy.1.is_none() {
                    return Err(self.no_proxy());
                }
                let certificates = self.proxy.0.state().certificates;
                Ok(certificates.into_iter().map(|one| Reply::ProxyCertificate(Box::new(one))).collect())
            }
            Request::Verify => {
                let (answer, answered) = oneshot::channel();
                Ok(vec![Reply::Drift(self.command(Command::Verify(answer), answered)??)])
            }
            Request::Stop => {
                let (answer, answered) = oneshot::channel();
                self.command(Command::Stop(answer), answered)?;
                Ok(vec![])
            }
        }
    }
}

impl Admin {
    fn command<T>(&self, command: Command, answered: oneshot::Receiver<T>) -> Result<T, String> {
        let stopping = |_| "the agent is stopping".to_owned();
        self.commands.blocking_send(command).map_err(|_| "the agent is stopping".to_owned())?;
        answered.blocking_recv().map_err(stopping)
    }

    fn no_proxy(&self) -> String {
        if self.config.proxy.enabled {
            "the proxy is being started, or has just ended: try again, and see `bulkhead status`".to_owned()
        } else {
            "this node has no proxy: say enabled = true under [proxy] in the agent's configuration".to_owned()
        }
    }

    fn explain(&self, question: &Question) -> Result<Explanation, String> {
        let snapshot = self.shared.snapshot();
        let (Some(model), Some(image)) = (&snapshot.model, &snapshot.image) else {
            return Err("the policy folder has not been loaded since the agent started, so only the kernel \
                        knows the policy; see `bulkhead status`"
                .to_owned());
        };
        let case = Case::new(model, &snapshot.facts, question).map_err(|error| error.to_string())?;
        let case = match case.opener().and_then(|addr| self.reader.is_guarded(&addr)) {
            Some(guarded) => case.guarded(guarded),
            None => case,
        };
        let mut explanation = case.explain();
        match case.kernel_query(image) {
            Some((from, to, protocol, port)) => {
                let answer = self
                    .reader
                    .explain(&from, &to, protocol, port)
                    .map_err(|error| format!("the kernel's tables cannot be read: {error}"))?;
                let label = |identity: Identity| snapshot.labels.get(identity).to_string();
                explanation.kernel = Some(case.kernel_view(&answer, image, label, &explanation.policy));
            }
            None => explanation.notes.push(
                "nobody is in these zones alone at the moment, so the kernel's tables cannot be asked; \
                 give an address"
                    .to_owned(),
            ),
        }
        explanation.notes.extend(self.notes(&explanation, snapshot.failure.is_some()));
        Ok(explanation)
    }

    fn notes(&self, explanation: &Explanation, failing: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let denied = explanation.policy.verdict == "deny";
        if self.reader.audit() && denied {
            notes.push("the whole node is in audit mode: the flow passes and is reported".to_owned());
        }
        let failsafe = |zone: &str, side: &str| {
            zone == "node"
                && self.config.failsafe.iter().any(|key| {
                    super::views::side_name(key.side) == side
                        && crate::config::display_failsafe(key) == explanation.port
                })
        };
        if failsafe(&explanation.from.zone, "egress") || failsafe(&explanation.to.zone, "ingress") {
            notes.push("it is a failsafe port of the node, which passes whatever the policy says".to_owned());
        }
        if failing {
            notes.push("the policy folder as it is now has errors and is not what is enforced".to_owned());
        }
        notes
    }

    fn wanted_findings(&self, filter: FindingFilter) -> Vec<Reply> {
        let FindingFilter { acknowledged, resolved, kind, zone } = filter;
        let list = self.findings.list(&Wanted { acknowledged, resolved, kind, zone });
        list.iter().map(|finding| Reply::Finding(Box::new(FindingView::from(finding)))).collect()
    }

    fn inventory(&self, filter: &InventoryFilter) -> Result<Vec<Reply>, String> {
        let labels = Arc::clone(&self.shared.snapshot().labels);
        let lines = self.book.lines(&self.reader, &labels, filter);
        let lines =
            lines.map_err(|error| format!("the kernel's counters of classes cannot be read: {error}"))?;
        Ok(lines.into_iter().map(|line| Reply::Inventory(Box::new(line))).collect())
    }

    fn filtered_flows(&self, filter: &FlowFilter) -> Result<Vec<Reply>, String> {
        let flows = self.flows()?;
        Ok(flows
            .into_iter()
            .filter(|flow| super::views::matches(filter, flow))
            .map(|flow| Reply::Flow(Box::new(flow)))
            .collect())
    }
}

/// The kernel's numbers with the policy's names.
#[derive(Debug)]
pub struct KernelSource {
    /// The maps.
    pub reader: Reader,
    /// The names.
    pub shared: Arc<Shared>,
    /// The guard.
    pub guards: Guards,
}

impl Source for KernelSource {
    fn generation(&self) -> u64 {
        self.reader.generation()
    }
    fn audit(&self) -> bool {
        self.reader.audit()
    }
    fn counters(&self) -> Rows<(CounterKey, Counter)> {
        Ok(self.reader.counters()?)
    }
    fn losses(&self) -> Rows<(Loss, u64)> {
        Ok(self.reader.losses()?)
    }
    fn usage(&self) -> Rows<MapUsage> {
        Ok(self.reader.usage()?)
    }
    fn programs(&self) -> Rows<ProgramStats> {
        Ok(self.reader.programs()?)
    }
    fn failsafe(&self) -> Rows<(FailsafeKey, u64)> {
        Ok(self.reader.failsafe()?)
    }
    fn flows_ended(&self) -> Vec<(Reason, u64)> {
        self.shared.ended()
    }
    fn guard(&self) -> guard::Counts {
        self.guards.counts()
    }
    fn flow_table(&self) -> FlowTable {
        self.shared.flow_table()
    }
    fn label(&self, identity: Identity) -> Arc<str> {
        self.shared.snapshot().labels.get(identity)
    }
}

struct AgentPages {
    shared: Arc<Shared>,
    /// Where one is configured.
    proxy: Option<View>,
    metrics: Metrics,
}

impl Pages for AgentPages {
    fn metrics(&self) -> Result<Vec<u8>, String> {
        self.metrics.text().map_err(|error| error.to_string())
    }

    fn health(&self) -> Result<String, String> {
        for (name, pulse) in [("reconciler", &self.shared.reconciler), ("event loop", &self.shared.events)] {
            if pulse.age() > PULSE {
                return Err(format!("the {name} has not turned for {} s", pulse.age().as_secs()));
            }
        }
        Ok("ok".to_owned())
    }

    fn readiness(&self) -> Result<String, String> {
        let snapshot = self.shared.snapshot();
        if !snapshot.enforcing {
            return Err("no policy is enforced yet".to_owned());
        }
        if self.proxy.as_ref().is_some_and(|proxy| !proxy.is_running()) {
            return Err("the proxy does not answer: connections under tls = \"mutual\" wait or are refused"
                .to_owned());
        }
        let generation = snapshot.generation;
        Ok(match snapshot.failure {
            None => format!("generation {generation}"),
            Some(_) => format!("generation {generation}; the last reload failed"),
        })
    }
}
