//! The server of a guest's disk is killed while the guest uses it, again and again. The guest notices nothing, and its
//! file system is sound. `VKIT_KILLS` sets how often.

mod common;

use common::guest::{Guest, check_load, end_load, machine, rounds, under_load};
use common::kill::{Victim, in_flight};
use common::{Folder, pattern};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

/// Queue sizes of QEMU's device.
const QUEUE_SIZE: u64 = 128;

fn kill_under_a_guest(queues: u32, packed: bool) {
    let kills: u32 = std::env::var("VKIT_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let folder = Folder::new();
    let (socket, image, payload) = (folder.at("s"), folder.empty("disk", 64 << 20), pattern(1 << 20));
    let initrd = under_load(&folder, &payload);
    let count = queues.to_string();
    let args: Vec<String> =
        ["blk", "--socket", &socket, "--image", &image, "--queues", &count].map(Into::into).into();
    let mut server = Victim::start(&args);
    let mut qemu = machine(queues, 256, &initrd, "");
    let layout = if packed { "on" } else { "off" };
    qemu.args(["-chardev", &format!("socket,id=c,path={socket},reconnect-ms=10")]).args([
        "-device",
        &format!("vhost-user-blk-pci,chardev=c,num-queues={queues},queue-size={QUEUE_SIZE},packed={layout}"),
    ]);
    let mut guest = Guest::boot(qemu, LIMIT);
    let pid = guest.child.id();
    let mut loaded = 0;
    for _ in 0..kills {
        rounds(&mut guest, 1);
        let busy = || in_flight(&pid.to_string(), packed, queues.into(), QUEUE_SIZE) > 0;
        server.hold_when(busy, || server.worked());
        server.kill();
        loaded += u32::from(busy());
        server = Victim::start(&args);
    }
    rounds(&mut guest, 1);
    let sums = end_load(&mut guest);
    guest.child.wait().unwrap();
    println!("{queues} queues, packed: {packed}: {kills} kills, {loaded} with requests in flight");
    server.kill();
    check_load(&folder, &image, &payload, &sums);
    assert!(loaded >= kills * 4 / 5, "only {loaded} of {kills} kills hit requests in flight");
}

#[test]
fn a_guest_on_split_queues_notices_nothing() {
    kill_under_a_guest(4, false);
}

#[test]
fn a_guest_on_a_packed_queue_notices_nothing() {
    kill_under_a_guest(1, true);
}
