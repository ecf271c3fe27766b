//! Bringing everything up, in the order in which nothing is ever enforced half: the policy is read
//! before the kernel is touched, the tables are filled before programs run over them, live connections
//! are adopted before enforcement begins, and only then is anybody told that it has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bulkhead_abi::Addr;
use bulkhead_policy::{Compiler, Facts};
use bulkhead_sys::netns::NetNs;
use tokio::sync::mpsc;

use super::RunError;
use super::admin::{self, Admin, KernelSource};
use super::folder::PolicyFolder;
use super::life::Daemon;
use super::reconcile::{Loaded, Outcome, Policies, Reconciler};
use super::snapshot::Shared;
use super::state::StateFile;
use super::sweep;
use super::watch_events::EventLoop;
use crate::cgroups::CgroupFollower;
use crate::config::guard::Attach;
use crate::config::{Config, GuardConfig, Mode};
use crate::datapath::guard::Attachment;
use crate::datapath::{self, Datapath, DatapathError, Options, Reader};
use crate::findings::{self, Desk, FindingsCollector, Journal};
use crate::guard::Guards;
use crate::instance::Instance;
use crate::inventory::{self, Book, InventoryCollector};
use crate::metrics::Metrics;
use crate::proxy::keeper::Log;
use crate::proxy::metrics::ProxyCollector;
use crate::proxy::parent::{self, Supervisor};
use crate::proxy::places::Places;
use crate::proxy::start;
use crate::proxy::view::View;
use crate::store::Store;
use crate::systemd::Notifier;
use crate::tamper::{Record, Watch};
use crate::watch::FolderWatch;

