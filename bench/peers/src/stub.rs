//! A vhost-user back-end that only says yes: enough for a front-end in this process to finish its handshake, after
//! which its rings are served here, in the same address space.

use crate::minimal::Ring;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// A back-end that runs until its front-end goes.
pub struct Stub {
    /// Its socket.
    pub path: PathBuf,
    ring: Arc<Mutex<Ring>>,
}

// What it answers to.
const GET_FEATURES: u32 = 1;
const SET_VRING_ADDR: u32 = 9;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const GET_CONFIG: u32 = 24;
const GET_MAX_MEM_SLOTS: u32 = 36;

const PROTOCOL_FEATURES: u64 = 1 << 30;
const REPLY_ACK: u64 = 1 << 3;
const CONFIG: u64 = 1 << 9;
const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;

impl Stub {
    /// Listens on a fresh socket and answers one front-end, offering `features`.
    ///
    /// # Panics
    ///
    /// If there can be no socket.
    pub fn start(features: u64) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("virtio-kit-peers-{}-{serial}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("a socket");
        let ring = Arc::new(Mutex::new(Ring::default()));
        let (seen, gone) = (ring.clone(), path.clone());
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a front-end");
            let _ = std::fs::remove_file(gone);
            serve(stream, features, &seen);
        });
        Self { path, ring }
    }

    /// Where the ring is, by the last message that said so.
    ///
    /// # Panics
    ///
    /// If the back-end's thread did.
    pub fn ring(&self) -> Ring {
        *self.ring.lock().expect("no panic")
    }
}

fn serve(mut stream: UnixStream, features: u64, ring: &Mutex<Ring>) {
    let mut head = [0u8; 12];
    // Ends with the front-end.
    while stream.read_exact(&mut head).is_ok() {
        let number = |i: usize| u32::from_ne_bytes(head[i..i + 4].try_into().expect("four bytes"));
        let (request, flags, size) = (number(0), number(4), number(8));
        let mut body = vec![0u8; size as usize];
        stream.read_exact(&mut body).expect("a body");
        let word = |i: usize| u64::from_ne_bytes(body[i..i + 8].try_into().expect("eight bytes"));
        let answer = match request {
            GET_FEATURES => Some((features | PROTOCOL_FEATURES).to_ne_bytes().to_vec()),
            GET_PROTOCOL_FEATURES => Some((REPLY_ACK | CONFIG | CONFIGURE_MEM_SLOTS).to_ne_bytes().to_vec()),
            GET_QUEUE_NUM => Some(1u64.to_ne_bytes().to_vec()),
            GET_MAX_MEM_SLOTS => Some(32u64.to_ne_bytes().to_vec()),
            GET_CONFIG => Some(body.clone()),
            SET_VRING_ADDR => {
                *ring.lock().expect("no panic") = Ring { desc: word(8), device: word(16), driver: word(24) };
                None
            }
            _ => None,
        };
        // Nothing but an acknowledgement for the rest, if it is asked for.
        let answer = answer.or((flags & 8 != 0).then(|| 0u64.to_ne_bytes().to_vec()));
        if let Some(answer) = answer {
            let mut out = Vec::with_capacity(12 + answer.len());
            out.extend(request.to_ne_bytes());
            out.extend((1u32 | 4).to_ne_bytes());
            out.extend((answer.len() as u32).to_ne_bytes());
            out.extend(answer);
            stream.write_all(&out).expect("a front-end");
        }
    }
}
