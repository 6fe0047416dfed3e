//! Linux in QEMU: a Debian kernel and busybox. What the guest says in lines that begin with `=` is for the test.

use super::{Folder, hex, stop_after};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// How every guest begins.
const PROLOGUE: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc; $bb mount -t sysfs sys /sys; $bb mount -t devtmpfs dev /dev
fail() { echo "=failed $1"; $bb poweroff -f; }
"#;

/// Modules of every guest.
pub(crate) const VIRTIO: [&str; 5] =
    ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"];

pub(crate) fn files() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    assert!(folder.join("complete").exists(), "no guest in {}: run ci/install-guest.sh", folder.display());
    folder
}

/// An initial file system in the format of `cpio -H newc`.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>, u32);

impl Archive {
    pub(crate) fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
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

    pub(crate) fn folder(&mut self, name: &str) {
        self.add(name, 0o040_755, &[]);
    }

    pub(crate) fn file(&mut self, name: &str, from: &Path) {
        let content = std::fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.add(name, 0o100_755, &content);
    }

    /// What every guest has: busybox, modules, and what is done first. The script's `modules` loads them.
    pub(crate) fn guest(init: &str, modules: &[&str]) -> Self {
        let mut archive = Self::default();
        for name in ["bin", "dev", "proc", "sys", "mnt", "modules", "etc", "tmp"] {
            archive.folder(name);
        }
        let mut script = PROLOGUE.to_owned();
        for name in modules {
            script.push_str(&format!("$bb insmod /modules/{name}.ko || fail 'insmod {name}'\n"));
        }
        script.push_str(init);
        archive.add("init", 0o100_755, script.as_bytes());
        archive.file("bin/busybox", &files().join("bin/busybox"));
        for name in modules {
            let file = format!("{name}.ko");
            let path = find(&files().join("lib/modules"), &file);
            let path = path.unwrap_or_else(|| panic!("no {file} in the guest"));
            archive.file(&format!("modules/{file}"), &path);
        }
        archive
    }

    /// A program of this machine, with its libraries, in `/bin`.
    pub(crate) fn program(&mut self, program: &Path) {
        let name = program.file_name().unwrap().to_str().unwrap();
        self.file(&format!("bin/{name}"), program);
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        for library in String::from_utf8(libraries.stdout).unwrap().split_whitespace() {
            if library.starts_with('/') {
                self.file(library.trim_start_matches('/'), Path::new(library));
                for folder in Path::new(library).ancestors().skip(1) {
                    let folder = folder.to_str().unwrap().trim_start_matches('/');
                    if !folder.is_empty() {
                        self.folder(folder);
                    }
                }
            }
        }
    }

