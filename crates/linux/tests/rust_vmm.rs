//! The vhost-user front-end against a back-end made with the published crates `vhost` and
//! `vhost-user-backend`, which map memory by table and know no in-flight record.

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::{LONG, TempDir};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock, VringT};
use virtio_kit::driver::{Found, Used, Virtqueue, VqOptions};
use virtio_kit::{Chain, DmaBuf};
use virtio_kit_linux::vhost_user::codec::{F_PROTOCOL_FEATURES, ProtocolFeatures as P};
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};
use virtio_kit_ring::driver::{Evidence, Indirect};
use virtio_kit_spec::{DeviceId, F, Features};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

type Gm = GuestMemoryAtomic<GuestMemoryMmap>;

/// Writes back what it reads.
struct Echo {
    protocol: VhostUserProtocolFeatures,
    memory: Mutex<Option<Gm>>,
    event_idx: AtomicBool,
    resets: Mutex<u32>,
}

impl VhostUserBackend for Echo {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        128
    }

    fn features(&self) -> u64 {
        (F::VERSION_1 | F::EVENT_IDX | F::INDIRECT_DESC).low() | F_PROTOCOL_FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }

    fn set_event_idx(&self, enabled: bool) {
        self.event_idx.store(enabled, Ordering::Relaxed);
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config: Vec<u8> = (1..=30).collect();
        config.into_iter().skip(offset as usize).take(size as usize).collect()
    }

    fn update_memory(&self, memory: Gm) -> std::io::Result<()> {
        *self.memory.lock().unwrap() = Some(memory);
        Ok(())
    }

    // Without one the daemon's threads never end.
    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn reset_device(&self) {
        *self.resets.lock().unwrap() += 1;
    }

    fn handle_event(&self, event: u16, _: EventSet, vrings: &[VringRwLock], _: usize) -> std::io::Result<()> {
        let vring = &vrings[usize::from(event)];
        let memory = self.memory.lock().unwrap().clone().unwrap().memory();
        loop {
            vring.disable_notification().unwrap();
            loop {
                let chain = vring.get_mut().get_queue_mut().pop_descriptor_chain(memory.clone());
                let Some(chain) = chain else { break };
                let mut data = Vec::new();
                chain.clone().reader(&memory).unwrap().read_to_end(&mut data)?;
                chain.clone().writer(&memory).unwrap().write_all(&data)?;
                vring.add_used(chain.head_index(), data.len() as u32).unwrap();
                if vring.needs_notification().unwrap() {
                    vring.signal_used_queue()?;
                }
            }
            if !vring.enable_notification().unwrap() {
                return Ok(());
            }
        }
    }
}

fn echo(protocol: VhostUserProtocolFeatures, features: Features) -> (P, u32) {
    let dir = TempDir::new();
    let path = dir.join("s");
    let backend = Arc::new(Echo {
        protocol,
        memory: Mutex::default(),
        event_idx: AtomicBool::new(false),
        resets: Mutex::default(),
    });
    let (served, at) = (backend.clone(), path.clone());
    let thread = std::thread::spawn(move || {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("echo".into(), served, memory).unwrap();
        daemon.serve(at)
    });
    let options = Options {
        arena_len: 1 << 20,
        timeout: LONG,
        patience: LONG,
        queue_size: 128,
        features,
        ..Options::new(DeviceId::BLOCK)
    };
    let front = FrontEnd::connect(&path, options).unwrap_or_else(|error| panic!("{error}"));
    let agreed = front.protocol_features();
    let queues = front.queue_count();
    let mut found = Found::new(Box::new(front));
    for _ in 0..2 {
        let mut setup = found.negotiate(Features::EMPTY).unwrap();
        if agreed.contains(P::CONFIG) {
            let config: [u8; 40] = setup.read_config().unwrap();
            assert_eq!(config, std::array::from_fn(|i| if i < 30 { i as u8 + 1 } else { 0 }));
        }
        let arena = setup.arena().unwrap().clone();
        let indirect = Some(Indirect { max_parts: 2, direct_up_to: 0, keep_free: 0 });
        let mut vqs: Vec<Virtqueue<Chain<DmaBuf, DmaBuf>, u32>> = (0..queues)
            .map(|index| setup.new_vq(index, VqOptions { indirect, ..VqOptions::default() }).unwrap())
            .collect();
        let add = |vq: &mut Virtqueue<_, _>, token: u32| {
            let mut question = arena.alloc(4).unwrap();
            question.write_value(0, &token).unwrap();
            vq.add_buf(Chain::new(question, arena.alloc_zeroed(4).unwrap()), token).unwrap();
        };
        // Some before the device runs.
        vqs.iter_mut().for_each(|vq| {
            add(vq, 7);
            vq.kick().unwrap();
        });
        let device = setup.start().unwrap();
        for vq in &mut vqs {
            let deadline = Instant::now() + LONG;
            for round in 0..200 {
                (0..5).for_each(|i| add(vq, round * 10 + i));
                vq.kick().unwrap();
                while vq.in_flight() > 0 {
                    assert!(Instant::now() < deadline, "round {round}");
                    match vq.get_buf().unwrap() {
                        Some(Used { chain, token, written }) => {
                            assert_eq!(chain.writable.read_value(0), Ok(token));
                            assert_eq!(written, 4);
                        }
                        None => {
                            vq.wait(LONG).unwrap();
                        }
                    }
                }
            }
        }
        assert_eq!(backend.event_idx.load(Ordering::Relaxed), device.features().contains(F::EVENT_IDX));
        found = device.reset().unwrap();
        for mut vq in vqs {
            let quiesced = vq.quiesced().unwrap();
            assert_eq!(quiesced.evidence(), Evidence::BackendStopped);
            assert_eq!(vq.shutdown(quiesced).count(), 0);
        }
    }
    drop(found);
    thread.join().unwrap().unwrap();
    let resets = *backend.resets.lock().unwrap();
    (agreed, resets)
}

#[test]
fn it_echoes_with_a_table_of_memory() {
    use VhostUserProtocolFeatures as V;
    let all = !Features::EMPTY;
    assert_eq!(echo(V::MQ | V::REPLY_ACK | V::CONFIG, all), (P::MQ | P::REPLY_ACK | P::CONFIG, 0));
    // The crates offer REPLY_ACK themselves.
    assert_eq!(echo(V::MQ, all - F::EVENT_IDX - F::INDIRECT_DESC), (P::MQ | P::REPLY_ACK, 0));
}

#[test]
fn it_echoes_with_memory_slots_and_is_reset() {
    use VhostUserProtocolFeatures as V;
    let offered = V::MQ | V::REPLY_ACK | V::CONFIG | V::CONFIGURE_MEM_SLOTS | V::RESET_DEVICE;
    let (agreed, resets) = echo(offered, !Features::EMPTY);
    assert_eq!(agreed.bits(), offered.bits());
    assert!(resets >= 2);
}
