//! Where pods may be, and where they are better, for the sake of nodes and of other pods.

use super::random::{Reference, random_node, random_pod};
use super::*;
use crate::dice::Dice;
use crate::scheduler::affinity::{Crowd, Term};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn in_zone(name: &str, zone: &str) -> Value {
    let mut node = node(name);
    node["metadata"]["labels"]["zone"] = json!(zone);
    node
}

fn app(name: &str, app: &str) -> Value {
    labelled(pod(name), "app", app)
}

/// A term about the pods of an application.
fn term(app: &str, topology: &str) -> Value {
    json!({"topologyKey": topology, "labelSelector": {"matchLabels": {"app": app}}})
}

fn wanting(mut pod: Value, kind: &str, how: &str, terms: Value) -> Value {
    pod["spec"]["affinity"][kind][how] = terms;
    pod
}

fn near(pod: Value, app: &str, topology: &str) -> Value {
    wanting(pod, "podAffinity", REQUIRED, json!([term(app, topology)]))
}

fn apart(pod: Value, app: &str, topology: &str) -> Value {
    wanting(pod, "podAntiAffinity", REQUIRED, json!([term(app, topology)]))
}

fn spread(mut pod: Value, change: Value) -> Value {
    let app = pod["metadata"]["labels"]["app"].clone();
    let mut constraint = json!({
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": app}},
    });
    for (key, value) in change.as_object().unwrap() {
        constraint[key] = value.clone();
    }
    match pod["spec"]["topologySpreadConstraints"].as_array_mut() {
        Some(constraints) => constraints.push(constraint),
        None => pod["spec"]["topologySpreadConstraints"] = json!([constraint]),
    }
    pod
}

/// Puts a pod on a node.
fn put(model: &mut Model, pod: &Value, node: &str) {
    model.set_pod(seen(pod), node);
}

fn chosen(model: &Model, pod: &Value) -> Option<String> {
    model.place(&seen(pod)).map(|node| model.name(node).to_string())
}

#[test]
fn what_a_pod_prefers_and_what_a_node_does_are_weighed_as_in_kubernetes() {
    let mut bad = in_zone("bad", "x");
    bad["spec"]["taints"] = json!([{"key": "slow", "effect": "PreferNoSchedule"}]);
    let mut model = model(&[bad, in_zone("good", "y")]);
    put(&mut model, &app("there", "a"), "bad");
    let zone = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]});
    let one =
        wanting(pod("p"), "nodeAffinity", PREFERRED, json!([{"weight": 100, "preference": zone}]));
    assert_eq!(chosen(&model, &one).as_deref(), Some("good"));
    let both = wanting(
        one,
        "podAffinity",
        PREFERRED,
        json!([{"weight": 1, "podAffinityTerm": term("a", "zone")}]),
    );
    assert_eq!(chosen(&model, &both).as_deref(), Some("bad"));
}

#[test]
fn a_node_is_chosen_by_its_labels_and_name() {
    let model = model(&[in_zone("a", "x"), in_zone("b", "y"), in_zone("c", "z")]);
    let in_zones = |zones: &[&str]| json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": zones}]}]);
    let required = |terms: Value| {
        wanting(pod("p"), "nodeAffinity", REQUIRED, json!({"nodeSelectorTerms": terms}))
    };
    assert_eq!(chosen(&model, &required(in_zones(&["z"]))).as_deref(), Some("c"));
    let named =
        json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]);
    assert_eq!(chosen(&model, &required(named)).as_deref(), Some("b"));
    let other =
        json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["x", "y"]}]}]);
    assert_eq!(chosen(&model, &required(other)).as_deref(), Some("c"));
    assert_eq!(
        why(&model, &required(in_zones(&["elsewhere"]))),
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."
    );
    let prefers = |zone: &str| {
        let preference = in_zones(&[zone])[0].clone();
        let terms = json!([{"weight": 5, "preference": preference}]);
        wanting(pod("p"), "nodeAffinity", PREFERRED, terms)
    };
    assert_eq!(chosen(&model, &prefers("y")).as_deref(), Some("b"));
    assert!(chosen(&model, &prefers("elsewhere")).is_some());
}

