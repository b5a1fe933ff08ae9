//! Sees to it that claims of Services are as the Services are: after a backup was restored, or somebody
//! wrote into the store by hand, several Services may have one address or node port, a claim may lack,
//! or be nobody's.
//!
//! As in Kubernetes' repair loop, nobody's address is changed. The oldest Service keeps what several
//! have, as it does on the nodes, and the others are told to be made anew; what is held is claimed, so
//! that nobody else gets it; what nobody holds is free again. Those whose address or node port is outside
//! of the ranges, as the masters have them now, are told, too, and keep it. It is not looked for: Services
//! and claims are compared when one of them comes or changes, and all of them when a master begins to
//! lead.

mod reconcile;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::Service;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use tracing::{info, warn};

use self::reconcile::{Holder, Plan, Warning, Write, name_of, reasons, reconcile};
use super::Context;
use super::driver::{Controller, Next, SyncError};
use super::holders::Holders;
use crate::api::kinds::{Kind, Services};
use crate::cache::{KeySubscription, KeyUpdate, Keys, Lagged, ObjectEvent};
use crate::events::{Occurrence, reference};
use crate::store::{Compare, KeyValue, Op, Txn, TxnOutcome, keys};

/// What Services claim; other kinds have claims of their own.
const OURS: [&str; 2] = ["service-ip/", "node-port/"];

/// The controller. See the module's documentation.
pub(super) struct ServiceRepair {
    context: Context,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holders: Holders<String>,
    /// Who was told that somebody else has a claim, or that it can be nobody's.
    told: HashMap<String, Vec<Holder>>,
}

#[async_trait]
impl Controller for ServiceRepair {
    /// A claim, as `service-ip/10.96.0.7`.
    type Key = String;

    const NAME: &'static str = "service-repair-controller";

    fn resources(&self) -> Vec<&'static str> {
        vec![Services::RESOURCE.plural]
    }

    fn affected(&self, _resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(String)) {
        let object = event.object();
        let service = match event {
            ObjectEvent::Deleted(_) => None,
            // What does not decode holds nothing that anybody could know of.
            _ => object.decode::<Service>().ok(),
        };
        let claims = service.map(|service| Services::claims(&service)).unwrap_or_default();
        let changed = self.state().holders.set(&object.key, claims.into_iter().collect());
        changed.into_iter().for_each(add);
    }

    fn reset(&self) {
        self.state().holders = Holders::default();
    }

    fn triggers(&self) -> BoxStream<'static, String> {
        claim_changes(self.context.objects.caches().keys(keys::CLAIMS))
    }

    async fn sync(&self, claim: &String) -> Result<Next, SyncError> {
        let (_, plan) = self.look(claim)?;
        if plan.write.is_none() && self.warnings(claim, &plan).is_empty() {
            self.state().told.remove(claim);
            return Ok(Next::Done);
        }
        // A claim and its object are written together, but not heard of together.
        self.context.objects.caches().fresh().await?;
        let (stored, plan) = self.look(claim)?;
        if let Some(write) = &plan.write
            && !self.write(claim, stored.as_deref(), write).await?
        {
            return Ok(Next::After(std::time::Duration::ZERO));
        }
        self.tell(claim, &plan);
        Ok(Next::Done)
    }
}

