//! The machines that the kernel boots on.

use std::fmt;

/// A machine of QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// A PC with PCI Express: interrupts by MSI-X.
    Q35,
    /// A PC above 4 GiB of memory, where firmware puts BARs beyond the reach of 32 bits.
    Q35Large,
    /// A PC whose devices have no messages: interrupts by lines, which devices share.
    Q35Lines,
    /// A small machine with virtio-mmio, version 2: interrupts by lines.
    Microvm,
    /// The same with virtio-mmio version 1, which is legacy.
    MicrovmLegacy,
    /// The same without ACPI: devices are named on the command line.
    MicrovmNoAcpi,
    /// A small machine with PCI Express, whose firmware places no BARs.
    MicrovmPci,
    /// The same with the devices behind three bridges, to whose buses nobody has given numbers.
    MicrovmBridges,
}

/// How virtio devices are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// On a PCI bus.
    Pci,
    /// On a PCI bus, without messages.
    PciLines,
    /// On a PCI bus behind bridges.
    PciBehind,
    /// By registers in memory.
    Mmio,
    /// The same, legacy.
    MmioLegacy,
}

impl Machine {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Q35,
        Self::Q35Large,
        Self::Q35Lines,
        Self::Microvm,
        Self::MicrovmLegacy,
        Self::MicrovmNoAcpi,
        Self::MicrovmPci,
        Self::MicrovmBridges,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Q35Large => "q35-3g",
            Self::Q35Lines => "q35-lines",
            Self::Microvm => "microvm",
            Self::MicrovmLegacy => "microvm-legacy",
            Self::MicrovmNoAcpi => "microvm-noacpi",
            Self::MicrovmPci => "microvm-pci",
            Self::MicrovmBridges => "microvm-bridges",
        }
    }

    /// The machine of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|machine| machine.name() == name)
    }

    /// How its devices are attached.
    pub fn attach(self) -> Attach {
        match self {
            Self::Q35 | Self::Q35Large | Self::MicrovmPci => Attach::Pci,
            Self::Q35Lines => Attach::PciLines,
            Self::MicrovmBridges => Attach::PciBehind,
            Self::Microvm | Self::MicrovmNoAcpi => Attach::Mmio,
            Self::MicrovmLegacy => Attach::MmioLegacy,
        }
    }

    /// How many CPUs the kernel finds of those that there are: without ACPI only its own.
    pub fn cpus(self, given: u8) -> u8 {
        if self == Self::MicrovmNoAcpi { 1 } else { given }
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        const MODERN: &str = "virtio-mmio.force-legacy=off";
        match self {
            Self::Q35 | Self::Q35Lines => &["-machine", "q35", "-m", "256M"],
            Self::Q35Large => &["-machine", "q35", "-m", "3G"],
            Self::Microvm => &["-machine", "microvm", "-m", "256M", "-global", MODERN],
            Self::MicrovmLegacy => &["-machine", "microvm", "-m", "256M"],
            Self::MicrovmNoAcpi => &["-machine", "microvm,acpi=off", "-m", "256M", "-global", MODERN],
            Self::MicrovmPci => &["-machine", "microvm,pcie=on", "-m", "256M"],
            Self::MicrovmBridges => &[
                "-machine",
                "microvm,pcie=on",
                "-m",
                "256M",
                "-device",
                "pcie-root-port,id=root,chassis=1",
                "-device",
                "pcie-pci-bridge,id=old,bus=root",
                "-device",
                "pci-bridge,id=behind,bus=old,addr=1,chassis_nr=2,shpc=off",
            ],
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Attach {
    /// Whether on a PCI bus.
    pub fn is_pci(self) -> bool {
        !matches!(self, Self::Mmio | Self::MmioLegacy)
    }

    /// QEMU's argument for a virtio device of a type, such as `blk`.
    pub(crate) fn device(self, kind: &str, properties: &str) -> String {
        match self {
            Self::Pci => format!("virtio-{kind}-pci,disable-legacy=on,{properties}"),
            Self::PciLines => format!("virtio-{kind}-pci,disable-legacy=on,vectors=0,{properties}"),
            Self::PciBehind => format!("virtio-{kind}-pci,disable-legacy=on,bus=behind,{properties}"),
            Self::Mmio | Self::MmioLegacy => format!("virtio-{kind}-device,{properties}"),
        }
    }
}
