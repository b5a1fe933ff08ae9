//! Where a pod may be, and where it is better, for the sake of other pods. Pure.
//!
//! What one decision has to know of other pods is put together once; a node is then held against it by
//! looking up the values of a few of its labels.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::affinity::{Affinity, Constraint, Crowd, Term};
use super::crowds::{Crowds, Domains, Pull};
use super::demand::{Demand, PodInfo};
use super::filter::{NodeInfo, Reason};
use super::model::NodeId;
use proto::node_affinity::NodeTerm;

type Labels = BTreeMap<String, String>;

/// Scores are brought to this range before they are added up.
const MAX_SCORE: i64 = 100;
/// By how much what pods say counts, and what nodes' taints say, against each other. Kubernetes' values.
const WEIGHTS: (i64, i64) = (2, 3);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Surroundings<'a> {
    near: Option<Near<'a>>,
    apart: Vec<(&'a Term, Cow<'a, Domains>)>,
    /// Terms of other pods, which do not let this one near.
    repelled: Vec<(&'a Term, &'a Domains)>,
    /// What is better or worse, by how much.
    liked: Vec<(i64, &'a str, Cow<'a, Domains>)>,
    hard: Vec<Even<'a>>,
    soft: Vec<Even<'a>>,
    preferred_nodes: &'a [(i64, NodeTerm)],
}

#[derive(Debug)]
struct Near<'a> {
    company: &'a Crowd,
    topologies: Vec<(&'a str, Cow<'a, Domains>)>,
    /// The pod is the first of those that keep together: there is nobody to be near to.
    first: bool,
}

/// Pods over the parts of the cluster that count.
#[derive(Debug)]
struct Even<'a> {
    constraint: &'a Constraint,
    domains: HashMap<&'a str, i64>,
    least: i64,
}

impl Even<'_> {
    fn least(&self, without: Option<(&str, i64)>) -> i64 {
        if self.domains.len() < self.constraint.min_domains {
            return 0;
        }
        match without {
            None => self.least,
            Some((value, gone)) => {
                let of = |(other, count): (&&str, &i64)| {
                    count - if **other == *value { gone } else { 0 }
                };
                self.domains.iter().map(of).min().unwrap_or(0)
            }
        }
    }
}

/// The nodes, as far as decisions here ask.
pub(crate) trait Nodes {
    /// Those that exist.
    fn all(&self) -> impl Iterator<Item = (NodeId, &NodeInfo)>;
    /// The labels of one.
    fn labels(&self, node: NodeId) -> Option<&Labels>;
}