/// Brings everything up. On error, what was not there before is taken away again.
pub(super) fn start(config: Config) -> Result<Daemon, RunError> {
    let io = |what| move |source| RunError::Io { what, source };
    let mount = bulkhead_sys::cgroup::mount_point()?;
    let instance = Instance::new(&config, &mount)?;
    let lock = instance.acquire()?;
    announce(&config, &instance);
    // Everything that may fail for a reason outside the kernel comes before the kernel is touched.
    let control = crate::control::server::listen(&instance.control_path())?;
    let uid = crate::privilege::user().map_err(io("learn the own user"))?;
    let http = config.metrics.map(admin::bind_http).transpose()?;

    // Watched before it is read: a change in between is seen twice rather than never.
    let watch = FolderWatch::new(&config.policies).map_err(io("watch the policy folder"))?;
    let cgroups = CgroupFollower::new(&instance.cgroup_root).map_err(io("follow the cgroup tree"))?;
    let loading = Instant::now();
    let mut folder = PolicyFolder::new(&config.policies);
    let policy = folder.load();
    if let Err(refusal) = &policy
        && !datapath::is_attached(&instance.pins)
    {
        return Err(RunError::Policy(refusal.text.trim_end().to_owned()));
    }

    bulkhead_sys::mount::ensure_bpffs()?;
    let fresh = FreshPins::watch(&instance);
    let (kernel, started) = Datapath::open(&Options {
        pins: &instance.pins,
        cgroup_root: &instance.cgroup_root,
        audit: config.mode == Mode::Audit,
        failsafe: &config.failsafe,
        flow_capacity: config.flow_capacity,
        guard_mark: config.guard.mark,
        object: config.object.as_deref(),
    })?;
    let (state, numbers, labels) = StateFile::open(&instance.state_path(), started.generation > 0)?;
    let reader = kernel.reader();
    let guards = Guards::new(&config.guard);
    let places = Places::default();
    let mut sweeper = sweep::sweeper(&reader, &instance, &guards, &places);
    let locals = sweeper.locals();

    let shared = Arc::new(Shared::default());
    shared.update(|snapshot| {
        snapshot.mode = config.mode;
        snapshot.generation = started.generation;
        snapshot.labels = Arc::new(labels.clone());
    });
    let source = KernelSource { reader: reader.clone(), shared: Arc::clone(&shared), guards: guards.clone() };
    let metrics = Metrics::new(Arc::new(source))?;
    let (store, memory) = Store::open(&config.state_dir.join(&instance.name), "findings.json", "findings");
    let desk = Desk::new(&config.findings.settings, memory);
    metrics.register(FindingsCollector::new(desk.clone())?)?;
    let (book_store, inventory) =
        Store::open(&config.state_dir.join(&instance.name), "inventory.json", "inventory");
    let book = Book::new(inventory);
    metrics.register(InventoryCollector::new(book.clone(), reader.clone(), Arc::clone(&shared))?)?;
    let facts = facts(&cgroups);
    let mut compiler = Compiler::new(numbers);
    compiler.set_local_addresses(locals.map(|locals| locals.into_keys().collect()));
    let mut reconciler = Reconciler::new(
        kernel,
        folder,
        (state, compiler, labels),
        facts,
        Arc::clone(&shared),
        metrics.agent.clone(),
    );
    let outcome = match policy {
        Ok(Loaded::New(model)) => reconciler.adopt(model, loading),
        Ok(Loaded::Same) => Outcome::Unchanged,
        Err(refusal) => reconciler.refuse(&refusal),
    };
    if outcome == Outcome::Failed && !started.running {
        let failure = shared.snapshot().failure.clone();
        return Err(RunError::Policy(failure.map(|failure| failure.text).unwrap_or_default()));
    }
    if started.running
        && started.fresh
        && let Some(image) = reconciler.image()
    {
        // A version with other tables takes over: they must know the live flows before it does, since
        // enforcement goes on without a gap.
        sweeper.adopt(image);
    }
    let guard = guard_kernel(reconciler.kernel(), &config.guard)?;
    let attached = reconciler.kernel().attach()?;
    let proxy = find_proxy(&config, &instance, &reader)?;
    // Programs are in the kernel, and no other thread runs yet.
    crate::privilege::confine(config.sandbox, proxy.is_some())?;
    // Behind the programs at the cgroup: what they have judged is not judged again.
    let tamper = Arc::new(Record::new(metrics.agent.tamper.clone()));
    let guard =
        guard.and_then(|guard| guards.start(guard, &tamper).map_err(|error| guards.fail(&error)).ok());
    // What is behind the guarded interfaces is known before anybody is told that they are guarded.
    sweeper.tick();
    if reader.adopting() {
        if let Some(image) = reconciler.image() {
            sweeper.adopt(image);
        }
        reconciler.kernel().begin_enforcement()?;
    }
    shared.update(|snapshot| {
        snapshot.enforcing = true;
        snapshot.generation = reader.generation();
    });
    fresh.keep();
    tracing::info!(?attached, generation = reader.generation(), mode = config.mode.as_str(), "enforcing");

    let events = reconciler.kernel().events()?;
    let (locals, learned) = mpsc::unbounded_channel();
    let event_loop =
        EventLoop::start(events, sweeper, Arc::clone(&shared), (desk.clone(), book.clone()), locals)
            .map_err(io("start the event loop"))?;
    if let Some(image) = reconciler.image() {
        event_loop.committed(image);
    }
    let watched = reconciler.kernel().watched()?;
    let (relink, relinked) = mpsc::unbounded_channel();
    let judge_again = move || {
        // Nobody hears of it while the daemon stops.
        let _ = relink.send(());
    };
    let watch_kernel =
        Watch::start(watched, Arc::clone(&tamper), judge_again).map_err(io("start the tamper watch"))?;
    let sources = findings::Sources {
        reader: reader.clone(),
        shared: Arc::clone(&shared),
        tamper: Arc::clone(&tamper),
        places: places.clone(),
    };
    let journal = Journal::new(config.findings.log.clone());
    let watch_findings = findings::Watch::start(desk.clone(), sources, journal, store)
        .map_err(io("start the findings' watch"))?;
    let sources = inventory::Sources {
        reader: reader.clone(),
        shared: Arc::clone(&shared),
        findings: desk.clone(),
        ends: event_loop.ends(),
    };
    let openings = reconciler.kernel().pieces()?;
    let watch_openings = inventory::Watch::start(openings, book.clone(), sources, book_store)
        .map_err(io("start to read handshakes"))?;
    let view = View::default();
    metrics.register(ProxyCollector::new(view.clone())?)?;
    let supervisor = match proxy {
        None => None,
        Some(found) => {
            let sources = parent::Sources {
                reader: reader.clone(),
                shared: Arc::clone(&shared),
                places,
                config: config.proxy.clone(),
                view: view.clone(),
                findings: desk.clone(),
            };
            Some(Supervisor::start(found, sources).map_err(io("start the proxy's supervisor"))?)
        }
    };
    let verify = (config.verify_seconds > 0).then(|| Duration::from_secs(u64::from(config.verify_seconds)));
    let (commands, requests) = mpsc::channel(16);
    let started = SystemTime::now();
    let features = reconciler.kernel().features();
    let admin = Admin {
        shared: Arc::clone(&shared),
        reader,
        config,
        instance,
        features,
        started,
        tamper,
        guards,
        findings: desk,
        book,
        proxy: (view, supervisor.as_ref().map(Supervisor::asker)),
        commands,
    };
    shared.reconciler.beat();
    shared.events.beat();
    admin::start(Arc::new(admin), metrics, control, http, uid).map_err(io("start the admin thread"))?;
    Ok(Daemon {
        _tamper: watch_kernel,
        _findings: watch_findings,
        _openings: watch_openings,
        _proxy: supervisor,
        _guard: guard,
        _lock: lock,
        reconciler,
        watch,
        cgroups,
        event_loop,
        learned,
        relinked,
        requests,
        shared,
        notifier: Notifier::from_env(),
        verify,
    })
}

