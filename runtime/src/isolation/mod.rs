//! What a process in a container may not do.
//!
//! * [`capabilities`]: which parts of root's power it keeps;
//! * [`seccomp`]: the system-call filter, compiled once per set of capabilities, or per file;
//! * [`apparmor`]: its profile, where the kernel enforces those;
//! * [`selinux`]: its label, and those of its files, where the kernel enforces those;
//! * [`devices`]: those that a privileged container sees;
//! * [`confine`]: the last steps of a process before it becomes the container's program. Both a
//!   container's first process and every exec go through it, so an exec is confined as the
//!   container is, by construction.

pub(crate) mod apparmor;
pub(crate) mod capabilities;
pub(crate) mod confine;
pub(crate) mod devices;
mod on_exec;
pub(crate) mod seccomp;
mod seccomp_file;
pub(crate) mod seccomp_oci;
mod seccomp_profile;
pub(crate) mod selinux;

pub(crate) use capabilities::Capabilities;
