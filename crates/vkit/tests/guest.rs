//! Linux in QEMU on a disk that `vkit serve` serves: a file system is made, used, grown into and checked.

mod common;

use common::{Folder, LIMIT, vkit};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What the guest does. Lines that begin with `=` are for the test.
const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc; $bb mount -t sysfs sys /sys; $bb mount -t devtmpfs dev /dev
fail() { echo "=failed $1"; $bb poweroff -f; }
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    $bb insmod /modules/$module.ko || fail "insmod $module"
done
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

fn guest() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    assert!(folder.join("complete").exists(), "no guest in {}: run ci/install-guest.sh", folder.display());
    folder
}

/// An initial file system in the format of `cpio -H newc`.
#[derive(Default)]
struct Archive(Vec<u8>, u32);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.1 += 1;
        let mut header = String::from("070701");
        let len = content.len() as u32;
        for field in [self.1, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name.len() as u32 + 1, 0] {
            write!(header, "{field:08x}").unwrap();
        }
        self.0.extend(header.as_bytes());
        self.0.extend(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn folder(&mut self, name: &str) {
        self.add(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, from: &Path) {
        let content = std::fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.add(name, 0o100_755, &content);
    }
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|n| n == name) {
            return Some(path);
        }
    }
    None
}

fn tool(name: &str) -> PathBuf {
    let places = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"].map(|place| Path::new(place).join(name));
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{name} is needed: e2fsprogs"))
}

fn initrd(folder: &Folder, payload: &[u8]) -> String {
    let guest = guest();
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "sys", "mnt", "modules", "etc", "lib64", "lib"] {
        archive.folder(name);
    }
    archive.add("init", 0o100_755, INIT.as_bytes());
    archive.add("etc/mtab", 0o100_644, &[]);
    archive.add("payload", 0o100_644, payload);
    archive.file("bin/busybox", &guest.join("bin/busybox"));
    for name in [
        "virtio",
        "virtio_ring",
        "virtio_pci_legacy_dev",
        "virtio_pci_modern_dev",
        "virtio_pci",
        "virtio_blk",
    ] {
        let file = format!("{name}.ko");
        let path =
            find(&guest.join("lib/modules"), &file).unwrap_or_else(|| panic!("no {file} in the guest"));
        archive.file(&format!("modules/{file}"), &path);
    }
    // The host's own, with its libraries.
    let mke2fs = tool("mke2fs");
    archive.file("bin/mke2fs", &mke2fs);
    let libraries = Command::new("ldd").arg(&mke2fs).output().unwrap();
    for library in String::from_utf8(libraries.stdout).unwrap().split_whitespace() {
        if library.starts_with('/') {
            archive.file(library.trim_start_matches('/'), Path::new(library));
            let folder = Path::new(library).parent().unwrap();
            archive.folder(folder.to_str().unwrap().trim_start_matches('/'));
        }
    }
    // Folders have to come before what is in them.
    let archive = sorted(archive.0);
    let path = folder.at("initrd");
    std::fs::write(&path, archive).unwrap();
    path
}

/// Puts folders first, shallow ones before deep ones, and the trailer last.
fn sorted(archive: Vec<u8>) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut at = 0;
    let field =
        |at: usize| usize::from_str_radix(std::str::from_utf8(&archive[at..at + 8]).unwrap(), 16).unwrap();
    while at < archive.len() {
        let (mode, size, name) = (field(at + 14), field(at + 54), field(at + 94));
        let end = (at + 110 + name).next_multiple_of(4) + size.next_multiple_of(4);
        let is_file = mode & 0o170_000 != 0o040_000;
        entries.push((is_file, name, at..end));
        at = end;
    }
    entries.sort_by_key(|(is_file, name, range)| (*is_file, *name, range.start));
    let mut out: Vec<u8> = entries.into_iter().flat_map(|(.., range)| archive[range].to_vec()).collect();
    let mut trailer = Archive::default();
    trailer.add("TRAILER!!!", 0, &[]);
    out.extend(trailer.0);
    out
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(queues: u32, packed: bool) {
    let folder = Folder::new();
    let (socket, image) = (folder.at("s"), folder.empty("disk", 96 << 20));
    let payload = common::pattern(3 << 20);
    let initrd = initrd(&folder, &payload);
    let mut serve =
        vkit(["serve", "blk", "--socket", &socket, "--image", &image, "--discard", "--json", "--queues"]);
    let mut server = Ended(serve.arg(queues.to_string()).stderr(Stdio::inherit()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    let layout = if packed { "on" } else { "off" };
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-nographic",
        "-no-reboot",
        "-nodefaults",
        "-serial",
        "stdio",
    ])
    .args(["-smp", &queues.to_string(), "-m", "512", "-machine", "q35,memory-backend=m"])
    .args(["-object", "memory-backend-memfd,id=m,size=512M,share=on"])
    .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init", "-initrd", &initrd])
    .arg("-kernel")
    .arg(guest().join("vmlinuz"))
    .args(["-chardev", &format!("socket,id=c,path={socket}")])
    .args(["-device", &format!("vhost-user-blk-pci,chardev=c,num-queues={queues},packed={layout}")]);
    let spawned = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut qemu = Ended(spawned.expect("qemu-system-x86_64 is needed: run ci/install-qemu.sh"));
    // A guest that hangs says nothing: it is ended, and what it said is shown.
    let pid = rustix::process::Pid::from_raw(qemu.0.id() as i32).unwrap();
    let (over, watch) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    });
    let (mut sizes, mut sums, mut done, mut seen) = (Vec::new(), Vec::new(), false, Vec::new());
    for line in BufReader::new(qemu.0.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let Some(at) = line.find('=').filter(|at| line[..*at].trim().is_empty()) else {
            seen.push(line);
            continue;
        };
        let words: Vec<String> = line[at + 1..].split_whitespace().map(Into::into).collect();
        match words[0].as_str() {
            "queues" => assert_eq!(words[1], queues.to_string()),
            "features" => assert_eq!(words[1].as_bytes()[34] == b'1', packed, "{words:?}"),
            "size" => {
                sizes.push(words[1].parse::<u64>().unwrap());
                if sizes.len() == 1 {
                    std::fs::File::options().write(true).open(&image).unwrap().set_len(128 << 20).unwrap();
                    let pid = rustix::process::Pid::from_raw(server.0.id() as i32).unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
                }
            }
            "sum" => sums.push((words[1].clone(), words[2].clone())),
            "done" => done = true,
            _ => panic!("the guest {line}: {seen:#?}"),
        }
        seen.push(line);
    }
    drop(over);
    watchdog.join().unwrap();
    qemu.0.wait().unwrap();
    assert!(done, "{seen:#?}");
    assert_eq!(sizes, [96 << 11, 128 << 11]);
    let pid = rustix::process::Pid::from_raw(server.0.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.0.wait().unwrap().success());
    assert!(!Path::new(&socket).exists());
    // The other side of it: the file.
    let check = Command::new(tool("fsck.ext4")).args(["-f", "-n", &image]).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    assert_eq!(sums.len(), 5);
    for (name, sum) in sums {
        let to = folder.at(&name);
        let dump = format!("dump /{name} {to}");
        assert!(Command::new(tool("debugfs")).args(["-R", &dump, &image]).output().unwrap().status.success());
        let content = std::fs::read(&to).unwrap();
        let hash =
            Sha256::digest(&content).iter().fold(String::new(), |all, byte| all + &format!("{byte:02x}"));
        assert_eq!(hash, sum, "{name}");
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
