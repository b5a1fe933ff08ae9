//! Keys of ConfigMaps and Secrets, as files.

use std::collections::BTreeMap;

use proto::k8s::api::core::v1::KeyToPath;

use super::Defaults;
use crate::volumes::Objects;
use crate::volumes::atomic_writer::Files;

/// Which keys of which object are wanted.
pub(super) struct Choice<'a> {
    pub(super) name: &'a str,
    pub(super) items: Option<&'a [KeyToPath]>,
    pub(super) optional: bool,
    pub(super) defaults: Defaults,
}

pub(super) fn of_config_map(choice: &Choice<'_>, objects: &Objects) -> Result<Files, String> {
    let Some(map) = objects.config_maps.get(choice.name) else {
        return choice.absent("configmap");
    };
    let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
    data.extend(map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes())));
    data.extend(map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())));
    choice
        .select(&data)
        .map_err(|key| format!("configmap references non-existent config key: {key}"))
}

pub(super) fn of_secret(choice: &Choice<'_>, objects: &Objects) -> Result<Files, String> {
    let Some(secret) = objects.secrets.get(choice.name) else { return choice.absent("secret") };
    let data: BTreeMap<&str, &[u8]> =
        secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    choice.select(&data).map_err(|key| format!("references non-existent secret key: {key}"))
}

impl Choice<'_> {
    fn absent(&self, kind: &str) -> Result<Files, String> {
        match self.optional {
            true => Ok(Files::new()),
            false => Err(format!("{kind} \"{}\" not found", self.name)),
        }
    }

    /// All keys, or those that `items` names; the error is the first key that is missing.
    fn select(&self, data: &BTreeMap<&str, &[u8]>) -> Result<Files, String> {
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            let file = |content: &[u8]| self.defaults.file(content.to_vec(), None, None);
            return Ok(data.iter().map(|(key, data)| ((*key).to_owned(), file(data))).collect());
        };
        let mut files = Files::new();
        for item in items {
            match data.get(item.key.as_str()) {
                Some(content) => {
                    let file = self.defaults.file(content.to_vec(), item.mode, item.user);
                    files.insert(item.path.clone(), file);
                }
                None if self.optional => {}
                None => return Err(item.key.clone()),
            }
        }
        Ok(files)
    }
}