#[test]
fn pods_are_where_those_are_whom_they_need() {
    let mut model = model(&[in_zone("a1", "a"), in_zone("a2", "a"), in_zone("b1", "b")]);
    let web = near(app("web", "web"), "db", "zone");
    assert_eq!(
        why(&model, &web),
        "0/3 nodes are available: 3 node(s) didn't match pod affinity rules."
    );
    put(&mut model, &requesting("ballast", "2", "1Gi"), "b1");
    put(&mut model, &app("db", "db"), "b1");
    assert_eq!(chosen(&model, &web).as_deref(), Some("b1"));
    // In another namespace it is another one.
    let mut elsewhere = web.clone();
    elsewhere["metadata"]["namespace"] = json!("other");
    assert_eq!(chosen(&model, &elsewhere), None);
    let mut term = term("db", "zone");
    term["namespaces"] = json!(["default"]);
    let named = wanting(elsewhere.clone(), "podAffinity", REQUIRED, json!([term]));
    assert_eq!(chosen(&model, &named).as_deref(), Some("b1"));
    term["namespaces"] = Value::Null;
    term["namespaceSelector"] = json!({"matchLabels": {"team": "shop"}});
    let selected = wanting(elsewhere, "podAffinity", REQUIRED, json!([term]));
    assert_eq!(chosen(&model, &selected), None);
    let labels = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
    model.attend(&seen(&selected).demand);
    model.set_namespace("default", Some(labels));
    assert_eq!(chosen(&model, &selected).as_deref(), Some("b1"));
    model.set_namespace("default", None);
    assert_eq!(chosen(&model, &selected), None);
    // The first of those that keep together is near to nobody.
    let flock = |name: &str| near(app(name, "flock"), "flock", "zone");
    let first = place(&mut model, &flock("one")).unwrap();
    let zone = |node: &str| node[..1].to_owned();
    for name in ["two", "three", "four"] {
        assert_eq!(zone(&place(&mut model, &flock(name)).unwrap()), zone(&first));
    }
}

