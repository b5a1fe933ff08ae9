//! Sockets: of families that no network namespace confines, and requests to the kernel for which it takes more
//! than a socket.

// SAFETY, of all blocks below: system calls with constants or addresses of live local values of the right
// shape; none keeps a pointer.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::system_calls::call;
use super::{Attempt, Outcome, ok};

fn open(domain: i32, kind: i32, protocol: i32) -> nix::Result<OwnedFd> {
    let made = Errno::result(unsafe { libc::socket(domain, kind, protocol) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

fn socket(domain: i32, kind: i32, protocol: i32) -> Outcome {
    open(domain, kind, protocol).map(ok)
}

fn in_disguise(domain: i32) -> Outcome {
    let domain = 1 << 32 | i64::from(domain);
    let kind = if domain as i32 == libc::AF_ALG { libc::SOCK_SEQPACKET } else { libc::SOCK_STREAM };
    call(libc::SYS_socket, domain, kind.into(), 0, 0, 0)
}

/// Sends to the kernel, or to all who listen to these groups.
fn send(socket: &OwnedFd, bytes: &[u8], groups: u32) -> nix::Result<isize> {
    let mut to: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    to.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    to.nl_groups = groups;
    let size = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    Errno::result(unsafe {
        let (at, length) = (bytes.as_ptr().cast(), bytes.len());
        libc::sendto(socket.as_raw_fd(), at, length, 0, (&raw const to).cast(), size)
    })
}

/// What the kernel answers to a request.
fn request(protocol: i32, kind: u16, flags: i32, payload: &[u8]) -> Outcome {
    const HEADER: usize = 16;
    let socket = open(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
    let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut bytes = Vec::new();
    bytes.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    send(&socket, &bytes, 0)?;
    let mut answer = [0u8; 512];
    // It has been answered when it is sent, or will not be.
    let length = Errno::result(unsafe {
        let (at, size) = (answer.as_mut_ptr().cast(), answer.len());
        libc::recv(socket.as_raw_fd(), at, size, libc::MSG_DONTWAIT)
    })?;
    let is_error = answer[4..6] == (libc::NLMSG_ERROR as u16).to_ne_bytes();
    let code = answer[HEADER..HEADER + 4].try_into().map_or(0, i32::from_ne_bytes);
    match is_error && length as usize >= HEADER + 4 && code != 0 {
        true => Err(Errno::from_raw(-code)),
        false => Ok("ok".to_owned()),
    }
}

pub(crate) const ATTEMPTS: &[Attempt] = &[
    ("vsock", || socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    // The kernel looks at the lower half of what is passed; a filter sees all of it.
    ("vsock in disguise", || in_disguise(libc::AF_VSOCK)),
    ("the kernel's ciphers in disguise", || in_disguise(libc::AF_ALG)),
    ("the kernel's ciphers", || socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ("raw socket", || socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ("raw socket of version 6", || socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)),
    ("packet socket", || socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("take the interface down", || {
        let control = open(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        (request.ifr_name[0], request.ifr_name[1]) = (b'l' as _, b'o' as _);
        let result =
            unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
        Errno::result(result).map(ok)
    }),
    ("make an interface", || {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        request(libc::NETLINK_ROUTE, libc::RTM_NEWLINK, flags, &[0; 16])
    }),
    ("make a route", || {
        request(libc::NETLINK_ROUTE, libc::RTM_NEWROUTE, libc::NLM_F_CREATE, &[0; 12])
    }),
    ("make a table of rules", || {
        let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
        request(libc::NETLINK_NETFILTER, kind, libc::NLM_F_CREATE, &[2, 0, 0, 0])
    }),
    ("forget all of IPsec", || request(libc::NETLINK_XFRM, 0x1c, 0, &[0; 8])),
    ("speak to the audit", || request(libc::NETLINK_AUDIT, 1001, 0, &[0; 40])),
    ("pose as udev", || {
        let socket = open(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)?;
        send(&socket, b"add@/devices/x\0ACTION=add\0", 2).map(ok)
    }),
];
