//! Which selectors select which pods.
//!
//! Pods of a namespace with equal labels form a class: a selector selects all of a class or none, so
//! a change of a selector is compared with the classes, of which there are far fewer than pods, and
//! a new pod of a known class is compared with nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use proto::ObjectKey;
use proto::selector::Selector;

use crate::cache::ObjectEvent;

pub(crate) type Labels = BTreeMap<String, String>;

/// What an object selects pods by. An empty one selects nothing here.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    /// Pairs that all have to be there, as Services and ReplicationControllers say them.
    Labels(Labels),
    /// Anything that a `LabelSelector` says.
    Selector(Selector),
}

impl From<Labels> for Pattern {
    fn from(labels: Labels) -> Self {
        Self::Labels(labels)
    }
}

impl From<Selector> for Pattern {
    fn from(selector: Selector) -> Self {
        Self::Selector(selector)
    }
}

impl Pattern {
    fn is_empty(&self) -> bool {
        match self {
            Self::Labels(labels) => labels.is_empty(),
            Self::Selector(selector) => selector.is_everything(),
        }
    }

    fn selects(&self, labels: &Labels) -> bool {
        match self {
            Self::Labels(selector) => selects(selector, labels),
            Self::Selector(selector) => selector.matches(labels),
        }
    }
}

/// Pods with equal labels, and the objects whose selectors match them.
#[derive(Debug)]
struct Class<P> {
    selectors: Vec<Arc<ObjectKey>>,
    pods: HashSet<P>,
}

#[derive(Debug)]
struct Namespace<P> {
    /// By the object that has the selector. Never an empty one: here that selects nothing.
    selectors: BTreeMap<Arc<ObjectKey>, Pattern>,
    classes: HashMap<Arc<Labels>, Class<P>>,
}

/// The selectors of objects (Services, say) by namespace, and the pods they may select. `P` is what
/// the user names pods by.
#[derive(Debug)]
pub(crate) struct Selection<P> {
    namespaces: HashMap<String, Namespace<P>>,
}

impl<P> Default for Selection<P> {
    fn default() -> Self {
        Self { namespaces: HashMap::new() }
    }
}

/// Whether every pair of the selector is among the labels.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl<P: Clone + Eq + Hash> Selection<P> {
    /// The objects whose selectors select pods with these labels.
    pub(crate) fn of(&self, namespace: &str, labels: &Labels) -> Vec<Arc<ObjectKey>> {
        let Some(namespace) = self.namespaces.get(namespace) else { return Vec::new() };
        match namespace.classes.get(labels) {
            Some(class) => class.selectors.clone(),
            None => namespace.matching(labels),
        }
    }

    /// The pods that the object's selector selects.
    pub(crate) fn selected(&self, object: &ObjectKey) -> Vec<P> {
        self.classes(object).flat_map(|class| class.pods.iter().cloned()).collect()
    }

    /// How many these are.
    pub(crate) fn count(&self, object: &ObjectKey) -> usize {
        self.classes(object).map(|class| class.pods.len()).sum()
    }

    fn classes(&self, object: &ObjectKey) -> impl Iterator<Item = &Class<P>> {
        let classes = self.namespaces.get(&object.namespace).into_iter().flat_map(|namespace| {
            // Without a selector there is nothing in any class, and no need to look.
            namespace.selectors.get(object).map(|_| namespace.classes.values())
        });
        classes
            .flatten()
            .filter(|class| class.selectors.iter().any(|selector| **selector == *object))
    }

    /// A pod begins to be counted.
    pub(crate) fn add_pod(&mut self, namespace: &str, labels: &Arc<Labels>, pod: P) {
        let namespace = self.namespace(namespace);
        if let Some(class) = namespace.classes.get_mut(labels) {
            class.pods.insert(pod);
            return;
        }
        let class = Class { selectors: namespace.matching(labels), pods: HashSet::from([pod]) };
        namespace.classes.insert(Arc::clone(labels), class);
    }

    /// A pod is no longer counted.
    pub(crate) fn remove_pod<Q>(&mut self, namespace: &str, labels: &Labels, pod: &Q)
    where
        P: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let Some(known) = self.namespaces.get_mut(namespace) else { return };
        if let Some(class) = known.classes.get_mut(labels) {
            class.pods.remove(pod);
            if class.pods.is_empty() {
                known.classes.remove(labels);
                self.drop_if_empty(namespace);
            }
        }
    }

    /// An object is new, has another selector, or (with an empty one) selects nothing any more.
    /// Gives the pods it no longer selects and those it selects now.
    pub(crate) fn set(
        &mut self,
        key: &Arc<ObjectKey>,
        selector: impl Into<Pattern>,
    ) -> (Vec<P>, Vec<P>) {
        let selector = selector.into();
        let (mut lost, mut gained) = (Vec::new(), Vec::new());
        let namespace = self.namespace(&key.namespace);
        for (labels, class) in &mut namespace.classes {
            let position = class.selectors.iter().position(|selector| selector == key);
            let selected = !selector.is_empty() && selector.selects(labels);
            match (position, selected) {
                (Some(position), false) => {
                    class.selectors.remove(position);
                    lost.extend(class.pods.iter().cloned());
                }
                (None, true) => {
                    class.selectors.push(Arc::clone(key));
                    gained.extend(class.pods.iter().cloned());
                }
                _ => {}
            }
        }
        if selector.is_empty() {
            namespace.selectors.remove(key);
        } else {
            namespace.selectors.insert(Arc::clone(key), selector);
        }
        self.drop_if_empty(&key.namespace);
        (lost, gained)
    }

    /// Whether there are neither selectors nor pods.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    fn namespace(&mut self, name: &str) -> &mut Namespace<P> {
        self.namespaces
            .entry(name.to_owned())
            .or_insert_with(|| Namespace { selectors: BTreeMap::new(), classes: HashMap::new() })
    }

    fn drop_if_empty(&mut self, name: &str) {
        let empty = |namespace: &Namespace<P>| {
            namespace.selectors.is_empty() && namespace.classes.is_empty()
        };
        if self.namespaces.get(name).is_some_and(empty) {
            self.namespaces.remove(name);
        }
    }
}

