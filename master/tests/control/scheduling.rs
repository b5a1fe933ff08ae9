//! Pods get nodes, or are told why not.

use std::collections::BTreeMap;

use master::api::kinds::{Nodes, Pods, PriorityClasses, RuntimeClasses};
use master::api::objects::Part;
use proto::{ObjectKey, k8s as k8s_openapi};
use serde_json::{Value, json};

use crate::cluster::{Cluster, condition, default, from, node_of};

fn requesting(cpu: &str) -> impl FnOnce(&mut serde_json::Value) + use<'_> {
    move |pod| pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_and_told_so() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.pod("web", |_| {}).await;
    cluster.eventually("the pod runs", |cluster| cluster.ready_pods().len() == 1).await;
    let pod = cluster.get("pods", &default("web")).unwrap();
    assert_eq!(node_of(&pod), "one");
    assert_eq!(condition(&pod, "PodScheduled").unwrap()["status"], "True");
    let told = ("Scheduled".to_owned(), "Successfully assigned default/web to one".to_owned());
    cluster.eventually("the event", |cluster| cluster.events_about("web").contains(&told)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_room_is_made() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.pod("first", requesting("3")).await;
    cluster.eventually("the first runs", |cluster| cluster.ready_pods().len() == 1).await;
    cluster.pod("second", requesting("3")).await;
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No \
                   preemption victims found for incoming pod.";
    let is_told = |cluster: &Cluster| {
        let pod = cluster.get("pods", &default("second")).unwrap();
        let scheduled = condition(&pod, "PodScheduled");
        scheduled.is_some_and(|one| {
            one["status"] == "False"
                && one["reason"] == "Unschedulable"
                && one["message"] == message
        })
    };
    cluster.eventually("the second is told why", is_told).await;
    let told = ("FailedScheduling".to_owned(), message.to_owned());
    cluster.eventually("the event", |cluster| cluster.events_about("second").contains(&told)).await;
    // Small ones are not held up.
    cluster.pod("small", requesting("1")).await;
    cluster.eventually("the small one runs", |cluster| cluster.ready_pods().len() == 2).await;
    cluster.delete_pod("first").await;
    cluster
        .eventually("the second runs", |cluster| {
            let pod = cluster.get("pods", &default("second")).unwrap();
            node_of(&pod) == "one" && condition(&pod, "PodScheduled").unwrap()["status"] == "True"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_gets_pods_again_when_it_is_uncordoned() {
    let cluster = Cluster::start().await;
    cluster.node_with("one", |node| node["spec"]["unschedulable"] = json!(true)).await;
    cluster.pod("web", |_| {}).await;
    cluster
        .eventually("the pod is told", |cluster| {
            let pod = cluster.get("pods", &default("web")).unwrap();
            condition(&pod, "PodScheduled").is_some_and(|one| {
                one["message"]
                    == "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes \
                        are available: 1 Preemption is not helpful for scheduling."
            })
        })
        .await;
    let uncordon = |node: &mut proto::k8s::api::core::v1::Node| {
        node.spec.get_or_insert_default().unschedulable = None;
        true
    };
    let key = ObjectKey::new("", "one");
    cluster.objects.update::<Nodes>(&key, Part::Spec, &[], uncordon).await.unwrap();
    cluster.eventually("the pod runs", |cluster| cluster.ready_pods().len() == 1).await;
    let node = cluster.get("nodes", &key).unwrap();
    assert_eq!(node["spec"].get("taints"), None, "{node}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_at_once_are_spread_evenly_and_each_bound_once() {
    let cluster = Cluster::start().await;
    for node in ["one", "two", "three"] {
        cluster.node(node).await;
    }
    cluster.rc("web", 60).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 60).await;
    let mut counts = BTreeMap::new();
    for pod in cluster.live_pods() {
        *counts.entry(node_of(&pod).to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [20, 20, 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_binds_nothing_and_the_next_goes_on() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.pod("before", |_| {}).await;
    cluster.eventually("it runs", |cluster| cluster.ready_pods().len() == 1).await;
    // Another has taken the key over, and this master has not heard of it yet.
    let fence = cluster.write_leader().await;
    cluster.pod("web", |_| {}).await;
    cluster.idle().await;
    assert_eq!(node_of(&cluster.get("pods", &default("web")).unwrap()), "");
    cluster.leader.send_replace(None);
    cluster.leader.send_replace(Some(fence));
    cluster.eventually("it runs", |cluster| cluster.ready_pods().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_for_another_scheduler_is_left_alone_and_counted_once_it_has_a_node() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster
        .pod("other", |pod| {
            pod["spec"]["schedulerName"] = json!("other");
            requesting("4")(pod);
        })
        .await;
    cluster.idle().await;
    assert_eq!(node_of(&cluster.get("pods", &default("other")).unwrap()), "");
    let binding = master::api::objects::Binding {
        pod: default("other"),
        uid: cluster.get("pods", &default("other")).unwrap()["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_owned(),
        node: "one".to_owned(),
    };
    assert!(cluster.objects.bind(vec![binding], &[]).await[0].is_ok());
    cluster.eventually("the other runs", |cluster| cluster.ready_pods().len() == 1).await;
    cluster.pod("web", requesting("1")).await;
    cluster
        .eventually("ours is told", |cluster| {
            let pod = cluster.get("pods", &default("web")).unwrap();
            condition(&pod, "PodScheduled").is_some_and(|one| one["reason"] == "Unschedulable")
        })
        .await;
}

async fn class(cluster: &Cluster, name: &str, value: i32) {
    let class = json!({"metadata": {"name": name}, "value": value});
    cluster.objects.create::<PriorityClasses>(from(class), &[]).await.unwrap();
    cluster.objects.caches().fresh().await.unwrap();
}

fn of_class<'a>(class: &'a str, cpu: &'a str) -> impl FnOnce(&mut Value) + use<'a> {
    move |pod| {
        requesting(cpu)(pod);
        pod["spec"]["priorityClassName"] = json!(class);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn less_important_pods_give_way_and_are_told_why() {
    let cluster = Cluster::start().await;
    class(&cluster, "high", 1000).await;
    class(&cluster, "low", -5).await;
    cluster.node("one").await;
    cluster.pod("keeps", of_class("high", "2")).await;
    cluster.pod("plain", requesting("1")).await;
    cluster.pod("least", of_class("low", "1")).await;
    cluster.eventually("they run", |cluster| cluster.ready_pods().len() == 3).await;
    let plain = cluster.get("pods", &default("plain")).unwrap();
    assert_eq!(plain["spec"]["priority"], 0);
    // Who ends last says why it does: a finalizer keeps it in sight.
    let key = default("least");
    let hold = |pod: &mut k8s_openapi::api::core::v1::Pod| {
        pod.metadata.finalizers = Some(vec!["example.com/seen".to_owned()]);
        true
    };
    cluster.objects.update::<Pods>(&key, Part::Spec, &[], hold).await.unwrap();
    let urgent = cluster.pod("urgent", of_class("high", "1")).await;
    cluster
        .eventually("the least important ends", |cluster| {
            let pod = cluster.get("pods", &default("least")).unwrap();
            let target = condition(&pod, "DisruptionTarget");
            target.is_some_and(|one| one["reason"] == "PreemptionByScheduler")
                && !pod["metadata"]["deletionTimestamp"].is_null()
        })
        .await;
    let uid = urgent.metadata.uid.unwrap();
    let told = ("Preempted".to_owned(), format!("Preempted by pod {uid} on node one"));
    cluster.eventually("the event", |cluster| cluster.events_about("least").contains(&told)).await;
    cluster
        .eventually("the room is kept", |cluster| {
            let pod = cluster.get("pods", &default("urgent")).unwrap();
            pod["status"]["nominatedNodeName"] == "one"
        })
        .await;
    // Who is less important does not get what was made for another.
    cluster.pod("thief", requesting("1")).await;
    let release = |pod: &mut k8s_openapi::api::core::v1::Pod| {
        pod.metadata.finalizers = None;
        true
    };
    cluster.objects.update::<Pods>(&key, Part::Spec, &[], release).await.unwrap();
    cluster
        .eventually("the important one runs", |cluster| {
            let pod = cluster.get("pods", &default("urgent")).unwrap();
            node_of(&pod) == "one" && pod["status"]["nominatedNodeName"].is_null()
        })
        .await;
    let ready: Vec<String> = cluster
        .ready_pods()
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        ready.contains(&"keeps".to_owned()) && ready.contains(&"plain".to_owned()),
        "{ready:?}"
    );
    let thief = cluster.get("pods", &default("thief")).unwrap();
    assert_eq!(node_of(&thief), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_class_at_a_time_is_the_default() {
    let cluster = Cluster::start().await;
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 7, "globalDefault": true});
    cluster.objects.create::<PriorityClasses>(from(class("first")), &[]).await.unwrap();
    let refused = cluster.objects.create::<PriorityClasses>(from(class("second")), &[]).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("Only one default can exist"), "{error}");
    let pod = cluster.pod("web", |_| {}).await.spec.unwrap();
    assert_eq!((pod.priority, pod.priority_class_name.as_deref()), (Some(7), Some("first")));
    let options = Default::default();
    let key = ObjectKey::new("", "first");
    cluster.objects.delete::<PriorityClasses>(&key, options, &[]).await.unwrap();
    cluster.objects.create::<PriorityClasses>(from(class("second")), &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_running_a_pod_takes_is_said_by_its_class_and_has_to_fit() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    let class = |name: &str, cpu: &str| {
        json!({
            "metadata": {"name": name}, "handler": "kutter",
            "overhead": {"podFixed": {"cpu": cpu}},
        })
    };
    for class in [class("cheap", "1m"), class("dear", "1000")] {
        cluster.objects.create::<RuntimeClasses>(from(class), &[]).await.unwrap();
    }
    let of_class =
        |name: &'static str| move |pod: &mut Value| pod["spec"]["runtimeClassName"] = json!(name);
    let pod = cluster.pod("cheap", of_class("cheap")).await.spec.unwrap();
    assert_eq!(pod.overhead.unwrap()["cpu"].0, "1m");
    cluster.pod("dear", of_class("dear")).await;
    cluster.eventually("the cheap one runs", |cluster| cluster.ready_pods().len() == 1).await;
    cluster
        .eventually("the other is told why it does not", |cluster| {
            let pod = cluster.get("pods", &default("dear")).unwrap();
            let words = "0/1 nodes are available: 1 Insufficient cpu.";
            condition(&pod, "PodScheduled")
                .is_some_and(|one| one["message"].as_str().unwrap().starts_with(words))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_gates_waits_until_they_are_open() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.pod("gated", |pod| pod["spec"]["schedulingGates"] = json!([{"name": "later"}])).await;
    // One that came later is scheduled.
    cluster.pod("free", |_| {}).await;
    cluster.eventually("the free one runs", |cluster| cluster.ready_pods().len() == 1).await;
    let pod = cluster.get("pods", &default("gated")).unwrap();
    assert_eq!(node_of(&pod), "");
    assert_eq!(condition(&pod, "PodScheduled").unwrap()["reason"], "SchedulingGated");
    let binding = master::api::objects::Binding {
        pod: default("gated"),
        uid: pod["metadata"]["uid"].as_str().unwrap().to_owned(),
        node: "one".to_owned(),
    };
    let refused = cluster.objects.bind(vec![binding], &[]).await.remove(0).unwrap_err();
    assert!(refused.to_string().contains("has non-empty .spec.schedulingGates"), "{refused}");
    let open = |pod: &mut k8s_openapi::api::core::v1::Pod| {
        pod.spec.get_or_insert_default().scheduling_gates = None;
        true
    };
    cluster.objects.update::<Pods>(&default("gated"), Part::Spec, &[], open).await.unwrap();
    cluster.eventually("both run", |cluster| cluster.ready_pods().len() == 2).await;
    let pod = cluster.get("pods", &default("gated")).unwrap();
    assert_eq!(condition(&pod, "PodScheduled").unwrap()["status"], "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_waits_for_others_is_placed_when_they_are_there() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.node("two").await;
    let about = |app: &str| {
        json!([{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": app}},
        }])
    };
    let term = about("db");
    cluster
        .pod("web", move |pod| {
            pod["spec"]["affinity"]["podAffinity"] =
                json!({"requiredDuringSchedulingIgnoredDuringExecution": term});
        })
        .await;
    cluster
        .eventually("it is told why", |cluster| {
            let pod = cluster.get("pods", &default("web")).unwrap();
            let words = "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.";
            condition(&pod, "PodScheduled")
                .is_some_and(|one| one["message"].as_str().unwrap().starts_with(words))
        })
        .await;
    let term = about("db");
    let db = |pod: &mut Value| {
        pod["metadata"]["labels"] = json!({"app": "db"});
        pod["spec"]["affinity"]["podAntiAffinity"] =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": term});
    };
    for name in ["db-1", "db-2", "db-3"] {
        cluster.pod(name, db).await;
    }
    // Each has a node of its own, and the third none.
    cluster.eventually("two and the one that waited run", |c| c.ready_pods().len() == 3).await;
    let node = |name: &str| node_of(&cluster.get("pods", &default(name)).unwrap()).to_owned();
    let placed = ["db-1", "db-2", "db-3"].map(node);
    assert_eq!(placed.iter().filter(|node| node.is_empty()).count(), 1, "{placed:?}");
    let gone = placed.iter().position(|node| !node.is_empty()).unwrap();
    cluster.delete_pod(["db-1", "db-2", "db-3"][gone]).await;
    cluster.eventually("its place is taken", |cluster| cluster.ready_pods().len() == 3).await;
}
