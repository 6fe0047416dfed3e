//! A TAP interface of the kernel, by its queues.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use virtio_kit_spec::net::HeaderLegacy;

/// Where interfaces come from.
const TUN: &str = "/dev/net/tun";

/// What is left undone in frames for here: checksums and segments of TCP, and of UDP where the kernel knows that.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP_OFFLOADS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// A TAP, with a descriptor for each queue.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) queues: Vec<OwnedFd>,
    /// Queues can be detached.
    pub(super) has_several: bool,
    /// The kernel takes UDP datagrams to be segmented, and gives such.
    pub(super) udp_segments: bool,
}

/// A TAP that could not be opened.
#[derive(Debug)]
pub struct OpenError {
    name: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Name,
    Device(io::Error),
    Interface(io::Error, u16),
    Offloads(io::Error),
    Watching(io::Error),
}

impl OpenError {
    pub(super) fn watching(name: &str, error: io::Error) -> Self {
        Self { name: name.into(), what: What::Watching(error) }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.what {
            What::Name => {
                write!(f, "`{name}` is no name of an interface: use 1 to 15 bytes without / and spaces")
            }
            What::Device(error) => write!(f, "{name}: {TUN}: {error}"),
            What::Interface(error, queues) => match error.raw_os_error() {
                Some(libc::EPERM) => write!(
                    f,
                    "{name}: no right to it; make it yours by `ip tuntap add {name} mode tap user NAME`"
                ),
                Some(libc::EBUSY) => write!(f, "{name}: somebody else uses it; stop them, or choose another"),
                Some(libc::EINVAL) if *queues > 1 => {
                    write!(
                        f,
                        "{name}: no TAP of several queues; make it by `ip tuntap add {name} mode tap multi_queue`"
                    )
                }
                Some(libc::EINVAL) => {
                    write!(f, "{name}: another kind of interface than a TAP; choose another name")
                }
                Some(libc::E2BIG) => write!(f, "{name}: the kernel gives it fewer than {queues} queues"),
                _ => write!(f, "{name}: {error}"),
            },
            What::Offloads(error) => write!(f, "{name}: frames that are not finished: {error}"),
            What::Watching(error) => write!(f, "{name}: nobody can wait for its frames: {error}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.what {
            What::Name => None,
            What::Device(error) | What::Interface(error, _) => Some(error),
            What::Offloads(error) | What::Watching(error) => Some(error),
        }
    }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel's request for an interface of this name.
fn request(name: &str, flags: libc::c_int) -> libc::ifreq {
    // SAFETY: a plain struct of integers, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    let (_, room) = request.ifr_name.split_last_mut().unwrap_or((&mut 0, &mut []));
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

/// One of the TUN driver's requests with a number.
fn set(fd: &OwnedFd, what: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int at the pointer.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), what, &raw const value) })
}

impl Interface {
    /// Opens a TAP, and makes it if there is none of this name; then it goes with the last descriptor.
    pub(super) fn open(name: &str, queues: u16) -> Result<Self, OpenError> {
        let failed = |what| OpenError { name: name.into(), what };
        let good = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b'%';
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.bytes().all(good) {
            return Err(failed(What::Name));
        }
        let open = || {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::open(TUN, flags, Mode::empty()).map_err(|error| failed(What::Device(error.into())))
        };
        let attach = |fd: &OwnedFd, several| {
            let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
            let request = request(name, kind | if several { libc::IFF_MULTI_QUEUE } else { 0 });
            // SAFETY: a descriptor of the TUN driver and the struct that the request expects.
            checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw const request) })
        };
        let mut has_several = queues > 1;
        let first = open()?;
        match attach(&first, has_several) {
            // One that exists is of one kind or the other.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !has_several => {
                attach(&first, true).map_err(|error| failed(What::Interface(error, queues)))?;
                has_several = true;
            }
            other => other.map_err(|error| failed(What::Interface(error, queues)))?,
        }
        let mut all = vec![first];
        for _ in 1..queues {
            let next = open()?;
            attach(&next, true).map_err(|error| failed(What::Interface(error, queues)))?;
            all.push(next);
        }
        let mut udp_segments = true;
        for fd in &all {
            let header = HeaderLegacy::SIZE as libc::c_int;
            set(fd, libc::TUNSETVNETHDRSZ, header).map_err(|error| failed(What::Offloads(error)))?;
            // A machine whose own order this is may not know the request.
            if cfg!(target_endian = "big") {
                set(fd, libc::TUNSETVNETLE, 1).map_err(|error| failed(What::Offloads(error)))?;
            }
            let takes = |offloads: libc::c_uint| {
                // SAFETY: the request's argument is a number, no pointer.
                checked(unsafe {
                    libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads))
                })
            };
            udp_segments = udp_segments && takes(OFFLOADS | UDP_OFFLOADS).is_ok();
            if !udp_segments {
                takes(OFFLOADS).map_err(|error| failed(What::Offloads(error)))?;
            }
        }
        Ok(Self { name: name.into(), queues: all, has_several, udp_segments })
    }

    /// Lets the kernel use a queue, or not. What waits in one that is detached is dropped.
    pub(super) fn set_attached(&self, queue: usize, attached: bool) -> io::Result<()> {
        let flags = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        let request = request("", flags);
        // SAFETY: a descriptor of the TUN driver and the struct that the request expects.
        checked(unsafe { libc::ioctl(self.queues[queue].as_raw_fd(), libc::TUNSETQUEUE, &raw const request) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused_before_the_kernel_is_asked() {
        for name in ["", "a/b", "a b", "tap%d", "0123456789abcdef"] {
            let error = Interface::open(name, 1).unwrap_err();
            assert!(error.to_string().contains("is no name of an interface"), "{error}");
        }
    }
}