    /// Written to a file: its name.
    pub(crate) fn write(self, folder: &Folder) -> String {
        let path = folder.at("initrd");
        // Folders have to come before what is in them.
        std::fs::write(&path, sorted(self.0)).unwrap();
        path
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

pub(crate) fn tool(name: &str) -> PathBuf {
    let places = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"].map(|place| Path::new(place).join(name));
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{name} is needed: e2fsprogs"))
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

/// The file system in an image must be sound.
#[track_caller]
pub(crate) fn check_fs(image: &str) {
    let check = Command::new(tool("fsck.ext4")).args(["-f", "-n", image]).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

/// What a file of the file system in an image holds.
#[track_caller]
pub(crate) fn file_of(folder: &Folder, image: &str, name: &str) -> Vec<u8> {
    let to = folder.at(name);
    let dump = format!("dump /{name} {to}");
    let dumped = Command::new(tool("debugfs")).args(["-R", &dump, image]).output().unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    std::fs::read(to).unwrap()
}

/// QEMU with a kernel that does what is in an initial file system. Its memory can be shared.
pub(crate) fn machine(cpus: u32, megabytes: u32, initrd: &str, append: &str) -> Command {
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
    .args(["-smp", &cpus.to_string(), "-m", &megabytes.to_string(), "-machine", "q35,memory-backend=m"])
    .args(["-object", &format!("memory-backend-memfd,id=m,size={megabytes}M,share=on")])
    .args(["-append", &format!("console=ttyS0 quiet panic=-1 rdinit=/init {append}"), "-initrd", initrd])
    .arg("-kernel")
    .arg(files().join("vmlinuz"));
    qemu
}

/// A guest that runs. Dropped, it is killed.
pub(crate) struct Guest {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<String>,
    /// A guest that hangs says nothing: it is ended, and what it said is shown.
    _watchdog: Sender<()>,
}

impl Guest {
    pub(crate) fn boot(mut qemu: Command, limit: Duration) -> Self {
        let spawned = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = spawned.expect("qemu-system-x86_64 is needed: run ci/install-qemu.sh");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let watchdog = stop_after(&child, limit);
        Self { child, lines, seen: Vec::new(), _watchdog: watchdog }
    }

    /// The words of the next line that is for the test; `None` when the guest has ended.
    pub(crate) fn said(&mut self) -> Option<Vec<String>> {
        loop {
            let line = self.lines.next()?.ok()?;
            // The firmware has cleared the screen before the first.
            let start = line.rfind("\u{1b}[2J").map_or(0, |at| at + 4);
            let at = line[start..].find('=').map(|at| start + at);
            let at = at.filter(|at| line[start..*at].trim().is_empty());
            let words = at.map(|at| line[at + 1..].split_whitespace().map(Into::into).collect());
            self.seen.push(line);
            match words {
                Some(words) => return Some(words),
                None => continue,
            }
        }
    }

    /// What it says of something, which is next.
    #[track_caller]
    pub(crate) fn says(&mut self, what: &str) -> Vec<String> {
        let words = self.said();
        let Some(words) = words.filter(|words| words[0] == what) else {
            panic!("the guest was to say `{what}`: {:#?}", self.seen)
        };
        words
    }

    /// It has nothing more to say, and ends.
    #[track_caller]
    pub(crate) fn ends(mut self) {
        self.says("done");
        assert_eq!(self.said(), None, "{:#?}", self.seen);
        self.child.wait().unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes all the time, past the page cache too, and reads the same file again and again from the disk.
const LOAD: &str = r#"
/bin/mke2fs -q -F -t ext4 /dev/vda || fail mkfs
$bb mount -t ext4 /dev/vda /mnt || fail mount
$bb cp /payload /mnt/payload && $bb sync || fail cp
sum=$($bb sha256sum < /payload)
( read line < /dev/ttyS0; > /tmp/stop ) &
direct() {
    while [ ! -e /tmp/stop ]; do
        $bb dd if=/payload of=/mnt/direct$1 bs=64k oflag=direct conv=notrunc 2>/dev/null || fail "direct $1"
        $bb dd if=/mnt/direct$1 of=/tmp/back$1 bs=64k iflag=direct 2>/dev/null || fail "direct read $1"
        $bb cmp /payload /tmp/back$1 || fail "what was read $1"
    done
    > /tmp/ended$1
}
direct 1 &
direct 2 &
round=0
while [ ! -e /tmp/stop ]; do
    round=$((round + 1))
    $bb dd if=/dev/urandom of=/mnt/file$((round % 4)) bs=64k count=8 conv=fsync 2>/dev/null || fail dd
    echo 3 > /proc/sys/vm/drop_caches
    [ "$($bb sha256sum < /mnt/payload)" = "$sum" ] || fail "payload"
    echo "=round $round"
done
while [ ! -e /tmp/ended1 ] || [ ! -e /tmp/ended2 ]; do $bb usleep 20000; done
for file in payload direct1 direct2 file0 file1 file2 file3; do
    echo "=sum $file $($bb sha256sum < /mnt/$file)"
done
$bb umount /mnt || fail umount
echo "=done"
$bb poweroff -f
"#;

/// A guest that uses its disk until it is told to stop, as an initial file system.
pub(crate) fn under_load(folder: &Folder, payload: &[u8]) -> String {
    let mut archive = Archive::guest(LOAD, &[&VIRTIO[..], &["virtio_blk"]].concat());
    archive.add("etc/mtab", 0o100_644, &[]);
    archive.add("payload", 0o100_644, payload);
    archive.program(&tool("mke2fs"));
    archive.write(folder)
}

/// Waits until it has gone around so often.
#[track_caller]
pub(crate) fn rounds(guest: &mut Guest, count: u32) {
    (0..count).for_each(|_| drop(guest.says("round")));
}

/// Stops it: the sums of its files.
#[track_caller]
pub(crate) fn end_load(guest: &mut Guest) -> Vec<(String, String)> {
    writeln!(guest.child.stdin.as_mut().unwrap(), "stop").unwrap();
    let mut sums = Vec::new();
    loop {
        let Some(words) = guest.said() else { panic!("the guest ended: {:#?}", guest.seen) };
        match words[0].as_str() {
            "round" => {}
            "sum" => sums.push((words[1].clone(), words[2].clone())),
            "done" => return sums,
            _ => panic!("the guest says {words:?}: {:#?}", guest.seen),
        }
    }
}

/// The file system on its disk is sound, and its files are what it said.
#[track_caller]
pub(crate) fn check_load(folder: &Folder, image: &str, payload: &[u8], sums: &[(String, String)]) {
    check_fs(image);
    assert_eq!(sums.len(), 7);
    for (name, sum) in sums {
        let content = file_of(folder, image, name);
        assert_eq!(hex(&Sha256::digest(&content)), *sum, "{name}");
        assert!(name.starts_with("file") || content == payload, "{name}");
    }
}
