//! The operations on the objects of a kind: what is sent where, and what comes back.

use serde_json::{Map, Value, json};

use crate::api::kinds::ResourceInfo;
use crate::api::patch;
use crate::api::rest::change::RETURN_DELETED;
use crate::api::rest::openapi::described::Described;
use crate::api::rest::openapi::parameters::{self, DELETE, GET, LIST, SELECT, WRITE};
use crate::api::rest::openapi::types::{gvk, meta_reference, other, reference};
use crate::api::rest::subresources::{Subresource, subresources, verbs};

/// The media types of objects, both ways.
const OBJECTS: &[&str] = &["application/json", "application/yaml"];
const LISTS: &[&str] = &["application/json", "application/json;stream=watch", "application/yaml"];

/// Which verb a method stands for.
type Methods = &'static [(&'static str, &'static str)];
const COLLECTION: Methods = &[("post", "create"), ("delete", "deletecollection")];
const OBJECT: Methods = &[("put", "update"), ("patch", "patch"), ("delete", "delete")];
const SUBRESOURCE: Methods = &[("get", "get"), ("put", "update"), ("patch", "patch")];

/// `api/v1`, `apis/discovery.k8s.io/v1`: names a document and begins its paths.
pub(crate) fn root_of(resource: &ResourceInfo) -> String {
    match resource.group {
        "" => format!("api/{}", resource.version),
        group => format!("apis/{group}/{}", resource.version),
    }
}

/// The paths of a kind with what may be done there, in order.
pub(crate) fn paths(kind: Described) -> Vec<(String, Value)> {
    let resource = kind.resource();
    let of = Of { resource, type_name: kind.type_name().into_owned() };
    let root = root_of(resource);
    let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
    let collection = format!("/{root}/{scope}{}", resource.plural);
    let object = format!("{collection}/{{name}}");
    let mut paths = vec![
        (collection, of.served(of.collection(), COLLECTION)),
        (object.clone(), of.served(of.object(), OBJECT)),
    ];
    if resource.namespaced {
        let mut everywhere = json!({"get": of.list("ForAllNamespaces")});
        everywhere["parameters"] = json!([parameters::in_query("pretty")]);
        paths.push((format!("/{root}/{}", resource.plural), everywhere));
    }
    for subresource in subresources(resource) {
        let path = format!("{object}/{}", subresource.name);
        if subresource.name == "proxy" {
            let mut item = of.subresource(&subresource, "WithPath");
            if let Some(parameters) = item["parameters"].as_array_mut() {
                parameters.push(parameters::in_path("path", "What is asked for behind the proxy."));
            }
            paths.push((format!("{path}/{{path}}"), item));
        }
        paths.push((path, of.subresource(&subresource, "")));
    }
    paths.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    paths
}

/// What the operations of a kind have in common.
struct Of {
    resource: &'static ResourceInfo,
    type_name: String,
}

/// A body or an answer: its type in these media types.
struct Content<'a> {
    media_types: &'a [&'a str],
    schema: Value,
}

impl Content<'_> {
    fn to_value(&self) -> Value {
        let entry = |media_type: &&str| ((*media_type).to_owned(), json!({"schema": self.schema}));
        Value::Object(self.media_types.iter().map(entry).collect())
    }
}

impl Of {
    fn collection(&self) -> Value {
        let namespaced = self.resource.namespaced;
        let mut item = json!({
            "get": self.list(""),
            "post": self.operation(
                "post",
                format!("create a {}", self.resource.kind),
                self.id("create", "", ""),
                WRITE,
                Some(self.body()),
                &[200, 201, 202],
                &self.own(),
            ),
            "parameters": self.path_parameters(false),
        });
        let all: Vec<&str> = DELETE.iter().chain(SELECT).copied().collect();
        let scope = if namespaced { "Namespaced" } else { "" };
        let (group, kind) = (self.group(), self.resource.kind);
        item["delete"] = self.operation(
            "deletecollection",
            format!("delete collection of {kind}"),
            format!("delete{group}Collection{scope}{kind}"),
            &all,
            Some(delete_options()),
            &[200],
            &Content { media_types: OBJECTS, schema: self.list_type() },
        );
        item
    }

