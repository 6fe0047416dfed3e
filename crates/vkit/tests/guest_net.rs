//! Linux in QEMU with network and entropy devices that `vkit serve` serves. `VKIT_MIB` sets how much goes over TCP.

mod common;

use common::guest::{Archive, Guest, VIRTIO, machine};
use common::{Folder, Server, hex};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

/// A slow machine moves 64 MiB through two emulated ones.
const LIMIT: Duration = Duration::from_secs(240);

/// How much a guest sends: 64 in the long run.
fn mib() -> u32 {
    std::env::var("VKIT_MIB").map_or(8, |mib| mib.parse().unwrap())
}

const NET: &str = r#"
for word in $($bb cat /proc/cmdline); do case $word in self=*|peer=*|role=*) eval "$word";; esac; done
$bb ip link set lo up
$bb ip addr add $self/24 dev eth0
$bb ip link set eth0 up
echo "=features $($bb cat /sys/class/net/eth0/device/features)"
echo "=queues $($bb ls /sys/class/net/eth0/queues | $bb grep -c rx)"
send() { $bb nc -w 30 $peer 5000 < /tmp/content || fail send; }
if [ $role = server ]; then
    # Input that does not end: else the connection would be closed from here.
    $bb mkfifo /tmp/silence /tmp/content
    exec 3<>/tmp/silence
    $bb nc -l -p 5000 <&3 > /tmp/content &
    echo "=ready"
    echo "=got $($bb sha256sum < /tmp/content)"
else
    $bb dd if=/dev/urandom of=/tmp/content bs=1M count=SIZE 2>/dev/null || fail dd
    $bb ping -c 5 -i 0.2 -s 1400 -q $peer > /tmp/ping || fail ping
    echo "=ping $($bb grep received /tmp/ping)"
    echo "=sent $($bb sha256sum < /tmp/content)"
    send
fi
echo "=done"
$bb poweroff -f
"#;

const NET_MODULES: [&str; 3] = ["failover", "net_failover", "virtio_net"];

/// Bits of the features that the guest is to have, or not.
const CSUM: usize = 0;
const GUEST_TSO4: usize = 7;
const HOST_TSO4: usize = 11;
const MRG_RXBUF: usize = 15;
const PACKED: usize = 34;

#[derive(Clone, Copy)]
struct Wish {
    offloads: bool,
    packed: bool,
    pairs: u32,
}

fn boot(folder: &Folder, socket: &str, wish: Wish, role: &str, own: u32, peer: u32) -> Guest {
    let init = NET.replace("SIZE", &mib().to_string());
    let modules = [&VIRTIO[..], &NET_MODULES].concat();
    let initrd = Archive::guest(&init, &modules).write(folder);
    let append = format!("role={role} self=10.0.0.{own} peer=10.0.0.{peer}");
    let mut qemu = machine(wish.pairs, 384, &initrd, &append);
    let on = |yes| if yes { "on" } else { "off" };
    let mut device = format!(
        "virtio-net-pci,netdev=n,romfile=,mac=02:00:00:00:00:0{own},packed={},mq={},vectors={}",
        on(wish.packed),
        on(wish.pairs > 1),
        2 * wish.pairs + 2
    );
    if !wish.offloads {
        for name in [
            "csum",
            "guest_csum",
            "gso",
            "guest_tso4",
            "guest_tso6",
            "guest_ecn",
            "host_tso4",
            "host_tso6",
            "host_ecn",
            "mrg_rxbuf",
        ] {
            device.push_str(&format!(",{name}=off"));
        }
    }
    qemu.args(["-chardev", &format!("socket,id=c,path={socket}")])
        .args(["-netdev", &format!("vhost-user,id=n,chardev=c,queues={}", wish.pairs)])
        .args(["-device", &device]);
    let mut guest = Guest::boot(qemu, LIMIT);
    let features = guest.says("features").remove(1);
    for bit in [CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF] {
        assert_eq!(features.as_bytes()[bit] == b'1', wish.offloads, "bit {bit} of {features}");
    }
    assert_eq!(features.as_bytes()[PACKED] == b'1', wish.packed);
    assert_eq!(guest.says("queues")[1], wish.pairs.to_string());
    guest
}

