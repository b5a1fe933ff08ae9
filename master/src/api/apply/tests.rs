mod documentation;

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::field_set::FieldSet;
use super::managed_fields::{ApplyError, Configuration, Manager, Managers};
use super::merge;
use crate::api::kinds::{Kind as _, Pods, ResourceInfo, Services};

const POD: &ResourceInfo = &Pods::RESOURCE;

fn set(value: &Value) -> FieldSet {
    FieldSet::from_value(value).unwrap()
}

fn at(seconds: i64) -> Time {
    Time(jiff::Timestamp::from_second(seconds).unwrap())
}

fn manager(name: &str) -> Manager {
    Manager { name: name.to_owned(), subresource: "" }
}

/// An object with its record, as the writes leave it.
#[derive(Clone, Debug, Default)]
struct Live {
    object: Option<Value>,
    managers: Managers,
    clock: i64,
}

impl Live {
    fn try_apply(&mut self, name: &str, tree: &Value, force: bool) -> Result<(), ApplyError> {
        self.clock += 1;
        let config = Configuration { tree, manager: &manager(name), force };
        let (object, managers) =
            self.managers.applied(POD, self.object.as_ref(), &config, &at(self.clock))?;
        self.object = Some(object);
        self.managers = managers;
        Ok(())
    }

    #[track_caller]
    fn apply(&mut self, name: &str, tree: &Value) {
        self.try_apply(name, tree, false).unwrap();
    }

    #[track_caller]
    fn conflicts(&mut self, name: &str, tree: &Value) -> Vec<(String, Vec<String>)> {
        match self.try_apply(name, tree, false) {
            Err(ApplyError::Conflicts(conflicts)) => conflicts,
            other => panic!("{other:?}"),
        }
    }

    fn update(&mut self, name: &str, new: Value) {
        self.clock += 1;
        let managers = std::mem::take(&mut self.managers);
        self.managers =
            managers.updated(POD, self.object.as_ref(), &new, &manager(name), at(self.clock));
        self.object = Some(new);
    }

    /// `Apply a`: the managers, with what they own.
    fn owners(&self) -> Vec<(String, Value)> {
        let entries = self.managers.encode(POD).unwrap_or_default();
        let owner = |entry: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
            let operation = entry.operation.clone().unwrap_or_default();
            let name = format!("{operation} {}", entry.manager.clone().unwrap_or_default());
            (name, entry.fields_v1.clone().unwrap_or_default().0)
        };
        entries.iter().map(owner).collect()
    }

    fn labels(&self) -> Value {
        self.object.as_ref().unwrap()["metadata"]["labels"].clone()
    }
}

fn labels(labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": labels}})
}

fn containers(containers: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"containers": containers}})
}

#[test]
fn sets_are_written_as_fields_v1() {
    let tree = json!({
        "metadata": {"labels": {"app": "web"}, "finalizers": ["a/b"]},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [
                {"name": "c", "args": ["x"], "ports": [{"containerPort": 80}], "resources": {}},
            ],
        },
    });
    let fields = merge::fields_of("Pod", &tree);
    let port = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
    let expected = json!({
        "f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}, "f:labels": {"f:app": {}}},
        "f:spec": {
            "f:nodeSelector": {},
            "f:containers": {
                "k:{\"name\":\"c\"}": {
                    ".": {}, "f:args": {}, "f:name": {}, "f:resources": {},
                    "f:ports": {port: {".": {}, "f:containerPort": {}}},
                },
            },
        },
    });
    assert_eq!(fields, set(&expected));
    assert_eq!(set(&fields.to_value()), fields);
    let paths = fields.paths();
    let path = ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]";
    assert!(paths.contains(&path.to_owned()), "{paths:?}");
    // A client may order the keys of an item as it likes.
    let other = json!({"k:{\"protocol\":\"TCP\",\"containerPort\":80}": {}});
    assert_eq!(set(&other), set(&json!({port: {}})));
    for broken in [json!([]), json!({"x": {}}), json!({"f:a": 1}), json!({"k:[]": {}})] {
        assert!(FieldSet::from_value(&broken).is_err(), "{broken}");
    }
}

