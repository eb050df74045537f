//! `serve`: load, check, bind, open, serve, drain.
//!
//! Never serves before everything is checked, never stops in the middle of what was begun unless told twice.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use super::build::{self, Sources};
use super::dev::{self, Dev};
use super::{ConfigOptions, EXIT_CONFIG, EXIT_DISK, EXIT_FAULT, fail, print};
use crate::admin::Readiness;
use crate::config::{Config, Log, LogFormat};
use crate::engine::{Downfall, Engine, OpenFault, StartFault, World};
use crate::http::{Server, Tls};
use crate::metrics::Metrics;
use crate::model::{Digest, Role};
use crate::transport::HyperTransport;

/// How often idle connections to receivers are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// Room in the kernel for connections that come faster than they are accepted.
const LISTEN_BACKLOG: u32 = 4096;

/// What a shell reports for a process that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;

/// How to serve.
#[derive(Args)]
pub struct ServeOptions {
    #[command(flatten)]
    source: ConfigOptions,
    /// Try it out: loopback only, free ports, a merchant, keys and a receiver made and printed
    #[arg(long)]
    dev: bool,
    /// With --dev: print one line of JSON once ready, and nothing else on standard output
    #[arg(long, requires = "dev")]
    json: bool,
}

/// Serves until SIGTERM or SIGINT. 0 after a drain, 78 where the configuration cannot be served, 74 where
/// the disk failed, at the start or later, 70 where the engine did.
pub fn serve(options: &ServeOptions) -> ExitCode {
    let sources = Sources::default();
    let scratch = (options.dev && options.source.data_dir.is_none()).then(|| build::temporary_dir(&*sources.entropy));
    let presets = if options.dev { dev::presets(scratch.as_deref()) } else { Vec::new() };
    let config = match options.source.load(&presets) {
        Ok(config) => config,
        Err(faults) => return fail(EXIT_CONFIG, format_args!("the configuration is wrong:\n{faults}")),
    };
    log(&config.log);
    allow_files(build::files_max(&config));
    let runtime = match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_CONFIG, format_args!("starting threads: {error}")),
    };
    let served = runtime.block_on(run(&config, options, &sources));
    // A look-up or a read under way is of no use to anybody.
    runtime.shutdown_background();
    if let Some(dir) = scratch.filter(|dir| *dir == config.storage.data_dir) {
        // What is left behind is the system's to clear.
        let _ = std::fs::remove_dir_all(dir);
    }
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(Unserved { code, why }) => fail(code, why),
    }
}

/// The three listeners, bound.
struct Bound {
    section: &'static str,
    tls: Option<Tls>,
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Where clients find it.
    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// Takes as many open files as the host allows at most. The usual 1024 to begin with is less than the connections
/// that the limits of the configuration let in, and without a file the journal cannot go on either.
pub(super) fn allow_files(files_max: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, files = current, "the limit of open files cannot be raised");
    }
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < files_max) {
        tracing::warn!(
            allowed,
            files_max,
            "the host allows fewer open files than the limits of the configuration may take: connections wait or fail \
             before their own limits are reached"
        );
    }
}

/// Why it does not serve: the exit code, and a sentence for the operator.
pub(super) struct Unserved {
    code: u8,
    why: String,
}

impl Unserved {
    /// For want of the disk.
    pub(super) fn disk(why: String) -> Unserved {
        Unserved { code: EXIT_DISK, why }
    }
}

impl From<String> for Unserved {
    fn from(why: String) -> Unserved {
        Unserved { code: EXIT_CONFIG, why }
    }
}

impl From<StartFault> for Unserved {
    fn from(fault: StartFault) -> Unserved {
        let code = match fault {
            StartFault::Open(OpenFault::Directory(_)) => EXIT_CONFIG,
            StartFault::Open(OpenFault::Disk(_)) | StartFault::Read(_) => EXIT_DISK,
        };
        Unserved { code, why: fault.to_string() }
    }
}

