//! What leads from one [`Ruleset`] to another: chains and elements to add and to delete.

use std::collections::{BTreeMap, BTreeSet};

use super::elements::{of_node, of_service};
use super::model::Changed;
use super::program::base_chains;
use super::ruleset::{Frame, Ruleset};
use super::sets::Set;
use super::takeover::layout;
use crate::nft::expr::{Chain, Ip};
use crate::nft::set::{Element, Key};
use crate::nft::table::Command;

/// What the kernel is to be told, for each version of IP.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// Together, before the rest; see [`chains_ahead`].
    pub(crate) ahead: BTreeMap<Ip, Vec<Command>>,
    /// All together.
    pub(crate) then: BTreeMap<Ip, Vec<Command>>,
}

/// Leads to these rulesets: from what is there otherwise, if that is known. `installed` are the frames
/// of that, `changed` tells where Services differ.
pub(crate) fn steps(
    installed: Option<&BTreeMap<Ip, Frame>>,
    changed: &Changed,
    rulesets: &BTreeMap<Ip, Ruleset>,
) -> Steps {
    let mut steps = Steps::default();
    for ip in Ip::ALL {
        let before = installed.and_then(|frames| frames.get(&ip));
        let then = match (before, rulesets.get(&ip)) {
            (Some(frame), Some(ruleset)) => {
                let (ahead, then) = chains_ahead(difference(frame, changed, ruleset));
                steps.ahead.insert(ip, ahead);
                then
            }
            (None, Some(ruleset)) => replacement(ruleset),
            (Some(_), None) => vec![Command::DeleteTable],
            (None, None) => Vec::new(),
        };
        steps.then.insert(ip, then);
    }
    steps
}

/// Puts a ruleset in place of whatever is there.
pub(crate) fn replacement(ruleset: &Ruleset) -> Vec<Command> {
    // The first makes sure that there is something to delete.
    let mut commands = vec![Command::AddTable, Command::DeleteTable, Command::AddTable];
    commands.extend(Set::ALL.map(|set| Command::AddSet(set.describe(ruleset.ip))));
    add_chains(&BTreeMap::new(), &chains(ruleset.ip, &ruleset.frame), &mut commands);
    let mut elements = Elements::default();
    let mut put = |set, element| elements.added.entry(set).or_default().push(element);
    of_node(&ruleset.frame, &mut put);
    for (at, service) in ruleset.services() {
        of_service(*at, service, &mut put);
    }
    elements.tell(ruleset.ip, &mut commands);
    commands
}

/// Leads to a ruleset from one with the frame `before` that did something else at the frontends
/// `changed`, which tells what. Frontends of the other version of IP are passed over.
fn difference(before: &Frame, changed: &Changed, after: &Ruleset) -> Vec<Command> {
    let mut elements = Elements::default();
    elements.compare(before, changed, after);
    let mut commands = Vec::new();
    if *before == after.frame {
        elements.tell(after.ip, &mut commands);
        return commands;
    }
    // Elements lead to chains: these come first and go last.
    let (chains_before, chains_after) = (chains(after.ip, before), chains(after.ip, &after.frame));
    add_chains(&chains_before, &chains_after, &mut commands);
    elements.tell(after.ip, &mut commands);
    let gone = chains_before.keys().filter(|name| !chains_after.contains_key(*name));
    commands.extend(gone.map(|name| Command::DeleteChain { name: name.clone() }));
    commands
}

/// Takes out of a change what has to be in the kernel one transaction earlier: chains that elements
/// are going to lead to.
///
/// A packet executes chains as they were when it entered the first of them, but looks elements up as
/// they are at that moment. One that is under way while a change takes effect would otherwise be led
/// into a chain which, for that packet, has no rules yet.
fn chains_ahead(commands: Vec<Command>) -> (Vec<Command>, Vec<Command>) {
    let with_rules: BTreeSet<&str> = commands
        .iter()
        .filter_map(|command| match command {
            Command::AddRule { chain, .. } => Some(chain.as_str()),
            _ => None,
        })
        .collect();
    // A chain without rules is a mark; it says what all of the change has made.
    let new: BTreeSet<String> = commands
        .iter()
        .filter_map(|command| match command {
            Command::AddChain { name, hook: None } => Some(name),
            _ => None,
        })
        .filter(|name| with_rules.contains(name.as_str()))
        .cloned()
        .collect();
    commands.into_iter().partition(|command| match command {
        Command::AddChain { name, .. } => new.contains(name),
        Command::AddRule { chain, .. } => new.contains(chain),
        _ => false,
    })
}

/// All chains that go with a frame.
pub(crate) fn chains(ip: Ip, frame: &Frame) -> BTreeMap<String, Chain> {
    let mut chains = base_chains(ip, frame);
    chains.insert(layout(ip, &frame.ranges), Chain { hook: None, rules: Vec::new() });
    chains.extend(frame.shapes.iter().flat_map(|shape| shape.chains(ip)));
    chains
}

fn add_chains(
    before: &BTreeMap<String, Chain>,
    after: &BTreeMap<String, Chain>,
    commands: &mut Vec<Command>,
) {
    let changed: Vec<(&String, &Chain)> =
        after.iter().filter(|(name, chain)| before.get(*name) != Some(chain)).collect();
    // Rules lead to chains too, so all of these are made before any rule.
    commands.extend(changed.iter().map(|(name, chain)| match before.get(*name) {
        Some(_) => Command::FlushChain { name: (*name).clone() },
        None => Command::AddChain { name: (*name).clone(), hook: chain.hook },
    }));
    for (name, chain) in changed {
        let rules = chain.rules.iter();
        commands
            .extend(rules.map(|rule| Command::AddRule { chain: name.clone(), rule: rule.clone() }));
    }
}

#[derive(Default)]
struct Elements {
    added: BTreeMap<Set, Vec<Element>>,
    deleted: BTreeMap<Set, Vec<Key>>,
}

impl Elements {
    fn compare(&mut self, before: &Frame, changed: &Changed, after: &Ruleset) {
        let changed = || changed.iter().filter(|(at, _)| at.ip() == after.ip);
        let same_node =
            before.host_ports == after.frame.host_ports && before.hairpins == after.frame.hairpins;
        // All together: what one Service gives up another may take in the same change.
        let mut old = BTreeMap::new();
        let mut put = |set, element: Element| {
            old.insert((set, element.key.clone()), element);
        };
        if !same_node {
            of_node(before, &mut put);
        }
        for (at, service) in changed() {
            if let Some(service) = service {
                of_service(*at, service, &mut put);
            }
        }
        let mut put = |set, element: Element| {
            match old.remove(&(set, element.key.clone())) {
                Some(same) if same == element => return,
                Some(_) => self.delete(set, element.key.clone()),
                None => {}
            }
            self.added.entry(set).or_default().push(element);
        };
        if !same_node {
            of_node(&after.frame, &mut put);
        }
        for (at, _) in changed() {
            if let Some(service) = after.services().get(at) {
                of_service(*at, service, &mut put);
            }
        }
        for ((set, key), _) in old {
            self.delete(set, key);
        }
    }

    fn delete(&mut self, set: Set, key: Key) {
        self.deleted.entry(set).or_default().push(key);
    }

    fn tell(self, ip: Ip, commands: &mut Vec<Command>) {
        let deleted = self.deleted.into_iter();
        commands.extend(deleted.map(|(set, keys)| Command::DeleteElements(set.describe(ip), keys)));
        let added = self.added.into_iter();
        commands
            .extend(added.map(|(set, elements)| Command::AddElements(set.describe(ip), elements)));
    }
}
