//! The driver of `docs/new-device.md` on QEMU's virtio-pmem, which nobody here has written.

#[path = "../../drivers/examples/new_device/driver.rs"]
mod driver;

use std::sync::{Arc, mpsc};
use std::time::Duration;
use virtio_kit::bus::{Bus, Fixed};
use virtio_kit::driver::Found;
use virtio_kit_linux::qtest::{Machine, Options};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_new_driver_flushes_qemus_persistent_memory_in_both_layouts() {
    for packed in ["off", "on"] {
        let path = std::env::temp_dir().join(format!("virtio-kit-pmem-{}-{packed}", std::process::id()));
        std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let object = format!("memory-backend-file,id=p,share=on,size=4M,mem-path={}", path.display());
        let options = Options::default()
            .argument("-m")
            .argument("slots=2,maxmem=1G")
            .argument("-object")
            .argument(object)
            .virtio(&format!("virtio-pmem-pci,memdev=p,addr=2,packed={packed}"));
        let machine = Machine::start(&options).unwrap_or_else(|error| panic!("{error}"));
        std::fs::remove_file(&path).unwrap();
        let (attach, attached) = mpsc::channel();
        let mut bus = Bus::new();
        let attach = move |pmem| attach.send(pmem).unwrap();
        let found = Found::new(Box::new(machine.transport(2).unwrap()));
        bus.install_backend(Box::new(Fixed::new([found])));
        bus.register_driver(Arc::new(driver::PmemDriver(attach))).unwrap();
        let mut pmem: driver::Pmem = attached.try_recv().unwrap();
        let range = pmem.range();
        assert_eq!((range.end - range.start, range.start % 4096), (4 << 20, 0));
        for _ in 0..300 {
            assert_eq!(pmem.flush(LIMIT), Ok(()));
        }
    }
}