#[test]
fn sets_are_sets() {
    let a = set(&json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
    let b = set(&json!({"f:a": {"f:b": {}, "f:d": {}}}));
    assert_eq!(a.intersection(&b), set(&json!({"f:a": {"f:b": {}}})));
    assert_eq!(a.difference(&b), set(&json!({"f:a": {}, "f:c": {}})));
    let all = json!({"f:a": {".": {}, "f:b": {}, "f:d": {}}, "f:c": {}});
    assert_eq!(a.clone().union(&b), set(&all));
    assert_eq!(a.difference(&a), FieldSet::default());
}

#[test]
fn an_applied_field_belongs_to_its_manager() {
    let mut live = Live::default();
    live.apply("a", &labels(json!({"x": "1"})));
    let owned = json!({"f:metadata": {"f:labels": {"f:x": {}}}});
    assert_eq!(live.owners(), [("Apply a".to_owned(), owned)]);
    // Again: nothing changes, not even the time.
    let before = live.managers.encode(POD);
    live.apply("a", &labels(json!({"x": "1"})));
    assert_eq!(live.managers.encode(POD), before);
}

#[test]
fn wanting_the_same_is_sharing_and_another_value_a_conflict() {
    let mut live = Live::default();
    live.apply("a", &labels(json!({"x": "1"})));
    live.apply("b", &labels(json!({"x": "1", "y": "1"})));
    assert_eq!(live.owners().len(), 2);
    let conflicts = live.conflicts("b", &labels(json!({"x": "2"})));
    assert_eq!(conflicts, [("\"a\"".to_owned(), vec![".metadata.labels.x".to_owned()])]);
    // Forced, the other loses it and has nothing left.
    live.try_apply("b", &labels(json!({"x": "2"})), true).unwrap();
    assert_eq!(live.labels(), json!({"x": "2"}));
    assert_eq!(live.owners().len(), 1);
}

#[test]
fn who_stops_applying_a_field_removes_it_unless_others_own_it() {
    let mut live = Live::default();
    live.apply("a", &labels(json!({"x": "1", "y": "1", "z": "1"})));
    live.apply("b", &labels(json!({"y": "1"})));
    live.apply("a", &labels(json!({"z": "1"})));
    assert_eq!(live.labels(), json!({"y": "1", "z": "1"}));
    live.apply("b", &labels(json!({})));
    assert_eq!(live.labels(), json!({"z": "1"}));
}

#[test]
fn items_go_and_stay_by_their_keys() {
    let mut live = Live::default();
    live.apply("a", &containers(json!([{"name": "x", "image": "1"}, {"name": "y", "image": "1"}])));
    live.apply("b", &containers(json!([{"name": "y", "tty": true}, {"name": "z", "image": "1"}])));
    let names = |live: &Live| -> Vec<String> {
        let object = live.object.as_ref().unwrap();
        let items = object["spec"]["containers"].as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&live), ["x", "y", "z"]);
    // `y` stays for the sake of b, without the image that was a's.
    live.apply("a", &containers(json!([{"name": "x", "image": "1"}])));
    assert_eq!(names(&live), ["x", "y", "z"]);
    let object = live.object.clone().unwrap();
    assert_eq!(object["spec"]["containers"][1], json!({"name": "y", "tty": true}));
    live.apply("b", &containers(json!([{"name": "z", "image": "1"}])));
    assert_eq!(names(&live), ["x", "z"]);
}

