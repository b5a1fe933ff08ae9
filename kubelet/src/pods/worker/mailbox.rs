//! What others tell a pod's worker. It never fills up: news of the same kind become one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use runtime::{ContainerExit, ContainerId, SandboxState};
use tokio::sync::Notify;

use crate::pods::observed::PodFailure;

/// News for one worker.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// A ConfigMap or Secret of the pod changed.
    pub(crate) objects_changed: bool,
    /// Containers that ended.
    pub(crate) exits: BTreeMap<ContainerId, ContainerExit>,
    /// The shim died.
    pub(crate) sandbox_lost: bool,
    /// Events were missed: this is what there is now.
    pub(crate) found: Option<Option<SandboxState>>,
    /// The node wants the pod to go.
    pub(crate) failed: Option<PodFailure>,
}

/// Where news wait until the worker has time.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    news: Notify,
}

impl Mailbox {
    /// Puts something in and wakes the worker; with nothing put in, it just looks again.
    pub(crate) fn put(&self, edit: impl FnOnce(&mut Mail)) {
        edit(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }

    /// Empties the box.
    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for news since the last call.
    pub(crate) async fn changed(&self) {
        self.news.notified().await;
    }
}
