//! `bench isolation`: what healthy merchants notice of sick ones, on this machine, measured by turns in one run.
//!
//! Never touches a configured data directory or the network: a scratch directory and loopback only. Everything
//! runs in one process, receivers and load included, so the times are of use beside each other, not alone.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use tokio::net::TcpListener;
use tokio::runtime;

use super::build::{self, Sources};
use super::{EXIT_CONFIG, dev, fail, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::{Downfall, Engine, World};
use crate::http::{Hooks, Limits, Method, Problem, Request, Response, Router, Server, StatusCode, response};
use crate::metrics::Metrics;
use crate::model::{EventType, EventTypes, MerchantId, Ordering as Order};
use crate::outbox::Submission;
use crate::registry::{self, Precondition, SecretChange};

/// How often events are handed in; those of one tick share a commit.
const TICK: Duration = Duration::from_millis(10);

/// How long the last healthy deliveries of a phase are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a receiver takes that is only slow.
const SLOW: Duration = Duration::from_secs(3);

/// How long a receiver that flaps is up, and then down.
const FLAP: Duration = Duration::from_secs(5);

const BODY_BYTES_MAX: usize = 1 << 20;

/// Index changes in memory with which a backlog counts as taken up.
const UNINDEXED_MAX: u64 = 1_000;

/// What is measured.
#[derive(Args)]
pub struct BenchOptions {
    #[command(subcommand)]
    what: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Times of healthy merchants alone and beside sick ones, by turns
    Isolation(Isolation),
}

#[derive(Args)]
struct Isolation {
    /// How many merchants there are
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    merchants: u64,
    /// How many percent of them are sick
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=99))]
    sick_percent: u64,
    /// What ails them
    #[arg(long, value_enum, default_value_t = Ailment::Hanging)]
    ailment: Ailment,
    /// Events a second, spread over all merchants
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Length of each of the two phases of a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Rounds; what else happens on the machine meets some of them and not the others
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    /// Events that wait for the first of the sick merchants
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    backlog: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ailment {
    /// They take the request and never answer
    Hanging,
    /// They answer 500
    Failing,
    /// They are up and down by turns of five seconds
    Flapping,
    /// They answer after three seconds
    Slow,
}

impl Ailment {
    const fn as_str(self) -> &'static str {
        match self {
            Ailment::Hanging => "hanging",
            Ailment::Failing => "failing",
            Ailment::Flapping => "flapping",
            Ailment::Slow => "slow",
        }
    }
}

/// What the receivers and the load share.
struct Ward {
    clock: Arc<dyn Clock>,
    ailment: Ailment,
    begun: Instant,
    /// When each healthy event was handed in, by its number.
    handed_in: Mutex<Vec<Instant>>,
    times_us: Mutex<Vec<u64>>,
    sick_attempts: AtomicU64,
}

/// Measures and prints.
pub fn bench(options: &BenchOptions) -> ExitCode {
    let Bench::Isolation(isolation) = &options.what;
    let sources = Sources::default();
    let scratch = build::temporary_dir(&*sources.entropy);
    let config = match Config::load(&dev::presets(Some(&scratch)), None, &[], &[]) {
        Ok(config) => config,
        Err(faults) => return fail(EXIT_CONFIG, faults),
    };
    let runtime = match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_CONFIG, format_args!("starting threads: {error}")),
    };
    let measured = runtime.block_on(isolation.run(&config, &sources));
    runtime.shutdown_background();
    // What is left behind is the system's to clear.
    let _ = std::fs::remove_dir_all(&scratch);
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(1, why),
    }
}

