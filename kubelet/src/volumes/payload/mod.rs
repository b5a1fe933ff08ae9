//! What files a volume consists of that is made of objects, or of what the pod says of itself.

mod keys;
mod told;

use proto::k8s::api::core::v1::{Pod, ProjectedVolumeSource, Volume};

use self::keys::Choice;
use super::atomic_writer::{Files, ProjectedFile};
use super::tokens::TokenFile;
use super::{Objects, Problem, fs_group};

/// What files are made with that do not say otherwise themselves.
#[derive(Clone, Copy)]
struct Defaults {
    mode: Option<i32>,
    user: Option<i64>,
}

/// Kubernetes' default.
const DEFAULT_MODE: i32 = 0o644;

impl Defaults {
    fn file(self, content: Vec<u8>, mode: Option<i32>, user: Option<i64>) -> ProjectedFile {
        let mode = mode.or(self.mode).unwrap_or(DEFAULT_MODE);
        ProjectedFile {
            content,
            // Validated to lie between 0 and 0777, and to be a user.
            mode: u32::try_from(mode).unwrap_or(0) & 0o777,
            owner: user.or(self.user).and_then(|user| u32::try_from(user).ok()),
            group: None,
        }
    }
}

/// What the files of a volume are; nothing for a volume of another kind.
pub(super) fn of_volume(
    volume: &Volume,
    pod: &Pod,
    objects: &Objects,
) -> Option<Result<Files, Problem>> {
    let files = of_source(volume, pod, objects).map(|files| files.map_err(Problem::Missing));
    let files = files.or_else(|| {
        let projected = volume.projected.as_ref()?;
        Some(of_projected(&volume.name, projected, pod, objects))
    })?;
    Some(files.map(|files| give_to(files, fs_group(pod))))
}

/// Gives files to the group of the pod's volumes, if it has one: its members may read them.
fn give_to(mut files: Files, group: Option<u32>) -> Files {
    // Those of the kubelet's own group are as if nobody had said anything.
    let named = group.filter(|group| *group != nix::unistd::getegid().as_raw());
    for file in files.values_mut().filter(|_| group.is_some()) {
        file.mode |= 0o440;
        file.group = named;
    }
    files
}

/// The error says, for the user, what is missing.
fn of_source(volume: &Volume, pod: &Pod, objects: &Objects) -> Option<Result<Files, String>> {
    if let Some(map) = &volume.config_map {
        let choice = Choice {
            name: &map.name,
            items: map.items.as_deref(),
            optional: map.optional == Some(true),
            defaults: Defaults { mode: map.default_mode, user: map.default_user },
        };
        return Some(keys::of_config_map(&choice, objects));
    }
    if let Some(secret) = &volume.secret {
        let choice = Choice {
            name: secret.secret_name.as_deref().unwrap_or_default(),
            items: secret.items.as_deref(),
            optional: secret.optional == Some(true),
            defaults: Defaults { mode: secret.default_mode, user: secret.default_user },
        };
        return Some(keys::of_secret(&choice, objects));
    }
    if let Some(source) = &volume.downward_api {
        let defaults = Defaults { mode: source.default_mode, user: source.default_user };
        let items = source.items.as_deref().unwrap_or_default();
        return Some(told::of_items(items, defaults, pod, objects));
    }
    None
}

/// All sources in one folder; where two have a file of one name, the later one's stands.
fn of_projected(
    name: &str,
    volume: &ProjectedVolumeSource,
    pod: &Pod,
    objects: &Objects,
) -> Result<Files, Problem> {
    let defaults = Defaults { mode: volume.default_mode, user: volume.default_user };
    let mut all = Files::new();
    let mut problems = Vec::new();
    let mut awaits_object = true;
    for source in volume.sources.iter().flatten() {
        let files = if let Some(map) = &source.config_map {
            let (name, items) = (map.name.as_str(), map.items.as_deref());
            let optional = map.optional == Some(true);
            keys::of_config_map(&Choice { name, items, optional, defaults }, objects)
        } else if let Some(secret) = &source.secret {
            let (name, items) = (secret.name.as_str(), secret.items.as_deref());
            let optional = secret.optional == Some(true);
            keys::of_secret(&Choice { name, items, optional, defaults }, objects)
        } else if let Some(source) = &source.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            told::of_items(items, defaults, pod, objects)
        } else if let Some(source) = &source.service_account_token {
            let file = TokenFile { volume: name.to_owned(), path: source.path.clone() };
            let token = objects.tokens.get(&file).cloned();
            let token = token.unwrap_or_else(|| Err("nobody has asked for the token".to_owned()));
            awaits_object &= token.is_ok();
            token.map(|text| [(file.path, token_file(text, source.user, defaults, pod))].into())
        } else {
            awaits_object = false;
            Err("this kind of source is not supported by this node".to_owned())
        };
        match files {
            Ok(files) => all.extend(files),
            Err(problem) => problems.push(problem),
        }
    }
    let message = match problems.len() {
        0 => return Ok(all),
        1 => problems.remove(0),
        _ => format!("[{}]", problems.join(", ")),
    };
    Err(if awaits_object { Problem::Missing(message) } else { Problem::Failed(message) })
}

/// A token is for those who run in the pod: where the pod says who that is, nobody else may read it.
fn token_file(text: String, user: Option<i64>, defaults: Defaults, pod: &Pod) -> ProjectedFile {
    let user = user.or(defaults.user).or_else(|| common_user(pod));
    let mode = (user.is_some() || fs_group(pod).is_some()).then_some(0o600);
    defaults.file(text.into_bytes(), mode, user)
}

/// As whom all containers run, if they say so and agree.
fn common_user(pod: &Pod) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut users = containers.map(|container| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}
