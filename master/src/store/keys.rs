//! The layout of the store. Keys are built here and nowhere else.

use proto::ObjectKey;

/// Everything of the cluster is under it.
pub const ROOT: &str = "/registry/";

/// Objects of a resource (`pods`, `endpointslices` …): `/registry/<resource>/`.
pub fn resource_prefix(resource: &str) -> String {
    format!("{ROOT}{resource}/")
}

/// `/registry/<resource>/<namespace>/<name>`, or without the namespace for cluster-scoped objects.
pub fn object(resource: &str, key: &ObjectKey) -> String {
    if key.namespace.is_empty() {
        format!("{ROOT}{resource}/{}", key.name)
    } else {
        format!("{ROOT}{resource}/{}/{}", key.namespace, key.name)
    }
}

/// Resource and object that a key of [`object`] means; nothing for other keys.
pub fn parse_object(key: &str) -> Option<(&str, ObjectKey)> {
    let rest = key.strip_prefix(ROOT)?;
    let (resource, rest) = rest.split_once('/')?;
    let key = match rest.split_once('/') {
        Some((namespace, name)) => ObjectKey::new(namespace, name),
        None => ObjectKey::new("", rest),
    };
    Some((resource, key))
}

/// The key that the leading master holds under its lease.
pub const LEADER: &str = "/registry/kutter.leader/leader";

/// Prefix of the keys that masters hold for the sessions of nodes: [`node_session`].
pub const NODE_SESSIONS: &str = "/registry/kutter.sessions/";

/// Exists while a node's session stream is open; its value names the master that holds it.
pub fn node_session(node: &str) -> String {
    format!("{NODE_SESSIONS}{node}")
}

/// Prefix of the bootstrap tokens, by token id.
pub const BOOTSTRAP_TOKENS: &str = "/registry/kutter.tokens/";

/// Prefix of the claims on what has to be unique in the cluster: [`claim`].
pub const CLAIMS: &str = "/registry/kutter.claims/";

/// Exists while some object holds `claim` (`service-ip/10.96.0.7`); its value names the holder.
pub fn claim(claim: &str) -> String {
    format!("{CLAIMS}{claim}")
}

/// Prefix of what is used of the quotas, by namespace: [`quota_usage`].
pub const QUOTA_USAGE: &str = "/registry/kutter.quotas/";

/// What is used of the quotas of a namespace; changes in the transaction of what uses it.
pub fn quota_usage(namespace: &str) -> String {
    format!("{QUOTA_USAGE}{namespace}")
}

/// Prefix of the keys that running masters hold under a lease, by address: [`master`].
pub const MASTERS: &str = "/registry/kutter.masters/";

/// Exists while the master that is reached at `address` runs.
pub fn master(address: std::net::SocketAddr) -> String {
    format!("{MASTERS}{address}")
}

/// The key by which all masters sign the tokens of service accounts, PKCS#8.
pub const ACCOUNT_KEY: &str = "/registry/kutter.pki/accounts";

/// The fingerprint of the cluster's certificate authority: all masters have the same one.
pub const AUTHORITY: &str = "/registry/kutter.pki/authority";