/// The proxy of an earlier agent, or a new one; none where it is configured off, and then what an earlier
/// agent left is ended.
fn find_proxy(
    config: &Config,
    instance: &Instance,
    reader: &Reader,
) -> Result<Option<start::Found>, RunError> {
    if !config.proxy.enabled {
        reader.sockets().set_proxied(&BTreeSet::new())?;
        if start::dismiss(&instance.dir, config.proxy.drain).is_some() {
            tracing::info!("the proxy of an earlier agent is told to go: none is configured any more");
        }
        if let Err(error) = parent::close_all(instance) {
            tracing::warn!(%error, "what last hops needed may still be in workloads' namespaces");
        }
        return Ok(None);
    }
    match bulkhead_sys::cgroup::own() {
        Ok(own) if own.starts_with(&instance.cgroup_root) => {}
        _ => tracing::warn!(
            root = %instance.cgroup_root.display(),
            "the agent is not below its own cgroup root, so nobody sees its proxy's sockets, and what the \
             proxy delivers is refused: start it in a cgroup below that root"
        ),
    }
    let log = Log { format: config.log_format, level: config.log_level.clone() };
    let found = start::find_or_start(instance, &log);
    found.map(Some).map_err(|source| RunError::Io { what: "start the proxy", source })
}

/// The guard's programs, ready to be put on interfaces; none where it is configured off, and then what an
/// earlier agent left is taken off.
fn guard_kernel(
    kernel: &Datapath,
    config: &GuardConfig,
) -> Result<Option<datapath::guard::Guard>, DatapathError> {
    if !config.enabled {
        let interfaces = kernel.take_guard_off()?;
        tracing::info!(interfaces, "the guard is off, as configured");
        return Ok(None);
    }
    let attachment = match config.attach {
        Attach::Auto => Attachment::best(),
        Attach::Tcx => Attachment::Tcx,
        Attach::Clsact => Attachment::Clsact,
    };
    kernel.guard(attachment).map(Some)
}

/// What is true of this host now.
pub(super) fn facts(cgroups: &CgroupFollower) -> Facts {
    Facts { cgroups: cgroups.cgroups().clone(), node_addresses: node_addresses() }
}

/// Addresses of the network namespace that the agent runs in: the node's own.
fn node_addresses() -> BTreeSet<Addr> {
    match NetNs::current().and_then(|namespace| namespace.addresses()) {
        Ok(addresses) => addresses.into_iter().map(|address| address.addr).collect(),
        Err(error) => {
            // Without them the node's own addresses count as world, which rules treat no better.
            tracing::warn!(%error, "this host's addresses cannot be read");
            BTreeSet::new()
        }
    }
}

fn announce(config: &Config, instance: &Instance) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        instance = instance.name,
        cgroup_root = %instance.cgroup_root.display(),
        policies = %config.policies.display(),
        "bulkhead starts"
    );
    if config.mode == Mode::Audit {
        let why =
            if config.mode_chosen { "as configured" } else { "nobody chose a mode, so the safe one holds" };
        tracing::warn!(
            why,
            "AUDIT MODE: nothing is denied, denials are only reported; set mode = \"enforce\" to enforce"
        );
    }
    if config.failsafe.is_empty() {
        tracing::info!("no failsafe ports: a policy can lock this host's operator out");
    }
}

/// Takes pins away that a start made and did not complete.
struct FreshPins<'a> {
    instance: Option<&'a Instance>,
}

impl<'a> FreshPins<'a> {
    fn watch(instance: &'a Instance) -> Self {
        Self { instance: (!datapath::is_attached(&instance.pins)).then_some(instance) }
    }

    fn keep(mut self) {
        self.instance = None;
    }
}

impl Drop for FreshPins<'_> {
    fn drop(&mut self) {
        if let Some(instance) = self.instance
            && let Err(error) = datapath::detach(&instance.pins)
        {
            tracing::warn!(%error, "what this start made is still there; run `bulkhead detach`");
        }
    }
}