async fn run(config: &Config, options: &ServeOptions, sources: &Sources) -> Result<(), Unserved> {
    // Before anything else, so that a signal during the start is not lost.
    let signals = Signals::hear().map_err(|error| format!("hearing signals: {error}"))?;
    let transport = build::transport(config, Arc::clone(&sources.clock)).map_err(|fault| fault.to_string())?;
    let transport = Arc::new(transport);
    let bound = bind(config)?;
    let engine = Arc::new(start(config, sources, &transport)?);
    if !options.dev && !has_operator(config, &engine) {
        return Err("there is no operator key, so nobody could administer this appliance: make one with \
                    `posthaste key` and put its digest into the configuration as auth.operator_key"
            .to_owned()
            .into());
    }
    build::show_limits(config, &engine.metrics);
    let readiness = Readiness::default();
    let urls = bound.each_ref().map(Bound::url);
    let routes = build::routes(config, &engine, sources, &readiness, &urls[0]);
    let mut listening =
        bound.into_iter().zip(config.listeners()).zip(routes).map(|((bound, (_, listener)), routes)| {
            let server = build::server(bound.section, listener, bound.tls, routes, &engine.metrics);
            (server, bound.listener)
        });
    let [public, ingest, admin] = [(); 3].map(|()| listening.next().expect("there are three listeners"));
    let dev = match options.dev {
        true => Some(Dev::prepare(&engine, sources, &config.storage.data_dir, options.json).await?),
        false => None,
    };
    announce(urls, dev.as_ref(), &config.storage.data_dir);
    let (stop, stopping) = watch::channel(Phase::Serving);
    let surfaces = async {
        tokio::join!(listen(public, &stopping, Phase::Draining), listen(ingest, &stopping, Phase::Draining));
        engine.drain(Duration::from_millis(config.delivery.drain_ms_max)).await;
        stop.send_replace(Phase::Ended);
    };
    let stopped = async {
        signals
            .wait(|| {
                readiness.end();
                engine.feed.end();
                engine.metrics.ready.set(0.0);
                stop.send_replace(Phase::Draining);
            })
            .await;
    };
    let receiving = async {
        match dev {
            Some(dev) => dev.receive(reached(&stopping, Phase::Ended)).await,
            None => reached(&stopping, Phase::Ended).await,
        }
    };
    tokio::select! {
        _ = async { tokio::join!(surfaces, listen(admin, &stopping, Phase::Ended), receiving) } => {}
        () = stopped => {}
        () = engine.upkeep() => {}
        () = sweep(&transport) => {}
    }
    tracing::info!("drained");
    Ok(())
}

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// No more requests, no more attempts; what is under way ends.
    Draining,
    /// Everything is written; only readiness and figures were still answered.
    Ended,
}

async fn reached(phase: &watch::Receiver<Phase>, wanted: Phase) {
    // An error means that the sender is gone, which is the end, too.
    let _ = phase.clone().wait_for(|phase| *phase >= wanted).await;
}

async fn listen((server, listener): (Server, TcpListener), phase: &watch::Receiver<Phase>, until: Phase) {
    let name = server.name;
    let drained = server.serve(listener, reached(phase, until)).await;
    if drained.abandoned > 0 {
        tracing::warn!(
            listener = name,
            connections = drained.abandoned,
            "connections were cut at the end of the grace"
        );
    }
}

async fn sweep(transport: &HyperTransport) {
    loop {
        tokio::time::sleep(SWEEP).await;
        transport.sweep();
    }
}

fn bind(config: &Config) -> Result<[Bound; 3], String> {
    let mut bound = Vec::new();
    for (section, listener) in config.listeners() {
        let tls = build::tls(section, listener).map_err(|fault| fault.to_string())?;
        let opened = open(listener.address);
        let opened = opened.and_then(|listener| listener.local_addr().map(|address| (listener, address)));
        let (socket, address) =
            opened.map_err(|error| format!("{section}.address: {} cannot be had: {error}", listener.address))?;
        bound.push(Bound { section, tls, listener: socket, address });
    }
    let three: Result<[Bound; 3], _> = bound.try_into();
    Ok(three.unwrap_or_else(|_| unreachable!("there are three listeners")))
}

/// With address reuse, so that a restart does not wait for connections of the last run to be forgotten.
fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

fn start(config: &Config, sources: &Sources, transport: &Arc<HyperTransport>) -> Result<Engine, StartFault> {
    let world = World {
        clock: Arc::clone(&sources.clock),
        entropy: Arc::clone(&sources.entropy),
        transport: Arc::clone(transport) as _,
        metrics: Metrics::new(),
        fatal: Arc::new(|downfall: &Downfall<'_>| {
            let (code, what) = match downfall {
                Downfall::Store(_) => (EXIT_DISK, "the disk failed"),
                Downfall::Dispatcher => (EXIT_FAULT, "a fault of Posthaste's own"),
            };
            tracing::error!(error = %downfall, "{what}: stopping at once, nothing more is acknowledged");
            std::process::exit(i32::from(code));
        }),
        operator_digests: operator_digests(config),
    };
    Engine::start(&config.storage.data_dir, &build::limits(config), world)
}

fn operator_digests(config: &Config) -> Vec<Digest> {
    config.auth.operator_key.iter().map(|key| key.0).collect()
}

fn has_operator(config: &Config, engine: &Engine) -> bool {
    config.auth.operator_key.is_some() || !engine.registry.keys(|role| *role == Role::Operator).is_empty()
}

fn announce(urls: [String; 3], dev: Option<&Dev>, data_dir: &Path) {
    let [public, ingest, admin] = &urls;
    tracing::info!(public, ingest, admin, data_dir = %data_dir.display(), "ready");
    if let Some(dev) = dev {
        print(dev.introduction(urls, data_dir));
    }
}

fn log(log: &Log) {
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn hear() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// `first` at the first signal; at the second the process ends at once. Never returns.
    async fn wait(mut self, first: impl FnOnce()) {
        self.next().await;
        tracing::info!("stopping: what is under way ends first; a second signal stops at once");
        first();
        self.next().await;
        tracing::warn!("stopped at once: attempts under way are repeated after the next start");
        std::process::exit(EXIT_INTERRUPTED);
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