    /// Without the methods that the resource does not have.
    fn served(&self, item: Value, methods: Methods) -> Value {
        with_verbs(item, methods, &verbs(self.resource))
    }

    fn list(&self, scope: &str) -> Value {
        let (group, kind) = (self.group(), self.resource.kind);
        let id = match scope {
            "" => self.id("list", "", ""),
            _ => format!("list{group}{kind}{scope}"),
        };
        self.operation(
            "list",
            format!("list or watch objects of kind {kind}"),
            id,
            LIST,
            None,
            &[200],
            &Content { media_types: LISTS, schema: self.list_type() },
        )
    }

    fn object(&self) -> Value {
        let mut item = self.read_and_write(&self.own(), self.body(), "", None);
        // A deletion answers with what was deleted, or says that it is done.
        let deleted = if RETURN_DELETED.contains(&self.resource.plural) {
            self.own()
        } else {
            Content { media_types: OBJECTS, schema: meta_reference("Status") }
        };
        item["delete"] = self.operation(
            "delete",
            format!("delete a {}", self.resource.kind),
            self.id("delete", "", ""),
            DELETE,
            Some(delete_options()),
            &[200, 202],
            &deleted,
        );
        item["parameters"] = self.path_parameters(true);
        item
    }

    /// GET, PUT, PATCH of an object or of a subresource that looks like one.
    fn read_and_write(
        &self,
        answer: &Content<'_>,
        body: Value,
        suffix: &str,
        of: Option<&Subresource>,
    ) -> Value {
        let kind = self.resource.kind;
        let what = of.map_or_else(String::new, |of| format!("{} of the specified ", of.name));
        let mut patch_parameters = WRITE.to_vec();
        let mut answers = vec![200];
        if patch::MEDIA_TYPES.contains(&"application/apply-patch+yaml") {
            patch_parameters.push("force");
            answers.push(201);
        }
        let mut item = json!({
            "get": self.operation(
                "get",
                format!("read {what}{kind}"),
                self.id("read", "", suffix),
                GET,
                None,
                &[200],
                answer,
            ),
            "put": self.operation(
                "put",
                format!("replace {what}{kind}"),
                self.id("replace", "", suffix),
                WRITE,
                Some(body),
                &[200, 201],
                answer,
            ),
            "patch": self.operation(
                "patch",
                format!("partially update {what}{kind}"),
                self.id("patch", "", suffix),
                &patch_parameters,
                Some(required(&Content {
                    media_types: &patch::MEDIA_TYPES,
                    schema: meta_reference("Patch"),
                })),
                &answers,
                answer,
            ),
        });
        // A JSON patch is a list; the others look like the object.
        item["patch"]["requestBody"]["content"]["application/json-patch+json"]["schema"] =
            json!({"type": "array", "items": {"type": "object"}});
        item
    }

    fn subresource(&self, of: &Subresource, suffix: &str) -> Value {
        let name = format!("{}{suffix}", capitalized(of.name));
        let schema = match other(of.kind) {
            Some((name, _)) => reference(name),
            None => reference(&self.type_name),
        };
        let mut item = if of.connects() || of.name == "log" {
            self.stream(of, &name)
        } else if of.verbs == ["create"] {
            let content = Content { media_types: OBJECTS, schema: schema.clone() };
            json!({
                "post": self.operation(
                    "post",
                    format!("create {} of a {}", of.name, self.resource.kind),
                    self.id("create", "", &name),
                    WRITE,
                    Some(required(&content)),
                    &[200, 201, 202],
                    // What is made is not an object that could be read again.
                    &Content { media_types: OBJECTS, schema: meta_reference("Status") },
                ),
            })
        } else {
            let content = Content { media_types: OBJECTS, schema };
            let item = self.read_and_write(&content, required(&content), &name, Some(of));
            with_verbs(item, SUBRESOURCE, of.verbs)
        };
        for (_, operation) in item.as_object_mut().into_iter().flatten() {
            operation["x-kubernetes-group-version-kind"] = gvk(of.group, of.version, of.kind);
        }
        item["parameters"] = self.path_parameters(true);
        item
    }

