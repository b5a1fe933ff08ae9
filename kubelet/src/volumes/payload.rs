//! What files a ConfigMap or Secret volume consists of.

use std::collections::BTreeMap;

use proto::k8s::api::core::v1::{ConfigMapVolumeSource, KeyToPath, SecretVolumeSource};

use super::Objects;
use super::atomic_writer::{Files, ProjectedFile};

/// Kubernetes' default.
const DEFAULT_MODE: i32 = 0o644;

pub(super) fn of_config_map(
    source: &ConfigMapVolumeSource,
    objects: &Objects,
) -> Result<Files, String> {
    let optional = source.optional == Some(true);
    let Some(map) = objects.config_maps.get(&source.name) else {
        return if optional {
            Ok(Files::new())
        } else {
            Err(format!("configmap \"{}\" not found", source.name))
        };
    };
    let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
    data.extend(map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes())));
    data.extend(map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())));
    select(&data, source.items.as_deref(), source.default_mode, optional)
        .map_err(|key| format!("configmap references non-existent config key: {key}"))
}

pub(super) fn of_secret(source: &SecretVolumeSource, objects: &Objects) -> Result<Files, String> {
    let optional = source.optional == Some(true);
    let name = source.secret_name.as_deref().unwrap_or_default();
    let Some(secret) = objects.secrets.get(name) else {
        return if optional {
            Ok(Files::new())
        } else {
            Err(format!("secret \"{name}\" not found"))
        };
    };
    let data: BTreeMap<&str, &[u8]> =
        secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    select(&data, source.items.as_deref(), source.default_mode, optional)
        .map_err(|key| format!("references non-existent secret key: {key}"))
}

/// All keys, or those that `items` names; the error is the first key that is missing.
fn select(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Files, String> {
    let default_mode = default_mode.unwrap_or(DEFAULT_MODE);
    let file = |content: &[u8], mode: i32| ProjectedFile {
        content: content.to_vec(),
        // Validated to lie between 0 and 0777.
        mode: u32::try_from(mode).unwrap_or(0) & 0o777,
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data
            .iter()
            .map(|(key, content)| ((*key).to_owned(), file(content, default_mode)))
            .collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(content) => {
                files.insert(item.path.clone(), file(content, item.mode.unwrap_or(default_mode)));
            }
            None if optional => {}
            None => return Err(item.key.clone()),
        }
    }
    Ok(files)
}
