//! Gets the images of a container: its own, and those that it mounts.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::k8s::api::core::v1::Pod;
use runtime::image::{Image, ImageError, normalise_reference};

use super::Context;
use super::act::chain;
use crate::pods::events::Teller;
use crate::pods::images::{PullPolicy, credentials};
use crate::pods::observed::Images;
use crate::pods::spec;

/// An image could not be had.
pub(super) struct ImageProblem {
    /// Which one, as the pod names it.
    pub(super) image: String,
    /// As in `state.waiting.reason`.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// All that the container needs. Volumes come first, as in Kubernetes.
pub(super) async fn images(
    context: &Context,
    pod: &Pod,
    container: &str,
    teller: &Teller,
) -> Result<Images, ImageProblem> {
    let Some(spec) = spec::container(pod, container) else {
        let (image, message) = (String::new(), format!("there is no container {container}"));
        return Err(ImageProblem { image, reason: "ErrImagePull", message });
    };
    let mut volumes = BTreeMap::new();
    for (volume, source) in spec::mounted_images(pod, &spec) {
        let image = source.reference.as_deref().unwrap_or_default();
        let policy = PullPolicy::of(source.pull_policy.as_deref(), image);
        // It belongs to the pod: no container is named.
        let fetch = Fetch { context, pod, container: None, image, policy, teller };
        volumes.insert(volume.to_owned(), fetch.run().await?);
    }
    let image = spec.image.as_deref().unwrap_or_default();
    let policy = PullPolicy::of(spec.image_pull_policy.as_deref(), image);
    let fetch = Fetch { context, pod, container: Some(container), image, policy, teller };
    Ok(Images { own: fetch.run().await?, volumes })
}

/// One image.
struct Fetch<'a> {
    context: &'a Context,
    pod: &'a Pod,
    /// Whose it is, in the words about it.
    container: Option<&'a str>,
    image: &'a str,
    policy: PullPolicy,
    teller: &'a Teller,
}

impl Fetch<'_> {
    async fn run(&self) -> Result<Image, ImageProblem> {
        let &Fetch { context, container, image, teller, .. } = self;
        let images = &context.dependencies.images;
        if let Err(error) = normalise_reference(image) {
            let message = format!("Failed to apply default image tag \"{image}\": {error}");
            teller.warning(container, "InspectFailed", message);
            return Err(self.problem(&error));
        }
        let (credentials, problems) =
            context.dependencies.state.read(|cluster| credentials(self.pod, cluster, image));
        if self.policy != PullPolicy::Always {
            let present = images.lookup(image).await.map_err(|error| self.problem(&error))?;
            if let Some(present) = present
                && images.is_open_to(image, &credentials).await.map_err(|e| self.problem(&e))?
            {
                let message = format!(
                    "Container image \"{image}\" already present on machine and can be accessed by \
                     the pod"
                );
                teller.normal(container, "Pulled", message);
                return Ok(present);
            }
        }
        if self.policy == PullPolicy::Never {
            let message =
                format!("Container image \"{image}\" is not present with pull policy of Never");
            let (image, reason) = (image.to_owned(), "ErrImageNeverPull");
            teller.warning(container, reason, message.clone());
            teller.warning(container, "Failed", format!("Error: {reason}"));
            return Err(ImageProblem { image, reason, message });
        }
        if !problems.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may \
                 not succeed.",
                problems.join(", ")
            );
            teller.warning(None, "FailedToRetrieveImagePullSecret", message);
        }
        teller.normal(container, "Pulling", format!("Pulling image \"{image}\""));
        let began = tokio::time::Instant::now();
        match images.pull(image, &credentials).await {
            Ok(pulled) => {
                let took = Duration::from_millis(
                    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                );
                let size = pulled.size_bytes;
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took:?} ({took:?} including \
                     waiting). Image size: {size} bytes."
                );
                teller.normal(container, "Pulled", message);
                Ok(pulled)
            }
            Err(error) => {
                let message = format!("Failed to pull image \"{image}\": {error}");
                teller.warning(container, "Failed", message);
                Err(self.problem(&error))
            }
        }
    }

    fn problem(&self, error: &ImageError) -> ImageProblem {
        let reason = match error {
            ImageError::InvalidReference { .. } => "InvalidImageName",
            _ => "ErrImagePull",
        };
        self.teller.warning(self.container, "Failed", format!("Error: {reason}"));
        ImageProblem { image: self.image.to_owned(), reason, message: chain(error) }
    }
}
