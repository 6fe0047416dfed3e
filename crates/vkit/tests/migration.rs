//! A guest under load moves from one QEMU to another, and its disk from one server to another: what the device writes to
//! the guest's memory meanwhile is in the dirty log, and no write is lost.

mod common;

use common::guest::{Archive, Guest, VIRTIO, check_fs, file_of, machine, tool};
use common::{Folder, Server, hex};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// For all that a machine with much to do takes.
const LIMIT: Duration = Duration::from_secs(180);

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

/// QEMU's other socket.
struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn connect(path: &str) -> Self {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{path}: {error}"),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut this = Self(BufReader::new(stream));
        assert!(this.next().get("QMP").is_some());
        this.execute("qmp_capabilities", json!({}));
        this
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("QEMU said {line:?}: {error}"))
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let said = self.next();
            assert!(said.get("error").is_none(), "{command}: {said}");
            if let Some(value) = said.get("return") {
                return value.clone();
            }
        }
    }

    /// Waits for a migration to come to its end.
    fn migrated(&mut self) {
        loop {
            let said = self.next();
            if said["event"] == "MIGRATION" {
                let status = said["data"]["status"].as_str().unwrap();
                assert!(!["failed", "cancelled"].contains(&status), "{said}");
                if status == "completed" {
                    return;
                }
            }
        }
    }
}

fn rounds(guest: &mut Guest, count: u32) {
    (0..count).for_each(|_| drop(guest.says("round")));
}

fn migrate(queues: u32, packed: bool) {
    let folder = Folder::new();
    let image = folder.empty("disk", 64 << 20);
    let payload = common::pattern(1 << 20);
    let mut archive = Archive::guest(LOAD, &[&VIRTIO[..], &["virtio_blk"]].concat());
    archive.add("etc/mtab", 0o100_644, &[]);
    archive.add("payload", 0o100_644, &payload);
    archive.program(&tool("mke2fs"));
    let initrd = archive.write(&folder);
    let count = queues.to_string();
    let serve = |name: &str, more: &[&str]| {
        let (socket, log) =
            (folder.at(name), std::fs::File::create(folder.at(&format!("{name}.log"))).unwrap());
        let args = ["blk", "--socket", &socket, "--image", &image, "--queues", &count, "-vvv"];
        Server::logging(&[&args[..], more].concat(), log)
    };
    let boot = |name: &str, more: &[&str]| {
        let mut qemu = machine(queues, 256, &initrd, "");
        let layout = if packed { "on" } else { "off" };
        qemu.args(["-chardev", &format!("socket,id=c,path={}", folder.at(name))])
            .args(["-device", &format!("vhost-user-blk-pci,chardev=c,num-queues={queues},packed={layout}")])
            .args(["-qmp", &format!("unix:{}.qmp,server=on,wait=off", folder.at(name))])
            .args(more);
        Guest::boot(qemu, LIMIT)
    };
    let first = serve("s1", &[]);
    let mut source = boot("s1", &[]);
    rounds(&mut source, 2);
    let incoming = format!("unix:{}", folder.at("m"));
    let second = serve("s2", &["--incoming"]);
    let mut target = boot("s2", &["-incoming", &incoming]);
    let mut to_target = Qmp::connect(&format!("{}.qmp", folder.at("s2")));
    assert_eq!(to_target.execute("query-status", json!({}))["status"], "inmigrate");
    let mut to_source = Qmp::connect(&format!("{}.qmp", folder.at("s1")));
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    to_source.execute("migrate-set-capabilities", events);
    to_source.execute("migrate", json!({ "uri": incoming }));
    to_source.migrated();
    let ram = to_source.execute("query-migrate", json!({}))["ram"].clone();
    println!("{queues} queues, packed: {packed}: {ram}");
    assert!(ram["dirty-sync-count"].as_u64().unwrap() > 1, "{ram}");
    drop(source);
    // It goes on where it was.
    rounds(&mut target, 3);
    writeln!(target.child.stdin.as_mut().unwrap(), "stop").unwrap();
    let mut sums = Vec::new();
    loop {
        let words = target.said().expect("the guest goes on");
        match words[0].as_str() {
            "round" => {}
            "sum" => sums.push((words[1].clone(), words[2].clone())),
            "done" => break,
            _ => panic!("the guest says {words:?}"),
        }
    }
    target.child.wait().unwrap();
    first.end();
    second.end();
    let log = std::fs::read_to_string(folder.at("s1.log")).unwrap();
    assert!(log.contains("SetLogBase"), "QEMU has not asked for a log");
    check_fs(&image);
    assert_eq!(sums.len(), 7);
    for (name, sum) in sums {
        let content = file_of(&folder, &image, &name);
        assert_eq!(hex(&Sha256::digest(&content)), sum, "{name}");
        assert!(name.starts_with("file") || content == payload, "{name}");
    }
    assert!(!Path::new(&folder.at("s1")).exists() && !Path::new(&folder.at("s2")).exists());
}

#[test]
fn a_guest_moves_with_split_queues() {
    migrate(2, false);
}

#[test]
fn a_guest_moves_with_a_packed_queue() {
    migrate(1, true);
}
