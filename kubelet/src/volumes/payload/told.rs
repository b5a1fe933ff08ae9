//! What a pod is told of itself, as files.

use proto::k8s::api::core::v1::{DownwardAPIVolumeFile, Pod};

use super::Defaults;
use crate::downward;
use crate::volumes::Objects;
use crate::volumes::atomic_writer::Files;

pub(super) fn of_items(
    items: &[DownwardAPIVolumeFile],
    defaults: Defaults,
    pod: &Pod,
    objects: &Objects,
) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let content = if let Some(field) = &item.field_ref {
            downward::metadata(&field.field_path, &pod.metadata)
                .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?
        } else if let Some(resource) = &item.resource_field_ref {
            downward::resource(resource, None, pod, objects.node.as_deref())?
        } else {
            continue;
        };
        let file = defaults.file(content.into_bytes(), item.mode, item.user);
        files.insert(item.path.clone(), file);
    }
    Ok(files)
}