#[test]
fn pods_keep_apart_whoever_of_them_wants_it() {
    let mut model = model(&[in_zone("a1", "a"), in_zone("a2", "a"), in_zone("b1", "b")]);
    let alone = |name: &str| apart(app(name, "web"), "web", "kubernetes.io/hostname");
    let mut nodes: Vec<String> =
        ["w1", "w2", "w3"].iter().map(|name| place(&mut model, &alone(name)).unwrap()).collect();
    nodes.sort();
    assert_eq!(nodes, ["a1", "a2", "b1"]);
    assert_eq!(
        why(&model, &alone("w4")),
        "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."
    );
    // Those that are there do not want this one, which wants nothing.
    assert_eq!(
        why(&model, &app("w5", "web")),
        "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    assert!(chosen(&model, &app("other", "db")).is_some());
    model.remove_pod("uid-w2");
    assert!(chosen(&model, &app("w5", "web")).is_some());
    // By zone, a pod keeps others from all nodes there.
    let zoned = apart(app("z1", "zoned"), "zoned", "zone");
    put(&mut model, &zoned, "a1");
    assert_eq!(chosen(&model, &apart(app("z2", "zoned"), "zoned", "zone")).as_deref(), Some("b1"));
    // A node that gets another label is in another zone.
    let mut moved = in_zone("b1", "a");
    moved["metadata"]["labels"]["zone"] = json!("a");
    model.attend(&seen(&zoned).demand);
    model.set_node(info(&moved));
    assert_eq!(chosen(&model, &apart(app("z2", "zoned"), "zoned", "zone")), None);
}

#[test]
fn preferences_go_before_what_nobody_said() {
    let mut model = model(&[in_zone("a", "a"), in_zone("b", "b")]);
    put(&mut model, &app("cache", "cache"), "a");
    put(&mut model, &requesting("ballast", "3", "6Gi"), "a");
    let weighted = |app_: &str| json!([{"weight": 10, "podAffinityTerm": term(app_, "zone")}]);
    let plain = app("p", "p");
    assert_eq!(chosen(&model, &plain).as_deref(), Some("b"));
    let close = wanting(plain.clone(), "podAffinity", PREFERRED, weighted("cache"));
    assert_eq!(chosen(&model, &close).as_deref(), Some("a"));
    let far = wanting(
        close,
        "podAntiAffinity",
        PREFERRED,
        json!([
            {"weight": 20, "podAffinityTerm": term("cache", "zone")},
        ]),
    );
    assert_eq!(chosen(&model, &far).as_deref(), Some("b"));
    // What others prefer counts as well.
    let host = wanting(app("host", "host"), "podAffinity", PREFERRED, weighted("guest"));
    put(&mut model, &host, "a");
    assert_eq!(chosen(&model, &app("g", "guest")).as_deref(), Some("a"));
    model.remove_pod("uid-host");
    assert_eq!(chosen(&model, &app("g", "guest")).as_deref(), Some("b"));
}

#[test]
fn own_labels_tell_whom_a_term_means() {
    let mut model = model(&[in_zone("a", "a"), in_zone("b", "b")]);
    let of_version = |name: &str, version: &str| labelled(app(name, "web"), "version", version);
    let with = |name: &str, version: &str, field: &str| {
        let mut term = term("web", "zone");
        term[field] = json!(["version", "absent"]);
        wanting(of_version(name, version), "podAntiAffinity", REQUIRED, json!([term]))
    };
    put(&mut model, &of_version("old", "1"), "a");
    put(&mut model, &of_version("new", "2"), "b");
    assert_eq!(chosen(&model, &with("p", "1", "matchLabelKeys")).as_deref(), Some("b"));
    assert_eq!(chosen(&model, &with("p", "2", "matchLabelKeys")).as_deref(), Some("a"));
    assert_eq!(chosen(&model, &with("p", "1", "mismatchLabelKeys")).as_deref(), Some("a"));
}

#[test]
fn pods_are_spread_evenly_or_not_at_all() {
    let nodes = [in_zone("a1", "a"), in_zone("a2", "a"), in_zone("b1", "b"), node("unlabelled")];
    let mut model = model(&nodes);
    let web = |name: &str| spread(app(name, "web"), json!({}));
    put(&mut model, &app("w1", "web"), "a1");
    assert_eq!(place(&mut model, &web("w2")).as_deref(), Some("b1"));
    let third = place(&mut model, &web("w3")).unwrap();
    // The zone with fewer comes next, wherever the third went.
    let other = if third == "b1" { "a" } else { "b" };
    assert!(place(&mut model, &web("w4")).unwrap().starts_with(other));
    let mut cordoned = in_zone("b1", "b");
    cordoned["spec"]["unschedulable"] = json!(true);
    model.set_node(info(&cordoned));
    assert!(place(&mut model, &web("w5")).unwrap().starts_with('a'));
    assert_eq!(
        why(&model, &web("w6")),
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing \
         required label), 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread \
         constraints."
    );
    // One that leaves does not count.
    assert!(model.set_leaving("uid-w1"));
    assert!(chosen(&model, &web("w6")).is_some());
    model.remove_pod("uid-w1");
    assert!(chosen(&model, &web("w6")).is_some());
}

