//! Both ends of a queue, joined in memory.
use virtio_kit_ring::device::{self, Config};
use virtio_kit_ring::driver::{Evidence, Options, Queue, Quiesced, RingMemory, Storage};
use virtio_kit_ring::mem::{HeapMemory, Memory, Region};
use virtio_kit_ring::{Arena, Chain, DmaBuf};

#[test]
fn chains_make_the_round_trip_in_every_layout_past_the_wrap_of_every_index() {
    for packed in [false, true] {
        for in_order in [false, true] {
            for event_idx in [false, true] {
                let size = if packed { 100 } else { 128 };
                let arena = Arena::new(HeapMemory::new(1 << 20).unwrap()).unwrap();
                let memory = RingMemory::alloc(&arena, packed, size).unwrap();
                let a = memory.addrs();
                let addrs =
                    device::RingAddrs { desc: a.desc.get(), driver: a.driver.get(), device: a.device.get() };
                let options = Options { in_order, event_idx, ..Options::default() };
                let mut driver: Queue<Chain<DmaBuf, [DmaBuf; 2]>, u64> =
                    Queue::new(memory, Storage::boxed(size), options, &arena).unwrap();
                let config = Config { in_order, event_idx, ..Config::fresh(packed, size) };
                let regions = Memory::new([Region::of_arena(&arena)]).unwrap();
                let mut dev =
                    device::Queue::new(config, addrs, regions, None, device::Storage::boxed(size, 8))
                        .unwrap();
                let mut free: Vec<Chain<DmaBuf, [DmaBuf; 2]>> = (0..40)
                    .map(|_| [16, 512, 1].map(|n| arena.alloc(n).unwrap()))
                    .map(|[header, data, status]| Chain::new(header, [data, status]))
                    .collect();
                let mut sent = 0u64;
                let mut got = 0u64;
                while got < 200_000 {
                    let mut kick = false;
                    while let Some(mut chain) = free.pop() {
                        chain.readable.write_value(0, &sent).unwrap();
                        match driver.add_buf(chain, sent) {
                            Ok(()) => sent += 1,
                            Err(e) => {
                                free.push(e.chain);
                                break;
                            }
                        }
                        if sent.is_multiple_of(5) {
                            break;
                        }
                    }
                    kick |= driver.publish();
                    assert!(kick || sent > 0);
                    let mut held = vec![];
                    while let Some(chain) = dev.take().unwrap() {
                        held.push(chain);
                    }
                    if got.is_multiple_of(3) {
                        held.reverse();
                    }
                    for mut chain in held {
                        let n: u64 = chain.read_value().unwrap();
                        chain.write(&n.to_ne_bytes()).unwrap();
                        if n.is_multiple_of(2) {
                            chain.mark_written(8, 504).unwrap();
                            chain.write_last(7).unwrap();
                        }
                        dev.complete(chain).unwrap();
                    }
                    dev.publish();
                    while let Some(used) = driver.get_buf().unwrap() {
                        assert_eq!(used.chain.writable[0].read_value::<u64>(0).unwrap(), used.token);
                        assert_eq!(used.written, if used.token.is_multiple_of(2) { 513 } else { 8 });
                        if in_order {
                            assert_eq!(used.token, got);
                        }
                        got += 1;
                        free.push(used.chain);
                    }
                    assert_eq!(driver.in_flight(), 0);
                }
                assert_eq!(driver.shutdown(Quiesced::on(Evidence::DeviceHalfReturned)).count(), 0);
            }
        }
    }
}

#[test]
fn a_pair_runs_on_donated_storage_without_a_heap_of_its_own() {
    use virtio_kit_ring::device::StaticStorage as DeviceStorage;
    use virtio_kit_ring::driver::StaticStorage as DriverStorage;
    // A kernel has these in statics; what matters is that they are donated, and never grow.
    let driver_storage: &'static mut DriverStorage<Chain<(), DmaBuf>, u64, 8> =
        Box::leak(Box::new(DriverStorage::new()));
    let donated = driver_storage.donate();
    let device_storage: &'static mut DeviceStorage<8, 2> = Box::leak(Box::new(DeviceStorage::new()));
    let arena = Arena::new(HeapMemory::new(1 << 16).unwrap()).unwrap();
    let memory = RingMemory::alloc(&arena, false, 8).unwrap();
    let a = memory.addrs();
    let addrs = device::RingAddrs { desc: a.desc.get(), driver: a.driver.get(), device: a.device.get() };
    let mut driver: Queue<Chain<(), DmaBuf>, u64> =
        Queue::new(memory, donated, Options::default(), &arena).unwrap();
    let regions = Memory::new([Region::of_arena(&arena)]).unwrap();
    let config = Config::fresh(false, 8);
    let mut dev = device::Queue::new(config, addrs, regions, None, device_storage.donate()).unwrap();
    for token in 0..100 {
        driver.add_buf(Chain::writable(arena.alloc(8).unwrap()), token).unwrap();
        driver.publish();
        let mut chain = dev.take().unwrap().unwrap();
        chain.write(&token.to_ne_bytes()).unwrap();
        dev.complete(chain).unwrap();
        dev.publish();
        let used = driver.get_buf().unwrap().unwrap();
        assert_eq!((used.token, used.written, used.chain.writable.read_value(0)), (token, 8, Ok(token)));
    }
}
