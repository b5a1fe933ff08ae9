//! Why attempts failed, as far as which of them did tells. Pure.

use std::collections::BTreeSet;

use super::attempt::{Heard, Leg, Outcome, Wanted};

/// What explains the failures between nodes. Each line names a cause once: what follows from it is
/// not told again.
pub(crate) fn nodes(outcomes: &[Outcome]) -> Vec<String> {
    let mut findings = Vec::new();
    let sources: BTreeSet<&str> = outcomes.iter().map(|one| one.attempt.from.as_str()).collect();
    let matching = |from: Option<&str>, to: Option<&str>, leg: Leg| -> Vec<&Outcome> {
        let is = |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| wanted == found);
        let found = outcomes.iter().filter(|one| {
            one.attempt.leg == leg && is(from, &one.attempt.from) && is(to, &one.attempt.to)
        });
        found.collect()
    };
    let fails = |from: Option<&str>, to: Option<&str>, leg: Leg| {
        let tried = matching(from, to, leg);
        !tried.is_empty() && tried.iter().all(|one| !one.is_ok())
    };
    let any_fails = |from: Option<&str>, to: Option<&str>, leg: Leg| {
        matching(from, to, leg).iter().any(|one| !one.is_ok())
    };
    // Pods first: nothing works where they do not reach each other.
    let mut cut_off: BTreeSet<&str> = BTreeSet::new();
    let mut broken: BTreeSet<(&str, &str)> = BTreeSet::new();
    for &node in &sources {
        let others = sources.iter().filter(|other| **other != node);
        let others: Vec<&str> = others.copied().collect();
        let out = others.iter().all(|other| fails(Some(node), Some(other), Leg::PodIp));
        let back = others.iter().all(|other| fails(Some(other), Some(node), Leg::PodIp));
        if !others.is_empty() && out && back {
            cut_off.insert(node);
        }
        if fails(Some(node), Some(node), Leg::PodIp) {
            findings.push(format!(
                "{node}: a pod does not reach itself at its own address: its interface or the node's \
                 bridge is broken"
            ));
        }
    }
    // With two nodes, both are cut off from each other.
    if cut_off.len() == sources.len() && sources.len() > 1 {
        findings.push(
            "no node's pods reach those of another: look at what lies between the nodes (routes, \
             tunnels, a firewall) and at the kubelets' logs"
                .to_owned(),
        );
    } else {
        for node in &cut_off {
            findings.push(format!(
                "{node}: its pods and those of other nodes do not reach each other: look at its routes, \
                 its cable and its kubelet's log"
            ));
        }
    }
    for &from in &sources {
        for &to in &sources {
            if from == to || !any_fails(Some(from), Some(to), Leg::PodIp) {
                continue;
            }
            broken.insert((from, to));
            if !cut_off.contains(from) && !cut_off.contains(to) {
                let why = match matching(Some(from), Some(to), Leg::PodIp)
                    .iter()
                    .find(|one| !one.is_ok())
                    .map(|one| &one.heard)
                {
                    Some(Heard::NoRoute) => "there is no route",
                    Some(Heard::Refused) => "somebody on the way refuses it",
                    Some(Heard::Said(_)) => "somebody else has the address",
                    _ => {
                        "packets get lost: a route or tunnel is missing on either of them, or a \
                          firewall (on the way to other segments it has to let UDP port 8472 through) \
                          or network policy is in the way"
                    }
                };
                findings.push(format!("{from}: its pods do not reach those of {to}: {why}"));
            }
        }
    }
    for &node in &sources {
        let reached: Vec<&str> =
            sources.iter().copied().filter(|to| !broken.contains(&(node, to))).collect();
        let all_fail =
            |leg| !reached.is_empty() && reached.iter().all(|to| fails(Some(node), Some(to), leg));
        let services = all_fail(Leg::ClusterIp);
        if services {
            findings.push(format!(
                "{node}: pods are reached at their own addresses but not through Services: the node's \
                 rules for Services are missing or old; see its kubelet's log"
            ));
        }
        if all_fail(Leg::Name) && !services {
            let unanswered = matching(Some(node), None, Leg::Name)
                .iter()
                .any(|one| matches!(one.heard, Heard::Silence | Heard::NoSuchName));
            findings.push(if unanswered {
                format!(
                    "{node}: names do not resolve: the DNS server that its pods ask does not answer, or \
                     knows no Services; see its kubelet's log"
                )
            } else {
                format!("{node}: names lead elsewhere than their Services")
            });
        }
        let ports: Vec<&str> =
            sources.iter().copied().filter(|from| !broken.contains(&(from, node))).collect();
        let closed = ports.iter().all(|from| fails(Some(from), Some(node), Leg::NodePort));
        if !ports.is_empty() && closed && !services {
            findings.push(format!(
                "{node}: its node ports lead nowhere: its rules for them are missing, or a firewall is \
                 in the way"
            ));
        }
    }
    findings
}

