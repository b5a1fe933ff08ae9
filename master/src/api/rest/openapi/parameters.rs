//! The options that operations take in the query and in the path.

use serde_json::{Value, json};

/// Of lists and watches.
pub(super) const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
/// Of a read.
pub(super) const GET: &[&str] = &["resourceVersion"];
/// Of everything that takes an object.
pub(super) const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
/// Of deletions.
pub(super) const DELETE: &[&str] =
    &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
/// Of the deletion of a collection, beside [`DELETE`].
pub(super) const SELECT: &[&str] = &[
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
];

/// Of a subresource with options of its own.
pub(super) fn of_subresource(kind: &str, name: &str) -> &'static [&'static str] {
    match (kind, name) {
        ("Pod", "log") => &[
            "container",
            "follow",
            "limitBytes",
            "previous",
            "sinceSeconds",
            "sinceTime",
            "tailLines",
            "timestamps",
        ],
        ("PodExecOptions", _) => &["command", "container", "stderr", "stdin", "stdout", "tty"],
        ("PodAttachOptions", _) => &["container", "stderr", "stdin", "stdout", "tty"],
        ("PodPortForwardOptions", _) => &["ports"],
        _ => &[],
    }
}

/// A parameter in the query.
pub(super) fn in_query(name: &str) -> Value {
    let (kind, description) = describe(name);
    json!({
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": kind, "uniqueItems": true},
    })
}

/// A parameter in the path.
pub(super) fn in_path(name: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": "path",
        "description": description,
        "required": true,
        "schema": {"type": "string", "uniqueItems": true},
    })
}

fn describe(name: &str) -> (&'static str, &'static str) {
    match name {
        "allowWatchBookmarks" => ("boolean", "Whether a watch may contain bookmarks."),
        "command" => {
            ("string", "The command with its arguments, one value each; run without a shell.")
        }
        "container" => ("string", "The container; of a pod with one container, that one."),
        "continue" => ("string", "The token of the page before: the list goes on behind it."),
        "dryRun" => ("string", "All: everything is done but for the write itself."),
        "fieldManager" => ("string", "Who makes the change."),
        "fieldSelector" => ("string", "Only objects whose fields have these values."),
        "fieldValidation" => (
            "string",
            "What is done about unknown and duplicate fields: Ignore, Warn (the default), Strict.",
        ),
        "follow" => ("boolean", "Whether the log goes on as it is written."),
        "force" => ("boolean", "Whether an apply takes over fields that others manage."),
        "gracePeriodSeconds" => {
            ("integer", "How long the object may take to end; 0 deletes it at once.")
        }
        "labelSelector" => ("string", "Only objects whose labels fit."),
        "limit" => ("integer", "The most objects of one page."),
        "limitBytes" => ("integer", "The most bytes of the log."),
        "orphanDependents" => (
            "boolean",
            "Whether dependents stay, without owner. Deprecated: see propagationPolicy.",
        ),
        "path" => ("string", "What is asked for behind the proxy."),
        "ports" => ("integer", "The ports that are forwarded to."),
        "pretty" => ("string", "true: the answer is indented."),
        "previous" => ("boolean", "Whether the log is the one of the run before."),
        "propagationPolicy" => (
            "string",
            "What becomes of dependents: Orphan, Background (they go afterwards), Foreground (they \
             go first).",
        ),
        "resourceVersion" => (
            "string",
            "How new the answer has to be, or where a watch begins. Without it: the newest; 0: \
             anything.",
        ),
        "resourceVersionMatch" => {
            ("string", "How resourceVersion is meant: Exact or NotOlderThan.")
        }
        "sendInitialEvents" => (
            "boolean",
            "Whether a watch begins with what there is, and a bookmark at the end of that.",
        ),
        "sinceSeconds" => ("integer", "Only what was written in so many seconds until now."),
        "sinceTime" => ("string", "Only what was written since a time (RFC 3339)."),
        "stderr" => ("boolean", "Whether the standard error comes back."),
        "stdin" => ("boolean", "Whether the client sends a standard input."),
        "stdout" => ("boolean", "Whether the standard output comes back."),
        "tailLines" => ("integer", "Only so many lines from the end."),
        "timeoutSeconds" => ("integer", "How long a list may take, or a watch goes on."),
        "timestamps" => ("boolean", "Whether each line begins with its time."),
        "tty" => ("boolean", "Whether there is a terminal."),
        "watch" => ("boolean", "Whether the answer is a stream of changes instead of a list."),
        _ => ("string", ""),
    }
}
