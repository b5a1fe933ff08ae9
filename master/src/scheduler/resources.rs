//! Amounts of resources, as pods ask for them and nodes offer them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s as k8s_openapi;
use proto::quantity::Quantity;

/// What a container without a CPU request counts for when nodes are compared, so that pods which
/// ask for nothing are spread too. Never used to decide whether a pod fits. Kubernetes' value.
const NOMINAL_CPU_MILLI: i64 = 100;
/// As [`NOMINAL_CPU_MILLI`], in bytes.
const NOMINAL_MEMORY: i64 = 200 * 1024 * 1024;

/// No single amount is more (a pebibyte): sums over the pods of a node then cannot overflow.
const MAX_AMOUNT: i64 = 1 << 50;

/// Amounts by resource. The two that nearly every pod asks for have fields of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Resources {
    /// Thousandths of a core.
    pub(crate) cpu_milli: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// `ephemeral-storage`, huge pages, extended resources; in whole units.
    pub(crate) others: BTreeMap<String, i64>,
}

impl Resources {
    /// Out of a resource list. Validation lets no quantity into the store that does not parse.
    pub(crate) fn from_list(list: Option<&BTreeMap<String, WireQuantity>>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let Ok(quantity) = Quantity::parse(&quantity.0) else { continue };
            let cap = |amount: i64| amount.clamp(0, MAX_AMOUNT);
            match name.as_str() {
                "cpu" => resources.cpu_milli = cap(quantity.milli_value()),
                "memory" => resources.memory = cap(quantity.value()),
                // Counted apart: every pod takes one.
                "pods" => {}
                other => {
                    resources.others.insert(other.to_owned(), cap(quantity.value()));
                }
            }
        }
        resources
    }

    /// Adds `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.cpu_milli += other.cpu_milli;
        self.memory += other.memory;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() += amount;
        }
    }

    /// Takes away what [`add`](Self::add) added.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.cpu_milli -= other.cpu_milli;
        self.memory -= other.memory;
        for (name, amount) in &other.others {
            if let Some(sum) = self.others.get_mut(name) {
                *sum -= amount;
                if *sum == 0 {
                    self.others.remove(name);
                }
            }
        }
    }

    /// The larger of both, resource by resource.
    fn raise_to(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory = self.memory.max(other.memory);
        for (name, amount) in &other.others {
            let sum = self.others.entry(name.clone()).or_default();
            *sum = (*sum).max(*amount);
        }
    }
}

/// What a pod asks for: its containers together, or its largest init container beside the sidecars
/// started before it, whichever is more; and the overhead of its sandbox.
pub(crate) fn pod_requests(spec: &PodSpec) -> Resources {
    effective(spec, |container| requests_of(container.resources.as_ref()))
}

/// What a pod counts for when nodes are compared.
pub(crate) fn pod_nominal(spec: &PodSpec) -> (i64, i64) {
    let nominal = effective(spec, |container| {
        let mut requests = requests_of(container.resources.as_ref());
        if requests.cpu_milli == 0 {
            requests.cpu_milli = NOMINAL_CPU_MILLI;
        }
        if requests.memory == 0 {
            requests.memory = NOMINAL_MEMORY;
        }
        requests
    });
    (nominal.cpu_milli, nominal.memory)
}

/// A limit without a request is its request too.
fn requests_of(resources: Option<&ResourceRequirements>) -> Resources {
    let Some(resources) = resources else { return Resources::default() };
    let mut list = resources.limits.clone().unwrap_or_default();
    list.extend(resources.requests.clone().unwrap_or_default());
    Resources::from_list(Some(&list))
}

fn effective(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&of(container));
            starting.raise_to(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&of(container));
            starting.raise_to(&moment);
        }
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    running.add(&Resources::from_list(spec.overhead.as_ref()));
    running
}
