//! The controls that the level `restricted` adds.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Volume;
use proto::k8s as k8s_openapi;

use super::{Seen, Subject, Violation, baseline, containers, plural, quoted, sayers};

pub(super) fn privilege_escalation(pod: &Subject<'_>) -> Option<Violation> {
    let names = pod.containers_that(|one| {
        one.security.and_then(|context| context.allow_privilege_escalation) != Some(false)
    });
    (!names.is_empty()).then(|| Violation {
        reason: "allowPrivilegeEscalation != false",
        detail: format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            containers(&names)
        ),
    })
}

pub(super) fn capabilities(pod: &Subject<'_>) -> Option<Violation> {
    let drops_all = |one: &Seen<'_>| {
        let lists = one.security.and_then(|context| context.capabilities.as_ref());
        lists.is_some_and(|lists| lists.drop.iter().flatten().any(|name| name == "ALL"))
    };
    let keeping = pod.containers_that(|one| !drops_all(one));
    let keeping = (!keeping.is_empty()).then(|| {
        format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping))
    });
    let adding = baseline::added_beyond(pod, &["NET_BIND_SERVICE"]);
    let found: Vec<String> = keeping.into_iter().chain(adding).collect();
    let detail = found.join("; ");
    (!found.is_empty()).then_some(Violation { reason: "unrestricted capabilities", detail })
}

/// Without exception.
pub(super) fn proc_mount(pod: &Subject<'_>) -> Option<Violation> {
    baseline::any_proc_mount(pod)
}

pub(super) fn volumes(pod: &Subject<'_>) -> Option<Violation> {
    let is_allowed = |volume: &&Volume| {
        volume.config_map.is_some()
            || volume.csi.is_some()
            || volume.downward_api.is_some()
            || volume.empty_dir.is_some()
            || volume.ephemeral.is_some()
            || volume.image.is_some()
            || volume.persistent_volume_claim.is_some()
            || volume.projected.is_some()
            || volume.secret.is_some()
    };
    let volumes = pod.spec.volumes.iter().flatten();
    let bad: Vec<&Volume> = volumes.filter(|volume| !is_allowed(volume)).collect();
    let kinds: BTreeSet<String> = bad.iter().map(|volume| source(volume)).collect();
    (!bad.is_empty()).then(|| Violation {
        reason: "restricted volume types",
        detail: format!(
            "{} {} {} {} {}",
            plural(bad.len(), "volume", "volumes"),
            quoted(bad.iter().map(|volume| volume.name.as_str())),
            plural(bad.len(), "uses", "use"),
            plural(kinds.len(), "restricted volume type", "restricted volume types"),
            quoted(kinds.iter().map(String::as_str)),
        ),
    })
}

/// What a volume is made from, by the name of its field.
fn source(volume: &Volume) -> String {
    let fields = serde_json::to_value(volume).unwrap_or_default();
    let mut names = fields.as_object().into_iter().flat_map(|fields| fields.keys());
    names.find(|name| *name != "name").cloned().unwrap_or_else(|| "unknown".to_owned())
}

/// Unless root in the pod is nobody on the host.
pub(super) fn not_root(pod: &Subject<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let said = |one: &Seen<'_>| one.security.and_then(|context| context.run_as_non_root);
    let of_pod = pod.spec.security_context.as_ref().and_then(|context| context.run_as_non_root);
    let reason = "runAsNonRoot != true";
    let names = pod.containers_that(|one| said(one) == Some(false));
    if let Some(sayers) = sayers(of_pod == Some(false), &names) {
        let detail = format!("{sayers} must not set securityContext.runAsNonRoot=false");
        return Some(Violation { reason, detail });
    }
    let names = pod.containers_that(|one| said(one).is_none() && of_pod != Some(true));
    (!names.is_empty()).then(|| Violation {
        reason,
        detail: format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&names)),
    })
}

/// Unless root in the pod is nobody on the host.
pub(super) fn user(pod: &Subject<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let context = pod.spec.security_context.as_ref();
    let of_pod = context.is_some_and(|context| context.run_as_user == Some(0));
    let names = pod
        .containers_that(|one| one.security.is_some_and(|context| context.run_as_user == Some(0)));
    let sayers = sayers(of_pod, &names)?;
    Some(Violation { reason: "runAsUser=0", detail: format!("{sayers} must not set runAsUser=0") })
}

pub(super) fn seccomp(pod: &Subject<'_>) -> Option<Violation> {
    let reason = "seccompProfile";
    if let Some(detail) = baseline::unconfined_seccomp(pod) {
        return Some(Violation { reason, detail });
    }
    let context = pod.spec.security_context.as_ref();
    let of_pod = context.is_some_and(|context| context.seccomp_profile.is_some());
    let names = pod.containers_that(|one| {
        !of_pod && one.security.and_then(|context| context.seccomp_profile.as_ref()).is_none()
    });
    (!names.is_empty()).then(|| Violation {
        reason,
        detail: format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\"",
            containers(&names)
        ),
    })
}
