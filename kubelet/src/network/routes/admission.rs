//! Who may send through the tunnels: the other nodes, and nobody else.
//!
//! VXLAN looks at nothing: whoever reaches its port puts packets among the pods, from whatever address
//! he likes. So a table for each protocol that tunnels are made of knows the nodes' addresses:
//!
//! ```text
//! input   ─ UDP to the tunnels' port, not from a node's address ─▶ gone
//! forward ─ UDP to the tunnels' port of a node                  ─▶ gone
//! ```
//!
//! The second is about pods, and about whoever comes to a node through a Service: on the way out they would
//! get this node's address, and be taken for it by the other.
//!
//! [`Senders`] says who, [`Admission`] has the kernel's side. The table comes before its tunnel and goes
//! after it, and as other rules it outlives the kubelet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::tunnel::Outer;
use super::view::View;
use crate::nft::expr::{
    Chain, ChainKind, Expr, Field, Hook, HookPoint, Ip, Register, Rule, Verdict,
};
use crate::nft::set::{Bytes, Element, Key, Kind, Part, Set, Value, Values};
use crate::nft::table::{Command, Table};
use crate::nft::{Connection, Nft, NftError, Others};

/// Whose packets are let in.
pub(crate) type Senders = BTreeSet<IpAddr>;

/// The addresses of the other nodes that packets of a tunnel may come from. All that a node has, not
/// only the one that leads there: it may have heard of its own new address first.
pub(super) fn senders(view: &View, outer: Outer) -> Senders {
    let all = view.peers.values().flat_map(|peer| &peer.addresses);
    all.filter(|address| Outer::of(address) == outer).copied().collect()
}

fn ip(outer: Outer) -> Ip {
    match outer {
        Outer::V4 => Ip::V4,
        Outer::V6 => Ip::V6,
    }
}

fn nodes(ip: Ip) -> Set {
    let key: &'static [Part] = match ip {
        Ip::V4 => &[Part::Ipv4],
        Ip::V6 => &[Part::Ipv6],
    };
    Set { name: "nodes".into(), key, values: Values::None, kind: Kind::Plain }
}

fn key(address: &IpAddr) -> Key {
    Bytes::EMPTY.address(*address).into()
}

fn elements<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> Vec<Element> {
    addresses.map(|address| Element::new(key(address), Value::None)).collect()
}

