//! What the decoder refuses, and the line that says so.

use super::sample::Sample;
use super::*;

fn refused(id: RequestCode, payload: &[u8], fds: usize) -> String {
    Wire::raw(id as u32, payload, fds).decode::<Request>().expect_err("refused").to_string()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn halves(halves: &[u32]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_ne_bytes()).collect()
}

#[test]
fn a_header_of_another_version_direction_or_flag_ends_the_stream() {
    for (flags, text) in [
        (0, "SET_OWNER: version 0, not 1"),
        (2, "SET_OWNER: version 2, not 1"),
        (5, "SET_OWNER: wrong reply flag"),
        (0x11, "SET_OWNER: unknown flags 0x11"),
    ] {
        let mut decoder = RequestDecoder::new();
        decoder.feed(&halves(&[3, flags, 0]), []);
        let error = decoder.next().unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(error.is_fatal());
    }
}

#[test]
fn nine_regions_are_refused() {
    let mut payload = words(&[9]);
    payload.extend(words(&[0x1000, 0x1000, 0, 0].repeat(9)));
    assert_eq!(refused(RequestCode::SetMemTable, &payload, 8), "SET_MEM_TABLE: 9 regions, at most 8");
}

#[test]
fn regions_that_are_empty_or_overflow_are_refused() {
    let table = |region: [u64; 4]| {
        let mut payload = words(&[1]);
        payload.extend(words(&region));
        payload
    };
    for (region, text) in [
        ([0, 0, 0, 0], "SET_MEM_TABLE: size is zero"),
        ([u64::MAX, 1, 0, 0], "SET_MEM_TABLE: guest address plus size overflows"),
        ([0, 1, u64::MAX, 0], "SET_MEM_TABLE: user address plus size overflows"),
        ([0, 1, 0, u64::MAX], "SET_MEM_TABLE: mmap offset plus size overflows"),
    ] {
        assert_eq!(refused(RequestCode::SetMemTable, &table(region), 1), text);
    }
}

#[test]
fn a_table_needs_a_descriptor_for_every_region_and_the_size_of_its_count() {
    let mut payload = words(&[1, 0x1000, 0x1000, 0, 0]);
    assert_eq!(refused(RequestCode::SetMemTable, &payload, 0), "SET_MEM_TABLE: 0 descriptors, not 1");
    assert_eq!(refused(RequestCode::SetMemTable, &payload, 2), "SET_MEM_TABLE: 2 descriptors, not 1");
    payload.pop();
    assert_eq!(refused(RequestCode::SetMemTable, &payload, 1), "SET_MEM_TABLE: 39 bytes of payload, not 40");
}

#[test]
fn a_descriptor_must_agree_with_the_invalid_fd_flag() {
    assert_eq!(
        refused(RequestCode::SetVringKick, &words(&[0x103]), 1),
        "SET_VRING_KICK: 1 descriptors, not 0"
    );
    assert_eq!(refused(RequestCode::SetVringCall, &words(&[3]), 0), "SET_VRING_CALL: 0 descriptors, not 1");
    assert_eq!(refused(RequestCode::SetVringErr, &words(&[0x203]), 1), "SET_VRING_ERR: vring index is 0x203");
}

#[test]
fn a_config_size_that_is_too_large_or_not_the_payloads_is_refused() {
    let mut payload = halves(&[0, 257, 0]);
    payload.extend([0; 256]);
    assert_eq!(refused(RequestCode::SetConfig, &payload, 0), "SET_CONFIG: size is 0x101");
    assert_eq!(
        refused(RequestCode::GetConfig, &halves(&[0, 8, 0]), 0),
        "GET_CONFIG: 12 bytes of payload, not 20"
    );
    let mut payload = halves(&[u32::MAX, 4, 0]);
    payload.extend([0; 4]);
    assert_eq!(refused(RequestCode::SetConfig, &payload, 0), "SET_CONFIG: offset plus size overflows");
}