#[test]
fn which_parts_count_is_said_by_policies_and_a_least_number() {
    let mut tainted = in_zone("t", "t");
    tainted["spec"]["taints"] = json!([{"key": "gpu", "effect": "NoSchedule"}]);
    let mut model = model(&[in_zone("a", "a"), in_zone("b", "b"), tainted]);
    put(&mut model, &app("w1", "web"), "a");
    put(&mut model, &app("w2", "web"), "b");
    let web = |change: Value| spread(app("p", "web"), change);
    // The tainted zone counts, and is empty.
    assert_eq!(chosen(&model, &web(json!({}))), None);
    assert!(chosen(&model, &web(json!({"nodeTaintsPolicy": "Honor"}))).is_some());
    let three = json!({"nodeTaintsPolicy": "Honor", "minDomains": 3});
    assert_eq!(chosen(&model, &web(three)), None);
    assert!(chosen(&model, &web(json!({"nodeTaintsPolicy": "Honor", "maxSkew": 2}))).is_some());
    // Nodes that the pod may not be on do not count, unless it says so.
    let mut selecting = web(json!({"nodeTaintsPolicy": "Honor"}));
    selecting["spec"]["nodeSelector"] = json!({"zone": "a"});
    assert_eq!(chosen(&model, &selecting).as_deref(), Some("a"));
    let mut ignoring = web(json!({"nodeAffinityPolicy": "Ignore"}));
    ignoring["spec"]["nodeSelector"] = json!({"zone": "a"});
    assert_eq!(chosen(&model, &ignoring), None);
}

#[test]
fn pods_are_spread_as_evenly_as_may_be() {
    let mut model = model(&[in_zone("a1", "a"), in_zone("a2", "a"), in_zone("b1", "b")]);
    let web = |name: &str| spread(app(name, "web"), json!({"whenUnsatisfiable": "ScheduleAnyway"}));
    put(&mut model, &requesting("ballast", "3", "6Gi"), "b1");
    put(&mut model, &app("w1", "web"), "a1");
    put(&mut model, &app("w2", "web"), "a2");
    for name in ["w3", "w4"] {
        assert_eq!(place(&mut model, &web(name)).as_deref(), Some("b1"));
    }
    let mut full = in_zone("b1", "b");
    full["spec"]["unschedulable"] = json!(true);
    model.set_node(info(&full));
    assert!(place(&mut model, &web("w5")).unwrap().starts_with('a'));
}

