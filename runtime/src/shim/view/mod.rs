//! What a container with limits finds in `/proc`: its own memory and processors in the place of the
//! machine's, so that `free`, `top` and run-times that look there are right.
//!
//! The files are served through a FUSE file system, one for each sandbox, out of what the kernel counts
//! when they are read; nothing is kept up to date while nobody looks. They are as long-lived as the
//! sandbox: who serves them ends with the shim, with which containers lose their pod anyway, and a sandbox ends
//! with who serves them. A request that was with a killed server could never be ended otherwise.
//!
//! [`fuse`] has the words of the kernel, [`content`] what the files say, [`load`] how busy the container is,
//! [`attendant`] is who serves them.

mod attendant;
pub(super) mod content;
mod fuse;
mod load;

pub(super) use attendant::Attendant;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Instant, SystemTime};

use nix::mount::MsFlags;

use super::failure::{Doing, Failure};
use super::records::SandboxRecord;
use crate::api::ContainerId;
use crate::cgroup::Hierarchies;
use crate::plan::ViewFile;
use content::Machine;
use fuse::{Answer, Call};
use load::Load;

/// The views of a sandbox's containers.
pub(super) struct Views {
    device: OwnedFd,
    began: (SystemTime, Instant),
    sandbox: SandboxRecord,
    files: Vec<File>,
}

struct File {
    name: String,
    kind: ViewFile,
    group: String,
    /// How long it is said to be: some readers, those that have the kernel copy, read no further.
    length: usize,
    /// What a reader has begun to read, so that what it reads in pieces fits together.
    text: Vec<u8>,
    /// Of `loadavg` only.
    load: Load,
}

/// Number of the first file; the folder they are in is 1.
const FIRST: u64 = 2;