/// What explains the failures of the ways to one Service, which leads nowhere from the nodes that it leaves
/// out.
pub(crate) fn service(outcomes: &[Outcome], left_out: &BTreeSet<String>) -> Vec<String> {
    let mut findings = Vec::new();
    let proves_nothing =
        outcomes.iter().any(|one| one.attempt.wanted == Wanted::Refusal && !one.is_ok());
    if proves_nothing {
        findings.push(
            "something on the way takes every connection, also where nobody listens: what works above \
             proves nothing"
                .to_owned(),
        );
    }
    let tried: Vec<&Outcome> =
        outcomes.iter().filter(|one| one.attempt.wanted == Wanted::Connection).collect();
    let endpoints: BTreeSet<(&str, String)> = tried
        .iter()
        .filter(|one| one.attempt.leg == Leg::PodIp)
        .map(|one| (one.attempt.to.as_str(), one.attempt.address()))
        .collect();
    let mut dead = 0;
    for (name, address) in &endpoints {
        let here: Vec<&&Outcome> = tried
            .iter()
            .filter(|one| one.attempt.leg == Leg::PodIp && one.attempt.address() == *address)
            .collect();
        let failed: Vec<&&&Outcome> = here.iter().filter(|one| !one.is_ok()).collect();
        if failed.len() < here.len() {
            continue;
        }
        dead += 1;
        let refused = failed.iter().all(|one| one.heard == Heard::Refused);
        findings.push(if refused {
            format!(
                "{name}: nothing listens at {address}: is the Service's targetPort the one that the \
                 program uses, and does it listen at all addresses rather than at 127.0.0.1?"
            )
        } else {
            format!(
                "{name}: no node reaches {address}: the pod's node is cut off, or a network policy is \
                 in the way; see kubecfg net check without a Service"
            )
        });
    }
    let sources: BTreeSet<&str> = tried.iter().map(|one| one.attempt.from.as_str()).collect();
    let mut failing: Vec<(&str, Vec<Leg>)> = Vec::new();
    for node in sources {
        let legs = Leg::ALL.into_iter().filter(|leg| {
            let mut own =
                tried.iter().filter(|one| one.attempt.from == node && one.attempt.leg == *leg);
            let of_dead = |one: &&&Outcome| {
                dead > 0 && (one.attempt.leg != Leg::Name || one.heard == Heard::Refused)
            };
            own.any(|one| !one.is_ok() && !of_dead(&one))
        });
        let legs: Vec<Leg> = legs.collect();
        if !legs.is_empty() {
            failing.push((node, legs));
        }
    }
    for (node, legs) in failing {
        let own = |leg: &Leg| matches!(leg, Leg::ClusterIp | Leg::Name);
        if left_out.contains(node) && legs.iter().all(own) {
            findings.push(format!(
                "{node}: the Service leads its pods nowhere: no endpoint that takes requests is on this \
                 node, and internalTrafficPolicy: Local keeps to those"
            ));
        } else if legs.contains(&Leg::Name) && legs.len() == 1 {
            findings.push(format!(
                "{node}: the name does not resolve there, or leads elsewhere: its DNS server does not \
                 answer or has not heard of the Service"
            ));
        } else if !endpoints.is_empty() {
            let titles: Vec<&str> = legs.iter().map(|leg| leg.title()).collect();
            findings.push(format!(
                "{node}: the Service does not work from there ({}); see kubecfg net check without a \
                 Service, and the node's kubelet's log",
                titles.join(", ")
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::attempt::Attempt;
    use super::*;

    /// All ways between three nodes, of which some fail in a way.
    fn outcomes(fails: impl Fn(&str, &str, Leg) -> Option<Heard>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for from in ["a", "b", "c"] {
            for to in ["a", "b", "c"] {
                for leg in Leg::ALL {
                    let heard =
                        fails(from, to, leg).unwrap_or_else(|| Heard::Said(format!("pod-{to}")));
                    outcomes.push(Outcome { attempt: attempt(from, to, leg), heard });
                }
            }
        }
        outcomes
    }

    fn attempt(from: &str, to: &str, leg: Leg) -> Attempt {
        Attempt {
            from: from.to_owned(),
            to: to.to_owned(),
            leg,
            host: "10.0.0.1".to_owned(),
            port: 80,
            wanted: Wanted::Pod(format!("pod-{to}")),
        }
    }

    #[test]
    fn each_cause_is_told_once() {
        let silent = |fails: bool| fails.then_some(Heard::Silence);
        assert_eq!(nodes(&outcomes(|_, _, _| None)), Vec::<String>::new());
        // A route is missing: everything from there to there fails.
        let found = nodes(&outcomes(|from, to, _| silent(from == "a" && to == "b")));
        assert!(
            found.len() == 1
                && found[0].starts_with("a: its pods do not reach those of b: packets"),
            "{found:?}"
        );
        let found =
            nodes(&outcomes(|from, to, _| (from == "a" && to == "b").then_some(Heard::NoRoute)));
        assert!(found[0].ends_with("there is no route"), "{found:?}");
        // A cable is pulled.
        let found =
            nodes(&outcomes(|from, to, _| silent(from != to && (from == "c" || to == "c"))));
        assert!(
            found.len() == 1 && found[0].starts_with("c: its pods and those of other"),
            "{found:?}"
        );
        // Nothing leads anywhere.
        let found = nodes(&outcomes(|from, to, _| silent(from != to)));
        assert!(found.len() == 1 && found[0].starts_with("no node's pods"), "{found:?}");
        // Rules are gone on one node: its Services and its node ports.
        let found = nodes(&outcomes(|from, to, leg| match leg {
            Leg::PodIp => None,
            Leg::ClusterIp | Leg::Name => silent(from == "b"),
            Leg::NodePort => silent(to == "b"),
        }));
        assert!(
            found.len() == 1 && found[0].contains("b: pods are reached at their own"),
            "{found:?}"
        );
        let found = nodes(&outcomes(|from, _, leg| {
            (from == "b" && leg == Leg::Name).then_some(Heard::NoSuchName)
        }));
        assert!(found.len() == 1 && found[0].starts_with("b: names do not resolve"), "{found:?}");
        let found = nodes(&outcomes(|_, to, leg| silent(to == "b" && leg == Leg::NodePort)));
        assert!(found.len() == 1 && found[0].starts_with("b: its node ports"), "{found:?}");
        let found =
            nodes(&outcomes(|from, to, leg| silent(from == "a" && to == "a" && leg == Leg::PodIp)));
        assert!(found.len() == 1 && found[0].contains("does not reach itself"), "{found:?}");
    }

    #[test]
    fn a_services_failures_are_explained() {
        let all = |fails: &dyn Fn(&str, Leg) -> Option<Heard>| {
            let mut outcomes = Vec::new();
            for from in ["a", "b"] {
                for leg in Leg::ALL {
                    let to = if leg == Leg::PodIp { "web-1" } else { "web" };
                    let attempt = Attempt { wanted: Wanted::Connection, ..attempt(from, to, leg) };
                    let heard = fails(from, leg).unwrap_or(Heard::Connected);
                    outcomes.push(Outcome { attempt, heard });
                }
            }
            service(&outcomes, &BTreeSet::new())
        };
        assert_eq!(all(&|_, _| None), Vec::<String>::new());
        let found = all(&|_, _| Some(Heard::Refused));
        assert!(
            found.len() == 1 && found[0].contains("nothing listens at 10.0.0.1:80"),
            "{found:?}"
        );
        let found =
            all(&|from, leg| (from == "b" && leg == Leg::Name).then_some(Heard::NoSuchName));
        assert!(found.len() == 1 && found[0].starts_with("b: the name does not"), "{found:?}");
        let found =
            all(&|from, leg| (from == "b" && leg == Leg::ClusterIp).then_some(Heard::Silence));
        assert!(found.len() == 1 && found[0].contains("b: the Service does not work"), "{found:?}");
        let mut everybody = vec![Outcome {
            attempt: Attempt { wanted: Wanted::Refusal, ..attempt("a", "nobody", Leg::ClusterIp) },
            heard: Heard::Connected,
        }];
        assert!(service(&everybody, &BTreeSet::new())[0].contains("proves nothing"));
        everybody[0].heard = Heard::Refused;
        assert_eq!(service(&everybody, &BTreeSet::new()), Vec::<String>::new());
    }
    #[test]
    fn a_node_that_the_service_leaves_out_is_told_so() {
        let silent = |leg| Outcome {
            attempt: Attempt { wanted: Wanted::Connection, ..attempt("b", "web", leg) },
            heard: Heard::Silence,
        };
        let reached = Outcome { heard: Heard::Connected, ..silent(Leg::PodIp) };
        let outcomes = [reached, silent(Leg::ClusterIp), silent(Leg::Name)];
        let found = service(&outcomes, &["b".to_owned()].into());
        assert!(found.len() == 1 && found[0].contains("internalTrafficPolicy: Local"), "{found:?}");
        let found = service(&outcomes, &BTreeSet::new());
        assert!(found.len() == 1 && found[0].contains("kubelet's log"), "{found:?}");
    }
}