fn two_guests(wish: Wish) {
    let (folder, other) = (Folder::new(), Folder::new());
    let (one, two) = (folder.at("s1"), folder.at("s2"));
    let pairs = wish.pairs.to_string();
    let server = Server::start(&["net", "--socket", &one, "--socket", &two, "--switch", "--queues", &pairs]);
    let mut receiver = boot(&folder, &one, wish, "server", 1, 2);
    receiver.says("ready");
    let mut sender = boot(&other, &two, wish, "client", 2, 1);
    let ping = sender.says("ping").join(" ");
    assert!(ping.contains("5 packets received, 0% packet loss"), "{ping}");
    let sent = sender.says("sent").remove(1);
    let got = receiver.says("got").remove(1);
    println!("{ping}; {} MiB: sent {sent}, got {got}", mib());
    assert_eq!(sent, got);
    sender.ends();
    receiver.ends();
    server.end();
}

#[test]
fn two_guests_on_a_switch_talk_with_offloads() {
    two_guests(Wish { offloads: true, packed: true, pairs: 2 });
}

#[test]
fn two_guests_on_a_switch_talk_without_offloads() {
    two_guests(Wish { offloads: false, packed: false, pairs: 1 });
}

/// A guest sends to this machine's kernel, by way of a TAP.
fn through_a_tap(wish: Wish) {
    // This thread and what it starts have a network of their own.
    #[allow(deprecated, reason = "descriptors stay as they are: there is nothing unsafe about this one")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
        .expect("the right to make network interfaces");
    let folder = Folder::new();
    let socket = folder.at("s");
    let pairs = wish.pairs.to_string();
    let server = Server::start(&["net", "--socket", &socket, "--tap", "tap0", "--queues", &pairs]);
    for line in ["addr add 10.0.0.1/24 dev tap0", "link set tap0 up"] {
        assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
    }
    let listener = TcpListener::bind("10.0.0.1:5000").unwrap();
    let mut sender = boot(&folder, &socket, wish, "client", 2, 1);
    let ping = sender.says("ping").join(" ");
    assert!(ping.contains("5 packets received, 0% packet loss"), "{ping}");
    let sent = sender.says("sent").remove(1);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let (mut hash, mut bytes, mut len) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut bytes).unwrap() {
            0 => break,
            got => {
                hash.update(&bytes[..got]);
                len += got;
            }
        }
    }
    drop(stream);
    let got = hex(&hash.finalize());
    println!("{ping}; {} MiB: sent {sent}, got {got}", mib());
    assert_eq!((len, got), ((mib() as usize) << 20, sent));
    sender.ends();
    server.end();
}

#[test]
fn a_guest_talks_to_the_kernel_over_a_tap_with_offloads() {
    through_a_tap(Wish { offloads: true, packed: false, pairs: 2 });
}

#[test]
fn a_guest_talks_to_the_kernel_over_a_tap_without_offloads() {
    through_a_tap(Wish { offloads: false, packed: true, pairs: 1 });
}

const RNG: &str = r#"
echo "=current $($bb cat /sys/class/misc/hw_random/rng_current)"
$bb dd if=/dev/hwrng of=/tmp/bytes bs=1k count=64 iflag=fullblock 2>/dev/null || fail hwrng
echo "=sum $($bb sha256sum < /tmp/bytes)"
echo "=zipped $($bb gzip -c /tmp/bytes | $bb wc -c)"
echo "=done"
$bb poweroff -f
"#;

#[test]
fn a_guest_has_entropy_from_the_kernel() {
    for packed in ["off", "on"] {
        let folder = Folder::new();
        let socket = folder.at("s");
        let server = Server::start(&["rng", "--socket", &socket]);
        let initrd = Archive::guest(RNG, &[&VIRTIO[..], &["virtio-rng"]].concat()).write(&folder);
        let mut qemu = machine(1, 256, &initrd, "");
        qemu.args(["-chardev", &format!("socket,id=c,path={socket}")])
            .args(["-device", &format!("vhost-user-rng-pci,chardev=c,packed={packed}")]);
        let mut guest = Guest::boot(qemu, LIMIT);
        assert_eq!(guest.says("current")[1], "virtio_rng.0");
        println!("{:?}", guest.says("sum"));
        // No byte of it is like another, as far as gzip can see.
        assert!(guest.says("zipped")[1].parse::<u32>().unwrap() > 64 << 10);
        guest.ends();
        server.end();
    }
}
