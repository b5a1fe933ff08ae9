//! A process of its own that serves the files of a view.
//!
//! The shim must not. Who has the kernel copy a file into a pipe (`sendfile`, as `cat` does) holds that pipe
//! while it waits for the file, and whoever serves the file waits for the pipe if it reads it, as the shim
//! does: both would wait for ever, and nobody could kill them. The attendant touches nothing that a
//! container has. It is forked when the first bounded container is made: most sandboxes that have none do
//! without.

use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::Views;
use crate::cgroup::Hierarchies;
use crate::shim::failure::{Doing, Failure};
use crate::sys::{self, Fork};

/// The process, as the shim knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attendant {
    pub(crate) pid: Pid,
    /// Whether it is in the control groups where shims are.
    pub(crate) is_moved: bool,
}

/// An attendant that was asked for nothing for so many seconds gives back what it does not need.
const REST_AFTER_SECONDS: i64 = 2;

/// As large as a request of the kernel can be that only reads.
const BUFFER_BYTES: usize = 16 * 1024;

impl Attendant {
    /// Forks the attendant, which serves from here on.
    pub(crate) fn start(
        views: Views,
        hierarchies: &Hierarchies,
        is_moved: bool,
    ) -> Result<Attendant, Failure> {
        let shim = Pid::this();
        match sys::fork().doing("fork the attendant of the views")? {
            Fork::Parent(pid) => Ok(Attendant { pid, is_moved }),
            Fork::Child => {
                let code = match attend(views, hierarchies, shim) {
                    Ok(()) => 0,
                    Err(failure) => {
                        eprintln!("the views are not served any more: {failure}");
                        1
                    }
                };
                sys::exit_now(code)
            }
        }
    }
}

/// Serves until nothing is mounted any more. Requests to end are blocked, as they are for the shim.
fn attend(mut views: Views, hierarchies: &Hierarchies, shim: Pid) -> Result<(), Failure> {
    rustix::thread::set_name(c"kutter-view").doing("set the name")?;
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).doing("follow the shim")?;
    if Pid::parent() != shim {
        return Err(Failure("the shim has ended".to_owned()));
    }
    // A pipe's end kept open here would keep its reader waiting.
    sys::close_all_but(views.device()).doing("close what was inherited")?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut is_rested = false;
    loop {
        let patience = Timespec { tv_sec: REST_AFTER_SECONDS, tv_nsec: 0 };
        let patience = (!is_rested).then_some(patience);
        let mut fds = [PollFd::from_borrowed_fd(views.device(), PollFlags::IN)];
        let ready = match rustix::event::poll(&mut fds, patience.as_ref()) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno).doing("wait for a reader"),
        };
        if ready == 0 {
            is_rested = true;
            views.rest();
            sys::release_program_pages().doing("give memory back")?;
            continue;
        }
        if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(());
        }
        is_rested = false;
        views.serve(hierarchies, &mut buffer);
    }
}