#[test]
fn an_update_takes_what_it_changes() {
    let mut live = Live::default();
    live.apply("a", &labels(json!({"x": "1", "y": "1"})));
    live.update("editor", labels(json!({"x": "2", "y": "1"})));
    let owners = live.owners();
    assert_eq!(owners[0].1, json!({"f:metadata": {"f:labels": {"f:y": {}}}}));
    assert_eq!(owners[1].0, "Update editor");
    assert_eq!(owners[1].1, json!({"f:metadata": {"f:labels": {"f:x": {}}}}));
    let conflicts = live.conflicts("a", &labels(json!({"x": "1", "y": "1"})));
    let told = "\"editor\" using v1".to_owned();
    assert_eq!(conflicts, [(told, vec![".metadata.labels.x".to_owned()])]);
    // An update that removes a field takes it from everybody.
    live.update("editor", labels(json!({"x": "2"})));
    assert_eq!(live.owners().len(), 1);
}

#[test]
fn what_was_there_before_the_first_apply_has_an_owner() {
    let mut live = Live { object: Some(labels(json!({"x": "1"}))), ..Live::default() };
    let conflicts = live.conflicts("a", &labels(json!({"x": "2"})));
    assert_eq!(conflicts[0].0, "\"before-first-apply\" using v1");
    live.apply("a", &labels(json!({"y": "1"})));
    assert_eq!(live.labels(), json!({"x": "1", "y": "1"}));
}

#[test]
fn kubectl_takes_over_from_its_client_side_apply() {
    let mut live = Live::default();
    let mut object = labels(json!({"x": "1"}));
    let last = object.to_string();
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    object["metadata"]["annotations"] = json!({annotation: last});
    live.update("kubectl-client-side-apply", object);
    live.conflicts("other", &labels(json!({"x": "2"})));
    live.apply("kubectl", &labels(json!({"x": "2"})));
    assert_eq!(live.labels(), json!({"x": "2"}));
    let annotations = &live.object.as_ref().unwrap()["metadata"]["annotations"];
    let last: Value = serde_json::from_str(annotations[annotation].as_str().unwrap()).unwrap();
    assert_eq!(last["metadata"]["labels"]["x"], "2");
    // What somebody else changed since is a conflict as ever.
    let mut edited = live.object.clone().unwrap();
    edited["metadata"]["labels"]["x"] = json!("3");
    live.update("editor", edited);
    assert_eq!(live.conflicts("kubectl", &labels(json!({"x": "4"}))).len(), 1);
}

#[test]
fn the_record_stays_small() {
    let mut live = Live::default();
    for n in 0..30 {
        let mut object = live.object.clone().unwrap_or_else(|| labels(json!({})));
        object["metadata"]["labels"][format!("l{n}")] = json!("x");
        live.update(&format!("m{n}"), object);
    }
    let owners = live.owners();
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0].0, "Update ancient-changes");
    let all: BTreeSet<String> = owners.iter().flat_map(|(_, fields)| set(fields).paths()).collect();
    assert!((0..30).all(|n| all.contains(&format!(".metadata.labels.l{n}"))));
}

