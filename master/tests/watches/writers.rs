//! Those who write: each has objects of its own, so that most writes are good; and now and then one
//! deletes what belongs to others.

use std::collections::{BTreeMap, HashMap};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{Client, Connection};
use crate::record::Record;
use crate::selection::Key;
use crate::{NAMESPACES, NODES, RESOURCES};

const WRITERS: usize = 64;

/// All that was written.
pub(crate) struct Writers {
    /// What the answers said: resource, key and revision.
    answers: Vec<(&'static str, Key, u64)>,
}

impl Writers {
    /// Writes so many times.
    pub(crate) async fn run(
        client: &Client,
        writes: usize,
        written: watch::Sender<usize>,
        dice: &mut fastrand::Rng,
    ) -> Self {
        let mut tasks = Vec::new();
        let mut connection = client.http2().await;
        for number in 0..WRITERS {
            if number.is_multiple_of(16) {
                connection = client.http2().await;
            }
            let writer = Writer {
                connection: connection.clone(),
                number,
                dice: dice.fork(),
                exists: HashMap::new(),
                answers: Vec::new(),
            };
            tasks.push(tokio::spawn(writer.run(writes, written.clone())));
        }
        let mut answers = Vec::new();
        for task in tasks {
            answers.extend(task.await.expect("no panic"));
        }
        Self { answers }
    }

    /// Writes something that everybody who has seen it has seen everything before; gives its revision.
    pub(crate) async fn mark(&self, connection: &Connection) -> u64 {
        let path = |resource| format!("/api/v1/namespaces/n0/{resource}");
        let last = connection.create(&path("configmaps"), &config_map("end", json!({}), 0)).await;
        connection.create(&path("pods"), &pod("end", json!({}), 0)).await;
        revision(&last)
    }

    /// Every write that was answered is in the record.
    pub(crate) fn check(&self, history: &BTreeMap<&'static str, Record>) {
        for (resource, key, revision) in &self.answers {
            let written = history[resource].written_at(*revision);
            assert_eq!(written.as_ref(), Some(key), "{resource} at {revision}");
        }
    }
}

struct Writer {
    connection: Connection,
    number: usize,
    dice: fastrand::Rng,
    exists: HashMap<(&'static str, Key), bool>,
    answers: Vec<(&'static str, Key, u64)>,
}

impl Writer {
    async fn run(
        mut self,
        writes: usize,
        written: watch::Sender<usize>,
    ) -> Vec<(&'static str, Key, u64)> {
        loop {
            let count = *written.borrow();
            if count >= writes {
                return self.answers;
            }
            let code = self.write(count).await;
            if code.is_success() {
                written.send_modify(|written| *written += 1);
            }
        }
    }

    async fn write(&mut self, count: usize) -> StatusCode {
        // Pods cost a scheduler's look and more bytes.
        let resource = RESOURCES[usize::from(self.dice.u8(..5) == 0)];
        let namespace = NAMESPACES[self.dice.usize(..NAMESPACES.len())];
        let collection = format!("/api/v1/namespaces/{namespace}/{resource}");
        if self.dice.u16(..400) == 0 {
            let path =
                format!("{collection}?labelSelector=color%3Dgreen,shape&gracePeriodSeconds=0");
            return self.connection.ask(Method::DELETE, &path, None).await.0;
        }
        // Few are called as watchers may ask for.
        let name = match self.dice.u8(..3) {
            0 if self.number == 0 => "o3".to_owned(),
            other => format!("o{}-{other}", self.number),
        };
        let key = (namespace.to_owned(), name.clone());
        let path = format!("{collection}/{name}");
        let labels = self.labels();
        let json = "application/json";
        let exists = self.exists.get(&(resource, key.clone())).copied().unwrap_or_default();
        let merge = "application/merge-patch+json";
        let (method, path, form, body) = match self.dice.u8(..20) {
            _ if !exists => {
                (Method::POST, collection, json, object(resource, &name, labels, count))
            }
            0..4 => (Method::DELETE, format!("{path}?gracePeriodSeconds=0"), "", Value::Null),
            4 | 5 if resource == "configmaps" => {
                (Method::PUT, path, json, config_map(&name, labels, count))
            }
            4 | 5 => {
                let node = NODES[self.dice.usize(..NODES.len())];
                let target = json!({"kind": "Node", "name": node});
                let body = json!({"metadata": {"name": name}, "target": target});
                (Method::POST, format!("{path}/binding"), json, body)
            }
            6..11 if resource == "pods" => {
                let phase = ["Pending", "Running", "Failed"][self.dice.usize(..3)];
                let status = json!({"status": {"phase": phase, "message": count.to_string()}});
                (Method::PATCH, format!("{path}/status"), merge, status)
            }
            6..9 => {
                let mut applied = object(resource, &name, labels, count);
                applied.as_object_mut().expect("an object").remove("spec");
                let path = format!("{path}?fieldManager=tester&force=true");
                (Method::PATCH, path, "application/apply-patch+yaml", applied)
            }
            9..11 => {
                let patch = json!([{"op": "add", "path": "/metadata/labels", "value": labels}]);
                (Method::PATCH, path, "application/json-patch+json", patch)
            }
            _ => {
                let noted = json!({"n": count.to_string()});
                let patch = json!({"metadata": {"labels": labels, "annotations": noted}});
                (Method::PATCH, path, merge, patch)
            }
        };
        let deletes = method == Method::DELETE;
        let body = if deletes { None } else { Some((form, body.to_string().into_bytes())) };
        let (code, answer) = self.connection.ask(method.clone(), &path, body).await;
        let told = || format!("{method} {path}: {code}, {}", String::from_utf8_lossy(&answer));
        let answer: Value =
            serde_json::from_slice(&answer).unwrap_or_else(|_| panic!("{}", told()));
        match code.as_u16() {
            200 | 201 => {
                if answer["kind"] != "Status" && !deletes {
                    self.answers.push((resource, key.clone(), revision(&answer)));
                }
                self.exists.insert((resource, key), !deletes);
            }
            // Somebody else has deleted it, or one that is bound cannot be bound again.
            404 => drop(self.exists.insert((resource, key), false)),
            409 if path.ends_with("/binding") => {}
            409 => drop(self.exists.insert((resource, key), true)),
            _ => panic!("{}", told()),
        }
        code
    }

    fn labels(&mut self) -> Value {
        let mut labels = json!({});
        let color = self.dice.usize(..5);
        if let Some(color) = ["red", "green", "blue", "grey"].get(color) {
            labels["color"] = json!(color);
        }
        if let Some(shape) = ["round", "", "square"].get(self.dice.usize(..5)) {
            labels["shape"] = json!(shape);
        }
        labels
    }
}

fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no revision: {object}"))
}

fn object(resource: &str, name: &str, labels: Value, count: usize) -> Value {
    if resource == "pods" { pod(name, labels, count) } else { config_map(name, labels, count) }
}

fn config_map(name: &str, labels: Value, count: usize) -> Value {
    // Some are large: the cache then reaches back less far.
    let filling = "x".repeat(if count.is_multiple_of(10) { 12_000 } else { 10 });
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels},
        "data": {"n": count.to_string(), "filling": filling},
    })
}

fn pod(name: &str, labels: Value, count: usize) -> Value {
    let noted = json!({"n": count.to_string()});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": noted},
        "spec": {"containers": [{"name": "main", "image": "demo:1"}]},
    })
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// Nobody but the test puts pods on it.
pub(crate) fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"unschedulable": true},
    })
}