impl<'a> Surroundings<'a> {
    /// All that matters to a pod.
    pub(crate) fn of(demand: &'a Demand, crowds: &'a Crowds, nodes: &'a impl Nodes) -> Self {
        let mut this = Self::default();
        for (term, pull, domains) in crowds.wishes_about(&demand.namespace, &demand.labels) {
            match pull {
                Pull::Repels => this.repelled.push((term, domains)),
                Pull::Likes(weight) => {
                    this.liked.push((weight, &term.topology, Cow::Borrowed(domains)));
                }
            }
        }
        let Some(affinity) = &demand.affinity else { return this };
        let domains = |crowd: &Crowd, topology: &str| -> Cow<'a, Domains> {
            let labels = |node: NodeId| nodes.labels(node);
            match crowds.followed(crowd) {
                Some(counted) => match counted.domains(topology) {
                    Some(domains) => Cow::Borrowed(domains),
                    None => Cow::Owned(counted.count_domains(topology, labels)),
                },
                None => Cow::Owned(crowds.count(crowd).count_domains(topology, labels)),
            }
        };
        if let Some(company) = affinity.company.as_deref() {
            let near = affinity.near.iter();
            let topologies: Vec<_> = near
                .map(|term| (term.topology.as_str(), domains(company, &term.topology)))
                .collect();
            let alone = topologies.iter().all(|(_, domains)| domains.is_empty());
            let first = alone && crowds.has(company, &demand.namespace, &demand.labels);
            this.near = Some(Near { company, topologies, first });
        }
        for term in &affinity.apart {
            this.apart.push((term, domains(&term.crowd, &term.topology)));
        }
        for (weight, term) in &affinity.preferred {
            this.liked.push((*weight, &term.topology, domains(&term.crowd, &term.topology)));
        }
        this.preferred_nodes = &affinity.preferred_nodes;
        for hard in [true, false] {
            let even = even(demand, affinity, hard, crowds, nodes);
            if hard { this.hard = even } else { this.soft = even }
        }
        this
    }

    /// Whether there can be any objection: nearly always there is nobody to have one.
    pub(crate) fn restricts(&self) -> bool {
        !self.hard.is_empty()
            || self.near.is_some()
            || !self.apart.is_empty()
            || !self.repelled.is_empty()
    }

    /// Whether some nodes that would do are better than others, for the sake of what pods say.
    pub(crate) fn prefers(&self) -> bool {
        !self.liked.is_empty() || !self.soft.is_empty() || !self.preferred_nodes.is_empty()
    }

    /// Why the pod may not be on a node with these labels. `absent` are pods of the node that are thought
    /// away; of `staying`, these are those that were not leaving.
    pub(crate) fn objection(
        &self,
        labels: &Labels,
        (absent, staying): (&[&PodInfo], &[&PodInfo]),
        crowds: &Crowds,
    ) -> Option<Reason<'static>> {
        let gone = |crowd: &Crowd, absent: &[&PodInfo]| -> i64 {
            let of = |pod: &&&PodInfo| crowds.has(crowd, &pod.demand.namespace, &pod.demand.labels);
            i64::try_from(absent.iter().filter(of).count()).unwrap_or(i64::MAX)
        };
        for even in &self.hard {
            let constraint = even.constraint;
            let Some(value) = labels.get(&constraint.topology) else {
                return Some(Reason::NoTopology);
            };
            let gone = gone(&constraint.crowd, staying);
            let here = even.domains.get(value.as_str()).copied().unwrap_or(0) - gone;
            let least = even.least((gone > 0).then_some((value.as_str(), gone)));
            if here + i64::from(constraint.counts_itself) - least > constraint.max_skew {
                return Some(Reason::Skew);
            }
        }
        let count = |domains: &Domains, topology: &str| -> Option<i64> {
            let value = labels.get(topology)?;
            Some(domains.get(value).copied().unwrap_or(0).into())
        };
        if let Some(near) = &self.near {
            let gone = gone(near.company, absent);
            for (topology, domains) in &near.topologies {
                match count(domains, topology) {
                    Some(count) if near.first || count > gone => {}
                    _ => return Some(Reason::PodAffinity),
                }
            }
        }
        for (term, domains) in &self.apart {
            let count = count(domains, &term.topology).unwrap_or(0);
            if count > 0 && count > gone(&term.crowd, absent) {
                return Some(Reason::PodAntiAffinity);
            }
        }
        for (term, domains) in &self.repelled {
            let count = count(domains, &term.topology).unwrap_or(0);
            let holds = |pod: &&&PodInfo| {
                pod.demand.affinity.as_ref().is_some_and(|affinity| affinity.apart.contains(term))
            };
            let gone = || i64::try_from(absent.iter().filter(holds).count()).unwrap_or(i64::MAX);
            if count > 0 && count > gone() {
                return Some(Reason::ExistingAntiAffinity);
            }
        }
        None
    }

    /// How much better each of the nodes is that would do; more is better.
    pub(crate) fn preferences(&self, demand: &Demand, nodes: &[&NodeInfo]) -> Vec<i64> {
        let mut sums = avoidance(demand, nodes);
        let mut add = |scores: Vec<i64>| {
            sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += WEIGHTS.0 * score);
        };
        if !self.preferred_nodes.is_empty() {
            let of = |node: &&NodeInfo| -> i64 {
                let met = |(_, term): &&(i64, _)| matches(term, node);
                self.preferred_nodes.iter().filter(met).map(|(weight, _)| weight).sum()
            };
            let raw: Vec<i64> = nodes.iter().map(of).collect();
            let most = raw.iter().copied().max().unwrap_or(0).max(1);
            add(raw.into_iter().map(|score| score * MAX_SCORE / most).collect());
        }
        if !self.liked.is_empty() {
            let of = |node: &&NodeInfo| -> i64 {
                let liked = self.liked.iter().map(|(weight, topology, domains)| {
                    let value = node.labels.get(*topology);
                    let count = value.and_then(|value| domains.get(value)).copied().unwrap_or(0);
                    weight * i64::from(count)
                });
                liked.sum()
            };
            let raw: Vec<i64> = nodes.iter().map(of).collect();
            let least = raw.iter().copied().min().unwrap_or(0);
            let range = (raw.iter().copied().max().unwrap_or(0) - least).max(1);
            add(raw.into_iter().map(|score| (score - least) * MAX_SCORE / range).collect());
        }
        if !self.soft.is_empty() {
            add(self.evenness(nodes));
        }
        sums
    }

    fn evenness(&self, nodes: &[&NodeInfo]) -> Vec<i64> {
        let has_all = |node: &NodeInfo| {
            self.soft.iter().all(|even| node.labels.contains_key(&even.constraint.topology))
        };
        let counted = || nodes.iter().filter(|node| has_all(node));
        // Of many parts, each weighs more: a pod more in one of hundred is worse than in one of two.
        let weights: Vec<f64> = self
            .soft
            .iter()
            .map(|even| {
                let values =
                    counted().filter_map(|node| node.labels.get(&even.constraint.topology));
                let parts = values.collect::<HashSet<_>>().len();
                f64::from(u32::try_from(parts).unwrap_or(u32::MAX).saturating_add(2)).ln()
            })
            .collect();
        let raw: Vec<Option<i64>> = nodes
            .iter()
            .map(|node| {
                let score = self.soft.iter().zip(&weights).map(|(even, weight)| {
                    let value = node.labels.get(&even.constraint.topology)?;
                    let count = even.domains.get(value.as_str()).copied().unwrap_or(0);
                    let skew = even.constraint.max_skew - 1;
                    // Numbers of pods and their bounds are far below 2^52.
                    Some(count as f64 * weight + skew as f64)
                });
                score.sum::<Option<f64>>().map(|score| score.round() as i64)
            })
            .collect();
        let least = raw.iter().flatten().copied().min().unwrap_or(0);
        let most = raw.iter().flatten().copied().max().unwrap_or(0);
        let normal = |score: Option<i64>| match score {
            None => 0,
            Some(_) if most == 0 => MAX_SCORE,
            Some(score) => MAX_SCORE * (most + least - score) / most,
        };
        raw.into_iter().map(normal).collect()
    }
}