#[test]
fn a_configuration_names_its_items_once() {
    let mut live = Live::default();
    for (broken, why) in [
        (json!([{"name": "x"}, {"name": "x"}]), "duplicate entries for key [name=\"x\"]"),
        (json!([{"image": "x"}]), "omits key field \"name\""),
        (json!({"name": "x"}), "expected a list"),
        (json!(["x"]), "expected a list of objects"),
    ] {
        match live.try_apply("a", &containers(broken), false) {
            Err(ApplyError::Merge(error)) => {
                assert!(error.to_string().contains(why), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn atomic_fields_have_one_owner() {
    let service =
        |selector: Value| json!({"metadata": {"name": "a"}, "spec": {"selector": selector}});
    let resource = &Services::RESOURCE;
    let (a, b) = (manager("a"), manager("b"));
    let tree = service(json!({"x": "1"}));
    let config = Configuration { tree: &tree, manager: &a, force: false };
    let (live, managers) = Managers::default().applied(resource, None, &config, &at(1)).unwrap();
    let tree = service(json!({"y": "1"}));
    let config = Configuration { tree: &tree, manager: &b, force: false };
    let refused = managers.applied(resource, Some(&live), &config, &at(2)).unwrap_err();
    let paths = vec![".spec.selector".to_owned()];
    assert_eq!(refused, ApplyError::Conflicts(vec![("\"a\"".to_owned(), paths)]));
    let forced = Configuration { force: true, ..config };
    let (live, _) = managers.applied(resource, Some(&live), &forced, &at(3)).unwrap();
    assert_eq!(live["spec"]["selector"], json!({"y": "1"}));
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn config(&mut self) -> Value {
        let mut config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
        for key in ["a", "b", "c"] {
            if self.below(2) == 0 {
                config["metadata"]["labels"][key] = json!(self.pick(&["1", "2"]));
            }
        }
        if self.below(3) == 0 {
            config["metadata"]["finalizers"] = json!([self.pick(&["x/1", "x/2"])]);
        }
        let mut containers = Vec::new();
        for name in ["p", "q", "r"] {
            if self.below(2) == 0 {
                let mut container = json!({"name": name});
                if self.below(2) == 0 {
                    container["image"] = json!(self.pick(&["1", "2"]));
                }
                if self.below(2) == 0 {
                    let value = self.pick(&["1", "2"]);
                    container["env"] = json!([{"name": self.pick(&["E", "F"]), "value": value}]);
                }
                if self.below(3) == 0 {
                    container["args"] = json!([self.pick(&["1", "2"])]);
                }
                containers.push(container);
            }
        }
        if !containers.is_empty() {
            config["spec"]["containers"] = json!(containers);
        }
        config
    }
}

/// The laws, from a thousand random starts.
#[test]
fn apply_keeps_its_laws() {
    let mut numbers = Numbers(7);
    for round in 0..1000 {
        let mut live = Live::default();
        for _ in 0..numbers.below(6) {
            let name = numbers.pick(&["a", "b", "c"]);
            let config = numbers.config();
            if numbers.below(3) == 0 {
                live.update("editor", config);
            } else {
                live.try_apply(name, &config, true).unwrap();
            }
        }
        let config = numbers.config();
        let mut once = live.clone();
        once.try_apply("a", &config, true).unwrap();
        let object = once.object.clone().unwrap();
        // What was applied is there.
        let fields = merge::fields_of("Pod", &config);
        let missing = fields.difference(&merge::fields_of("Pod", &object));
        assert!(missing.is_empty(), "{round}: {missing:?}");
        let changed = merge::compare("Pod", &object, &merge::merge("Pod", &object, &config));
        assert!(changed.is_same(), "{round}: {changed:?}");
        // Idempotence, of object and record.
        let mut twice = once.clone();
        twice.try_apply("a", &config, false).unwrap();
        assert_eq!(twice.object, once.object, "{round}");
        assert_eq!(twice.managers.encode(POD), once.managers.encode(POD), "{round}");
        // A stranger who applies fields of its own and then nothing leaves no trace.
        let mut visited = once.clone();
        let mine = json!({"metadata": {"name": "a", "labels": {"visitor": "1"}}});
        visited.try_apply("visitor", &mine, false).unwrap();
        visited.try_apply("visitor", &json!({"metadata": {"name": "a"}}), false).unwrap();
        assert_eq!(visited.owners(), once.owners(), "{round}");
        let change =
            merge::compare("Pod", once.object.as_ref().unwrap(), visited.object.as_ref().unwrap());
        assert!(change.added.is_empty() && change.modified.is_empty(), "{round}: {change:?}");
        // Conflicts are symmetric: over two configurations from nothing, either order agrees.
        let other = numbers.config();
        let conflicts = |first: &Value, second: &Value| {
            let mut live = Live::default();
            live.apply("a", first);
            match live.try_apply("b", second, false) {
                Ok(()) => Vec::new(),
                Err(ApplyError::Conflicts(conflicts)) => {
                    conflicts.into_iter().flat_map(|(_, paths)| paths).collect()
                }
                Err(error) => panic!("{error:?}"),
            }
        };
        assert_eq!(conflicts(&config, &other), conflicts(&other, &config), "{round}");
    }
}
