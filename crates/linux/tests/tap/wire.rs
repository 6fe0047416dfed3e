//! The other end of a network device of QEMU: a TAP of the kernel, and a packet socket on it that sees the
//! headers. In a network namespace of this thread alone, so that nobody else's frames come by.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use virtio_kit_spec::net::HeaderLegacy;
use zerocopy::{FromBytes, IntoBytes};

const NAME: &[u8; 5] = b"tap0\0";

/// A TAP with a queue for each of its descriptors, which QEMU inherits.
pub struct Tap {
    pub queues: Vec<File>,
    socket: OwnedFd,
}

fn checked(result: libc::c_int, what: &str) -> libc::c_int {
    assert!(result >= 0, "{what}: {}. This test needs the right to make network interfaces.", error());
    result
}

fn error() -> io::Error {
    io::Error::last_os_error()
}

/// The kernel's request for an interface.
fn request(flags: i32) -> libc::ifreq {
    // SAFETY: a plain struct of integers, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, &from) in request.ifr_name.iter_mut().zip(NAME) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

/// Leaves this thread alone in a network namespace, in which the kernel itself says nothing.
pub fn leave_network() {
    // SAFETY: no pointers.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) }, "unshare");
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
}

impl Tap {
    /// The other end of the TAP `tap0`, which somebody else has opened in this namespace.
    pub fn of_somebody() -> Self {
        Self::with(Vec::new())
    }

    /// Makes a TAP of `queues` queues in a namespace of its own.
    pub fn new(queues: usize) -> Self {
        leave_network();
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        let queues: Vec<File> = (0..queues)
            .map(|_| {
                // Inherited by QEMU: not closed on exec.
                // SAFETY: a path that ends with 0.
                let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_NONBLOCK) };
                checked(fd, "/dev/net/tun");
                let mut request = request(flags);
                // SAFETY: a descriptor of the TUN driver and the struct that it expects.
                checked(unsafe { libc::ioctl(fd, libc::TUNSETIFF, &raw mut request) }, "TUNSETIFF");
                // SAFETY: nobody else has it.
                unsafe { File::from_raw_fd(fd) }
            })
            .collect();
        Self::with(queues)
    }

    fn with(queues: Vec<File>) -> Self {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        // SAFETY: nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(checked(fd, "packet socket")) };
        let this = Self { queues, socket };
        this.start();
        this
    }

    fn start(&self) {
        let fd = self.socket.as_raw_fd();
        let mut up = request(libc::IFF_UP | libc::IFF_PROMISC);
        // SAFETY: a socket and the struct that the request expects.
        checked(unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut up) }, "SIOCSIFFLAGS");
        let mut index = request(0);
        // SAFETY: as above.
        checked(unsafe { libc::ioctl(fd, libc::SIOCGIFINDEX, &raw mut index) }, "SIOCGIFINDEX");
        let on: libc::c_int = 1;
        let timeout = libc::timeval { tv_sec: 20, tv_usec: 0 };
        for (level, option, value, len) in [
            (libc::SOL_PACKET, PACKET_VNET_HDR, (&raw const on).cast(), size_of_val(&on)),
            (libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, (&raw const on).cast(), size_of_val(&on)),
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const timeout).cast(), size_of_val(&timeout)),
        ] {
            // SAFETY: `len` bytes are at `value`.
            checked(unsafe { libc::setsockopt(fd, level, option, value, len as u32) }, "setsockopt");
        }
        // SAFETY: a plain struct of integers, for which zeros are valid.
        let mut to: libc::sockaddr_ll = unsafe { zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the request that was made before wrote this field.
        to.sll_ifindex = unsafe { index.ifr_ifru.ifru_ifindex };
        // SAFETY: the address is as long as is said.
        checked(unsafe { libc::bind(fd, (&raw const to).cast(), size_of_val(&to) as u32) }, "bind");
    }

    /// QEMU's names of the queues.
    pub fn fds(&self) -> String {
        self.queues.iter().map(|queue| queue.as_raw_fd().to_string()).collect::<Vec<_>>().join(":")
    }

    /// Brings the interface down.
    pub fn stop(&self) {
        let mut down = request(0);
        // SAFETY: a socket and the struct that the request expects.
        checked(
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut down) },
            "SIOCSIFFLAGS",
        );
    }

    /// The next frame that QEMU gave to the kernel, and what the kernel makes of its header.
    pub fn recv(&self) -> (HeaderLegacy, Vec<u8>) {
        let mut bytes = vec![0; 70_000];
        // SAFETY: the buffer has the length that is said.
        let len = unsafe { libc::recv(self.socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        assert!(len > 0, "nothing came to the packet socket: {}", error());
        bytes.truncate(len as usize);
        let frame = bytes.split_off(HeaderLegacy::SIZE);
        (HeaderLegacy::read_from_bytes(&bytes).unwrap(), frame)
    }

    /// Gives a frame to QEMU, by way of the kernel, which does what QEMU has not said that it can.
    pub fn send(&self, header: &HeaderLegacy, frame: &[u8]) {
        let bytes = [header.as_bytes(), frame].concat();
        // SAFETY: the buffer has the length that is said.
        let len = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(len, bytes.len() as isize, "{}", error());
    }
}

/// Frames have headers (linux/if_packet.h).
const PACKET_VNET_HDR: libc::c_int = 15;
/// What is sent is not seen again (linux/if_packet.h).
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