    /// A subresource that answers with a stream of bytes.
    fn stream(&self, of: &Subresource, name: &str) -> Value {
        let options = parameters::of_subresource(of.kind, of.name);
        let mut item = Map::new();
        for verb in of.verbs {
            let (method, word) = match *verb {
                "create" => ("post", "Post"),
                "update" => ("put", "Put"),
                "patch" => ("patch", "Patch"),
                "delete" => ("delete", "Delete"),
                _ => ("get", "Get"),
            };
            let connects = of.connects();
            let id =
                if connects { self.id("connect", word, name) } else { self.id("read", "", name) };
            let media_types = if connects { &["*/*"][..] } else { &["text/plain"] };
            let action = if connects { "connect" } else { "get" };
            let operation = self.operation(
                action,
                format!("{action} {} of a {}", of.name, self.resource.kind),
                id,
                options,
                None,
                &[200],
                &Content { media_types, schema: json!({"type": "string"}) },
            );
            item.insert(method.to_owned(), operation);
        }
        Value::Object(item)
    }

    #[allow(clippy::too_many_arguments)]
    fn operation(
        &self,
        action: &str,
        description: String,
        id: String,
        options: &[&str],
        body: Option<Value>,
        answers: &[u16],
        answer: &Content<'_>,
    ) -> Value {
        let resource = self.resource;
        let parameters: Vec<Value> =
            options.iter().map(|name| parameters::in_query(name)).collect();
        let mut responses: Map<String, Value> = answers
            .iter()
            .map(|code| {
                let description = match code {
                    201 => "Created",
                    202 => "Accepted",
                    _ => "OK",
                };
                let content = answer.to_value();
                (code.to_string(), json!({"description": description, "content": content}))
            })
            .collect();
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut operation = json!({
            "description": description,
            "operationId": id,
            "parameters": parameters,
            "responses": responses,
            "tags": [format!("{}_{}", self.group_word(), resource.version)],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind":
                gvk(resource.group, resource.version, resource.kind),
        });
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        operation
    }

    fn own(&self) -> Content<'static> {
        Content { media_types: OBJECTS, schema: reference(&self.type_name) }
    }

    fn body(&self) -> Value {
        required(&self.own())
    }

    fn list_type(&self) -> Value {
        reference(&format!("{}List", self.type_name))
    }

    /// `readCoreV1NamespacedPodLog`
    fn id(&self, verb: &str, method: &str, suffix: &str) -> String {
        let scope = if self.resource.namespaced { "Namespaced" } else { "" };
        let (group, kind) = (self.group(), self.resource.kind);
        format!("{verb}{group}{method}{scope}{kind}{suffix}")
    }

    /// `CoreV1`
    fn group(&self) -> String {
        format!("{}{}", capitalized(self.group_word()), capitalized(self.resource.version))
    }

    fn group_word(&self) -> &'static str {
        match self.resource.group {
            "" => "core",
            group => group.split('.').next().unwrap_or(group),
        }
    }

    fn path_parameters(&self, named: bool) -> Value {
        let mut all = Vec::new();
        if named {
            let description = format!("name of the {}", self.resource.kind);
            all.push(parameters::in_path("name", &description));
        }
        if self.resource.namespaced {
            let description = "The namespace: a scope of names.";
            all.push(parameters::in_path("namespace", description));
        }
        all.push(parameters::in_query("pretty"));
        json!(all)
    }
}

/// Without the methods whose verbs there are not.
fn with_verbs(mut item: Value, methods: Methods, verbs: &[&str]) -> Value {
    if let Some(item) = item.as_object_mut() {
        for (method, _) in methods.iter().filter(|(_, verb)| !verbs.contains(verb)) {
            item.shift_remove(*method);
        }
    }
    item
}

fn required(content: &Content<'_>) -> Value {
    json!({"required": true, "content": content.to_value()})
}

fn delete_options() -> Value {
    let content = Content { media_types: OBJECTS, schema: meta_reference("DeleteOptions") };
    json!({"content": content.to_value()})
}

fn capitalized(word: &str) -> String {
    let mut characters = word.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
