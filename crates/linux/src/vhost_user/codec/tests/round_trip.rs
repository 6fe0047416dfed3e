//! Every message, encoded and decoded again, whatever the cuts in the stream.

use proptest::prelude::*;

use super::sample::Sample;
use super::*;

/// Delivers messages as the kernel does: a read may cut and join, but ends after the message that
/// brought descriptors, which come with its first byte.
fn deliver(sample: &mut Sample, wires: Vec<Wire>, mut feed: impl FnMut(&[u8], Vec<OwnedFd>)) {
    let mut stream = Vec::new();
    let mut carriers = Vec::new();
    for wire in wires {
        if !wire.fds.is_empty() {
            carriers.push((stream.len(), stream.len() + wire.bytes.len(), Some(wire.fds)));
        }
        stream.extend(wire.bytes);
    }
    let mut at = 0;
    while at < stream.len() {
        let longest = if sample.bool() { 20 } else { 3000 };
        let mut end = (at + 1 + sample.below(longest)).min(stream.len());
        let mut fds = Vec::new();
        if let Some((_, last, own)) = carriers.iter_mut().find(|(first, ..)| (at..end).contains(first)) {
            end = end.min(*last);
            fds = own.take().expect("delivered once");
        }
        feed(&stream[at..end], fds);
        at = end;
    }
}

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn every_request_comes_back_however_the_stream_is_cut(seed: u64) {
        let mut sample = Sample(seed);
        let mut requests: Vec<_> = RequestCode::ALL.iter().map(|&code| sample.request(code)).collect();
        requests.push(Request::Unknown { id: 1000, payload: sample.bytes(9) });
        let rotation = sample.below(requests.len());
        requests.rotate_left(rotation);
        let wires = requests.iter().map(Wire::request).collect();
        let mut decoder = RequestDecoder::new();
        deliver(&mut sample, wires, |bytes, fds| decoder.feed(bytes, fds));
        for sent in &requests {
            let got = decoder.next().unwrap().expect("as many messages");
            prop_assert_eq!(told(&got.message.unwrap()), told(sent));
            prop_assert_eq!(got.header.request, sent.id());
        }
        prop_assert!(decoder.next().unwrap().is_none());
    }

    #[test]
    fn every_backend_request_comes_back_however_the_stream_is_cut(seed: u64) {
        let mut sample = Sample(seed);
        let requests: Vec<_> = BackendCode::ALL.iter().map(|&code| sample.backend_request(code)).collect();
        let wires = requests.iter().map(|r| Wire::new(|bytes, fds| r.encode(true, bytes, fds))).collect();
        let mut decoder = BackendRequestDecoder::new();
        deliver(&mut sample, wires, |bytes, fds| decoder.feed(bytes, fds));
        for sent in &requests {
            let got = decoder.next().unwrap().expect("as many messages");
            prop_assert!(got.header.need_reply);
            prop_assert_eq!(told(&got.message.unwrap()), told(sent));
        }
        prop_assert!(decoder.next().unwrap().is_none());
    }

    #[test]
    fn every_reply_comes_back_to_its_request_however_the_stream_is_cut(seed: u64) {
        let mut sample = Sample(seed);
        let features = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::LOG_SHMFD;
        let rules = ReplyRules { features, postcopy: sample.bool() };
        let mut decoder = ReplyDecoder::new(Channel::Main);
        let (mut replies, mut wires) = (Vec::new(), Vec::new());
        for &code in RequestCode::ALL {
            let Some(expected) = sample.request(code).expected_reply(rules, true) else { continue };
            let reply = sample.reply(expected.kind);
            decoder.expect(expected);
            wires.push(Wire::new(|bytes, fds| reply.encode(Channel::Main, expected.request, bytes, fds)));
            replies.push(reply);
        }
        deliver(&mut sample, wires, |bytes, fds| decoder.feed(bytes, fds));
        for sent in &replies {
            prop_assert_eq!(told(&decoder.next().unwrap().expect("as many replies")), told(sent));
        }
        prop_assert_eq!(decoder.outstanding(), 0);
    }

    #[test]
    fn every_reply_to_a_backend_request_comes_back(seed: u64) {
        let mut sample = Sample(seed);
        let rules = ReplyRules { features: ProtocolFeatures::REPLY_ACK, postcopy: false };
        let mut decoder = ReplyDecoder::new(Channel::Backend);
        for &code in BackendCode::ALL {
            let expected = sample.backend_request(code).expected_reply(rules, true).expect("all are answered");
            let reply = sample.reply(expected.kind);
            decoder.expect(expected);
            let wire = Wire::new(|bytes, fds| reply.encode(Channel::Backend, expected.request, bytes, fds));
            decoder.feed(&wire.bytes, wire.fds);
            prop_assert_eq!(told(&decoder.next().unwrap().expect("whole")), told(&reply));
        }
    }
}
