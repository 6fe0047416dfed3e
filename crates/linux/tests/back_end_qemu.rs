//! The vhost-user back-end under QEMU's vhost-user-blk, whose driver is this project's block driver over PCI: no
//! guest runs, so that every set of features can be had.

mod common;

use common::TempDir;
use common::served::{Image, back_end, exercise, layouts};
use virtio_kit::driver::Found;
use virtio_kit::pci::Address;
use virtio_kit::{F, Features};
use virtio_kit_drivers::blk::{self, Blk, BlkDevice};
use virtio_kit_linux::qtest::{self, Machine, Options};
use virtio_kit_linux::vhost_user::back_end::{
    Listener, Options as BackEndOptions, Polling, Runner, Source, Threads,
};

const SECTORS: u64 = 64 << 10;

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

struct Served {
    runner: Runner,
    image: Image,
    dir: TempDir,
}

fn serve(queues: u16) -> Served {
    let (dir, image) = (TempDir::new(), Image::new(SECTORS));
    let source = Source::Listener(Listener::bind(dir.join("s")).unwrap());
    let back = back_end(image.device(queues, false), BackEndOptions::default());
    let runner = Runner::start(back, source, "test", Threads::PerQueue, Polling::default()).unwrap();
    Served { runner, image, dir }
}

impl Served {
    fn machine(&self, queues: u16, rings: Features) -> Machine {
        let has = |feature| on(rings.contains(feature));
        let device = format!(
            "vhost-user-blk-pci,chardev=c,addr=4,num-queues={queues},queue-size=128,packed={},in_order={},\
             event_idx={},indirect_desc={}",
            has(F::RING_PACKED),
            has(F::IN_ORDER),
            has(F::EVENT_IDX),
            has(F::INDIRECT_DESC)
        );
        let socket = self.dir.join("s");
        let options = Options::default()
            .argument("-chardev")
            .argument(format!("socket,id=c,path={},reconnect-ms=10", socket.display()))
            .virtio(&device);
        match Machine::start(&options) {
            Ok(machine) => machine,
            Err(error @ qtest::Error::Missing(_)) => panic!("{error}. Run ./ci.sh, which installs it."),
            Err(error) => panic!("{error}"),
        }
    }
}

fn open(machine: &Machine, queues: u16) -> (Blk<Vec<virtio_kit::DmaBuf>, u64>, BlkDevice) {
    let transport = machine.transport_at(Address::new(0, 4, 0)).unwrap();
    let options = blk::Options { queues, ..blk::Options::default() };
    blk::open(Found::new(Box::new(transport)), &options).unwrap()
}

#[test]
fn qemu_drives_it_in_every_layout() {
    for queues in [1, 4] {
        let served = serve(queues);
        for layout in layouts() {
            let machine = served.machine(queues, layout);
            let rings = F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX | F::INDIRECT_DESC;
            // Twice: as firmware does before an operating system.
            for _ in 0..2 {
                let (mut blk, _device) = open(&machine, queues);
                assert_eq!(blk.features & rings, layout);
                for (index, queue) in blk.queues.iter_mut().enumerate() {
                    exercise(queue, index as u64 * 8192, |at, len| served.image.read(at, len));
                }
            }
        }
        let counters = served.runner.queues()[0].counters().clone();
        assert_eq!(counters.taken(), counters.completed());
    }
}