/// By name.
fn chains(ip: Ip, port: u16) -> [(&'static str, Chain); 2] {
    const FIRST: Register = Register(0);
    const UDP: u8 = 17;
    let rule = |comment, who: [Expr; 2]| {
        let to_tunnels = [
            Expr::Load(Field::Protocol, FIRST),
            Expr::Equal(FIRST, Bytes::EMPTY.protocol(UDP)),
            Expr::Load(Field::DestinationPort, FIRST),
            Expr::Equal(FIRST, Bytes::EMPTY.port(port)),
        ];
        let exprs = to_tunnels.into_iter().chain(who).chain([Expr::Verdict(Verdict::Drop)]);
        Rule { exprs: exprs.collect(), comment }
    };
    let strangers =
        [Expr::Load(Field::SourceAddress(ip), FIRST), Expr::Lacks("nodes".into(), FIRST)];
    let to_nodes =
        [Expr::Load(Field::DestinationAddress(ip), FIRST), Expr::Contains("nodes".into(), FIRST)];
    let hooked = |point, rule| {
        let hook = Hook { kind: ChainKind::Filter, point, priority: -10 };
        Chain { hook: Some(hook), rules: vec![rule] }
    };
    [
        ("input", hooked(HookPoint::Input, rule("no node's", strangers))),
        ("forward", hooked(HookPoint::Forward, rule("would be taken for this node's", to_nodes))),
    ]
}

/// Puts a table in place of whatever is there.
fn replacement(outer: Outer, port: u16, wanted: &Senders) -> Vec<Command> {
    let nodes = nodes(ip(outer));
    // The first makes sure that there is something to delete.
    let mut commands = vec![Command::AddTable, Command::DeleteTable, Command::AddTable];
    commands.push(Command::AddSet(nodes.clone()));
    for (name, chain) in chains(ip(outer), port) {
        commands.push(Command::AddChain { name: name.to_owned(), hook: chain.hook });
        let rules = chain.rules.into_iter();
        commands.extend(rules.map(|rule| Command::AddRule { chain: name.to_owned(), rule }));
    }
    if !wanted.is_empty() {
        commands.push(Command::AddElements(nodes, elements(wanted.iter())));
    }
    commands
}

/// What leads from the senders who are let in to those who should be.
fn changes(outer: Outer, before: &Senders, wanted: &Senders) -> Vec<Command> {
    let nodes = nodes(ip(outer));
    let gone: Vec<Key> = before.difference(wanted).map(key).collect();
    let come = elements(wanted.difference(before));
    let gone = (!gone.is_empty()).then(|| Command::DeleteElements(nodes.clone(), gone));
    let come = (!come.is_empty()).then(|| Command::AddElements(nodes.clone(), come));
    gone.into_iter().chain(come).collect()
}

/// The kernel's side: tables that keep strangers out of the tunnels.
pub(super) struct Admission {
    /// Of the tables.
    name: String,
    port: u16,
    connection: Connection,
    /// The connection, and news of what others do; nothing before a table was needed.
    reached: Option<(Arc<Nft>, Others)>,
    /// Whom the kernel lets in, as far as that is known.
    there: BTreeMap<Outer, Senders>,
    /// Of which there is no table for certain.
    absent: BTreeSet<Outer>,
}

impl Admission {
    pub(super) fn new(name: String, port: u16, connection: Connection) -> Self {
        Self {
            name,
            port,
            connection,
            reached: None,
            there: BTreeMap::new(),
            absent: BTreeSet::new(),
        }
    }

    fn table(&self, outer: Outer) -> Table {
        Table::of(&self.name, ip(outer))
    }

    fn reach(&mut self) -> Result<Arc<Nft>, NftError> {
        if let Some((nft, _)) = &self.reached {
            return Ok(nft.clone());
        }
        let tables = Outer::ALL.map(|outer| self.table(outer));
        let reached = self.connection.try_to_reach(&tables)?;
        let nft = reached.0.clone();
        self.reached = Some(reached);
        Ok(nft)
    }

    /// Lets these in through a tunnel and nobody else. As long as no master `confirmed` them, also whom an
    /// earlier kubelet let in: what is on disk may lack a node.
    pub(super) async fn admit(
        &mut self,
        outer: Outer,
        mut wanted: Senders,
        confirmed: bool,
    ) -> Result<(), NftError> {
        if let Some(before) = self.there.get(&outer) {
            if !confirmed {
                wanted.extend(before);
            }
            if *before == wanted {
                return Ok(());
            }
        }
        let (nft, table, port) = (self.reach()?, self.table(outer), self.port);
        self.absent.remove(&outer);
        let before = self.there.remove(&outer);
        let apply = move || {
            let commands = match &before {
                Some(before) => changes(outer, before, &wanted),
                None => {
                    if !confirmed {
                        wanted.extend(found(&nft, &table, ip(outer))?);
                    }
                    replacement(outer, port, &wanted)
                }
            };
            nft.apply(&[(&table, &commands)]).map(|()| wanted)
        };
        let wanted = blocking("let nodes into a tunnel", apply).await?;
        info!(device = outer.device(), nodes = ?wanted, "let nodes into a tunnel");
        self.there.insert(outer, wanted);
        Ok(())
    }

    /// Takes the table of a tunnel away that is not there any more.
    pub(super) async fn dismiss(&mut self, outer: Outer) -> Result<(), NftError> {
        // Before the first pass a killed kubelet may have left one.
        if self.absent.contains(&outer) {
            return Ok(());
        }
        let (nft, table) = (self.reach()?, self.table(outer));
        blocking("remove a tunnel's rules", move || remove(&nft, &table)).await?;
        self.there.remove(&outer);
        self.absent.insert(outer);
        Ok(())
    }

    /// Waits until somebody else changes a table.
    pub(super) async fn meddled(&mut self) {
        match &mut self.reached {
            Some((_, others)) => others.meddle().await,
            None => std::future::pending().await,
        }
    }

    /// Makes sure that what somebody changed is made anew, after a moment; false at shutdown.
    pub(super) async fn mend(&mut self, shutdown: &CancellationToken) -> bool {
        if !self.there.is_empty() {
            warn!("somebody else changed the rules of the tunnels: making them anew");
        }
        self.there.clear();
        self.absent.clear();
        match &mut self.reached {
            Some((_, others)) => others.rest(shutdown).await,
            None => true,
        }
    }
}

/// Whom an earlier kubelet let in.
fn found(nft: &Nft, table: &Table, ip: Ip) -> Result<Senders, NftError> {
    let set = nodes(ip);
    let Some(found) = nft.dump(table, std::slice::from_ref(&set))? else {
        return Ok(Senders::new());
    };
    let elements = found.sets.into_values().flatten();
    Ok(elements.filter_map(|element| element.key.from.parts().address(ip)).collect())
}

fn remove(nft: &Nft, table: &Table) -> Result<(), NftError> {
    nft.apply(&[(table, &[Command::AddTable, Command::DeleteTable])])
}

async fn blocking<T: Send + 'static>(
    operation: &str,
    work: impl FnOnce() -> Result<T, NftError> + Send + 'static,
) -> Result<T, NftError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let source = std::io::Error::other(error);
        Err(NftError::Socket { operation: operation.to_owned(), source })
    })
}

