//! Putting chains back whatever the driver does.

use crate::chained;
use crate::scene::{Extra, Scene};
use virtio_kit_ring::device::BadChain;
use virtio_kit_testkit::Shape;
use virtio_kit_testkit::raw::Link;

#[test]
fn a_chain_of_another_queue_is_not_put_back() {
    for shape in Shape::all() {
        let [mut s, mut other] = [0, 0].map(|_| Scene::new(shape, 1, Extra::Nothing));
        for scene in [&mut s, &mut other] {
            if scene.room() > 0 {
                scene.driver.offer(&[scene.write(8)]);
                scene.held.push(scene.device.take().unwrap().unwrap());
            }
        }
        let Some(foreign) = other.held.pop() else { continue };
        let before = (s.device.position(), s.device.in_flight());
        let foreign = s.device.put_back(foreign).expect_err("a chain of another queue");
        assert_eq!((s.device.position(), s.device.in_flight()), before, "{shape}");
        other.device.put_back(foreign).expect("the last chain of its own queue");
    }
}

#[test]
fn a_broken_queue_takes_no_chain_back_and_still_completes_it() {
    for shape in Shape::all().filter(|shape| shape.size >= 8) {
        let mut s = Scene::new(shape, 1, Extra::Nothing);
        s.driver.offer(&[s.write(0)]);
        assert_eq!(s.device.take().map(|_| ()), Err(BadChain::ZeroLength), "{shape}");
        let held = s.held.pop().unwrap();
        let held = s.device.put_back(held).expect_err("the queue is broken");
        s.device.complete(held).unwrap();
        assert_eq!(s.device.in_flight(), 0);
    }
}

// A driver that uses one id twice can make the device put the older chain back. That it may confuse itself is all.
#[test]
fn one_id_for_two_chains_confuses_only_the_driver_that_used_it() {
    for shape in Shape::all().filter(|shape| shape.size >= 8) {
        let mut s = Scene::new(shape, 3, Extra::Nothing);
        let start = s.device.position();
        let (long, short) = if shape.packed {
            s.driver.offer(&chained(vec![s.write(8).link(Link::Any(7)); 2]));
            s.driver.offer(&[s.write(8).link(Link::Any(7))]);
            (16, 8)
        } else {
            let id = s.driver.offer(&[s.write(8)]);
            s.driver.entry(s.driver.index(), id);
            s.driver.show(s.driver.index().wrapping_add(1));
            (8, 8)
        };
        let first = s.device.take().unwrap().unwrap();
        let second = s.device.take().unwrap().unwrap();
        assert_eq!((first.writable_len(), second.writable_len()), (long, short), "{shape}");
        if shape.in_order {
            // Slots tell them apart.
            let first = s.device.put_back(first).expect_err("not the last");
            s.device.put_back(second).unwrap();
            s.device.put_back(first).unwrap();
        } else {
            s.device.put_back(first).unwrap();
            s.device.put_back(second).unwrap();
        }
        let now = s.device.position();
        assert_eq!((now.next, now.next_wrap), (start.next, start.next_wrap), "{shape}");
        assert_eq!(usize::from(s.device.in_flight()), s.held.len());
        // Everything still works: both come again and complete.
        let both = [s.device.take().unwrap().unwrap(), s.device.take().unwrap().unwrap()];
        assert!(s.device.take().unwrap().is_none());
        let held = core::mem::take(&mut s.held);
        for chain in held.into_iter().chain(both) {
            s.device.complete(chain).unwrap();
        }
        s.device.publish();
        assert_eq!((s.device.in_flight(), s.device.broken()), (0, None));
    }
}
