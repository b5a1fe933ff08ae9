//! Puts a master together and runs it.
//!
//! ```text
//! lock, listener ─▶ store ─▶ certificates ─▶ caches ─▶ objects
//!       nodes, election, what every cluster has, scheduler, controllers, compaction
//! REST + gRPC ─▶ serve until shutdown ─▶ drain
//! ```

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::accounts::{Accounts, SigningKey};
use crate::api::objects::Objects;
use crate::api::{self, Api};
use crate::cache::Caches;
use crate::config::{Config, StoreConfig};
use crate::leader::Leadership;
use crate::nodes::{MissingResource, NodeService, NodesConfig};
use crate::pki::{Authority, ServerCertificate, Tokens, authority::ServerNames, kubeconfig};
use crate::serve::{self, Tls};
use crate::store::{
    self, Compare, EmbeddedStore, EtcdOptions, EtcdStore, EtcdTls, Metered, Op, Store, Txn,
    compactor, keys,
};
use crate::{bootstrap, controllers, masters, pki, scheduler, token_api};

/// Between attempts to reach etcd at the start.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// What has not stopped by then at shutdown is left behind.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a master cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("another master runs with the data directory {}", .0.display())]
    Running(PathBuf),
    /// The port cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file for etcd cannot be read.
    #[error("cannot read {}", path.display())]
    EtcdFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be opened or read.
    #[error("the store cannot be used")]
    Store(#[from] store::Error),
    /// Certificates cannot be used or made.
    #[error("the certificates cannot be used")]
    Pki(#[from] pki::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The store belongs to a cluster with another certificate authority.
    #[error(
        "the store is that of a cluster with another certificate authority: put the ca.crt and \
         ca.key of that cluster's masters into {}", .0.display()
    )]
    OtherAuthority(PathBuf),
    /// A kind that nodes need is not registered.
    #[error("the nodes cannot be served")]
    Nodes(#[from] MissingResource),
}

/// Runs a master until `shutdown`.
///
/// # Errors
/// When it cannot start. What fails later is logged and tried again.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let folder = config.data_dir.clone();
    let (_lock, identity) = enter(&folder)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| RunError::Listen { address: config.listen, source })?;
    let port = listener
        .local_addr()
        .map_err(|source| RunError::Listen { address: config.listen, source })?
        .port();
    let address = SocketAddr::new(config.advertise, port);
    if config.advertise.is_ipv4() != config.kubernetes_address.is_ipv4() {
        let service = config.kubernetes_address;
        warn!(
            %address, %service,
            "the Service kubernetes and this master are of two families: pods will not reach it; \
             set --advertise-address to an address of the family that --service-cidr begins with"
        );
    }
    let Some(store) = open_store(&config, &shutdown).await? else { return Ok(()) };

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authority = Arc::new(same_authority(&*store, &folder).await?);
    let name = format!("kutter-master-{}", &identity[..8]);
    let names = server_names(&config);
    let certificate = Arc::new(ServerCertificate::open(
        &folder,
        &name,
        names,
        authority.clone(),
        provider.clone(),
    )?);
    kubeconfig::keep(&folder, &format!("https://{address}"), &authority)?;
    let tls = Tls::new(certificate.clone(), &authority, provider)?;

    let registry = Arc::new(api::kinds::registry());
    let specs = registry.resource_specs();
    let caches = Caches::start(store.clone(), specs, shutdown.clone()).await?;
    let objects = Objects::new(store.clone(), caches.clone(), registry, config.cluster.clone());
    let tokens = Tokens::new(store.clone(), authority.fingerprint());
    let key = SigningKey::open(&*store).await?;
    let accounts = Accounts::new(objects.clone(), key, &config.cluster_domain);
    let nodes = NodeService::start(
        nodes_config(&config, address),
        objects.clone(),
        store.clone(),
        accounts.clone(),
        Arc::new(tokens.clone()),
        authority.clone(),
        shutdown.clone(),
    )?;

    let tasks = TaskTracker::new();
    let leadership = Leadership::start(store.clone(), identity, shutdown.clone());
    let fence = || leadership.watch();
    let stop = || shutdown.clone();
    tasks.spawn(certificate.keep(stop()));
    tasks.spawn(masters::announce(store.clone(), address, stop()));
    tasks.spawn(bootstrap::run(objects.clone(), config.kubernetes_address, fence(), stop()));
    tasks.spawn(scheduler::run(objects.clone(), fence(), stop()));
    let of_controllers =
        controllers::Config { root_ca: authority.certificate().to_owned(), ..config.controllers };
    tasks.spawn(controllers::run(objects.clone(), of_controllers, fence(), stop()));
    tasks.spawn(compactor::run(store.clone(), caches.watch_revision(), fence(), stop()));
    tasks.spawn(give_memory_back(caches.clone(), stop()));
    tasks.close();

    let api = Api {
        objects: objects.clone(),
        streams: nodes.streams(),
        accounts,
        samples: Arc::default(),
        shutdown: stop(),
    };
    let router = api::router(api)
        .merge(token_api::router(tokens))
        .route_service("/kutter.node.v1.Node/{method}", nodes.server());
    if shutdown.run_until_cancelled(bootstrap::made(&objects)).await.is_some() {
        info!(%address, "serving");
    }
    serve::serve(listener, tls, router, shutdown).await;

    let drained = async {
        nodes.stopped().await;
        tasks.wait().await;
        leadership.stopped().await;
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        warn!(tasks = tasks.len(), "not everything has stopped in time");
    }
    info!("stopped");
    Ok(())
}

