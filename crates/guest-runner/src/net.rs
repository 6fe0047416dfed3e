//! The other end of a network device's cable: it looks at frames, and answers those that are right.

use crate::disk::Layout;
use crate::machine::Attach;
use crate::{Error, pattern};
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x76, 0x6b, 0x31];
const HEADER: usize = 14;
const KIND: [u8; 2] = [0x88, 0xb5];

/// A cable that ends here. Dropped, it is cut.
pub(crate) struct Cable {
    layout: Layout,
    local: PathBuf,
    remote: PathBuf,
    socket: UnixDatagram,
    thread: Option<JoinHandle<u64>>,
}

impl Cable {
    pub(crate) fn create(folder: &Path, layout: Layout, seed: u64) -> Result<Self, Error> {
        let failed = |error| Error::Io("the socket of the network", error);
        let (local, remote) = (folder.join("here"), folder.join("there"));
        let socket = UnixDatagram::bind(&local).map_err(failed)?;
        let (answering, to) = (socket.try_clone().map_err(failed)?, remote.clone());
        let thread = std::thread::Builder::new().name("network".into());
        let thread = thread.spawn(move || answer(&answering, &to, seed)).map_err(failed)?;
        Ok(Self { layout, local, remote, socket, thread: Some(thread) })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(&self, attach: Attach) -> [String; 4] {
        let (here, there) = (self.local.display(), self.remote.display());
        let ends = format!("local.type=unix,local.path={there},remote.type=unix,remote.path={here}");
        let [a, b, c, d, e, f] = MAC;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        // No firmware of its own: it would take seconds.
        let rom = if attach.is_pci() { ",romfile=" } else { "" };
        let properties = format!("netdev=cable,mac={mac},{}{rom}", self.layout.properties());
        let netdev = format!("dgram,id=cable,{ends}");
        ["-netdev".into(), netdev, "-device".into(), attach.device("net", &properties)]
    }

    /// Ends the cable; how many bytes came in frames that were right, and were answered.
    pub(crate) fn finish(&mut self) -> u64 {
        // A socket that cannot be shut down has no thread waiting at it.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or(0)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Answers each frame that is the next one, with its addresses exchanged.
fn answer(socket: &UnixDatagram, to: &Path, seed: u64) -> u64 {
    let (mut number, mut bytes) = (0, 0);
    let mut frame = [0; 2048];
    while let Ok(len @ 1..) = socket.recv(&mut frame) {
        if is_right(&frame[..len], seed, number) {
            number += 1;
            bytes += len as u64;
            frame[..12].rotate_left(6);
            // A machine that is gone needs no answer.
            let _ = socket.send_to(&frame[..len], to);
        }
    }
    bytes
}

fn is_right(frame: &[u8], seed: u64, number: u64) -> bool {
    let mut expected = vec![0; HEADER + pattern::frame_len(number)];
    expected[..6].fill(0xff);
    expected[6..12].copy_from_slice(&MAC);
    expected[12..HEADER].copy_from_slice(&KIND);
    pattern::fill(seed, number, &mut expected[HEADER..]);
    frame == expected
}
