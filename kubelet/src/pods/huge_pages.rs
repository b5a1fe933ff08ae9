//! Huge pages that pods were promised. Unlike processors and memory they never change for a pod, and are
//! shared with nobody. Pure.

use std::collections::BTreeMap;

use proto::huge_pages::page_size;
use proto::k8s::api::core::v1::{Container, Node, Pod};
use proto::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;

use super::spec::{self, Role};

/// Bytes, by the size of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HugePages(BTreeMap<u64, i64>);

impl HugePages {
    /// What a pod needs: all that stay together, or an init container beside the sidecars before it,
    /// whichever is more.
    pub(crate) fn of_pod(pod: &Pod) -> Self {
        let (mut staying, mut starting) = (Self::default(), Self::default());
        for (role, container) in spec::own(pod) {
            let asked = Self::of_container(container);
            match role {
                Role::Init => {
                    let mut with = staying.clone();
                    with.add(&asked);
                    starting.raise_to(&with);
                }
                Role::Sidecar | Role::Regular => staying.add(&asked),
                Role::Ephemeral => {}
            }
        }
        staying.raise_to(&starting);
        let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref());
        staying.add(&overhead.map(Self::listed).unwrap_or_default());
        staying
    }

    /// What a container may have: its limit, which is also its request.
    pub(crate) fn of_container(container: &Container) -> Self {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits.map(Self::listed).unwrap_or_default()
    }

    /// What a node has for pods; nothing while it is not known.
    pub(crate) fn allocatable(node: Option<&Node>) -> Option<Self> {
        node?.status.as_ref()?.allocatable.as_ref().map(Self::listed)
    }

    fn listed(list: &BTreeMap<String, WireQuantity>) -> Self {
        let pages = list.iter().filter_map(|(name, amount)| {
            let amount = Quantity::try_from(amount).ok()?;
            Some((page_size(name)?, amount.value()))
        });
        Self(pages.collect())
    }

    /// Counts others in.
    pub(crate) fn add(&mut self, other: &Self) {
        for (size, bytes) in &other.0 {
            *self.0.entry(*size).or_default() += bytes;
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (size, bytes) in &other.0 {
            let mine = self.0.entry(*size).or_default();
            *mine = (*bytes).max(*mine);
        }
    }

    /// Sizes of pages, and bytes of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, i64)> {
        self.0.iter().map(|(size, bytes)| (*size, *bytes))
    }

    /// Bytes in pages of a size.
    pub(crate) fn of_size(&self, size: u64) -> i64 {
        self.0.get(&size).copied().unwrap_or(0)
    }

    /// What the kernel is to let a pod or container have of all the sizes that it knows: none of those that it
    /// has not asked for.
    pub(crate) fn limits(&self, sizes: &[u64]) -> BTreeMap<u64, u64> {
        let limit = |size: &u64| (*size, u64::try_from(self.of_size(*size)).unwrap_or(0));
        sizes.iter().map(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(init: Value, containers: Value, overhead: Value) -> Vec<(u64, i64)> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"initContainers": init, "containers": containers, "overhead": overhead},
        }))
        .unwrap();
        HugePages::of_pod(&pod).iter().collect()
    }

    fn one(name: &str, limits: Value) -> Value {
        json!({"name": name, "resources": {"limits": limits}})
    }

    #[test]
    fn a_pod_has_what_its_containers_have_at_a_time() {
        const SMALL: u64 = 2 << 20;
        let two = json!([
            one("a", json!({"memory": "1Gi", "hugepages-2Mi": "4Mi"})),
            one("b", json!({"hugepages-2Mi": "2Mi", "hugepages-1Gi": "1Gi"})),
        ]);
        let init = |size: &str| json!([one("i", json!({"hugepages-2Mi": size}))]);
        let expected = |bytes: i64| vec![(SMALL, bytes), (1 << 30, 1 << 30)];
        assert_eq!(of(json!([]), two.clone(), json!({})), expected(6 << 20));
        assert_eq!(of(init("4Mi"), two.clone(), json!({})), expected(6 << 20));
        assert_eq!(of(init("8Mi"), two.clone(), json!({})), expected(8 << 20));
        let overhead = json!({"hugepages-2Mi": "2Mi"});
        assert_eq!(of(json!([]), two.clone(), overhead), expected(8 << 20));
        let mut sidecar = one("s", json!({"hugepages-2Mi": "2Mi"}));
        sidecar["restartPolicy"] = json!("Always");
        let both = json!([sidecar, init("8Mi")[0]]);
        assert_eq!(of(both, two, json!({})), expected(10 << 20));
        assert_eq!(of(json!([]), json!([{"name": "a"}]), json!({})), []);
    }

    #[test]
    fn the_kernel_lets_nobody_have_what_he_did_not_ask_for() {
        let pages = HugePages([(2 << 20, 4 << 20)].into());
        let expected = [(2 << 20, 4 << 20), (1 << 30, 0)].into();
        assert_eq!(pages.limits(&[2 << 20, 1 << 30]), expected);
        assert_eq!(HugePages::default().limits(&[]), BTreeMap::new());
    }
}
