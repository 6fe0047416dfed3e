//! What the device does with chains.

use super::{Held, Op, Pair, pattern};
use crate::model::Model;
use crate::rng::Rng;
use virtio_kit_ring::device::Chain;

impl Pair<'_> {
    pub(super) fn take(&mut self) {
        self.trace.push(Op::Take);
        let before = Some(self.device.position());
        match self.device.take().expect("an honest driver") {
            Some(chain) => self.held.push(Held { before, ..took(&mut self.model, chain) }),
            None => assert_eq!(self.model.available_count(), 0, "an available chain was not found"),
        }
    }

    /// Takes several, and of each keeps it, completes it, or completes another one instead.
    pub(super) fn serve(&mut self) {
        let max = self.rng.below(6);
        self.trace.push(Op::ServeBatch { max });
        let expected = self.model.available_count().min(max);
        let Self { device, model, held, rng, .. } = self;
        let each = |chain| {
            held.push(took(model, chain));
            let at = match rng.below(4) {
                0 => return None,
                1 => rng.below(held.len()),
                _ => held.len() - 1,
            };
            Some(finish(rng, model, held.remove(at)))
        };
        assert_eq!(device.serve(max, each).expect("an honest driver"), expected, "the size of a batch");
    }

    /// Puts a chain back, as a rule the last taken, perhaps after writing to it.
    pub(super) fn put_back(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let last = self.held.len() - 1;
        let at = if self.rng.one_in(4) { self.rng.below(last + 1) } else { last };
        let Held { token, mut chain, before } = self.held.remove(at);
        self.trace.push(Op::PutBack { token });
        if self.rng.one_in(3) {
            let len = self.rng.within(0, chain.writable_len());
            chain.write_at(0, &vec![9; len]).expect("inside the chain");
            self.model.held(token).writable[..len].fill(9);
        }
        let allowed = self.model.put_back(token);
        match self.device.put_back(chain) {
            Ok(()) => {
                assert!(allowed, "a chain was put back that is not the last taken");
                let now = self.device.position();
                if let Some(before) = before {
                    assert_eq!(
                        (now.next, now.next_wrap),
                        (before.next, before.next_wrap),
                        "where the queue stands"
                    );
                }
            }
            Err(chain) => {
                assert!(!allowed, "the last taken chain was not put back");
                self.model.held(token).written = chain.written();
                self.held.insert(at, Held { token, chain, before });
            }
        }
    }

    pub(super) fn complete(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = if self.rng.one_in(2) { 0 } else { self.rng.below(self.held.len()) };
        let held = self.held.remove(at);
        self.trace.push(Op::Complete { token: held.token });
        let chain = finish(&mut self.rng, &mut self.model, held);
        self.device.complete(chain).expect("a chain of this queue");
    }
}

/// Looks at what is there to be read.
fn took(model: &mut Model, mut chain: Chain) -> Held {
    let record = model.take().expect("an available chain");
    assert_eq!(chain.readable_len(), record.readable.len(), "the readable length");
    assert_eq!(chain.writable_len(), record.writable.len(), "the writable length");
    let mut content = vec![0; chain.readable_len()];
    let (first, rest) = content.split_at_mut(record.readable.len() / 3);
    chain.read(first).expect("inside the chain");
    chain.read(rest).expect("inside the chain");
    assert!(content == record.readable, "what the device read");
    Held { token: record.token, chain, before: None }
}

/// Writes something, in one way or another; what remains is to complete the chain.
fn finish(rng: &mut Rng, model: &mut Model, Held { token, mut chain, .. }: Held) -> Chain {
    let len = chain.writable_len();
    let record = model.held(token);
    let data: Vec<u8> = (0..len as u64).map(|i| pattern(!token, i)).collect();
    let cut = rng.within(0, len);
    match rng.below(5) {
        0 => {}
        1 => {
            chain.write(&data).expect("inside the chain");
            record.write(0, &data);
        }
        2 => {
            let first = rng.within(0, cut);
            chain.write(&data[..first]).expect("inside the chain");
            chain.write(&data[first..cut]).expect("inside the chain");
            record.write(0, &data[..cut]);
        }
        3 => {
            chain.write_at(cut, &data[cut..]).expect("inside the chain");
            record.write(cut, &data[cut..]);
        }
        _ => {
            chain.write(&data[..cut]).expect("inside the chain");
            record.write(0, &data[..cut]);
            if len > 0 {
                chain.write_last(7).expect("inside the chain");
                record.write(len - 1, &[7]);
            }
        }
    }
    assert_eq!(chain.written(), record.written, "the length written");
    model.complete(token);
    chain
}