/// Removes all tables of this name.
pub(super) async fn remove_all(name: &str) -> Result<(), NftError> {
    let tables = Outer::ALL.map(|outer| Table::of(name, ip(outer)));
    blocking("remove the tunnels' rules", move || {
        let nft = Nft::open()?;
        tables.iter().try_for_each(|table| remove(&nft, table))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::super::view::Peer;
    use super::*;

    fn senders_of(text: &str) -> Senders {
        text.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn nodes_are_let_in_by_all_their_addresses_and_nobody_else_is() {
        let mut view = View::default();
        for (name, addresses) in [("a", "192.0.2.1 192.0.2.9 fd00::1"), ("b", "fd00::2")] {
            let addresses = addresses.split_whitespace().map(|one| one.parse().unwrap()).collect();
            view.peers.insert(name.to_owned(), Peer { addresses, ranges: Vec::new() });
        }
        assert_eq!(senders(&view, Outer::V4), senders_of("192.0.2.1 192.0.2.9"));
        assert_eq!(senders(&view, Outer::V6), senders_of("fd00::1 fd00::2"));
    }

    #[test]
    fn a_change_of_the_nodes_touches_those_that_changed() {
        let (before, after) =
            (senders_of("192.0.2.1 192.0.2.2"), senders_of("192.0.2.2 192.0.2.3"));
        let set = nodes(Ip::V4);
        let address = |text: &str| key(&text.parse().unwrap());
        let wanted = [
            Command::DeleteElements(set.clone(), vec![address("192.0.2.1")]),
            Command::AddElements(set, vec![Element::new(address("192.0.2.3"), Value::None)]),
        ];
        assert_eq!(changes(Outer::V4, &before, &after), wanted);
        assert!(changes(Outer::V4, &after, &after).is_empty());
    }

    #[test]
    fn what_is_not_for_the_tunnels_is_not_looked_at() {
        for ip in Ip::ALL {
            for (name, chain) in chains(ip, 8472) {
                for Rule { exprs, .. } in chain.rules {
                    let udp = Expr::Equal(Register(0), Bytes::EMPTY.protocol(17));
                    let port = Expr::Equal(Register(0), Bytes::EMPTY.port(8472));
                    assert_eq!((&exprs[1], &exprs[3]), (&udp, &port), "{name}");
                    assert_eq!(exprs.last(), Some(&Expr::Verdict(Verdict::Drop)), "{name}");
                }
            }
        }
    }
}
