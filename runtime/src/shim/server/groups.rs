//! Out of the control groups of whoever started the shim, so that that can be restarted by itself.
//!
//! A shim is born outside of them. Where that cannot be it has to be moved, for which the kernel takes long: a fork,
//! the *mover*, waits for it, while the shim serves.

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::Server;
use crate::sys::{self, Fork};

impl Server {
    /// Moves the shim, and the first process of those that the containers share, to this group, if they are not there.
    pub(crate) fn leave_caller_groups(&mut self, group: &str, has_left: bool) {
        group.clone_into(&mut self.own_group);
        if has_left {
            return;
        }
        let all = [Some(Pid::this()), self.held.first].into_iter().flatten().collect();
        self.move_out(all);
    }

    /// Has the attendant follow if it was forked while the shim was not yet where it is to be.
    pub(super) fn mover_ended(&mut self) {
        self.mover = None;
        let left = self.attendant.as_mut().filter(|attendant| !attendant.is_moved);
        if let Some(attendant) = left.filter(|_| self.stopping.is_none()) {
            attendant.is_moved = true;
            let pid = attendant.pid;
            self.move_out(vec![pid]);
        }
    }

    /// Control groups that it still makes could not be removed by whoever asks for the end.
    pub(super) fn await_mover(&mut self) {
        if let Some(mover) = self.mover.take() {
            let _ = waitpid(mover, None);
        }
    }

    fn move_out(&mut self, all: Vec<Pid>) {
        let moved: crate::Result<()> = match sys::fork() {
            Ok(Fork::Parent(mover)) => return self.mover = Some(mover),
            Ok(Fork::Child) => {
                // Without the shim there is nothing to move.
                let signal = Some(rustix::process::Signal::KILL);
                let _ = rustix::process::set_parent_process_death_signal(signal);
                all.into_iter().try_for_each(|pid| self.hierarchies.enter(&self.own_group, pid))
            }
            Err(errno) => return eprintln!("the shim stays in its caller's groups: {errno}"),
        };
        if let Err(error) = &moved {
            eprintln!("the shim stays in its caller's control groups: {error}");
        }
        sys::exit_now(i32::from(moved.is_err()));
    }
}
