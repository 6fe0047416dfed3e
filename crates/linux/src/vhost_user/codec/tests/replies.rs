//! Which requests have replies, and what a reply must repeat.

use super::*;

fn rules(features: ProtocolFeatures) -> ReplyRules {
    ReplyRules { features, postcopy: false }
}

fn answer(request: &Request, reply: &Reply, features: ProtocolFeatures) -> Result<Reply, Error> {
    let wire = Wire::new(|bytes, fds| reply.encode(Channel::Main, request.id(), bytes, fds));
    let mut decoder = ReplyDecoder::new(Channel::Main);
    decoder.expect(request.expected_reply(rules(features), true).expect("has a reply"));
    decoder.feed(&wire.bytes, wire.fds);
    decoder.next().map(|reply| reply.expect("whole"))
}

#[test]
fn an_acknowledgement_comes_only_if_asked_for_and_negotiated() {
    let request: Request = Request::SetOwner;
    let (none, ack) = (rules(ProtocolFeatures::empty()), rules(ProtocolFeatures::REPLY_ACK));
    assert_eq!(request.reply_kind(none, true), None);
    assert_eq!(request.reply_kind(ack, false), None);
    assert_eq!(request.reply_kind(ack, true), Some(ReplyKind::Ack));
}

#[test]
fn what_asks_for_a_value_is_answered_with_it_and_nothing_more() {
    let ack = rules(ProtocolFeatures::REPLY_ACK);
    assert_eq!(Request::<OwnedFd>::GetFeatures.reply_kind(ack, true), Some(ReplyKind::Value));
    assert_eq!(
        Request::<OwnedFd>::GetFeatures.reply_kind(rules(ProtocolFeatures::empty()), false),
        Some(ReplyKind::Value)
    );
}

#[test]
fn the_log_base_is_answered_only_with_shared_memory() {
    let request: Request = Request::SetLogBase(LogBase::Address(0));
    assert_eq!(request.reply_kind(rules(ProtocolFeatures::empty()), false), None);
    assert_eq!(request.reply_kind(rules(ProtocolFeatures::LOG_SHMFD), false), Some(ReplyKind::LogBase));
}

#[test]
fn a_table_is_answered_with_addresses_in_postcopy_and_the_empty_one_not_at_all() {
    let postcopy = ReplyRules { features: ProtocolFeatures::REPLY_ACK, postcopy: true };
    assert_eq!(Request::<OwnedFd>::SetMemTable(Vec::new()).reply_kind(postcopy, true), None);
    let region = MemoryRegion { guest_addr: 0, size: 1, user_addr: 0, mmap_offset: 0, xen: None };
    let table: Request = Request::SetMemTable(vec![SharedRegion { region, fd: fd() }]);
    assert_eq!(table.reply_kind(postcopy, false), Some(ReplyKind::MemTable { count: 1 }));
}

#[test]
fn an_iotlb_message_always_asks_for_its_reply() {
    let iotlb =
        Iotlb { iova: 0, size: u64::MAX, user_addr: 0, access: Access::empty(), kind: IotlbKind::Invalidate };
    let wire = Wire::request(&Request::IotlbMsg(iotlb));
    assert_eq!(wire.bytes[4..8], 9u32.to_ne_bytes());
}

#[test]
fn a_reply_must_be_for_the_request_that_waits() {
    let wire = Wire::new(|bytes, fds| Reply::<OwnedFd>::Value(1).encode(Channel::Main, 17, bytes, fds));
    let mut decoder = ReplyDecoder::new(Channel::Main);
    decoder.expect(ExpectedReply { request: 1, kind: ReplyKind::Value });
    decoder.feed(&wire.bytes, []);
    let error = decoder.next().unwrap_err();
    assert_eq!(error.to_string(), "GET_QUEUE_NUM reply: request is 0x11, asked for 0x1");
    assert_eq!(decoder.next().unwrap_err(), error, "the connection is over");
}

#[test]
fn a_reply_that_nobody_asked_for_is_an_error() {
    let wire = Wire::new(|bytes, fds| Reply::<OwnedFd>::Ack(0).encode(Channel::Main, 3, bytes, fds));
    let mut decoder = ReplyDecoder::new(Channel::Main);
    decoder.feed(&wire.bytes, []);
    assert_eq!(decoder.next().unwrap_err().to_string(), "SET_OWNER reply: nothing was asked");
}

#[test]
fn a_request_is_not_taken_for_a_reply() {
    let mut decoder = ReplyDecoder::new(Channel::Main);
    decoder.expect(ExpectedReply { request: 1, kind: ReplyKind::Value });
    decoder.feed(&Wire::request(&Request::GetFeatures).bytes, []);
    assert_eq!(decoder.next().unwrap_err().to_string(), "GET_FEATURES reply: wrong reply flag");
}

#[test]
fn a_vring_base_must_be_the_queues() {
    let request = Request::GetVringBase { index: 1 };
    let reply = Reply::VringBase(VringState { index: 2, num: 0 });
    let error = answer(&request, &reply, ProtocolFeatures::empty()).unwrap_err();
    assert_eq!(error.to_string(), "GET_VRING_BASE reply: vring index is 0x2, asked for 0x1");
}

#[test]
fn configuration_space_must_be_the_piece_that_was_asked_for() {
    let request = Request::GetConfig { offset: 4, size: 2, flags: 0 };
    let piece = |offset, size| Reply::Config(Some(ConfigSpace { offset, flags: 0, data: vec![1; size] }));
    let try_one = |reply| answer(&request, &reply, ProtocolFeatures::CONFIG);
    assert!(try_one(piece(4, 2)).is_ok());
    assert!(matches!(try_one(Reply::Config(None)), Ok(Reply::Config(None))));
    assert!(matches!(try_one(piece(4, 0)), Ok(Reply::Config(None))), "zero bytes are an error too");
    assert_eq!(
        try_one(piece(0, 2)).unwrap_err().to_string(),
        "GET_CONFIG reply: offset is 0x0, asked for 0x4"
    );
    assert_eq!(try_one(piece(4, 3)).unwrap_err().to_string(), "GET_CONFIG reply: size is 0x3, asked for 0x2");
}

#[test]
fn the_log_bases_reply_comes_in_three_sizes() {
    let request: Request = Request::SetLogBase(LogBase::Address(0));
    for size in [0, 8, 16] {
        let header = Header { request: request.id(), reply: true, need_reply: false, size };
        let mut decoder = ReplyDecoder::new(Channel::Main);
        decoder.expect(request.expected_reply(rules(ProtocolFeatures::LOG_SHMFD), false).unwrap());
        decoder.feed(&header.to_bytes(), []);
        decoder.feed(&vec![0; size as usize], []);
        assert!(matches!(decoder.next(), Ok(Some(Reply::Ack(0)))), "{size} bytes");
    }
}

#[test]
fn a_device_state_error_excludes_a_channel() {
    let reply = Reply::DeviceState { result: 1, fd: Some(fd()) };
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    assert!(reply.encode(Channel::Main, RequestCode::SetDeviceStateFd as u32, &mut bytes, &mut fds).is_err());
}
