//! Every field of a pod's specification, and who does as it says. For tests: what nobody knows of, nobody
//! honours.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::k8s as k8s_openapi;
use crate::k8s::api::core::v1::PodSpec;

const TABLE: &str = include_str!("fields.txt");
const DEFINITIONS: &str = "#/definitions/";
const CORE: &str = "io.k8s.api.core.v1.";

/// What is done about a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The file, from the workspace's root, that does as it says.
    Honoured(&'static str),
    /// A master refuses it.
    Refused,
}

/// One field at one place.
#[derive(Clone, Debug)]
pub struct Field {
    /// Where it is: JSON pointer in the specification, with 0 for every index.
    pub pointer: String,
    /// Name of its type, as `Container`.
    pub of: String,
    /// Its own name.
    pub name: String,
    /// What is done about it.
    pub answer: Answer,
    /// A value that it may have, with what is required in there.
    pub sample: Value,
}

impl Field {
    /// As Kubernetes writes paths: `containers[0].volumeMounts[0].name`.
    pub fn path(&self) -> String {
        let parts = self.pointer.split('/').skip(1);
        parts.fold(String::new(), |path, part| match (part.parse::<usize>(), path.is_empty()) {
            (Ok(index), _) => format!("{path}[{index}]"),
            (Err(_), true) => part.to_owned(),
            (Err(_), false) => format!("{path}.{part}"),
        })
    }
}

/// The table, by type and field.
pub fn table() -> BTreeMap<(&'static str, &'static str), Answer> {
    let mut table = BTreeMap::new();
    let mut of = "";
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let Some((field, answer)) = line.trim().split_once(' ') else {
            of = line;
            continue;
        };
        let answer = match answer {
            "refused" => Answer::Refused,
            file => Answer::Honoured(file),
        };
        table.insert((of, field), answer);
    }
    table
}

/// Every field at every place, from the types themselves; below what is refused nothing is looked at.
///
/// # Errors
/// Fields that the table does not have, and those that no type has.
pub fn all() -> Result<Vec<Field>, String> {
    let settings = SchemaSettings::draft07().with(|settings| settings.transforms.clear());
    let mut generator: SchemaGenerator = settings.into_generator();
    generator.subschema_for::<PodSpec>();
    let types: Map<String, Value> = generator.take_definitions(false).into_iter().collect();
    let table = table();
    let mut walk =
        Walk { types: &types, table: &table, fields: Vec::new(), unknown: BTreeSet::new() };
    walk.type_at("PodSpec", "");
    let Walk { fields, unknown, .. } = walk;
    let met: BTreeSet<(&str, &str)> =
        fields.iter().map(|field| (field.of.as_str(), field.name.as_str())).collect();
    let gone =
        table.keys().filter(|key| !met.contains(*key)).map(|(of, name)| format!("{of}.{name}"));
    let problems: Vec<String> = unknown
        .into_iter()
        .map(|field| format!("{field} is in no line of fields.txt: honour it or refuse it"))
        .chain(gone.map(|field| format!("{field} of fields.txt is no field any more")))
        .collect();
    if problems.is_empty() { Ok(fields) } else { Err(problems.join("\n")) }
}

/// A specification that says `field` and what is required around it, but nothing else. `all` are the fields
/// of [`all`].
pub fn spec_with(field: &Field, all: &[Field]) -> Value {
    let mut spec = json!({"containers": [{"name": "main", "image": "x"}]});
    let mut pointer = String::new();
    // What stands above it first.
    for part in field.pointer.split('/').skip(1) {
        let parent = pointer.clone();
        pointer = format!("{pointer}/{part}");
        if spec.pointer(&pointer).is_some() {
            continue;
        }
        let known = all.iter().find(|known| known.pointer == pointer);
        if let (Some(known), Some(parent)) = (known, spec.pointer_mut(&parent)) {
            parent[part] = known.sample.clone();
        }
    }
    // Of one that is not kept running, hooks and probes are refused as such.
    if let Some(init) = spec.pointer_mut("/initContainers/0").and_then(Value::as_object_mut) {
        init.entry("restartPolicy").or_insert_with(|| json!("Always"));
    }
    spec
}

struct Walk<'a> {
    types: &'a Map<String, Value>,
    table: &'a BTreeMap<(&'static str, &'static str), Answer>,
    fields: Vec<Field>,
    unknown: BTreeSet<String>,
}

impl Walk<'_> {
    fn type_at(&mut self, of: &str, pointer: &str) {
        let types = self.types;
        let properties = types[&format!("{CORE}{of}")]["properties"].as_object();
        for (name, schema) in properties.into_iter().flatten() {
            let Some(answer) = self.table.get(&(of, name.as_str())).copied() else {
                self.unknown.insert(format!("{of}.{name}"));
                continue;
            };
            let pointer = format!("{pointer}/{name}");
            self.fields.push(Field {
                pointer: pointer.clone(),
                of: of.to_owned(),
                name: name.clone(),
                answer,
                sample: self.sample(schema, answer == Answer::Refused),
            });
            if answer == Answer::Refused {
                continue;
            }
            let is_list = schema["type"] == "array";
            let (schema, pointer) = match is_list {
                true => (&schema["items"], format!("{pointer}/0")),
                false => (schema, pointer),
            };
            // Types of other groups are values: amounts, ports.
            if let Some(inner) = self.named(schema).and_then(|name| name.strip_prefix(CORE)) {
                self.type_at(inner, &pointer);
            }
        }
    }

    /// The type that the schema refers to.
    fn named<'s>(&self, schema: &'s Value) -> Option<&'s str> {
        let reference = &schema["$ref"];
        let alternative = &schema["allOf"][0]["$ref"];
        reference.as_str().or(alternative.as_str())?.strip_prefix(DEFINITIONS)
    }

    /// What is required, and, if it is to say something, a field where nothing is.
    fn sample(&self, schema: &Value, says_something: bool) -> Value {
        if let Some(name) = self.named(schema) {
            return self.sample(&self.types[name], says_something);
        }
        match schema["type"].as_str() {
            Some("array") => json!([self.sample(&schema["items"], says_something)]),
            Some("boolean") => json!(true),
            Some("integer" | "number") => json!(1),
            Some("object") => {
                let required = schema["required"].as_array().into_iter().flatten();
                let mut names: Vec<&str> = required.filter_map(Value::as_str).collect();
                if names.is_empty() && says_something {
                    let known = schema["properties"].as_object().into_iter().flatten();
                    names.extend(known.map(|(name, _)| name.as_str()).take(1));
                }
                let of_map = &schema["additionalProperties"];
                if of_map.is_object() && says_something {
                    return json!({"x": self.sample(of_map, true)});
                }
                let sample = |name: &str| self.sample(&schema["properties"][name], says_something);
                let fields = names.into_iter().map(|name| (name.to_owned(), sample(name)));
                Value::Object(fields.collect())
            }
            // Amounts and ports are texts as well as numbers.
            _ => json!("1"),
        }
    }
}
