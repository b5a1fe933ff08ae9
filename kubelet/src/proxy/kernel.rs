//! Our tables in the kernel: one for each version of IP, of the same name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::ranges::Ranges;
use super::ruleset::Ruleset;
use super::sets::Set;
use super::{ProxyError, takeover};
use crate::join::Chain;
use crate::network::set_once;
use crate::nft::Nft;
use crate::nft::expr::Ip;
use crate::nft::table::{Command, Table};

/// A connection to both tables. Its calls block.
pub(crate) struct Kernel {
    nft: Arc<Nft>,
    name: String,
}

impl Kernel {
    /// The tables of this name.
    pub(crate) fn new(nft: Arc<Nft>, name: &str) -> Self {
        Self { nft, name: name.to_owned() }
    }

    fn table(&self, ip: Ip) -> Table {
        Table::of(&self.name, ip)
    }

    /// Does all of it at once, or nothing.
    pub(crate) fn apply(&self, commands: &BTreeMap<Ip, Vec<Command>>) -> Result<(), ProxyError> {
        let tables: Vec<(Table, &[Command])> =
            commands.iter().map(|(ip, steps)| (self.table(*ip), steps.as_slice())).collect();
        let changes: Vec<(&Table, &[Command])> =
            tables.iter().map(|(table, steps)| (table, *steps)).collect();
        self.nft.apply(&changes)
    }

    /// Lets packets from the loopback address leave the node, and answers to them come in, where node
    /// ports are to work there. A rule keeps everything else with such an address out, so this comes
    /// after the rules and goes before them.
    pub(crate) fn let_loopback_out(&self, ranges: &BTreeMap<Ip, Ranges>) -> Result<(), ProxyError> {
        match ranges.get(&Ip::V4) {
            Some(ranges) if ranges.node_ports_at_loopback() => set_route_localnet("1"),
            _ => Ok(()),
        }
    }

    /// Removes the tables that there are.
    pub(crate) fn remove(&self) -> Result<(), ProxyError> {
        set_route_localnet("0")?;
        for ip in Ip::ALL {
            let table = self.table(ip);
            if self.nft.dump(&table, &[])?.is_some() {
                self.nft.apply(&[(&table, &[Command::DeleteTable])])?;
            }
        }
        Ok(())
    }

    /// What an earlier kubelet left in the kernel, if all of it can be carried on with.
    pub(crate) fn take_over(&self, ranges: &BTreeMap<Ip, Ranges>) -> Vec<Ruleset> {
        let mut found = Vec::new();
        for (ip, ranges) in ranges {
            match self.take_over_one(*ip, ranges) {
                Some(ruleset) => found.push(ruleset),
                None => return Vec::new(),
            }
        }
        found
    }

    fn take_over_one(&self, ip: Ip, ranges: &Ranges) -> Option<Ruleset> {
        let started = Instant::now();
        let sets = Set::ALL.map(|set| set.describe(ip));
        let found = match self.nft.dump(&self.table(ip), &sets) {
            Ok(found) => found?,
            Err(error) => {
                warn!(error = %Chain(&error), ?ip, "cannot read the rules that are there: replacing them");
                return None;
            }
        };
        match takeover::take_over(ip, &found, ranges) {
            Ok(ruleset) => {
                let frontends = ruleset.services().len();
                let took = started.elapsed();
                info!(?ip, frontends, ?took, "took over the rules that are there");
                Some(ruleset)
            }
            Err(reason) => {
                info!(?ip, %reason, "replacing the rules that are there");
                None
            }
        }
    }
}

fn set_route_localnet(value: &str) -> Result<(), ProxyError> {
    set_once("/proc/sys/net/ipv4/conf/all/route_localnet", value).map_err(|source| {
        ProxyError::Socket { operation: format!("set route_localnet to {value}"), source }
    })
}
