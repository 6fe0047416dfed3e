//! A vhost-user-blk device on rust-vmm's `vhost-user-backend` whose reads are all zeros.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT};
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

static ZEROS: [u8; 65536] = [0; 65536];

/// Bytes of the device.
const SIZE: u64 = 1 << 30;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

struct Null {
    memory: Memory,
    event_idx: bool,
    exit: Mutex<Option<(EventConsumer, EventNotifier)>>,
}

/// Answers one request; the used length.
fn answer(chain: DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>, memory: &GuestMemoryMmap) -> u32 {
    let (mut used, mut kind) = (0, u32::MAX);
    for desc in chain {
        if !desc.is_write_only() {
            if kind == u32::MAX {
                kind = u32::from_le(memory.read_obj(desc.addr()).expect("a header"));
            }
        } else if desc.len() == 1 {
            memory.write_obj(0u8, desc.addr()).expect("a status");
            used += 1;
        } else {
            assert_eq!(kind, 0, "only reads have data to fill in");
            memory.write_slice(&ZEROS[..desc.len() as usize], desc.addr()).expect("data");
            used += desc.len();
        }
    }
    used
}

impl Null {
    fn process(&self, vring: &VringRwLock) {
        let memory = self.memory.memory();
        let mut state = vring.get_mut();
        let mut any = false;
        while let Some(chain) = state.get_queue_mut().iter(memory.clone()).expect("a ring").next() {
            let head = chain.head_index();
            let len = answer(chain, &memory);
            state.add_used(head, len).expect("a ring");
            any = true;
        }
        if any && state.needs_notification().expect("a ring") {
            state.signal_used_queue().expect("an event");
        }
    }
}

impl VhostUserBackendMut for Null {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        1
    }
    fn max_queue_size(&self) -> usize {
        1024
    }
    fn features(&self) -> u64 {
        1 << 32 | 1 << 29 | 1 << 28 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }
    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }
    fn set_event_idx(&mut self, enabled: bool) {
        self.event_idx = enabled;
    }
    fn get_config(&self, _: u32, size: u32) -> Vec<u8> {
        let mut config = (SIZE / 512).to_le_bytes().to_vec();
        config.resize(size as usize, 0);
        config
    }
    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }
    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    fn handle_event(&mut self, _: u16, _: EventSet, vrings: &[VringRwLock], _: usize) -> io::Result<()> {
        let vring = &vrings[0];
        if self.event_idx {
            loop {
                vring.disable_notification().map_err(io::Error::other)?;
                self.process(vring);
                if !vring.enable_notification().map_err(io::Error::other)? {
                    return Ok(());
                }
            }
        }
        self.process(vring);
        Ok(())
    }
}

/// Serves one front-end after another, for ever.
fn serve(socket: &Path) -> Result<(), String> {
    // One listener for all, so that a front-end that comes back early waits in its queue.
    let mut listener = Listener::new(socket, true).map_err(|e| e.to_string())?;
    loop {
        let memory = Memory::new(GuestMemoryMmap::new());
        let exit = new_event_consumer_and_notifier(EventFlag::NONBLOCK).map_err(|e| e.to_string())?;
        let null = Null { memory: memory.clone(), event_idx: false, exit: Mutex::new(Some(exit)) };
        let mut daemon = VhostUserDaemon::new("null".into(), Arc::new(RwLock::new(null)), memory)
            .map_err(|e| e.to_string())?;
        daemon.start(&mut listener).map_err(|e| e.to_string())?;
        // Ends with an error when the front-end goes away.
        let _ = daemon.wait();
        daemon.get_epoll_handlers().iter().for_each(|handler| handler.send_exit_event());
    }
}

fn main() -> Result<(), String> {
    let socket = std::env::args_os().nth(1).ok_or("a socket to serve is needed")?;
    serve(Path::new(&socket))
}
