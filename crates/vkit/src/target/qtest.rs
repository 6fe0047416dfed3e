//! Devices of QEMU's, without a guest: `qtest:DEVICE?options`.

use super::{Host, Opened, What};
use crate::failure::{Failure, Result};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use virtio_kit::mmio::MmioTransport;
use virtio_kit::pci;
use virtio_kit::transport::Transport;
use virtio_kit_linux::qtest::{Board, Machine, Options};

/// Lines of the help on targets.
pub(super) const USAGE: &str = "\
qtest:virtio-blk-pci?file=FILE
                             a device of QEMU's, which runs without a guest; any that QEMU has, on PCI
                             (-pci) or by MMIO (-device, and with legacy=on its version 1).
                             Options are properties of the device, such as packed=on; file=FILE gives it
                             a raw file; what begins with - is for QEMU itself: &-netdev=user,id=n";

/// The name of the file's node in QEMU.
const NODE: &str = "vkit";

/// A device of QEMU's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Qtest {
    /// QEMU's name of the device.
    device: String,
    /// What it stores its data in.
    file: Option<PathBuf>,
    /// MMIO version 1.
    legacy: bool,
    /// Its properties, as QEMU takes them.
    properties: Vec<(String, String)>,
    /// Options of QEMU's.
    arguments: Vec<(String, String)>,
}

impl Qtest {
    /// Reads what follows `qtest:`.
    pub(super) fn parse(text: &str) -> super::options::Result<Self> {
        let (device, options) = text.split_once('?').unwrap_or((text, ""));
        if !device.ends_with("-pci") && !device.ends_with("-device") {
            let known = "write a name of QEMU's that ends in -pci or -device, such as virtio-blk-pci";
            return Err(format!("no device `{device}`: {known}"));
        }
        let mut qtest = Self::new(device, false);
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let own: (String, String) = (key.into(), value.into());
            match key {
                "file" if value.is_empty() => return Err("`file`: name a file".into()),
                "file" if qtest.file.is_some() => return Err("`file` is given twice".into()),
                "file" => qtest.file = Some(value.into()),
                "legacy" if device.ends_with("-device") => match value {
                    "on" | "off" => qtest.legacy = value == "on",
                    _ => return Err(format!("`{option}`: write off or on")),
                },
                "" => return Err(format!("`{option}`: name a property")),
                _ if key.starts_with('-') => qtest.arguments.push(own),
                _ if value.is_empty() => return Err(format!("`{key}`: give it a value")),
                _ if qtest.has(key) => return Err(format!("`{key}` is given twice")),
                _ => qtest.properties.push(own),
            }
        }
        Ok(qtest)
    }

    /// A device without properties; by MMIO it may be legacy.
    pub(crate) fn new(device: &str, legacy: bool) -> Self {
        let (properties, arguments) = (Vec::new(), Vec::new());
        Self { device: device.into(), file: None, legacy, properties, arguments }
    }

    /// The same over a file.
    pub(crate) fn over(self, file: PathBuf) -> Self {
        Self { file: Some(file), ..self }
    }

    /// The same with one more property.
    pub(crate) fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.properties.push((key.into(), value.to_string()));
        self
    }

    /// The same with one more option of QEMU's.
    pub(crate) fn argument(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.arguments.push((key.into(), value.to_string()));
        self
    }

    fn has(&self, key: &str) -> bool {
        self.properties.iter().any(|(given, _)| given == key)
    }

    fn is_on(&self, key: &str) -> bool {
        self.properties.iter().any(|(given, value)| given == key && value == "on")
    }

    /// The machine with the device.
    fn options(&self, memory: usize) -> Result<Options> {
        let is_pci = self.device.ends_with("-pci");
        let board = if is_pci { Board::Pc } else { Board::MicroVm { legacy: self.legacy } };
        // What lies below the arena is the machine's own.
        let mut options = Options { board, memory: memory as u64 + (4 << 20), ..Options::default() };
        for (key, value) in &self.arguments {
            options = options.argument(key);
            if !value.is_empty() {
                options = options.argument(value);
            }
        }
        // QEMU's own escape for a comma.
        let mut device = self.device.replace(',', ",,");
        for (key, value) in &self.properties {
            device += &format!(",{}={}", key.replace(',', ",,"), value.replace(',', ",,"));
        }
        if let Some(file) = &self.file {
            // QEMU's own complaint would name a node that nobody has heard of.
            std::fs::File::open(file).map_err(|error| Failure::file(file, &error))?;
            options = options.file(NODE, file).map_err(Failure::new)?;
            device += &format!(",drive={NODE}");
        }
        if is_pci && !self.has("disable-legacy") && !self.has("disable-modern") {
            device += ",disable-legacy=on";
        }
        Ok(options.device(&device))
    }

    /// Starts QEMU, and opens the first virtio device that it has.
    pub(super) fn open(&self, memory: usize) -> Result<Opened> {
        // QEMU may have more than one line to say.
        let line = |what: &dyn fmt::Display| what.to_string().lines().collect::<Vec<_>>().join("; ");
        let failed = |what: &dyn fmt::Display| Failure::new(format_args!("qtest:{self}: {}", line(what)));
        let machine = Machine::start(&self.options(memory)?).map_err(|error| failed(&error))?;
        let transport: Box<dyn Transport> = if self.device.ends_with("-pci") {
            let at =
                machine.all_functions().next().ok_or_else(|| failed(&"QEMU has no such virtio device"))?;
            pci::open(Arc::new(machine.clone()), at).map_err(|error| failed(&error))?.0
        } else {
            let place = machine.places().first().ok_or_else(|| failed(&"QEMU has no such virtio device"))?;
            let opened = MmioTransport::open(Arc::new(machine.clone()), *place);
            Box::new(opened.map_err(|error| failed(&error))?.ok_or_else(|| failed(&"its place is empty"))?)
        };
        let what = What::Is(transport.identity().device);
        let mut host = Host::default();
        host.one_at_a_time = self.is_on("in_order");
        Ok(Opened { transport, host, what })
    }
}

impl fmt::Display for Qtest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.device)?;
        match &self.file {
            Some(file) => write!(f, "?file={}", file.display()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_go_to_the_device_and_what_begins_with_a_dash_to_qemu() {
        let text = "virtio-net-pci?netdev=n&packed=on&-netdev=user,id=n&-nodefaults&mac=1,2";
        let qtest = Qtest::parse(text).unwrap();
        let options = qtest.options(1 << 20).unwrap();
        let arguments: Vec<_> = options.arguments.iter().map(|a| a.to_str().unwrap()).collect();
        let device = "virtio-net-pci,netdev=n,packed=on,mac=1,,2,disable-legacy=on";
        assert_eq!(arguments, ["-netdev", "user,id=n", "-nodefaults", "-device", device]);
        assert_eq!(options.board, Board::Pc);
        let mmio = Qtest::parse("virtio-blk-device?legacy=on").unwrap().options(1 << 20).unwrap();
        assert_eq!(mmio.board, Board::MicroVm { legacy: true });
        let legacy = Qtest::parse("virtio-rng-pci?disable-modern=on").unwrap().options(1 << 20).unwrap();
        assert_eq!(legacy.arguments.last().unwrap(), "virtio-rng-pci,disable-modern=on");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "blk",
            "virtio-blk-pci?file=",
            "virtio-blk-pci?file=a&file=b",
            "virtio-blk-pci?packed",
            "virtio-blk-pci?packed=on&packed=off",
            "virtio-blk-pci?=on",
            "virtio-blk-device?legacy=perhaps",
        ] {
            assert!(Qtest::parse(text).is_err(), "{text}");
        }
    }
}
