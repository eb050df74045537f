//! From the configuration to the parts: transport, engine limits, listeners with their surfaces.
//!
//! Never binds a port and never opens the data directory.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use crate::admin::{self, Admin, Readiness};
use crate::api::{self, Api};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::dashboard::{self, Dashboard};
use crate::engine::{self, Engine, InboxLimits, Policy, ShardLimits, StoreLimits};
use crate::entropy::{Entropy, SystemEntropy};
use crate::feed;
use crate::http::{self, Hooks, Routes, Server, Tls, TlsError};
use crate::ingest::{self, Ingest, Pointers};
use crate::metrics::Metrics;
use crate::model::Endpoint;
use crate::policy::retry::Schedule;
use crate::policy::{breaker, egress, failing};
use crate::portal;
use crate::recovery;
use crate::transport::{DnsResolver, HyperTransport, Limits, ResolverLimits, Settings, SetupFault, USER_AGENT_TEXT};

/// Files that are open whatever the limits: listeners, the index, look-ups of names, logs.
const OWN_FILES: u64 = 128;

/// Why the parts cannot be made from this configuration; a sentence that says what to change.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildFault {
    /// A listener's certificate.
    #[error("{section}.tls_cert, {section}.tls_key: {fault}")]
    Tls { section: &'static str, fault: Box<TlsError> },
    /// The way out.
    #[error("egress: {0}")]
    Transport(#[from] SetupFault),
    /// The host's name servers.
    #[error("/etc/resolv.conf, which names the DNS servers to ask: {0}")]
    Resolver(String),
}

/// Where the parts take time and chance from.
pub(super) struct Sources {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
}

impl Default for Sources {
    fn default() -> Sources {
        Sources { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
    }
}

/// Everything that can be found wrong without a port and without the data directory.
pub(super) fn check(config: &Config) -> Result<(), BuildFault> {
    for (section, listener) in config.listeners() {
        tls(section, listener)?;
    }
    transport(config, Arc::new(SystemClock))?;
    Ok(())
}

pub(super) fn tls(section: &'static str, listener: &config::Listener) -> Result<Option<Tls>, BuildFault> {
    let load = |(certificate, key)| {
        Tls::load(certificate, key).map_err(|fault| BuildFault::Tls { section, fault: Box::new(fault) })
    };
    listener.tls().map(load).transpose()
}

pub(super) fn transport(config: &Config, clock: Arc<dyn Clock>) -> Result<HyperTransport, BuildFault> {
    let (delivery, transport) = (&config.delivery, &config.transport);
    let resolver = DnsResolver::system(ResolverLimits {
        lookups_max: transport.dns_lookups_max,
        ttl_max_s: transport.dns_ttl_ms_max / 1000,
        ..ResolverLimits::default()
    });
    let resolver = resolver.map_err(BuildFault::Resolver)?;
    let limits = Limits {
        timeout_ms: delivery.timeout_ms,
        dns_timeout_ms: transport.dns_timeout_ms,
        connect_timeout_ms: transport.connect_timeout_ms,
        tls_timeout_ms: transport.tls_timeout_ms,
        head_bytes_max: transport.response_head_bytes_max,
        body_read_bytes_max: transport.response_body_read_bytes_max,
        body_kept_bytes_max: transport.response_body_kept_bytes_max,
        body_timeout_ms: transport.response_body_timeout_ms,
        headers_kept_bytes_max: transport.response_headers_kept_bytes_max,
        idle_ms: transport.idle_ms,
        age_ms: transport.age_ms_max,
        uses_max: transport.uses_max,
        idle_per_endpoint_max: delivery.in_flight_per_endpoint_max,
        idle_max: transport.idle_connections_max,
    };
    Ok(HyperTransport::new(Settings {
        rules: rules(config),
        limits,
        clock,
        resolver: Arc::new(resolver),
        extra_ca: config.egress.extra_ca_file.clone(),
        user_agent: USER_AGENT_TEXT.to_owned(),
    })?)
}

pub(super) fn rules(config: &Config) -> egress::Rules {
    let egress = &config.egress;
    egress::Rules {
        allow_http: egress.allow_http,
        allow: egress.allow.clone(),
        ports: egress.ports.clone(),
        denied_suffixes: egress.denied_suffixes.clone(),
    }
}

/// Files that may be open at once where every limit of the configuration is reached: connections, and the journal's
/// files, which stay open to be read.
pub(super) fn files_max(config: &Config) -> u64 {
    let (storage, delivery, transport) = (&config.storage, &config.delivery, &config.transport);
    let accepted: usize = config.listeners().iter().map(|(_, listener)| listener.connections_max).sum();
    let segments = storage.retention_bytes_max / storage.segment_bytes;
    (accepted + delivery.in_flight_max + transport.idle_connections_max + segments) as u64 + OWN_FILES
}

pub(super) fn limits(config: &Config) -> engine::Limits {
    let (storage, delivery, dashboard) = (&config.storage, &config.delivery, &config.dashboard);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    engine::Limits {
        shards: if delivery.shards == 0 { cores } else { delivery.shards },
        store: StoreLimits {
            segment_bytes: u32::try_from(storage.segment_bytes).expect("the bounds of the key fit"),
            queued_max: storage.commit_queue_max as u64,
            queued_bytes_max: storage.commit_queue_bytes_max as u64,
            free_bytes_min: storage.free_bytes_min as u64,
            settle_delay_ms: storage.settle_delay_ms,
            index_flush_ms: storage.index_flush_ms,
            unindexed_max: storage.index_unwritten_max,
            loose_names_max: storage.names_unwritten_max,
            index_cache_bytes: storage.index_cache_bytes as u64,
            retention_age_ms: storage.retention_age_ms,
            retention_bytes_max: storage.retention_bytes_max as u64,
            idempotency_ms: storage.idempotency_window_ms,
            reserve_bytes: storage.reserve_bytes as u64,
            retention_every_ms: storage.retention_every_ms,
        },
        shard: ShardLimits {
            in_flight_max: delivery.in_flight_max,
            in_flight_per_merchant_max: delivery.in_flight_per_merchant_max,
            in_flight_per_endpoint_max: delivery.in_flight_per_endpoint_max,
            adaptive: delivery.adaptive,
            window_per_endpoint_max: delivery.window_max,
            window_max: delivery.window_total_max,
            payload_bytes_max: delivery.window_payload_bytes_max,
            parked_per_endpoint_max: delivery.parked_per_endpoint_max,
            page_max: delivery.page_max,
            refills_max: delivery.pages_max,
            settling_max: delivery.settling_max,
        },
        inbox: InboxLimits { notices_max: delivery.notices_max, payload_bytes_max: delivery.notices_payload_bytes_max },
        reads_max: storage.reads_max,
        policy: policy(delivery),
        recovery: recovery::Limits {
            events_max: delivery.recover_events_max,
            per_second: delivery.recover_per_second,
            running_max: delivery.recoveries_max,
        },
        portal: portal::Limits {
            link_ttl_ms: dashboard.link_ttl_ms,
            links_max: dashboard.links_max,
            session_idle_ms: dashboard.session_idle_ms,
            session_age_ms_max: dashboard.session_age_ms_max,
            sessions_per_merchant_max: dashboard.sessions_per_merchant_max,
            sessions_max: dashboard.sessions_max,
            actions_per_minute_max: dashboard.actions_per_minute_max,
        },
        feed: feed::Limits {
            watchers_max: dashboard.watchers_max,
            watchers_per_merchant_max: dashboard.watchers_per_merchant_max,
        },
    }
}

fn policy(delivery: &config::Delivery) -> Policy {
    Policy {
        schedule: Schedule {
            delays_ms: delivery.retry_schedule_ms.clone(),
            jitter: delivery.retry_jitter,
            retry_after_ms_max: delivery.retry_after_ms_max,
        },
        breaker: breaker::Limits {
            failures_to_open: delivery.breaker_failures,
            successes_to_close: delivery.breaker_successes,
            wait_ms: delivery.breaker_wait_ms,
            wait_ms_max: delivery.breaker_wait_ms_max,
        },
        failing: failing::Limits {
            shown_after_ms: delivery.failing_after_ms,
            disable_after_ms: delivery.disable_after_ms,
            spread_ms: delivery.disable_spread_ms,
        },
        slow_ms: delivery.slow_ms,
        rate_max: NonZeroU32::new(delivery.rate_per_endpoint_max),
        fault_wait_ms: delivery.fault_wait_ms,
        fault_wait_ms_max: delivery.fault_wait_ms_max,
        overdue_ms_max: delivery.overdue_ms_max,
    }
}

/// Shows the limits that are not the engine's own beside its figures.
pub(super) fn show_limits(config: &Config, metrics: &Metrics) {
    let (transport, events, dashboard) = (&config.transport, &config.events, &config.dashboard);
    for (name, value) in [
        ("attempt_seconds", config.delivery.timeout_ms as f64 / 1000.0),
        ("idle_connections", transport.idle_connections_max as f64),
        ("dns_lookups", transport.dns_lookups_max as f64),
        ("response_head_bytes", transport.response_head_bytes_max as f64),
        ("response_body_bytes", transport.response_body_read_bytes_max as f64),
        ("response_body_kept_bytes", transport.response_body_kept_bytes_max as f64),
        ("response_headers_kept_bytes", transport.response_headers_kept_bytes_max as f64),
        ("connection_uses", f64::from(transport.uses_max)),
        ("event_bytes", events.body_bytes_max as f64),
        ("batch_lines", events.batch_lines_max as f64),
        ("batch_bytes", events.batch_bytes_max as f64),
        ("small_body_bytes", http::SMALL_BODY_BYTES_MAX as f64),
        ("old_secrets", Endpoint::OLD_SECRETS_MAX as f64),
        ("portal_links", dashboard.links_max as f64),
        ("sessions_per_merchant", dashboard.sessions_per_merchant_max as f64),
        ("watchers_per_merchant", dashboard.watchers_per_merchant_max as f64),
        ("actions_per_minute", f64::from(dashboard.actions_per_minute_max)),
    ] {
        metrics.limit(name, value);
    }
}

/// The routes of each listener, in the order of [`Config::listeners`]. `public` is the URL of the first one.
pub(super) fn routes(
    config: &Config,
    engine: &Arc<Engine>,
    sources: &Sources,
    readiness: &Readiness,
    public: &str,
) -> [Routes; 3] {
    let dashboard_url = config.dashboard.url.clone().unwrap_or_else(|| public.to_owned());
    let public = api::routes(Api { engine: Arc::clone(engine), rules: rules(config) });
    let public = public.join(dashboard::routes(Dashboard {
        engine: Arc::clone(engine),
        clock: Arc::clone(&sources.clock),
        entropy: Arc::clone(&sources.entropy),
        rules: rules(config),
        frame_ancestors: config.dashboard.frame_ancestors.clone(),
    }));
    let events = &config.events;
    let pointers = [&events.card_transaction, &events.account_transaction, &events.account_topup, &events.card_state];
    let ingest = ingest::routes(Ingest {
        outbox: engine.outbox.clone(),
        registry: Arc::clone(&engine.registry),
        metrics: engine.metrics.clone(),
        clock: Arc::clone(&sources.clock),
        entropy: Arc::clone(&sources.entropy),
        limits: ingest::Limits {
            body_bytes_max: events.body_bytes_max,
            batch_lines_max: events.batch_lines_max,
            batch_bytes_max: events.batch_bytes_max,
        },
        pointers: pointers.map(|p| Pointers {
            card: p.card.clone(),
            account: p.account.clone(),
            resource: p.resource.clone(),
        }),
        record_skipped: events.record_skipped,
    });
    let admin = admin::routes(Admin { engine: Arc::clone(engine), readiness: readiness.clone(), dashboard_url });
    [public, ingest, admin]
}

pub(super) fn server(
    section: &'static str,
    listener: &config::Listener,
    tls: Option<Tls>,
    routes: Routes,
    metrics: &Metrics,
) -> Server {
    let limits = listener.limits();
    show_listener_limits(section, &limits, metrics);
    let hooks = Hooks {
        connections_open: metrics.connections(section),
        connections_refused: metrics.connection_faults(section, "refused"),
        connections_broken: metrics.connection_faults(section, "broken"),
        accept_failures: metrics.connection_faults(section, "accept_failed"),
        answers: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| metrics.requests(section, class)),
    };
    Server { name: section, routes, tls, limits, hooks }
}

fn show_listener_limits(section: &'static str, limits: &http::Limits, metrics: &Metrics) {
    for (name, value) in [
        ("connections", limits.connections_max),
        ("connections_per_ip", limits.connections_per_ip_max),
        ("head_bytes", limits.head_bytes_max),
        ("headers", limits.headers_max),
        ("uri_bytes", limits.uri_bytes_max),
        ("body_bytes_in_flight", limits.body_bytes_in_flight_max),
        ("linger_bytes", limits.linger_bytes_max),
    ] {
        metrics.listener_limit(section, name, value as f64);
    }
    for (name, ms) in [
        ("head_seconds", limits.head_timeout_ms),
        ("body_seconds", limits.body_timeout_ms),
        ("tls_handshake_seconds", limits.tls_handshake_timeout_ms),
        ("keep_alive_idle_seconds", limits.keep_alive_idle_ms),
        ("write_seconds", limits.write_timeout_ms),
        ("linger_seconds", limits.linger_ms),
        ("drain_seconds", limits.drain_ms_max),
    ] {
        metrics.listener_limit(section, name, ms as f64 / 1000.0);
    }
}

/// A directory of this run's own under the system's directory for temporary files.
pub(super) fn temporary_dir(entropy: &dyn Entropy) -> PathBuf {
    std::env::temp_dir().join(format!("posthaste-{:016x}", entropy.number() as u64))
}
