//! Errors as sentences.

use kube::core::Status;

/// Whether somebody closed the pipe that is written to.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The server's answer behind an error, if that is what it is.
pub(crate) fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// Whether the server said that there is no such thing.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

/// What to print on standard error.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(here) = cause {
        if let Some(error) = here.downcast_ref::<kube::Error>() {
            parts.push(kube_sentence(error));
            break;
        }
        let text = here.to_string();
        // Some errors repeat their cause in their own words.
        if !parts.last().is_some_and(|last| last.contains(&text)) {
            parts.push(text);
        }
        cause = here.source();
    }
    format!("error: {}", parts.join(": "))
}

fn kube_sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 401 => format!(
            "the cluster does not know you ({}): use the kubeconfig of an administrator, see \
             kubecfg --help",
            status.message
        ),
        kube::Error::Api(status) => {
            let message = status.message.trim();
            if message.is_empty() {
                format!("the server answered {} {}", status.code, status.reason)
            } else {
                message.to_owned()
            }
        }
        kube::Error::Service(source) => {
            let mut text = source.to_string();
            let mut cause = source.source();
            while let Some(here) = cause {
                if !text.contains(&here.to_string()) {
                    text = format!("{text}: {here}");
                }
                cause = here.source();
            }
            format!("the cluster cannot be reached ({text}): is its master running?")
        }
        kube::Error::SerdeError(source) => {
            format!("the server's answer cannot be understood: {source}")
        }
        other => other.to_string(),
    }
}
