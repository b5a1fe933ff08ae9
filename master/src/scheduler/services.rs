//! Which Services select which pods.
//!
//! Pods of a namespace with equal labels form a class: a Service selects all of a class or none, so
//! a change of a Service is compared with the classes, of which there are far fewer than pods.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use proto::ObjectKey;

type Labels = BTreeMap<String, String>;

/// Pods with equal labels.
#[derive(Debug, Default)]
struct Class {
    services: Vec<Arc<ObjectKey>>,
    pods: HashSet<Arc<str>>,
}

/// Services by namespace, and the classes of the pods they may select.
#[derive(Debug, Default)]
pub(crate) struct Services {
    selectors: HashMap<String, BTreeMap<Arc<ObjectKey>, Labels>>,
    classes: HashMap<String, HashMap<Arc<Labels>, Class>>,
}

fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Services {
    /// Whether there are neither Services nor pods.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.selectors.is_empty() && self.classes.is_empty()
    }

    /// The Services that select pods with these labels.
    pub(crate) fn of(&self, namespace: &str, labels: &Arc<Labels>) -> Vec<Arc<ObjectKey>> {
        if let Some(class) = self.classes.get(namespace).and_then(|classes| classes.get(labels)) {
            return class.services.clone();
        }
        let selectors = self.selectors.get(namespace).into_iter().flatten();
        selectors
            .filter(|(_, selector)| selects(selector, labels))
            .map(|(service, _)| Arc::clone(service))
            .collect()
    }

    /// A pod begins to be counted.
    pub(crate) fn add_pod(&mut self, namespace: &str, labels: &Arc<Labels>, uid: &Arc<str>) {
        let services = self.of(namespace, labels);
        let classes = self.classes.entry(namespace.to_owned()).or_default();
        let class = classes
            .entry(Arc::clone(labels))
            .or_insert_with(|| Class { services, pods: HashSet::new() });
        class.pods.insert(Arc::clone(uid));
    }

    /// A pod is no longer counted.
    pub(crate) fn remove_pod(&mut self, namespace: &str, labels: &Arc<Labels>, uid: &str) {
        let Some(classes) = self.classes.get_mut(namespace) else { return };
        if let Some(class) = classes.get_mut(labels) {
            class.pods.remove(uid);
            if class.pods.is_empty() {
                classes.remove(labels);
            }
        }
        if classes.is_empty() {
            self.classes.remove(namespace);
        }
    }

    /// A Service is new, has another selector, or (with an empty one) selects nothing any more.
    /// Gives the pods it no longer selects and those it selects now.
    pub(crate) fn set(
        &mut self,
        key: &Arc<ObjectKey>,
        selector: Labels,
    ) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let (mut lost, mut gained) = (Vec::new(), Vec::new());
        for (labels, class) in self.classes.get_mut(&key.namespace).into_iter().flatten() {
            let position = class.services.iter().position(|service| service == key);
            let selected = !selector.is_empty() && selects(&selector, labels);
            match (position, selected) {
                (Some(position), false) => {
                    class.services.remove(position);
                    lost.extend(class.pods.iter().cloned());
                }
                (None, true) => {
                    class.services.push(Arc::clone(key));
                    gained.extend(class.pods.iter().cloned());
                }
                _ => {}
            }
        }
        if selector.is_empty() {
            if let Some(selectors) = self.selectors.get_mut(&key.namespace) {
                selectors.remove(key);
                if selectors.is_empty() {
                    self.selectors.remove(&key.namespace);
                }
            }
        } else {
            let selectors = self.selectors.entry(key.namespace.clone()).or_default();
            selectors.insert(Arc::clone(key), selector);
        }
        (lost, gained)
    }
}
