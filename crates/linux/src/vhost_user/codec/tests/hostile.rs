//! Streams from a hostile peer: no panic, bounded buffering, descriptors closed.

use proptest::prelude::*;

use super::sample::Sample;
use super::*;

/// Changes some bytes, drops or adds some, and miscounts descriptors.
fn mutate(sample: &mut Sample, mut wire: Wire) -> Wire {
    for _ in 0..sample.below(4) {
        let at = sample.below(wire.bytes.len());
        match sample.below(4) {
            0 => wire.bytes[at] = sample.u64() as u8,
            1 => wire.bytes[at] ^= 1 << sample.below(8),
            2 if wire.bytes.len() > 1 => drop(wire.bytes.remove(at)),
            _ => wire.bytes.insert(at, sample.u64() as u8),
        }
    }
    match sample.below(6) {
        0 => wire.fds.push(fd()),
        1 => drop(wire.fds.pop()),
        2 if sample.below(8) == 0 => wire.fds.extend((0..9).map(|_| fd())),
        _ => {}
    }
    wire
}

fn pieces(sample: &mut Sample, wire: Wire, mut feed: impl FnMut(&[u8], Vec<OwnedFd>)) {
    let (mut rest, mut fds) = (&wire.bytes[..], wire.fds);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(1 + sample.below(rest.len()));
        feed(now, std::mem::take(&mut fds));
        rest = later;
    }
}

fn drain<M: Incoming>(decoder: &mut Decoder<M>) -> bool {
    loop {
        match decoder.next() {
            Ok(Some(received)) => {
                if let Err(error) = received.message {
                    assert!(!error.is_fatal() && !error.to_string().is_empty());
                }
            }
            Ok(None) => break true,
            Err(error) => {
                assert!(error.is_fatal());
                assert_eq!(decoder.next().err(), Some(error), "an error that ends the stream stays");
                break false;
            }
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 2000, ..config(2) })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), seed: u64) {
        let mut sample = Sample(seed);
        let mut requests = RequestDecoder::new();
        let mut backend = BackendRequestDecoder::new();
        let mut replies = ReplyDecoder::new(Channel::Main);
        replies.expect(ExpectedReply { request: 1, kind: ReplyKind::Value });
        let wire = || Wire { bytes: bytes.clone(), fds: vec![fd()] };
        pieces(&mut sample, wire(), |bytes, fds| requests.feed(bytes, fds));
        pieces(&mut sample, wire(), |bytes, fds| backend.feed(bytes, fds));
        pieces(&mut sample, wire(), |bytes, fds| replies.feed(bytes, fds));
        drain(&mut requests);
        drain(&mut backend);
        while let Ok(Some(_)) = replies.next() {}
        prop_assert!(requests.wants() > 0 && backend.wants() > 0 && replies.wants() > 0);
    }

    #[test]
    fn random_payloads_of_known_messages_never_panic(seed: u64) {
        let mut sample = Sample(seed);
        let mut decoder = RequestDecoder::new();
        for _ in 0..8 {
            let (id, size, fds) = (sample.below(48) as u32, sample.below(420), sample.below(4));
            let wire = Wire::raw(id, &sample.bytes(size), fds);
            pieces(&mut sample, wire, |bytes, fds| decoder.feed(bytes, fds));
            if !drain(&mut decoder) {
                decoder = RequestDecoder::new();
            }
        }
    }

    #[test]
    fn mutated_requests_never_panic(seed: u64) {
        let mut sample = Sample(seed);
        let mut decoder = RequestDecoder::new();
        for _ in 0..8 {
            let code = RequestCode::ALL[sample.below(RequestCode::ALL.len())];
            let wire = Wire::request(&sample.request(code));
            let wire = mutate(&mut sample, wire);
            pieces(&mut sample, wire, |bytes, fds| decoder.feed(bytes, fds));
            drain(&mut decoder);
        }
    }

    #[test]
    fn mutated_backend_requests_never_panic(seed: u64) {
        let mut sample = Sample(seed);
        let mut decoder = BackendRequestDecoder::new();
        for _ in 0..8 {
            let code = BackendCode::ALL[sample.below(BackendCode::ALL.len())];
            let request = sample.backend_request(code);
            let wire = Wire::new(|bytes, fds| request.encode(false, bytes, fds));
            let wire = mutate(&mut sample, wire);
            pieces(&mut sample, wire, |bytes, fds| decoder.feed(bytes, fds));
            drain(&mut decoder);
        }
    }

    #[test]
    fn mutated_replies_never_panic(seed: u64) {
        let mut sample = Sample(seed);
        let rules = ReplyRules { features: ProtocolFeatures::all(), postcopy: sample.bool() };
        let code = RequestCode::ALL[sample.below(RequestCode::ALL.len())];
        let Some(expected) = sample.request(code).expected_reply(rules, true) else { return Ok(()) };
        let reply = sample.reply(expected.kind);
        let wire = Wire::new(|bytes, fds| reply.encode(Channel::Main, expected.request, bytes, fds));
        let wire = mutate(&mut sample, wire);
        let mut decoder = ReplyDecoder::new(Channel::Main);
        decoder.expect(expected);
        pieces(&mut sample, wire, |bytes, fds| decoder.feed(bytes, fds));
        while let Ok(Some(_)) = decoder.next() {}
    }
}

#[test]
fn a_size_over_the_messages_maximum_ends_the_stream_at_the_header() {
    let mut decoder = RequestDecoder::new();
    let header = Header { request: 8, reply: false, need_reply: false, size: 9 };
    decoder.feed(&header.to_bytes(), []);
    let error = decoder.next().unwrap_err();
    assert_eq!(error.to_string(), "SET_VRING_NUM: 9 bytes of payload, at most 8");
    assert!(error.is_fatal());
}

#[test]
fn descriptors_of_refused_and_unknown_messages_are_closed() {
    for (id, fatal) in [(1, false), (1000, false), (RequestCode::SetVringNum as u32, true)] {
        let (reader, writer) = std::io::pipe().unwrap();
        let payload = if fatal { vec![0; 9] } else { Vec::new() };
        let wire = Wire::raw(id, &payload, 0);
        let mut decoder = RequestDecoder::new();
        decoder.feed(&wire.bytes, [OwnedFd::from(reader)]);
        drop(decoder.next());
        assert!(closed(&writer), "request {id}");
    }
}

#[test]
fn more_than_eight_descriptors_end_the_stream_and_are_closed() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut decoder = RequestDecoder::new();
    let wire = Wire::raw(1000, &[0; 4], 8);
    decoder.feed(&wire.bytes[..3], wire.fds);
    decoder.feed(&wire.bytes[3..5], [OwnedFd::from(reader)]);
    assert_eq!(decoder.next().unwrap_err(), Error::TooManyFds { count: 9 });
    assert!(closed(&writer));
}