impl Isolation {
    async fn run(&self, config: &Config, sources: &Sources) -> Result<(), String> {
        let transport = build::transport(config, Arc::clone(&sources.clock)).map_err(|fault| fault.to_string())?;
        let world = World {
            clock: Arc::clone(&sources.clock),
            entropy: Arc::clone(&sources.entropy),
            transport: Arc::new(transport),
            metrics: Metrics::new(),
            fatal: Arc::new(|_: &Downfall<'_>| {
                std::process::exit(1);
            }),
            operator_digests: Vec::new(),
        };
        let engine = Engine::start(&config.storage.data_dir, &build::limits(config), world);
        let engine = engine.map_err(|fault| fault.to_string())?;
        let ward = Arc::new(Ward {
            begun: sources.clock.instant(),
            clock: Arc::clone(&sources.clock),
            ailment: self.ailment,
            handed_in: Mutex::default(),
            times_us: Mutex::default(),
            sick_attempts: AtomicU64::new(0),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let routes = Router::new(Arc::clone(&ward))
            .on(Method::POST, "/well", well)
            .on(Method::POST, "/sick", sick)
            .into_routes();
        let limits = Limits { connections_per_ip_max: Limits::default().connections_max, ..Limits::default() };
        let server = Server { name: "ward", routes, tls: None, limits, hooks: Hooks::default() };
        let url = format!("http://{address}");
        tokio::select! {
            _ = server.serve(listener, std::future::pending()) => Err("the receivers ended".to_owned()),
            measured = self.measure(&engine, &ward, &url) => measured,
        }
    }

    async fn measure(&self, engine: &Engine, ward: &Ward, url: &str) -> Result<(), String> {
        let sick_count = (self.merchants * self.sick_percent / 100).max(1);
        let (mut healthy, mut sick) = (Vec::new(), Vec::new());
        for n in 0..self.merchants {
            let (list, path) = if n < sick_count { (&mut sick, "sick") } else { (&mut healthy, "well") };
            let url = format!("{url}/{path}");
            list.push(merchant(engine, n, &url).await?);
        }
        print(format_args!(
            "{} merchants, {sick_count} of them {}, {} events waiting for the first of these; {} events a second; {} rounds \
             of twice {} s",
            self.merchants,
            self.ailment.as_str(),
            self.backlog,
            self.rate,
            self.rounds,
            self.seconds
        ));
        // Connections are opened and everything is warm before anything counts.
        self.phase(engine, ward, &healthy, &[], 2).await?;
        let before = Times::of(self.phase(engine, ward, &healthy, &[], self.seconds).await?);
        let resident_before = resident_mib();
        let sick_url = format!("{url}/sick");
        hold(engine, &sick, &sick_url, true).await?;
        self.pile_up(engine, &sick[0]).await?;
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            alone.push(Times::of(self.phase(engine, ward, &healthy, &[], self.seconds).await?));
            hold(engine, &sick, &sick_url, false).await?;
            beside.push(Times::of(self.phase(engine, ward, &healthy, &sick, self.seconds).await?));
            hold(engine, &sick, &sick_url, true).await?;
        }
        show(&before, &alone, &beside);
        let (attempts, waiting) = (ward.sick_attempts.load(Ordering::Relaxed), engine.figures().waiting);
        print(format_args!("attempts at sick receivers: {attempts}; deliveries waiting at the end: {waiting}"));
        print(format_args!("resident memory: {resident_before} MiB before, {} MiB at the end", resident_mib()));
        Ok(())
    }

