//! Byte layouts, checked against numbers from the protocol text.

use super::inflight::{Layout, region_offset};
use super::*;

#[test]
fn ids_and_names_are_the_protocols() {
    assert_eq!(RequestCode::ALL.iter().map(|c| *c as u32).collect::<Vec<_>>(), (1..=44).collect::<Vec<_>>());
    assert_eq!(BackendCode::ALL.iter().map(|c| *c as u32).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert_eq!(MessageId::Request(21).to_string(), "SET_BACKEND_REQ_FD");
    assert_eq!(MessageId::BackendReply(9).to_string(), "BACKEND_SHMEM_MAP reply");
    assert_eq!(MessageId::Request(99).to_string(), "request 99");
}

#[test]
fn a_vring_address_is_laid_out_in_the_protocols_order() {
    let addr = VringAddr { index: 1, flags: 2, descriptor: 3, used: 4, available: 5, log: 6 };
    let wire = Wire::request(&Request::SetVringAddr(addr));
    let words: Vec<u32> = wire.bytes.chunks(4).map(|c| u32::from_ne_bytes(c.try_into().unwrap())).collect();
    let wide = |value: u64| {
        let bytes = value.to_ne_bytes();
        [0, 4].map(|at| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()))
    };
    let mut expected = vec![9, 1, 40, 1, 2];
    (3..7).for_each(|value| expected.extend(wide(value)));
    assert_eq!(words, expected);
}

#[test]
fn payload_sizes_are_those_that_real_peers_send() {
    let region = MemoryRegion { guest_addr: 0, size: 1, user_addr: 0, mmap_offset: 0, xen: None };
    let xen = MemoryRegion { xen: Some(XenMapping { flags: 1, domid: 2 }), ..region };
    let inflight = Inflight { mmap_size: 0, mmap_offset: 0, num_queues: 1, queue_size: 128 };
    let iotlb = Iotlb { iova: 0, size: 1, user_addr: 0, access: Access::READ, kind: IotlbKind::Update };
    for (request, size) in [
        (Request::GetFeatures, 0),
        (Request::SetMemTable(Vec::new()), 8),
        (Request::SetMemTable(vec![SharedRegion { region, fd: fd() }]), 40),
        (Request::SetMemTable(vec![SharedRegion { region: xen, fd: fd() }]), 48),
        (Request::AddMemReg(SharedRegion { region, fd: fd() }), 40),
        (Request::GetConfig { offset: 0, size: 60, flags: 0 }, 72),
        (Request::GetInflightFd(inflight), 24),
        (Request::IotlbMsg(iotlb), 32),
        (Request::SendRarp([1; 6]), 8),
    ] {
        let bytes = Wire::request(&request).bytes;
        assert_eq!(bytes.len(), HEADER_SIZE + size, "{request:?}");
        assert_eq!(bytes[8..12], (size as u32).to_ne_bytes());
    }
    let config = Reply::<OwnedFd>::ShmemConfig(Box::new(ShmemConfig([0; MAX_SHMEM_REGIONS])));
    let wire = Wire::new(|bytes, fds| config.encode(Channel::Main, 44, bytes, fds));
    assert_eq!(wire.bytes.len(), HEADER_SIZE + 2056);
}

#[test]
fn shared_memory_sizes_must_be_as_many_as_counted() {
    let config = Reply::<OwnedFd>::ShmemConfig(Box::new(ShmemConfig([0; MAX_SHMEM_REGIONS])));
    let mut wire = Wire::new(|bytes, fds| config.encode(Channel::Main, 44, bytes, fds));
    wire.bytes[HEADER_SIZE] = 1;
    let mut decoder = ReplyDecoder::new(Channel::Main);
    decoder.expect(ExpectedReply { request: 44, kind: ReplyKind::ShmemConfig });
    decoder.feed(&wire.bytes, []);
    let count = if cfg!(target_endian = "little") { "0x1" } else { "0x1000000" };
    assert!(decoder.next().unwrap_err().to_string().ends_with(count));
}

#[test]
fn a_packed_base_keeps_both_indices_and_wrap_counters() {
    let base = PackedBase { avail: 0x1234, avail_wrap: true, used: 0x4321, used_wrap: false };
    assert_eq!(base.to_num(), 0x4321_9234);
    assert_eq!(PackedBase::from_num(0x4321_9234), base);
    assert_eq!(PackedBase::from_num(u32::MAX).to_num(), u32::MAX);
}

#[test]
fn inflight_regions_have_the_protocols_sizes() {
    assert_eq!(Layout::Split.region_size(128), 16 + 128 * 16);
    assert_eq!(Layout::Packed.region_size(128), 32 + 128 * 32);
    assert_eq!(Layout::Split.region_stride(128), 2112);
    assert_eq!(Layout::Packed.buffer_size(2, 128), 2 * 4160);
    assert_eq!(Layout::Split.entry_offset(3, 4), Some(64));
    assert_eq!(Layout::Split.entry_offset(4, 4), None);
    assert_eq!(std::mem::offset_of!(inflight::SplitEntry, next), 6);
    assert_eq!(std::mem::offset_of!(inflight::PackedHeader, used_wrap_counter), 20);
    assert_eq!(std::mem::offset_of!(inflight::PackedEntry, addr), 24);
}

#[test]
fn inflight_regions_are_found_only_in_a_buffer_that_holds_them_all() {
    let described = |mmap_size| Inflight { mmap_size, mmap_offset: 0, num_queues: 2, queue_size: 128 };
    assert_eq!(region_offset(&described(4224), Layout::Split, 1), Some(2112));
    assert_eq!(region_offset(&described(4223), Layout::Split, 1), None);
    assert_eq!(region_offset(&described(8192), Layout::Split, 2), None);
    assert_eq!(Layout::Packed.buffer_size(u16::MAX, u16::MAX), 2_097_216 * 65_535 - 64 * 65_535);
}
