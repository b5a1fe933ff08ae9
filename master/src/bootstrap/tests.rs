use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proto::k8s::api::core::v1::Namespace;

use super::*;
use crate::api::kinds::{ClusterConfig, registry};
use crate::cache::Caches;
use crate::leader::Leadership;
use crate::store::{EmbeddedStore, Store};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    store: Arc<dyn Store>,
    objects: Objects,
    shutdown: CancellationToken,
}

impl Cluster {
    async fn start() -> Self {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory().expect("a store"));
        let shutdown = CancellationToken::new();
        let registry = Arc::new(registry());
        let caches = Caches::start(store.clone(), registry.resource_specs(), shutdown.clone())
            .await
            .expect("caches");
        let config = ClusterConfig {
            service_cidrs: "10.96.0.0/16".parse().unwrap(),
            pod_cidrs: "10.244.0.0/16".parse().unwrap(),
            node_prefixes: Default::default(),
            node_ports: (30000, 32767),
        };
        let objects = Objects::new(store.clone(), caches, registry, config);
        let leadership = Leadership::start(store.clone(), "m1".to_owned(), shutdown.clone());
        let kept = run(objects.clone(), ADDRESS, leadership.watch(), shutdown.clone());
        tokio::spawn(async move {
            kept.await;
            leadership.stopped().await;
        });
        Self { store, objects, shutdown }
    }

    fn announce(&self, address: &str) -> CancellationToken {
        let stop = self.shutdown.child_token();
        let address: SocketAddr = address.parse().expect("an address");
        tokio::spawn(masters::announce(self.store.clone(), address, stop.clone()));
        stop
    }

    /// Waits until the Service leads exactly there.
    async fn leads_to(&self, addresses: &[&str]) {
        let reached = async {
            let mut revisions = self.objects.caches().watch_revision();
            loop {
                revisions.mark_unchanged();
                let key = objects::service_key();
                let slice = current::<EndpointSlices>(&self.objects, &key).expect("it decodes");
                let endpoints = current::<EndpointsKind>(&self.objects, &key).expect("it decodes");
                if let (Some(slice), Some(endpoints)) = (slice, endpoints) {
                    let in_slice: Vec<_> = slice
                        .endpoints
                        .iter()
                        .flatten()
                        .flat_map(|one| one.addresses.clone())
                        .collect();
                    let subsets = endpoints.subsets.unwrap_or_default();
                    let in_endpoints: Vec<_> = subsets
                        .iter()
                        .flat_map(|subset| subset.addresses.iter().flatten())
                        .map(|address| address.ip.clone())
                        .collect();
                    if in_slice == addresses && in_endpoints == addresses {
                        return;
                    }
                }
                revisions.changed().await.expect("the caches run");
            }
        };
        let text = format!("the Service never led to {addresses:?}");
        tokio::time::timeout(PATIENCE, reached).await.expect(&text);
    }
}

#[tokio::test]
async fn a_new_cluster_has_its_namespaces_and_its_service() {
    let cluster = Cluster::start().await;
    cluster.announce("192.0.2.1:6443");
    tokio::time::timeout(PATIENCE, made(&cluster.objects)).await.expect("in time");
    cluster.leads_to(&["192.0.2.1"]).await;
    for name in NAMESPACES {
        let key = ObjectKey::new("", name);
        let namespace: Option<Namespace> =
            current::<Namespaces>(&cluster.objects, &key).expect("it decodes");
        assert!(namespace.is_some(), "{name}");
    }
    for class in SYSTEM_CLASSES {
        let key = ObjectKey::new("", class.name);
        let found = current::<PriorityClasses>(&cluster.objects, &key).expect("it decodes");
        assert_eq!(found.and_then(|class| class.value), Some(class.value), "{}", class.name);
    }
    let service = current::<Services>(&cluster.objects, &objects::service_key())
        .expect("it decodes")
        .expect("it exists");
    let spec = service.spec.expect("a spec");
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.1"));
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    assert!(cluster.objects.caches().claimed("service-ip/10.96.0.1"), "nobody else gets it");

    // What is kept true is not written again and again.
    let quiet = cluster.objects.caches().fresh().await.expect("a revision");
    cluster.announce("127.0.0.1:7443");
    let announced = async {
        while masters::running(cluster.objects.caches()).len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, announced).await.expect("in time");
    assert_eq!(cluster.objects.caches().fresh().await.expect("a revision"), quiet + 1);
}

#[tokio::test]
async fn the_service_follows_the_masters_that_run() {
    let cluster = Cluster::start().await;
    let _first = cluster.announce("192.0.2.1:6443");
    cluster.leads_to(&["192.0.2.1"]).await;
    let second = cluster.announce("192.0.2.2:6443");
    cluster.leads_to(&["192.0.2.1", "192.0.2.2"]).await;
    second.cancel();
    cluster.leads_to(&["192.0.2.1"]).await;
}

#[tokio::test]
async fn what_somebody_spoils_is_put_right() {
    let cluster = Cluster::start().await;
    cluster.announce("192.0.2.1:6443");
    cluster.leads_to(&["192.0.2.1"]).await;
    let key = objects::service_key();
    cluster
        .objects
        .update::<EndpointsKind>(&key, Part::Spec, &[], |endpoints| {
            endpoints.subsets = None;
            true
        })
        .await
        .expect("an update");
    cluster.leads_to(&["192.0.2.1"]).await;
    cluster
        .objects
        .delete::<EndpointSlices>(&key, DeleteOptions::default(), &[])
        .await
        .expect("a deletion");
    cluster.leads_to(&["192.0.2.1"]).await;
    cluster
        .objects
        .delete::<Services>(&key, DeleteOptions::default(), &[])
        .await
        .expect("a deletion");
    tokio::time::timeout(PATIENCE, made(&cluster.objects)).await.expect("made again");
}

#[test]
fn a_master_that_only_this_machine_reaches_is_no_endpoint() {
    let masters = ["127.0.0.1:6443".parse().expect("an address")];
    assert_eq!(objects::endpoints(ADDRESS, &masters).subsets, None);
    assert_eq!(objects::endpoint_slice(ADDRESS, &masters).endpoints, Some(vec![]));
    let spec = objects::service(ADDRESS, &masters).spec.expect("a spec");
    assert_eq!(spec.ports.expect("ports")[0].port, 443);
}

#[test]
fn the_pieces_settle() {
    let masters: Vec<SocketAddr> = ["[2001:db8::1]:6443", "192.0.2.1:6443", "192.0.2.2:7443"]
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect();
    let mut masters = masters;
    masters.sort_unstable();
    let slice = objects::endpoint_slice(ADDRESS, &masters);
    assert_eq!(slice.address_type, "IPv4");
    assert_eq!(slice.endpoints.as_ref().map(Vec::len), Some(1), "one port, one family");
    assert!(objects::same_slice(&slice, &slice));
    let endpoints = objects::endpoints(ADDRESS, &masters);
    assert!(objects::same_subsets(&endpoints, &endpoints));
    assert!(!objects::same_subsets(&endpoints, &objects::endpoints(ADDRESS, &[])));
}
