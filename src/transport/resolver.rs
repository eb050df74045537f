//! Names to addresses, by asking name servers directly: it can be abandoned, and shares no threads.
//!
//! Never reads the hosts file, never tries search domains, never judges an address.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use thiserror::Error;
use tokio::sync::Semaphore;

/// There is no address. Receivers' names are not ours to explain further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LookupFault {
    /// The name servers gave none.
    #[error("the name was not resolved")]
    NoAddress,
    /// The name servers said nothing, or that they could not find out.
    #[error("no name server answered")]
    NoAnswer,
}

/// A look-up under way.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, LookupFault>> + Send + 'a>>;

/// A question whether anybody answers, under way.
pub type Answers<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// Resolves names.
pub trait Resolver: Send + Sync {
    /// All addresses of `name`, which has no final dot and is no address. Dropping the future abandons it.
    fn lookup<'a>(&'a self, name: &'a str) -> Lookup<'a>;
    /// Whether the name servers answer at all, at this moment: whatever they say of the root is an answer.
    fn answers(&self) -> Answers<'_>;
}

/// What the resolver may use.
#[derive(Clone, Copy, Debug)]
pub struct ResolverLimits {
    /// Look-ups under way at once; the others wait.
    pub lookups_max: usize,
    /// Time for one query to one server, in milliseconds; it is sent twice.
    pub query_timeout_ms: u64,
    /// Answers are kept at least this long, in seconds.
    pub ttl_min_s: u64,
    /// Answers are kept at most this long, in seconds, so that moves of receivers take effect.
    pub ttl_max_s: u64,
    /// Answers kept.
    pub cache_max: u64,
}

impl Default for ResolverLimits {
    fn default() -> ResolverLimits {
        ResolverLimits { lookups_max: 512, query_timeout_ms: 1_000, ttl_min_s: 1, ttl_max_s: 60, cache_max: 8_192 }
    }
}

/// Asks the name servers of the host, or given ones.
pub struct DnsResolver {
    resolver: TokioResolver,
    /// Remembers nothing: what was answered a minute ago does not tell whether anybody answers.
    forgetful: TokioResolver,
    permits: Semaphore,
}

impl DnsResolver {
    /// Asks the servers of `/etc/resolv.conf`, which is read once. `Err` says what is wrong with it.
    pub fn system(limits: ResolverLimits) -> Result<DnsResolver, String> {
        let (config, _) = hickory_resolver::system_conf::read_system_conf().map_err(|error| error.to_string())?;
        let (_, _, servers) = config.into_parts();
        DnsResolver::new(servers, limits)
    }

    /// Asks these servers, over UDP and, for long answers, TCP.
    pub fn with_servers(servers: &[SocketAddr], limits: ResolverLimits) -> Result<DnsResolver, String> {
        let servers = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        DnsResolver::new(servers.collect(), limits)
    }

    fn new(servers: Vec<NameServerConfig>, limits: ResolverLimits) -> Result<DnsResolver, String> {
        let build = |options| {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.clone());
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            *builder.options_mut() = options;
            builder.build().map_err(|error| error.to_string())
        };
        let resolver = build(options(limits))?;
        let forgetful = build(options(ResolverLimits { cache_max: 0, ..limits }))?;
        Ok(DnsResolver { resolver, forgetful, permits: Semaphore::new(limits.lookups_max) })
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, LookupFault> {
        let mut name = Name::from_ascii(name).map_err(|_| LookupFault::NoAddress)?;
        name.set_fqdn(true);
        let _permit = self.permits.acquire().await.map_err(|_| LookupFault::NoAddress)?;
        let error = match self.resolver.lookup_ip(name).await {
            Ok(answer) => return Ok(answer.iter().collect()),
            Err(error) => error,
        };
        tracing::debug!(%error, "a name was not resolved");
        Err(if is_no_answer(&error) { LookupFault::NoAnswer } else { LookupFault::NoAddress })
    }

    async fn answers_at_all(&self) -> bool {
        let asked = self.forgetful.lookup(Name::root(), RecordType::NS).await;
        asked.err().is_none_or(|error| !is_no_answer(&error))
    }
}

impl Resolver for DnsResolver {
    fn lookup<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        Box::pin(self.addresses(name))
    }

    fn answers(&self) -> Answers<'_> {
        Box::pin(self.answers_at_all())
    }
}

/// Whether nothing came back, or that the server failed: it may be cut off from those that it asks. An answer that
/// holds nothing, or says no, is one.
fn is_no_answer(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => *code == ResponseCode::ServFail,
        NetError::Dns(_) | NetError::Proto(_) => false,
        _ => true,
    }
}

fn options(limits: ResolverLimits) -> ResolverOpts {
    let (ttl_min, ttl_max) = (Duration::from_secs(limits.ttl_min_s), Duration::from_secs(limits.ttl_max_s));
    let mut options = ResolverOpts::default();
    options.ndots = 0;
    options.timeout = Duration::from_millis(limits.query_timeout_ms);
    options.attempts = 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = limits.cache_max;
    options.max_active_requests = limits.lookups_max;
    (options.positive_min_ttl, options.positive_max_ttl) = (Some(ttl_min), Some(ttl_max));
    (options.negative_min_ttl, options.negative_max_ttl) = (Some(ttl_min), Some(ttl_max));
    options
}