impl Selection<ObjectKey> {
    /// Follows a change of a pod. Gives the objects that selected it until now or select it now.
    pub(crate) fn pod_changed(&mut self, event: &ObjectEvent) -> Vec<Arc<ObjectKey>> {
        let (old, new) = match event {
            ObjectEvent::Added(new) => (None, Some(new)),
            ObjectEvent::Modified { old, new } => (Some(old), Some(new)),
            ObjectEvent::Deleted(old) => (Some(old), None),
        };
        let namespace = &event.object().key.namespace;
        if let (Some(old), Some(new)) = (old, new)
            && old.labels == new.labels
        {
            return self.of(namespace, &new.labels);
        }
        let mut concerned = Vec::new();
        if let Some(old) = old {
            concerned.extend(self.of(namespace, &old.labels));
            self.remove_pod(namespace, &old.labels, &old.key);
        }
        if let Some(new) = new {
            self.add_pod(namespace, &Arc::new(new.labels.clone()), new.key.clone());
            concerned.extend(self.of(namespace, &new.labels));
        }
        concerned
    }
}

impl<P> Namespace<P> {
    fn matching(&self, labels: &Labels) -> Vec<Arc<ObjectKey>> {
        let matching = self.selectors.iter().filter(|(_, selector)| selector.selects(labels));
        matching.map(|(key, _)| Arc::clone(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Arc<Labels> {
        Arc::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    fn key(name: &str) -> Arc<ObjectKey> {
        Arc::new(ObjectKey::new("default", name))
    }

    #[test]
    fn a_selector_selects_pods_of_its_namespace_that_came_before_and_after_it() {
        let mut selection = Selection::<&str>::default();
        let (web, other) = (labels(&[("app", "web"), ("tier", "1")]), labels(&[("app", "db")]));
        selection.add_pod("default", &web, "before");
        assert_eq!(
            selection.set(&key("web"), Labels::from([("app".into(), "web".into())])).1,
            ["before"]
        );
        selection.add_pod("default", &web, "after");
        selection.add_pod("default", &other, "db");
        selection.add_pod("elsewhere", &web, "foreign");
        let mut selected = selection.selected(&key("web"));
        selected.sort_unstable();
        assert_eq!(selected, ["after", "before"]);
        assert_eq!(selection.of("default", &web), [key("web")]);
        assert!(selection.of("default", &other).is_empty());
        assert!(selection.of("elsewhere", &web).is_empty());
    }

    #[test]
    fn a_changed_selector_tells_what_it_lost_and_gained() {
        let mut selection = Selection::<&str>::default();
        selection.add_pod("default", &labels(&[("app", "a")]), "a");
        selection.add_pod("default", &labels(&[("app", "b")]), "b");
        selection.set(&key("s"), Labels::from([("app".into(), "a".into())]));
        let (lost, gained) = selection.set(&key("s"), Labels::from([("app".into(), "b".into())]));
        assert_eq!((lost, gained), (vec!["a"], vec!["b"]));
        let (lost, gained) = selection.set(&key("s"), Labels::new());
        assert_eq!((lost, gained), (vec!["b"], vec![]));
        assert!(selection.selected(&key("s")).is_empty());
    }

    #[test]
    fn nothing_is_left_when_all_is_gone() {
        let mut selection = Selection::<String>::default();
        let web = labels(&[("app", "web")]);
        selection.add_pod("default", &web, "a".to_owned());
        selection.set(&key("web"), (*web).clone());
        selection.remove_pod("default", &web, "a");
        assert!(!selection.is_empty());
        selection.set(&key("web"), Labels::new());
        assert!(selection.is_empty());
    }
}
