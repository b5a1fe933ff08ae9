//! Ports, and ranges of addresses that lead to some. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proto::policy::{PodPort, Ports, Which};

/// To which ports: ranges of single protocols, in order and apart; nothing: everything.
pub(super) type Allowed = Option<Arc<Vec<PortRange>>>;

/// Protocol, first and last port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortRange {
    pub(super) protocol: u8,
    pub(super) first: u16,
    pub(super) last: u16,
}

/// Ranges of ports, or everything. An empty list is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    Ranges(Vec<PortRange>),
}

impl Reach {
    pub(super) const NOTHING: Self = Self::Ranges(Vec::new());

    pub(super) fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Ranges(own), Self::Ranges(more)) => own.extend(more),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Ranges(ranges) if ranges.is_empty())
    }

    pub(super) fn settled(self) -> Allowed {
        let Self::Ranges(mut ranges) = self else { return None };
        ranges.sort_unstable();
        let mut joined: Vec<PortRange> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last)
                    if last.protocol == range.protocol
                        && range.first <= last.last.saturating_add(1) =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        Some(Arc::new(joined))
    }
}

/// Ports whose names are those of the pod that is reached.
pub(super) fn resolved(ports: Option<&[Ports]>, named: &[PodPort]) -> Reach {
    let Some(ports) = ports else { return Reach::All };
    let mut ranges = Vec::new();
    for Ports { protocol, which } in ports {
        let protocol = *protocol;
        match which {
            Which::Range(first, last) => {
                ranges.push(PortRange { protocol, first: *first, last: *last });
            }
            Which::Named(name) => {
                let same = |port: &&PodPort| port.name == *name && port.protocol == protocol;
                ranges.extend(named.iter().filter(same).map(|port| PortRange {
                    protocol,
                    first: port.number,
                    last: port.number,
                }));
            }
        }
    }
    Reach::Ranges(ranges)
}

pub(super) fn range_of(blocks: &[(IpAddr, IpAddr, Reach)], address: IpAddr) -> Option<&Reach> {
    let at = blocks.partition_point(|(first, ..)| *first <= address).checked_sub(1)?;
    let (_, last, ports) = &blocks[at];
    (*last >= address).then_some(ports)
}

/// The address behind; nothing behind the last.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            address.to_bits().checked_add(1).map(|bits| Ipv4Addr::from(bits).into())
        }
        IpAddr::V6(address) => {
            address.to_bits().checked_add(1).map(|bits| Ipv6Addr::from(bits).into())
        }
    }
}

fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            address.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from(bits).into())
        }
        IpAddr::V6(address) => {
            address.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from(bits).into())
        }
    }
}

/// A range without some.
pub(super) fn without(
    range: (IpAddr, IpAddr),
    except: &[(IpAddr, IpAddr)],
) -> Vec<(IpAddr, IpAddr)> {
    // What is beyond the range takes nothing from it.
    let inside = except.iter().filter(|(first, last)| *first <= range.1 && *last >= range.0);
    let mut except: Vec<(IpAddr, IpAddr)> = inside.copied().collect();
    except.sort_unstable();
    let mut parts = Vec::new();
    let mut from = Some(range.0);
    for (first, last) in except {
        let Some(start) = from else { break };
        if let Some(before) = previous(first).filter(|before| *before >= start) {
            parts.push((start, before));
        }
        from = next(last).map(|behind| behind.max(start));
    }
    if let Some(start) = from.filter(|start| *start <= range.1) {
        parts.push((start, range.1));
    }
    parts
}

/// Ranges that may overlap as ranges that do not, in order.
pub(super) fn apart(blocks: &[(IpAddr, IpAddr, Reach)]) -> Vec<(IpAddr, IpAddr, Reach)> {
    let mut starts: BTreeSet<IpAddr> = BTreeSet::new();
    for (first, last, _) in blocks {
        starts.insert(*first);
        starts.extend(next(*last));
    }
    let starts: Vec<IpAddr> = starts.into_iter().collect();
    let mut ranges: Vec<(IpAddr, IpAddr, Reach)> = Vec::new();
    for (index, first) in starts.iter().enumerate() {
        let covering = || blocks.iter().filter(|(a, b, _)| a <= first && first <= b);
        let mut ports = Reach::Ranges(Vec::new());
        covering().for_each(|(_, _, more)| ports.add(more));
        if ports.is_nothing() {
            continue;
        }
        let end = starts[index + 1..].first().filter(|end| end.is_ipv4() == first.is_ipv4());
        let last = match end.and_then(|end| previous(*end)) {
            Some(last) => last,
            // Nothing begins behind: it goes to the end of those that cover it.
            None => match covering().map(|(_, last, _)| *last).min() {
                Some(last) => last,
                None => continue,
            },
        };
        match ranges.last_mut() {
            Some((_, before, same))
                if next(*before) == Some(*first)
                    && same.clone().settled() == ports.clone().settled() =>
            {
                *before = last;
            }
            _ => ranges.push((*first, last, ports)),
        }
    }
    ranges
}
