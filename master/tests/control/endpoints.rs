//! Services lead to the pods they select.

use std::collections::BTreeSet;

use master::api::kinds::{EndpointSlices, EndpointsKind, Nodes, Services};
use master::api::objects::{DeleteOptions, Part};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Endpoints, Node, Service};
use proto::k8s::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::cluster::{Cluster, default, from};

/// Addresses of all slices of a Service whose endpoints are ready.
fn ready(cluster: &Cluster, service: &str) -> BTreeSet<String> {
    let mut slices = cluster.list("endpointslices");
    slices.retain(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned())
        .collect()
}

fn addresses(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap().to_owned()).collect()
}

fn legacy(cluster: &Cluster, service: &str) -> BTreeSet<String> {
    let endpoints = cluster.get("endpoints", &default(service)).unwrap_or_default();
    let subsets = endpoints["subsets"].as_array().cloned().unwrap_or_default();
    subsets
        .iter()
        .flat_map(|subset| subset["addresses"].as_array().cloned().unwrap_or_default())
        .map(|address| address["ip"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_and_endpoints_follow_the_pods() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
    cluster.service("web", spec).await;
    cluster.rc("web", 3).await;
    for replicas in [3, 5, 1, 0] {
        cluster.scale("web", replicas).await;
        cluster
            .eventually("both follow", |cluster| {
                let pods = cluster.ready_pods();
                let expected = addresses(&pods);
                pods.len() as i32 == replicas
                    && ready(cluster, "web") == expected
                    && legacy(cluster, "web") == expected
            })
            .await;
    }
    let slices = cluster.list("endpointslices");
    assert_eq!(slices.len(), 1, "{slices:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_had_goes_with_it() {
    let cluster = Cluster::start().await;
    cluster.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})).await;
    cluster
        .eventually("both are there", |cluster| {
            cluster.list("endpoints").len() == 1 && cluster.list("endpointslices").len() == 1
        })
        .await;
    let options = DeleteOptions::default();
    cluster.objects.delete::<Services>(&default("web"), options, &[]).await.unwrap();
    cluster
        .eventually("both are gone", |cluster| {
            cluster.list("endpoints").is_empty() && cluster.list("endpointslices").is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_made_endpoints_are_repeated_as_slices_while_the_service_has_no_selector() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.service("outside", json!({"ports": [{"port": 5432}]})).await;
    let endpoints: Endpoints = from(json!({
        "metadata": {"name": "outside", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}],
    }));
    cluster.objects.create::<EndpointsKind>(endpoints, &[]).await.unwrap();
    let only = |address: &str| BTreeSet::from([address.to_owned()]);
    cluster.eventually("a slice", |cluster| ready(cluster, "outside") == only("192.0.2.1")).await;
    let change = |endpoints: &mut Endpoints| {
        endpoints.subsets.as_mut().unwrap()[0].addresses.as_mut().unwrap()[0].ip =
            "192.0.2.2".to_owned();
        true
    };
    let key = default("outside");
    cluster.objects.update::<EndpointsKind>(&key, Part::Spec, &[], change).await.unwrap();
    cluster
        .eventually("it follows", |cluster| ready(cluster, "outside") == only("192.0.2.2"))
        .await;
    // Given a selector, the Service leads to its pods instead.
    cluster.pod("inside", |pod| pod["metadata"]["labels"] = json!({"app": "inside"})).await;
    cluster.eventually("the pod runs", |cluster| cluster.ready_pods().len() == 1).await;
    let select = |service: &mut Service| {
        service.spec.get_or_insert_default().selector =
            Some([("app".to_owned(), "inside".to_owned())].into());
        true
    };
    cluster.objects.update::<Services>(&key, Part::Spec, &[], select).await.unwrap();
    cluster
        .eventually("only the pod is left", |cluster| {
            let pod = addresses(&cluster.ready_pods());
            ready(cluster, "outside") == pod && legacy(cluster, "outside") == pod
        })
        .await;
    let options = DeleteOptions::default();
    cluster.objects.delete::<Services>(&key, options, &[]).await.unwrap();
    cluster
        .eventually("all is gone", |cluster| {
            cluster.list("endpoints").is_empty() && cluster.list("endpointslices").is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_follow_the_zone_of_the_node_and_the_wish_of_the_service() {
    let cluster = Cluster::start().await;
    let zone = |node: &mut Value| {
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("north");
    };
    cluster.node_with("one", zone).await;
    let spec = json!({
        "selector": {"app": "web"}, "ports": [{"port": 80}], "trafficDistribution": "PreferClose",
    });
    cluster.service("web", spec).await;
    cluster.rc("web", 1).await;
    let meant_for = |cluster: &Cluster, zone: &str| {
        let slices = cluster.list("endpointslices");
        let endpoint = slices.first().map(|slice| slice["endpoints"][0].clone());
        endpoint.is_some_and(|one| {
            one["zone"] == zone && one["hints"] == json!({"forZones": [{"name": zone}]})
        })
    };
    cluster.eventually("its own zone", |cluster| meant_for(cluster, "north")).await;
    let move_it = |node: &mut Node| {
        let labels = node.metadata.labels.get_or_insert_default();
        labels.insert("topology.kubernetes.io/zone".to_owned(), "south".to_owned());
        true
    };
    let key = ObjectKey::new("", "one");
    cluster.objects.update::<Nodes>(&key, Part::Spec, &[], move_it).await.unwrap();
    cluster.eventually("the other zone", |cluster| meant_for(cluster, "south")).await;
    let calm = |service: &mut Service| {
        service.spec.get_or_insert_default().traffic_distribution = None;
        true
    };
    cluster.objects.update::<Services>(&default("web"), Part::Spec, &[], calm).await.unwrap();
    cluster
        .eventually("no hints are left", |cluster| {
            let slices = cluster.list("endpointslices");
            slices.len() == 1 && slices[0]["endpoints"][0].get("hints").is_none()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_hundred_pods_are_held_in_slices_of_a_hundred() {
    let cluster = Cluster::start().await;
    for node in ["one", "two", "three"] {
        cluster.node(node).await;
    }
    cluster.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})).await;
    cluster.rc("web", 230).await;
    cluster
        .eventually("all are there", |cluster| {
            cluster.ready_pods().len() == 230 && ready(cluster, "web").len() == 230
        })
        .await;
    for slice in cluster.list("endpointslices") {
        assert!(slice["endpoints"].as_array().unwrap().len() <= 100);
    }
    cluster.idle().await;
    assert_eq!(ready(&cluster, "web"), addresses(&cluster.ready_pods()));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_meant_for_zones_by_their_cpus_as_long_as_all_nodes_say_theirs() {
    const ZONE: &str = "topology.kubernetes.io/zone";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    let cluster = Cluster::start().await;
    for (node, zone) in [("one", "north"), ("two", "south")] {
        cluster.node_with(node, |node| node["metadata"]["labels"][ZONE] = json!(zone)).await;
    }
    cluster.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})).await;
    let mode = |service: &mut Service| {
        let annotations = service.metadata.annotations.get_or_insert_default();
        annotations.insert(MODE.to_owned(), "Auto".to_owned());
        true
    };
    cluster.objects.update::<Services>(&default("web"), Part::Spec, &[], mode).await.unwrap();
    // All are in one zone; half of them are meant for the other, which has half of the CPUs.
    let on_one = |rc: &mut Value| rc["spec"]["template"]["spec"]["nodeName"] = json!("one");
    cluster.rc_with("web", 6, on_one).await;
    let meant = |cluster: &Cluster| {
        let slices = cluster.list("endpointslices");
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().unwrap());
        let mut zones: Vec<String> = endpoints
            .map(|one| one["hints"]["forZones"][0]["name"].as_str().unwrap_or("-").to_owned())
            .collect();
        zones.sort();
        zones.join(" ")
    };
    let told = |cluster: &Cluster, reason: &str, message: &str| {
        let mut events = cluster.events_about("web").into_iter();
        events.any(|event| event.0 == reason && event.1.contains(message))
    };
    let halves = "north north north south south south";
    cluster.eventually("half for each", |cluster| meant(cluster) == halves).await;
    let on = "TopologyAwareHintsEnabled";
    cluster.eventually("told", |cluster| told(cluster, on, "IPv4 endpoints are meant")).await;

    // A node that does not say where it is has parts that nobody knows.
    cluster.node("three").await;
    cluster.eventually("for nobody", |cluster| meant(cluster) == "- - - - - -").await;
    let off = "TopologyAwareHintsDisabled";
    let why = "node three has no label";
    cluster.eventually("told why", |cluster| told(cluster, off, why)).await;
    let south = |node: &mut Node| {
        let labels = node.metadata.labels.get_or_insert_default();
        labels.insert(ZONE.to_owned(), "south".to_owned());
        true
    };
    let three = ObjectKey::new("", "three");
    cluster.objects.update::<Nodes>(&three, Part::Spec, &[], south).await.unwrap();
    // Now the south has two thirds of the CPUs.
    let thirds = "north north south south south south";
    cluster.eventually("by thirds", |cluster| meant(cluster) == thirds).await;
    let mode = |service: &mut Service| {
        let annotations = service.metadata.annotations.get_or_insert_default();
        annotations.insert(MODE.to_owned(), "Disabled".to_owned());
        true
    };
    cluster.objects.update::<Services>(&default("web"), Part::Spec, &[], mode).await.unwrap();
    cluster.eventually("no more", |cluster| meant(cluster) == "- - - - - -").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_that_bear_our_name_and_are_nobodys_go_and_those_of_others_stay() {
    let cluster = Cluster::start().await;
    cluster.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})).await;
    let slice = |name: &str, manager: &str| -> EndpointSlice {
        from(json!({
            "metadata": {"name": name, "namespace": "default", "labels": {
                "kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": manager,
            }},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.0.2.9"], "conditions": {"ready": true}}],
            "ports": [{"port": 80}],
        }))
    };
    for (name, manager) in [
        ("restored", "endpointslice-controller.k8s.io"),
        ("mirrored", "endpointslicemirroring-controller.k8s.io"),
        ("foreign", "somebody.example.org"),
    ] {
        cluster.objects.create::<EndpointSlices>(slice(name, manager), &[]).await.unwrap();
    }
    let there =
        |cluster: &Cluster, name: &str| cluster.get("endpointslices", &default(name)).is_some();
    cluster
        .eventually("both are gone", |cluster| {
            !there(cluster, "restored") && !there(cluster, "mirrored")
        })
        .await;
    cluster.idle().await;
    assert!(there(&cluster, "foreign"));
    // Those that a master finds when it begins to lead are looked at, too.
    let late = slice("late", "endpointslice-controller.k8s.io");
    cluster.objects.create::<EndpointSlices>(late, &[]).await.unwrap();
    cluster.lead().await;
    cluster.eventually("it is gone", |cluster| !there(cluster, "late")).await;
}