impl Views {
    /// Mounts the file system on a folder. Nothing where the kernel has no FUSE: containers then see the
    /// machine's files.
    pub(super) fn mount(folder: &Path, sandbox: &SandboxRecord) -> Result<Option<Views>, Failure> {
        let device = match fs::File::options().read(true).write(true).open("/dev/fuse") {
            Ok(device) => OwnedFd::from(device),
            Err(_) => return Ok(None),
        };
        rustix::io::ioctl_fionbio(&device, true).doing("set up the views")?;
        fs::create_dir_all(folder).doing("make the folder of the views")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let options = format!(
            "fd={},rootmode=40555,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        nix::mount::mount(Some("kutter"), folder, Some("fuse"), flags, Some(options.as_str()))
            .doing("mount the views")?;
        let (began, sandbox) = ((SystemTime::now(), Instant::now()), sandbox.clone());
        Ok(Some(Views { device, began, sandbox, files: Vec::new() }))
    }

    pub(super) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// The number of the file of this name, which says whose it is. Only root of the machine sees the
    /// folder, and asks for those of containers that are being made.
    fn look_up(&mut self, name: &[u8]) -> Option<u64> {
        let known = self.files.iter().position(|file| file.name.as_bytes() == name);
        let position = known.or_else(|| {
            let name = std::str::from_utf8(name).ok()?;
            let container = name.split_once('@')?.1;
            let kind = ViewFile::ALL.into_iter().find(|kind| kind.name_for(container) == name)?;
            let group = self.sandbox.container_cgroup(&ContainerId(container.to_owned()));
            let (name, load) = (name.to_owned(), Load::default());
            self.files.push(File { name, kind, group, length: 0, text: Vec::new(), load });
            Some(self.files.len() - 1)
        });
        Some(FIRST + position? as u64)
    }

    /// Gives back what readers have left.
    pub(super) fn rest(&mut self) {
        for file in &mut self.files {
            file.text = Vec::new();
        }
        self.files.shrink_to_fit();
    }

    /// Answers all that the kernel asks now.
    pub(super) fn serve(&mut self, hierarchies: &Hierarchies, buffer: &mut [u8]) {
        while let Ok(length) = rustix::io::read(&self.device, &mut *buffer) {
            let Some((unique, call)) = fuse::parse(&buffer[..length]) else { continue };
            if let Some(answer) = self.answer(hierarchies, call) {
                // One whose reader has gone is asked for no more.
                let _ = rustix::io::write(&self.device, &answer.bytes(unique));
            }
        }
    }

    fn answer(&mut self, hierarchies: &Hierarchies, call: Call<'_>) -> Option<Answer> {
        Some(match call {
            Call::Init { minor } => Answer::Init { minor },
            Call::Lookup { name } => match self.look_up(name) {
                Some(node) => Answer::Entry { node, size: self.size(hierarchies, node) },
                None => Answer::Error(nix::libc::ENOENT),
            },
            Call::Attributes { node } => {
                Answer::Attributes { node, size: self.size(hierarchies, node) }
            }
            Call::Open => Answer::Opened,
            Call::Read { node, offset, size } => match self.read(hierarchies, node, offset, size) {
                Some(bytes) => Answer::Data(bytes),
                None => Answer::Error(nix::libc::EIO),
            },
            Call::ReadFolder => Answer::Data(Vec::new()),
            Call::Fine => Answer::Done,
            Call::Unheard => return None,
            Call::Unknown => Answer::Error(nix::libc::ENOSYS),
        })
    }

    fn read(
        &mut self,
        hierarchies: &Hierarchies,
        node: u64,
        offset: u64,
        size: u32,
    ) -> Option<Vec<u8>> {
        let file = self.file(node)?;
        if offset == 0 || file.text.is_empty() {
            self.compose(hierarchies, node)?;
        }
        let text = &self.file(node)?.text;
        let start = usize::try_from(offset).ok()?.min(text.len());
        let end = start.saturating_add(size as usize).min(text.len());
        Some(text[start..end].to_vec())
    }

    fn file(&mut self, node: u64) -> Option<&mut File> {
        self.files.get_mut(usize::try_from(node.checked_sub(FIRST)?).ok()?)
    }

    fn size(&mut self, hierarchies: &Hierarchies, node: u64) -> u64 {
        if self.file(node).is_some_and(|file| file.length == 0) {
            self.compose(hierarchies, node);
        }
        self.file(node).map_or(0, |file| file.length as u64)
    }

    /// Writes down what the file says now, as long as it is said to be.
    fn compose(&mut self, hierarchies: &Hierarchies, node: u64) -> Option<()> {
        let (since, began) = self.began;
        let file = self.file(node)?;
        let of_machine = fs::read_to_string(file.kind.path()).ok()?;
        let machine = Machine { text: &of_machine, since, age: began.elapsed() };
        let counts = || hierarchies.counts(&file.group);
        let text = match file.kind {
            ViewFile::Meminfo => content::meminfo(machine.text, &counts()),
            ViewFile::Cpuinfo => content::cpuinfo(machine.text, &counts()),
            ViewFile::Stat => content::stat(&machine, &counts()),
            ViewFile::Loadavg => {
                if file.load.is_due(machine.age) {
                    let (used, tasks) = (counts().cpu_used(), hierarchies.tasks(&file.group));
                    file.load.advance(machine.age, used, tasks);
                }
                file.load.text()
            }
        };
        if text.len() > file.length {
            file.length = text.len() + SLACK;
        }
        file.text = padded(text.into_bytes(), file.length);
        Some(())
    }
}

/// So many digits more a file may have than when it was first looked at.
const SLACK: usize = 256;

/// Blanks at the end of the last line disturb nobody who reads lines.
fn padded(mut text: Vec<u8>, length: usize) -> Vec<u8> {
    if text.len() < length && text.pop().is_some() {
        text.resize(length - 1, b' ');
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_the_length_that_it_is_said_to_have() {
        assert_eq!(padded(b"a 1\nb 2\n".to_vec(), 12), b"a 1\nb 2    \n");
        assert_eq!(padded(b"a 1\n".to_vec(), 4), b"a 1\n");
        assert_eq!(padded(Vec::new(), 4), b"");
    }
}
