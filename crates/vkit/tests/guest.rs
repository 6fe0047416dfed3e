//! Linux in QEMU on a disk that `vkit serve` serves: a file system is made, used, grown into and checked.

mod common;

use common::guest::{Archive, Guest, VIRTIO, check_fs, file_of, machine, tool};
use common::{Folder, LIMIT, Server, hex};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use std::path::Path;

/// What the guest does. Lines that begin with `=` are for the test.
const INIT: &str = r#"
[ -b /dev/vda ] || fail "no disk"
echo "=queues $($bb ls /sys/block/vda/mq | $bb wc -l)"
echo "=features $($bb cat /sys/block/vda/device/features)"
/bin/mke2fs -q -F -t ext4 /dev/vda 64M || fail mkfs
$bb mount -t ext4 /dev/vda /mnt || fail mount
$bb cp /payload /mnt/payload || fail cp
job() { $bb dd if=/dev/urandom of=/mnt/job$1 bs=64k count=64 conv=fsync 2>/dev/null || fail "dd $1"; }
for i in 1 2 3 4; do job $i & done
wait
$bb sync
$bb umount /mnt || fail umount
before=$($bb cat /sys/block/vda/size)
echo "=size $before"
while [ "$($bb cat /sys/block/vda/size)" = "$before" ]; do $bb usleep 20000; done
echo "=size $($bb cat /sys/block/vda/size)"
# Behind what was the end.
$bb dd if=/payload of=/dev/vda bs=512 seek=$before conv=fsync 2>/dev/null || fail "dd behind"
echo 3 > /proc/sys/vm/drop_caches
$bb mount -t ext4 /dev/vda /mnt || fail "mount again"
for file in payload job1 job2 job3 job4; do echo "=sum $file $($bb sha256sum < /mnt/$file)"; done
$bb umount /mnt || fail "umount again"
echo "=done"
$bb poweroff -f
"#;

fn initrd(folder: &Folder, payload: &[u8]) -> String {
    let mut archive = Archive::guest(INIT, &[&VIRTIO[..], &["virtio_blk"]].concat());
    archive.add("etc/mtab", 0o100_644, &[]);
    archive.add("payload", 0o100_644, payload);
    archive.program(&tool("mke2fs"));
    archive.write(folder)
}

fn boot(queues: u32, packed: bool) {
    let folder = Folder::new();
    let (socket, image) = (folder.at("s"), folder.empty("disk", 96 << 20));
    let payload = common::pattern(3 << 20);
    let initrd = initrd(&folder, &payload);
    let queues_arg = queues.to_string();
    let server =
        Server::start(&["blk", "--socket", &socket, "--image", &image, "--discard", "--queues", &queues_arg]);
    let layout = if packed { "on" } else { "off" };
    let mut qemu = machine(queues, 512, &initrd, "");
    qemu.args(["-chardev", &format!("socket,id=c,path={socket}")])
        .args(["-device", &format!("vhost-user-blk-pci,chardev=c,num-queues={queues},packed={layout}")]);
    let mut guest = Guest::boot(qemu, LIMIT);
    let (mut sizes, mut sums, mut done) = (Vec::new(), Vec::new(), false);
    while let Some(words) = guest.said() {
        match words[0].as_str() {
            "queues" => assert_eq!(words[1], queues.to_string()),
            "features" => assert_eq!(words[1].as_bytes()[34] == b'1', packed, "{words:?}"),
            "size" => {
                sizes.push(words[1].parse::<u64>().unwrap());
                if sizes.len() == 1 {
                    std::fs::File::options().write(true).open(&image).unwrap().set_len(128 << 20).unwrap();
                    server.signal(Signal::HUP);
                }
            }
            "sum" => sums.push((words[1].clone(), words[2].clone())),
            "done" => done = true,
            _ => panic!("the guest says {words:?}"),
        }
    }
    assert!(done);
    assert_eq!(sizes, [96 << 11, 128 << 11]);
    server.end();
    assert!(!Path::new(&socket).exists());
    // The other side of it: the file.
    check_fs(&image);
    assert_eq!(sums.len(), 5);
    for (name, sum) in sums {
        let content = file_of(&folder, &image, &name);
        assert_eq!(hex(&Sha256::digest(&content)), sum, "{name}");
        assert_eq!(content.len(), if name == "payload" { 3 << 20 } else { 4 << 20 });
    }
    let disk = std::fs::read(&image).unwrap();
    assert!(disk[96 << 20..][..payload.len()] == payload, "what was written behind the old end");
}

#[test]
fn a_guest_uses_its_disk_over_one_split_queue() {
    boot(1, false);
}

#[test]
fn a_guest_uses_its_disk_over_one_packed_queue() {
    boot(1, true);
}

#[test]
fn a_guest_uses_its_disk_over_four_split_queues() {
    boot(4, false);
}

#[test]
fn a_guest_uses_its_disk_over_four_packed_queues() {
    boot(4, true);
}
