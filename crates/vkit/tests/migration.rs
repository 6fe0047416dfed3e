//! A guest under load moves from one QEMU to another, and its disk from one server to another: what the device writes to
//! the guest's memory meanwhile is in the dirty log, and no write is lost.

mod common;

use common::guest::{Guest, check_load, end_load, machine, rounds, under_load};
use common::{Folder, Server};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// For all that a machine with much to do takes.
const LIMIT: Duration = Duration::from_secs(180);

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

fn migrate(queues: u32, packed: bool) {
    let folder = Folder::new();
    let image = folder.empty("disk", 64 << 20);
    let payload = common::pattern(1 << 20);
    let initrd = under_load(&folder, &payload);
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
    let sums = end_load(&mut target);
    target.child.wait().unwrap();
    first.end();
    second.end();
    let log = std::fs::read_to_string(folder.at("s1.log")).unwrap();
    assert!(log.contains("SetLogBase"), "QEMU has not asked for a log");
    check_load(&folder, &image, &payload, &sums);
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
