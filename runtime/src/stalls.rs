//! The kernel's word when memory is short.

use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's pressure stall information: it tells when programs have to wait for memory.
pub struct MemoryStalls(Option<AsyncFd<std::fs::File>>);

/// So long within [`WINDOW`] some program has to wait before the kernel tells. Reading one page of a
/// program back takes some milliseconds, so a machine that only reclaims is not there; one that
/// thrashes is at once.
const STALL: Duration = Duration::from_millis(200);
/// The kernel tells once in a window at the most. Without CAP_SYS_RESOURCE it takes multiples of two
/// seconds only.
const WINDOW: Duration = Duration::from_secs(2);

impl MemoryStalls {
    /// Asks the kernel; without that feature nothing is ever heard.
    pub fn listen() -> Self {
        Self::ask().map_or_else(
            |error| {
                tracing::info!(%error, "the kernel does not tell when memory is short");
                Self(None)
            },
            |file| Self(Some(file)),
        )
    }

    fn ask() -> std::io::Result<AsyncFd<std::fs::File>> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open("/proc/pressure/memory")?;
        // The kernel takes the last byte for the end of the text.
        let trigger = format!("some {} {}\0", STALL.as_micros(), WINDOW.as_micros());
        file.write_all(trigger.as_bytes())?;
        // SAFETY: the file is open, is moved into the result, which closes it, and gives the same
        // descriptor whenever it is asked.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) };
        Ok(registered?)
    }

    /// Waits until memory was short.
    pub async fn heard(&self) {
        let Some(file) = &self.0 else { return std::future::pending().await };
        match file.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!(%error, "cannot hear of stalls");
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_is_asked_where_it_tells() {
        if std::path::Path::new("/proc/pressure/memory").exists() {
            MemoryStalls::ask().unwrap();
        }
    }
}