#[test]
fn who_is_in_the_way_gives_way() {
    let mut model = model(&[in_zone("a", "a")]);
    let alone = |name: &str, priority: i32| {
        let mut pod = apart(app(name, "web"), "web", "zone");
        pod["spec"]["priority"] = json!(priority);
        pod
    };
    put(&mut model, &alone("low", 0), "a");
    put(&mut model, &app("neutral", "db"), "a");
    let high = seen(&alone("high", 5));
    assert_eq!(model.place(&high), None);
    let plan = model.preempt(&high).unwrap();
    let victims: Vec<&str> = plan.victims.iter().map(|one| one.key.name.as_str()).collect();
    assert_eq!(victims, ["low"]);
    // As in Kubernetes, nobody gives way to a pod that needs one of those who might have to.
    let mut needing = near(app("needing", "x"), "db", "zone");
    needing["spec"]["priority"] = json!(5);
    needing["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "4"});
    put(&mut model, &requesting("big", "2", "1Gi"), "a");
    assert!(model.preempt(&seen(&needing)).is_err());
    let mut important = app("neutral", "db");
    important["spec"]["priority"] = json!(9);
    put(&mut model, &important, "a");
    let plan = model.preempt(&seen(&needing)).unwrap();
    let victims: Vec<&str> = plan.victims.iter().map(|one| one.key.name.as_str()).collect();
    assert_eq!(victims, ["big"]);
}

#[test]
fn only_what_may_help_wakes() {
    let mut model = model(&[in_zone("a", "a"), in_zone("b", "b")]);
    let demand = |pod: &Value| seen(pod).demand;
    let (web, db) = (demand(&app("w", "web")), demand(&app("d", "db")));
    let needs = demand(&near(app("n", "x"), "db", "zone"));
    let avoids = demand(&apart(app("v", "x"), "db", "zone"));
    let evens = demand(&spread(app("e", "web"), json!({})));
    let shy = demand(&apart(app("s", "x"), "web", "zone"));
    for (waiting, changed, came, expected) in [
        (&needs, &db, true, true),
        (&needs, &web, true, false),
        (&avoids, &db, false, true),
        (&avoids, &db, true, false),
        (&evens, &web, true, true),
        (&evens, &db, true, false),
        (&web, &shy, false, true),
        (&web, &shy, true, false),
        (&db, &shy, false, false),
        (&web, &db, false, false),
    ] {
        assert_eq!(model.concerns(waiting, changed, came), expected, "{changed:?} {came}");
    }
    // All that was followed goes.
    model.attend(&evens);
    put(&mut model, &spread(app("e", "web"), json!({})), "a");
    assert!(model.set_leaving("uid-e"));
    model.remove_pod("uid-e");
    model.remove_node("a");
    model.remove_node("b");
    assert!(model.is_empty(), "{model:?}");
}

// Against a reference that looks through everything.

fn random_affine(dice: &mut Dice, name: &str) -> Value {
    let mut pod = random_pod(dice, name);
    let topologies = ["kubernetes.io/hostname", "zone", "disk"];
    let about = |dice: &mut Dice| term(&format!("app-{}", dice.below(4)), dice.pick(&topologies));
    match dice.below(9) {
        0 => pod = wanting(pod, "podAffinity", REQUIRED, json!([about(dice)])),
        1 => pod = wanting(pod, "podAffinity", REQUIRED, json!([about(dice), about(dice)])),
        2 | 3 => pod = wanting(pod, "podAntiAffinity", REQUIRED, json!([about(dice)])),
        4 => {
            let when = dice.pick(&["DoNotSchedule", "ScheduleAnyway"]);
            let change = json!({
                "topologyKey": dice.pick(&topologies), "whenUnsatisfiable": when,
                "maxSkew": 1 + dice.below(2), "minDomains": 1 + dice.below(4),
                "nodeTaintsPolicy": dice.pick(&["Honor", "Ignore"]),
                "nodeAffinityPolicy": dice.pick(&["Honor", "Ignore"]),
            });
            pod = spread(pod, change);
        }
        5 => {
            let terms = json!([{"weight": 1 + dice.below(100), "podAffinityTerm": about(dice)}]);
            pod = wanting(pod, "podAffinity", PREFERRED, terms);
        }
        6 => {
            let expression = json!({"key": "zone", "operator": dice.pick(&["In", "NotIn"]), "values": [dice.pick(&["a", "b"])]});
            let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
            pod = wanting(pod, "nodeAffinity", REQUIRED, terms);
        }
        _ => {}
    }
    pod
}

impl Reference {
    fn part(&self, node: &str, topology: &str) -> Option<&String> {
        self.nodes.get(node)?.labels.get(topology)
    }

    /// Pods of the crowd in the part of the cluster that the node is in.
    fn around(&self, crowd: &Crowd, node: &str, topology: &str) -> usize {
        let part = self.part(node, topology);
        let here = |on: &str| part.is_some() && self.part(on, topology) == part;
        let of = |pod: &PodInfo| crowd.has(&pod.key.namespace, &pod.labels, |_| None);
        self.pods.values().filter(|(pod, on)| here(on) && of(pod)).count()
    }

    fn permits(&self, pod: &PodInfo, node: &str) -> bool {
        let wants = |pod: &PodInfo, term: &Term, other: &PodInfo| {
            pod.uid != other.uid && term.crowd.has(&other.key.namespace, &other.labels, |_| None)
        };
        let repelled = self.pods.values().any(|(other, on)| {
            let mut terms = other.demand.affinity.iter().flat_map(|affinity| &affinity.apart);
            terms.any(|term| {
                let part = self.part(on, &term.topology);
                part.is_some() && part == self.part(node, &term.topology) && wants(other, term, pod)
            })
        });
        if repelled {
            return false;
        }
        let Some(affinity) = &pod.demand.affinity else { return true };
        if affinity.apart.iter().any(|term| self.around(&term.crowd, node, &term.topology) > 0) {
            return false;
        }
        if let Some(company) = &affinity.company {
            let labelled =
                affinity.near.iter().all(|term| self.part(node, &term.topology).is_some());
            let met =
                affinity.near.iter().all(|term| self.around(company, node, &term.topology) > 0);
            let anywhere = affinity.near.iter().any(|term| {
                self.nodes.keys().any(|other| self.around(company, other, &term.topology) > 0)
            });
            let itself = company.has(&pod.key.namespace, &pod.labels, |_| None);
            if !labelled || !(met || !anywhere && itself) {
                return false;
            }
        }
        affinity.spread.iter().filter(|one| one.hard).all(|one| {
            let Some(part) = self.part(node, &one.topology) else { return false };
            let counts = |other: &&NodeInfo| {
                other.labels.contains_key(&one.topology)
                    && (!one.honours_affinity || pod.demand.admits_node(other))
                    && (!one.honours_taints || pod.demand.tolerates_all(other))
            };
            let mut parts: BTreeMap<&String, usize> = BTreeMap::new();
            for other in self.nodes.values().filter(counts) {
                let here = |(on_pod, on): &&(PodInfo, String)| {
                    *on == other.name
                        && one.crowd.has(&on_pod.key.namespace, &on_pod.labels, |_| None)
                };
                *parts.entry(&other.labels[&one.topology]).or_default() +=
                    self.pods.values().filter(here).count();
            }
            let least = match parts.len() < one.min_domains {
                true => 0,
                false => parts.values().min().copied().unwrap_or(0),
            };
            let here = parts.get(part).copied().unwrap_or(0) + usize::from(one.counts_itself);
            here.saturating_sub(least) <= usize::try_from(one.max_skew).unwrap()
        })
    }
}

#[test]
fn thousands_of_choosy_pods_are_placed_where_a_full_scan_permits_it() {
    let (mut placed, mut refused) = (0, 0);
    for seed in 1..=12 {
        let dice = &mut Dice::new(100 + seed);
        let (mut model, mut reference) = (Model::default(), Reference::default());
        let nodes = 3 + dice.below(20);
        for step in 0..300 {
            match dice.below(12) {
                0 => {
                    let name = format!("node-{}", dice.below(nodes));
                    let mut node = random_node(dice, &name);
                    if dice.below(6) == 0 {
                        node["metadata"]["labels"] = json!({"zone": "c"});
                    }
                    let node = info(&node);
                    model.set_node(node.clone());
                    reference.nodes.insert(node.name.clone(), node);
                }
                1 if dice.below(4) == 0 => {
                    let name = format!("node-{}", dice.below(nodes));
                    model.remove_node(&name);
                    reference.nodes.remove(&name);
                }
                2 => {
                    let uids: Vec<_> = reference.pods.keys().cloned().collect();
                    if !uids.is_empty() {
                        let uid = &uids[dice.below(uids.len())];
                        model.remove_pod(uid);
                        reference.pods.remove(uid);
                    }
                }
                _ => {
                    let pod = seen(&random_affine(dice, &format!("{seed}-{step}")));
                    let mut feasible = reference.feasible(&pod.demand);
                    feasible.retain(|node| reference.permits(&pod, node));
                    if dice.below(2) == 0 {
                        model.attend(&pod.demand);
                    }
                    let Some(id) = model.place(&pod) else {
                        assert!(feasible.is_empty(), "seed {seed} step {step}: {feasible:?}");
                        refused += 1;
                        continue;
                    };
                    let node = model.name(id).to_string();
                    assert!(feasible.contains(&node), "seed {seed} step {step}: {node} {pod:?}");
                    assert!(model.fits_on(&pod.demand, id));
                    model.assume(pod.clone(), id);
                    reference.pods.insert(pod.uid.to_string(), (pod, node));
                    placed += 1;
                }
            }
        }
        // It holds what the model is to let go.
        for uid in std::mem::take(&mut reference.pods).into_keys() {
            model.remove_pod(&uid);
        }
        reference.nodes.keys().for_each(|name| model.remove_node(name));
        assert!(model.is_empty(), "seed {seed}: {model:?}");
    }
    assert!(placed > 500 && refused > 100, "{placed} {refused}");
}
