//! What leads from one [`Ruleset`] to another: chains and elements to add and to delete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::elements::{of_node, of_service};
use super::program::{Shape, base_chains};
use super::ruleset::Ruleset;
use super::sets::Set;
use super::takeover::layout;
use crate::nft::expr::{Chain, Ip};
use crate::nft::set::{Element, Key};
use crate::nft::table::Command;

/// Puts a ruleset in place of whatever is there.
pub(crate) fn replacement(ruleset: &Ruleset) -> Vec<Command> {
    // The first makes sure that there is something to delete.
    let mut commands = vec![Command::AddTable, Command::DeleteTable, Command::AddTable];
    commands.extend(Set::ALL.map(|set| Command::AddSet(set.describe(Ip::V4))));
    commands.extend(changes(None, ruleset));
    commands
}

/// Leads from one ruleset to another.
pub(crate) fn difference(before: &Ruleset, after: &Ruleset) -> Vec<Command> {
    changes(Some(before), after)
}

/// Takes out of a change what has to be in the kernel one transaction earlier: chains that elements
/// are going to lead to.
///
/// A packet executes chains as they were when it entered the first of them, but looks elements up as
/// they are at that moment. One that is under way while a change takes effect would otherwise be led
/// into a chain which, for that packet, has no rules yet.
pub(crate) fn chains_ahead(commands: Vec<Command>) -> (Vec<Command>, Vec<Command>) {
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

fn changes(before: Option<&Ruleset>, after: &Ruleset) -> Vec<Command> {
    let chains_before = before.map(chains).unwrap_or_default();
    let chains_after = chains(after);
    let mut elements = Elements::default();
    match before {
        Some(before) => elements.compare(before, after),
        None => elements.add_all(after),
    }
    // Elements lead to chains: these come first and go last.
    let mut commands = Vec::new();
    add_chains(&chains_before, &chains_after, &mut commands);
    let deleted = elements.deleted.into_iter();
    commands.extend(deleted.map(|(set, keys)| Command::DeleteElements(set.describe(Ip::V4), keys)));
    let added = elements.added.into_iter();
    commands
        .extend(added.map(|(set, elements)| Command::AddElements(set.describe(Ip::V4), elements)));
    let gone = chains_before.keys().filter(|name| !chains_after.contains_key(*name));
    commands.extend(gone.map(|name| Command::DeleteChain { name: name.clone() }));
    commands
}

/// All chains of a ruleset.
pub(crate) fn chains(ruleset: &Ruleset) -> BTreeMap<String, Chain> {
    let services = ruleset.services.iter();
    let shapes: BTreeSet<Shape> = services.filter_map(|(at, service)| service.shape(*at)).collect();
    let mut chains = base_chains(&ruleset.ranges);
    chains.insert(layout(&ruleset.ranges), Chain { hook: None, rules: Vec::new() });
    chains.extend(shapes.into_iter().flat_map(Shape::chains));
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
    fn add_all(&mut self, after: &Ruleset) {
        let mut put = |set, element| self.added.entry(set).or_default().push(element);
        of_node(after, &mut put);
        for (at, service) in &after.services {
            of_service(*at, service, &mut put);
        }
    }

    fn compare(&mut self, before: &Ruleset, after: &Ruleset) {
        // All together: what one Service gives up another may take in the same change.
        let mut old = BTreeMap::new();
        let mut put = |set, element: Element| {
            old.insert((set, element.key.clone()), element);
        };
        of_node(before, &mut put);
        for (at, service) in &before.services {
            let unchanged = after.services.get(at).is_some_and(|same| Arc::ptr_eq(service, same));
            if !unchanged {
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
        of_node(after, &mut put);
        for (at, service) in &after.services {
            let unchanged = before.services.get(at).is_some_and(|same| Arc::ptr_eq(service, same));
            if !unchanged {
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
}
