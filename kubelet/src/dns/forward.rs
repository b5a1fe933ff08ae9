//! Names that are not the cluster's: asked of the host's resolvers, and remembered.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tracing::{debug, warn};

use super::PORT;
use crate::volumes::etc::host_resolvers;

/// Answers that are remembered.
const REMEMBERED: u64 = 4096;
/// A resolver that has not answered by then is asked again, or the next one is.
const PATIENCE: Duration = Duration::from_secs(2);
/// The host's configuration is looked at again, when there is a question, after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

type Servers = dyn Fn() -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// What others say of a name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    /// Says how long an answer without records holds.
    pub(crate) authority: Option<Record>,
}

/// Asks the host's resolvers.
pub(crate) struct Forward {
    /// Tells the resolvers.
    servers: Box<Servers>,
    current: Mutex<Option<Current>>,
}

struct Current {
    looked: Instant,
    servers: Vec<SocketAddr>,
    /// Nothing: the host has no resolvers.
    resolver: Option<Arc<TokioResolver>>,
}

impl Forward {
    /// Asks those that the host asks, but for ourselves at `own`.
    pub(crate) fn of_host(own: IpAddr) -> Self {
        Self::to(move || {
            let servers = host_resolvers()?.into_iter().filter(|server| *server != own);
            Ok(servers.map(|server| SocketAddr::new(server, PORT)).collect())
        })
    }

    /// Asks those that `servers` tells.
    pub(crate) fn to(
        servers: impl Fn() -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self { servers: Box::new(servers), current: Mutex::default() }
    }

    /// Asks; `SERVFAIL` when nobody answers.
    pub(crate) async fn ask(&self, name: Name, record_type: RecordType) -> Told {
        let failed = Told { code: ResponseCode::ServFail, ..Told::default() };
        let Some(resolver) = self.resolver() else { return failed };
        match resolver.lookup(name, record_type).await {
            Ok(found) => Told { answers: found.answers().to_vec(), ..Told::default() },
            Err(error) if error.is_no_records_found() => {
                let nowhere = error.is_nx_domain();
                let code = if nowhere { ResponseCode::NXDomain } else { ResponseCode::NoError };
                let authority = error.into_soa().map(|soa| soa.into_record_of_rdata());
                Told { code, answers: Vec::new(), authority }
            }
            Err(error) => {
                debug!(%error, "the host's resolvers do not answer");
                failed
            }
        }
    }

    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = current.as_mut() {
            if known.looked.elapsed() < LOOK_AGAIN {
                return known.resolver.clone();
            }
            known.looked = Instant::now();
        }
        let servers = match (self.servers)() {
            Ok(servers) => servers,
            Err(error) => {
                warn!(%error, "cannot read the host's resolvers");
                return current.as_ref().and_then(|known| known.resolver.clone());
            }
        };
        match current.as_ref() {
            Some(known) if known.servers == servers => known.resolver.clone(),
            _ => {
                let resolver = build(&servers).map(Arc::new);
                *current =
                    Some(Current { looked: Instant::now(), servers, resolver: resolver.clone() });
                resolver
            }
        }
    }
}

fn build(servers: &[SocketAddr]) -> Option<TokioResolver> {
    if servers.is_empty() {
        return None;
    }
    let servers = servers.iter().map(|server| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        for connection in &mut config.connections {
            connection.port = server.port();
        }
        config
    });
    let servers = servers.collect();
    let config = ResolverConfig::from_name_servers(servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.cache_size = REMEMBERED;
    options.timeout = PATIENCE;
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Never;
    // Whoever asks wants to see the aliases on the way.
    options.preserve_intermediates = true;
    match builder.build() {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            warn!(%error, "cannot ask the host's resolvers");
            None
        }
    }
}