impl ServiceRepair {
    pub(super) fn new(context: Context) -> Self {
        Self { context, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there of a claim, and what follows.
    fn look(&self, claim: &str) -> Result<(Option<std::sync::Arc<KeyValue>>, Plan), SyncError> {
        let caches = self.context.objects.caches();
        let stored = caches.keys(keys::CLAIMS).get(&keys::claim(claim));
        let named = stored.as_ref().and_then(|stored| Holder::read(&stored.value));
        let mut candidates: Vec<ObjectKey> =
            self.state().holders.of(&claim.to_owned()).cloned().collect();
        // Whom the claim names may not have been heard of here yet.
        candidates.extend(named.as_ref().map(|holder| holder.key.clone()));
        candidates.sort();
        candidates.dedup();
        let mut holders = Vec::new();
        for key in candidates {
            let cache = caches.resource(Services::RESOURCE.plural);
            let Some(cached) = cache.and_then(|cache| cache.get(&key)) else { continue };
            let service: Service = cached.decode().map_err(SyncError::decode(&key))?;
            if Services::claims(&service).iter().any(|held| held == claim) {
                holders.push(Holder::of(&key, &service));
            }
        }
        let there = stored.as_ref().map(|_| named.as_ref());
        let plan = reconcile(holders, there);
        Ok((stored, plan))
    }

    /// Tells whether all was still as it was seen.
    async fn write(
        &self,
        claim: &str,
        seen: Option<&KeyValue>,
        write: &Write,
    ) -> Result<bool, SyncError> {
        let key = keys::claim(claim);
        let mut compares = self.context.fence.to_vec();
        compares.push(match seen {
            Some(seen) => Compare::ModRevision(key.clone(), seen.mod_revision),
            None => Compare::Absent(key.clone()),
        });
        let op = match write {
            Write::Put(holder) => {
                let value = Bytes::from(holder.to_json(Services::RESOURCE.plural).to_string());
                Op::Put { key, value, lease: None }
            }
            Write::Delete => Op::Delete { key },
        };
        let writer = self.context.objects.writer();
        let outcome = writer.store.txn(Txn { compares, ops: vec![op] }).await?;
        let TxnOutcome::Committed(revision) = outcome else {
            writer.caches.fresh().await?;
            return Ok(false);
        };
        writer.caches.wait_for(revision).await;
        match write {
            Write::Put(holder) => info!(claim, service = %holder.key, "claimed what a Service has"),
            Write::Delete => info!(claim, "gave up a claim of nobody"),
        }
        if let (Write::Put(holder), None) = (write, seen) {
            let message = format!("{} was not allocated; it is now", name_of(claim));
            self.record(holder, reasons(claim).not_allocated, message);
        }
        Ok(true)
    }

    fn warnings(&self, claim: &str, plan: &Plan) -> Vec<Warning> {
        plan.warnings(claim, &self.context.objects.writer().cluster)
    }

    /// Each is told once.
    fn tell(&self, claim: &str, plan: &Plan) {
        let warnings = self.warnings(claim, plan);
        let concerned: Vec<Holder> = warnings.iter().map(|one| one.holder.clone()).collect();
        let told = if concerned.is_empty() {
            self.state().told.remove(claim)
        } else {
            self.state().told.insert(claim.to_owned(), concerned)
        };
        let told = told.unwrap_or_default();
        for Warning { holder, reason, message } in warnings {
            if !told.contains(&holder) {
                warn!(claim, service = %holder.key, reason, message, "a Service's claim is not sound");
                self.record(&holder, reason, message);
            }
        }
    }

    fn record(&self, holder: &Holder, reason: &str, message: String) {
        let object = reference("Service", &holder.key, &holder.uid);
        self.context.recorder.record(Occurrence::warning(Self::NAME, object, reason, message));
    }
}

/// The claims of Services that come, change or go; first those that there are.
fn claim_changes(claims: Keys) -> BoxStream<'static, String> {
    struct Follow {
        claims: Keys,
        subscription: KeySubscription,
        pending: VecDeque<String>,
    }
    let (_, listed, subscription) = claims.list_and_subscribe();
    let pending = listed.iter().filter_map(|stored| ours(&stored.key)).collect();
    let follow = Follow { claims, subscription, pending };
    stream::unfold(follow, |mut follow| async move {
        loop {
            if let Some(claim) = follow.pending.pop_front() {
                return Some((claim, follow));
            }
            match follow.subscription.next().await {
                Ok(KeyUpdate::Put(stored)) => follow.pending.extend(ours(&stored.key)),
                Ok(KeyUpdate::Deleted { key, .. }) => follow.pending.extend(ours(&key)),
                Err(Lagged) => {
                    // One that went unheard of is free, or its Service tells of it.
                    let (_, listed, subscription) = follow.claims.list_and_subscribe();
                    follow.pending = listed.iter().filter_map(|one| ours(&one.key)).collect();
                    follow.subscription = subscription;
                }
            }
        }
    })
    .boxed()
}

fn ours(key: &str) -> Option<String> {
    let claim = key.strip_prefix(keys::CLAIMS)?;
    OURS.iter().any(|prefix| claim.starts_with(prefix)).then(|| claim.to_owned())
}