async fn give_memory_back(caches: Arc<Caches>, shutdown: CancellationToken) {
    let changes = WatchStream::from_changes(caches.watch_revision());
    shutdown.run_until_cancelled(memory::give_back_after(changes)).await;
}

/// Makes the data directory this process's own; tells the name that this master keeps for life.
fn enter(folder: &Path) -> Result<(File, String), RunError> {
    let unusable = |source| RunError::DataDir { path: folder.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
    let lock = File::create(folder.join("lock")).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            return Err(RunError::Running(folder.to_owned()));
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(unusable(source)),
    }
    let path = folder.join("master-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if uuid::Uuid::try_parse(id.trim()).is_ok() => {
            return Ok((lock, id.trim().to_owned()));
        }
        Ok(_) => warn!(path = %path.display(), "no id is in the file; making a new one"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(unusable(source)),
    }
    let id = uuid::Uuid::new_v4().to_string();
    std::fs::write(&path, format!("{id}\n")).map_err(unusable)?;
    Ok((lock, id))
}

/// Opens the store; waits for etcd. Nothing at shutdown.
async fn open_store(
    config: &Config,
    shutdown: &CancellationToken,
) -> Result<Option<Arc<dyn Store>>, RunError> {
    let options = match &config.store {
        StoreConfig::Embedded => {
            let store = EmbeddedStore::open(&config.data_dir.join("store.redb"))?;
            return Ok(Some(Metered::shared(store)));
        }
        StoreConfig::Etcd { servers, ca, identity } => EtcdOptions {
            servers: servers.clone(),
            tls: etcd_tls(ca.as_deref(), identity.as_ref())?,
        },
    };
    loop {
        match shutdown.run_until_cancelled(EtcdStore::connect(&options)).await {
            None => return Ok(None),
            Some(Ok(store)) => return Ok(Some(Metered::shared(store))),
            Some(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, cause, "waiting for etcd");
            }
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(STORE_RETRY)).await.is_none() {
            return Ok(None);
        }
    }
}

fn etcd_tls(
    ca: Option<&Path>,
    identity: Option<&(PathBuf, PathBuf)>,
) -> Result<Option<EtcdTls>, RunError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| RunError::EtcdFile { path: path.to_owned(), source })
    };
    let Some(ca) = ca else { return Ok(None) };
    let identity = match identity {
        Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
        None => None,
    };
    Ok(Some(EtcdTls { ca: read(ca)?, identity }))
}

/// The authority of the data directory, which has to be the one that the cluster has.
async fn same_authority(store: &dyn Store, folder: &Path) -> Result<Authority, RunError> {
    let kept = store.get(keys::AUTHORITY).await?;
    if kept.is_some() && !folder.join("ca.crt").exists() {
        // Before a new one is made that would be of no use.
        return Err(RunError::OtherAuthority(folder.to_owned()));
    }
    let authority = Authority::open(folder)?;
    let fingerprint = authority.fingerprint();
    let kept = match kept {
        Some(kept) => Some(kept),
        None => {
            let value = fingerprint.clone().into();
            let put = Op::Put { key: keys::AUTHORITY.to_owned(), value, lease: None };
            let compares = vec![Compare::Absent(keys::AUTHORITY.to_owned())];
            store.txn(Txn { compares, ops: vec![put] }).await?;
            store.get(keys::AUTHORITY).await?
        }
    };
    if kept.is_some_and(|kept| kept.value != fingerprint) {
        return Err(RunError::OtherAuthority(folder.to_owned()));
    }
    Ok(authority)
}

/// Under which names and addresses this master may be reached.
fn server_names(config: &Config) -> ServerNames {
    let domain = &config.cluster_domain;
    let mut names: Vec<String> = ["localhost", "kubernetes", "kubernetes.default"]
        .into_iter()
        .map(str::to_owned)
        .chain(["kubernetes.default.svc".to_owned(), format!("kubernetes.default.svc.{domain}")])
        .collect();
    let mut addresses =
        vec![IpAddr::from([127, 0, 0, 1]), config.advertise, config.kubernetes_address];
    if config.advertise.is_ipv6() {
        addresses.push(std::net::Ipv6Addr::LOCALHOST.into());
    }
    if !config.listen.ip().is_unspecified() {
        addresses.push(config.listen.ip());
    }
    for name in &config.names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    names.sort_unstable();
    names.dedup();
    ServerNames { names, addresses }
}

fn nodes_config(config: &Config, address: SocketAddr) -> NodesConfig {
    NodesConfig::new(
        address.to_string(),
        config.cluster.pod_cidrs.texts(),
        config.cluster.service_cidrs.texts(),
        config.cluster_domain.clone(),
    )
}