    /// Hands in for a while; the times of the healthy merchants' deliveries, in microseconds.
    async fn phase(
        &self,
        engine: &Engine,
        ward: &Ward,
        healthy: &[MerchantId],
        sick: &[MerchantId],
        seconds: u64,
    ) -> Result<Vec<u64>, String> {
        lock(&ward.handed_in).clear();
        lock(&ward.times_us).clear();
        let all: Vec<(&MerchantId, bool)> =
            healthy.iter().map(|m| (m, true)).chain(sick.iter().map(|m| (m, false))).collect();
        // Each merchant gets the same in both phases.
        let rate = self.rate * all.len() as u64 / self.merchants;
        let mut ticks = tokio::time::interval(TICK);
        let (mut handed_in, mut turn) = (0, 0);
        let begun = ticks.tick().await.into_std();
        loop {
            // The moment for which it was planned: where the last commits took long, the time counts from then on.
            let now = ticks.tick().await.into_std();
            let lasted = now.duration_since(begun);
            if lasted >= Duration::from_secs(seconds) {
                break;
            }
            let mut receipts = Vec::new();
            while handed_in * 1_000 < rate * lasted.as_millis() as u64 {
                let (merchant, is_healthy) = all[turn % all.len()];
                (handed_in, turn) = (handed_in + 1, turn + 1);
                let number = is_healthy.then(|| ward.hand_in(now));
                receipts.push(engine.outbox.submit(event(merchant, number)));
            }
            for receipt in receipts {
                engine.outbox.committed(receipt).await.map_err(|refusal| refusal.to_string())?;
            }
        }
        let wanted = lock(&ward.handed_in).len();
        let waiting = async {
            while lock(&ward.times_us).len() < wanted {
                tokio::time::sleep(TICK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            let arrived = lock(&ward.times_us).len();
            return Err(format!("{arrived} of {wanted} healthy deliveries arrived within {PATIENCE:?}"));
        }
        Ok(std::mem::take(&mut *lock(&ward.times_us)))
    }

    /// Has many events wait, and the index take them up: what is measured is life beside them, not their coming.
    async fn pile_up(&self, engine: &Engine, merchant: &MerchantId) -> Result<(), String> {
        let mut left = self.backlog;
        while left > 0 {
            let some = left.min(1_000);
            let receipts: Vec<_> = (0..some).map(|_| engine.outbox.submit(event(merchant, None))).collect();
            for receipt in receipts {
                engine.outbox.committed(receipt).await.map_err(|refusal| refusal.to_string())?;
            }
            left -= some;
        }
        while engine.figures().unindexed > UNINDEXED_MAX {
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }
}

impl Ward {
    /// Notes that an event is handed in; its number.
    fn hand_in(&self, now: Instant) -> usize {
        let mut handed_in = lock(&self.handed_in);
        handed_in.push(now);
        handed_in.len() - 1
    }

    fn arrived(&self, number: usize) {
        let now = self.clock.instant();
        if let Some(at) = lock(&self.handed_in).get(number) {
            let us = now.duration_since(*at).as_micros();
            lock(&self.times_us).push(u64::try_from(us).unwrap_or(u64::MAX));
        }
    }
}

async fn well(ward: Arc<Ward>, mut request: Request) -> Result<Response, Problem> {
    let body = request.read_body(BODY_BYTES_MAX).await?;
    let number = serde_json::from_slice::<serde_json::Value>(&body).ok().and_then(|body| body["n"].as_u64());
    if let Some(number) = number.and_then(|number| usize::try_from(number).ok()) {
        ward.arrived(number);
    }
    Ok(response::empty())
}

async fn sick(ward: Arc<Ward>, mut request: Request) -> Result<Response, Problem> {
    request.read_body(BODY_BYTES_MAX).await?;
    ward.sick_attempts.fetch_add(1, Ordering::Relaxed);
    let down = || response::json(StatusCode::INTERNAL_SERVER_ERROR, &serde_json::json!({ "sick": true }));
    let lasted = ward.clock.instant().duration_since(ward.begun);
    match ward.ailment {
        Ailment::Hanging => std::future::pending().await,
        Ailment::Failing => Ok(down()),
        Ailment::Flapping if (lasted.as_secs() / FLAP.as_secs()).is_multiple_of(2) => Ok(response::empty()),
        Ailment::Flapping => Ok(down()),
        Ailment::Slow => {
            tokio::time::sleep(SLOW).await;
            Ok(response::empty())
        }
    }
}

async fn merchant(engine: &Engine, number: u64, url: &str) -> Result<MerchantId, String> {
    let merchant: MerchantId = format!("m{number}").parse().expect("a letter and digits");
    engine.registry.put_merchant(&merchant, None).await.map_err(|refusal| refusal.to_string())?;
    configure(engine, &merchant, url, true).await?;
    Ok(merchant)
}

async fn configure(engine: &Engine, merchant: &MerchantId, url: &str, enabled: bool) -> Result<(), String> {
    let config = registry::Config {
        url: url.into(),
        event_types: EventTypes::EVERY,
        enabled,
        secret: SecretChange::Keep,
        secret_grace_ms: 0,
        ordering: Order::Free,
        rate: None,
    };
    let put = engine.registry.put_config(merchant, config, &Precondition::None).await;
    put.map(|_| ()).map_err(|rejected| rejected.to_string())
}

fn event(merchant: &MerchantId, number: Option<usize>) -> Submission {
    let payload = number.map_or_else(|| "{}".to_owned(), |number| format!("{{\"n\":{number}}}"));
    Submission {
        merchant: merchant.clone(),
        event_type: EventType::CardTransaction,
        resource_id: None,
        traceparent: None,
        occurred_at: None,
        payload: Bytes::from(payload),
        idempotency: None,
        endpoints: Vec::new(),
    }
}

/// What the process holds in memory; 0 where the system does not tell.
fn resident_mib() -> u64 {
    let told = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Switches delivery to sick merchants off, or on.
async fn hold(engine: &Engine, sick: &[MerchantId], url: &str, is_held: bool) -> Result<(), String> {
    for merchant in sick {
        configure(engine, merchant, url, !is_held).await?;
    }
    Ok(())
}

/// What became of one phase, in microseconds.
struct Times {
    count: usize,
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Times {
    fn of(mut times: Vec<u64>) -> Times {
        times.sort_unstable();
        let of = |per_mille| at(&times, per_mille) as f64;
        Times { count: times.len(), p50: of(500), p99: of(990), p999: of(999) }
    }
}

/// The medians of the rounds, and of the ratios that were taken within each.
fn show(before: &Times, alone: &[Times], beside: &[Times]) {
    print("healthy deliveries, from handing in to arrival, medians of the rounds:");
    print(format_args!("{:<24}{:>10}{:>12}{:>12}{:>12}", "", "count", "p50", "p99", "p99.9"));
    for (name, times) in [("before", std::slice::from_ref(before)), ("alone", alone), ("beside sick ones", beside)] {
        let ms = |of: fn(&Times) -> f64| format!("{:.2} ms", median(times.iter().map(of)) / 1_000.0);
        let count: usize = times.iter().map(|times| times.count).sum();
        let (p50, p99, p999) = (ms(|t| t.p50), ms(|t| t.p99), ms(|t| t.p999));
        print(format_args!("{name:<24}{count:>10}{p50:>12}{p99:>12}{p999:>12}"));
    }
    let ratio = |of: fn(&Times) -> f64| {
        let ratios = beside.iter().zip(alone).map(|(beside, alone)| of(beside) / of(alone).max(1.0));
        format!("{:.2}x", median(ratios))
    };
    let (p50, p99, p999) = (ratio(|t| t.p50), ratio(|t| t.p99), ratio(|t| t.p999));
    print(format_args!("{:<24}{:>10}{p50:>12}{p99:>12}{p999:>12}", "beside / alone", ""));
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The time under which so many of a thousand lie; the times are in order.
fn at(times: &[u64], per_mille: usize) -> u64 {
    let index = (times.len() * per_mille).div_ceil(1_000).saturating_sub(1);
    times.get(index).copied().unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