/// How much better those nodes are of which fewer taints say that the pod is better elsewhere.
fn avoidance(demand: &Demand, nodes: &[&NodeInfo]) -> Vec<i64> {
    let raw: Vec<i64> = nodes.iter().map(|node| demand.avoids(node)).collect();
    let most = raw.iter().copied().max().unwrap_or(0).max(1);
    raw.into_iter().map(|count| WEIGHTS.1 * (MAX_SCORE - count * MAX_SCORE / most)).collect()
}

fn matches(term: &NodeTerm, node: &NodeInfo) -> bool {
    term.matches(&node.name, &node.labels)
}

/// The constraints of one sort, with the pods in the parts that count for each.
fn even<'a>(
    demand: &'a Demand,
    affinity: &'a Affinity,
    hard: bool,
    crowds: &Crowds,
    nodes: &'a impl Nodes,
) -> Vec<Even<'a>> {
    let constraints: Vec<&Constraint> =
        affinity.spread.iter().filter(|constraint| constraint.hard == hard).collect();
    let mut result = Vec::new();
    for constraint in &constraints {
        let counted = match crowds.followed(&constraint.crowd) {
            Some(counted) => Cow::Borrowed(counted),
            None => Cow::Owned(crowds.count(&constraint.crowd)),
        };
        let mut domains: HashMap<&str, i64> = HashMap::new();
        for (id, node) in nodes.all() {
            let has_all = constraints.iter().all(|one| node.labels.contains_key(&one.topology));
            let Some(value) = node.labels.get(&constraint.topology).filter(|_| has_all) else {
                continue;
            };
            let kept_out = constraint.honours_affinity && !demand.admits_node(node)
                || constraint.honours_taints && !demand.tolerates_all(node);
            if !kept_out {
                *domains.entry(value).or_default() += i64::from(counted.on(id));
            }
        }
        let least = domains.values().copied().min().unwrap_or(0);
        result.push(Even { constraint, domains, least });
    }
    result
}