#[test]
fn values_that_the_protocol_does_not_define_are_refused() {
    assert_eq!(refused(RequestCode::SetVringEnable, &halves(&[0, 2]), 0), "SET_VRING_ENABLE: num is 0x2");
    assert_eq!(refused(RequestCode::SetStatus, &words(&[0x100]), 0), "SET_STATUS: status is 0x100");
    assert_eq!(
        refused(RequestCode::SetDeviceStateFd, &halves(&[2, 0]), 1),
        "SET_DEVICE_STATE_FD: transfer direction is 0x2"
    );
    assert_eq!(
        refused(RequestCode::SetDeviceStateFd, &halves(&[0, 1]), 1),
        "SET_DEVICE_STATE_FD: migration phase is 0x1"
    );
    let mut iotlb = words(&[0, 1, 0]);
    iotlb.extend([3, 9, 0, 0, 0, 0, 0, 0]);
    assert_eq!(refused(RequestCode::IotlbMsg, &iotlb, 0), "IOTLB_MSG: type is 0x9");
}

#[test]
fn a_refused_request_leaves_the_stream_in_step_and_its_header_known() {
    let mut decoder = RequestDecoder::new();
    let mut bad = Wire::raw(RequestCode::SetStatus as u32, &words(&[0x100]), 0);
    bad.bytes[4..8].copy_from_slice(&9u32.to_ne_bytes());
    decoder.feed(&bad.bytes, []);
    decoder.feed(&Wire::request(&Request::SetOwner).bytes, []);
    let refused = decoder.next().unwrap().unwrap();
    assert!(refused.message.is_err() && refused.header.need_reply);
    assert!(matches!(decoder.next().unwrap().unwrap().message, Ok(Request::SetOwner)));
}

#[test]
fn an_unknown_request_is_handed_over_for_an_answer() {
    let got = Wire::raw(1000, &[1, 2, 3], 1).decode::<Request>().unwrap();
    assert_eq!(format!("{got:?}"), "Unknown { id: 1000, payload: [1, 2, 3] }");
}

#[test]
fn padding_is_not_looked_at() {
    let payload = [halves(&[1, 7]), words(&[0x1000, 0x1000, 0, 0])].concat();
    let wire = Wire::raw(RequestCode::SetMemTable as u32, &payload, 1);
    assert!(matches!(wire.decode::<Request>(), Ok(Request::SetMemTable(_))));
    let got = Wire::raw(RequestCode::GetVringBase as u32, &halves(&[1, 7]), 0).decode::<Request>();
    assert!(matches!(got, Ok(Request::GetVringBase { index: 1 })));
}

#[test]
fn a_region_may_be_removed_with_a_descriptor_or_without() {
    let payload = words(&[0, 0x1000, 0x1000, 0, 0]);
    for fds in [0, 1] {
        let wire = Wire::raw(RequestCode::RemMemReg as u32, &payload, fds);
        assert!(matches!(wire.decode::<Request>(), Ok(Request::RemMemReg(_))));
    }
    assert_eq!(refused(RequestCode::RemMemReg, &payload, 2), "REM_MEM_REG: 2 descriptors, not 1");
}

#[test]
fn an_inflight_description_may_lack_its_padding() {
    let payload = [words(&[4096, 0]), 1u16.to_ne_bytes().to_vec(), 2u16.to_ne_bytes().to_vec()].concat();
    let wire = Wire::raw(RequestCode::SetInflightFd as u32, &payload, 1);
    let Ok(Request::SetInflightFd(inflight, _)) = wire.decode() else { panic!("refused") };
    assert_eq!(inflight, Inflight { mmap_size: 4096, mmap_offset: 0, num_queues: 1, queue_size: 2 });
}

#[test]
fn what_the_decoder_refuses_is_not_encoded_and_the_buffers_stay() {
    let mut sample = Sample(7);
    let shared = |region| SharedRegion { region, fd: fd() };
    let wrong = [
        Request::SetMemTable((0..9).map(|_| shared(sample.region(false))).collect()),
        Request::SetMemTable(vec![shared(sample.region(false)), shared(sample.region(true))]),
        Request::AddMemReg(shared(MemoryRegion { size: 0, ..sample.region(false) })),
        Request::GetConfig { offset: 0, size: 257, flags: 0 },
        Request::SetConfig(ConfigSpace { offset: 0, flags: 0, data: vec![0; 257] }),
        Request::CreateCryptoSession(vec![0; 5000]),
        Request::SetInflightFd(Inflight { mmap_size: 0, ..sample.inflight() }, fd()),
    ];
    for request in &wrong {
        let (mut bytes, mut fds) = (vec![1], Vec::new());
        assert!(request.encode(false, &mut bytes, &mut fds).is_err(), "{request:?}");
        assert_eq!((bytes, fds.len()), (vec![1], 0));
    }
}
