//! The machines that the kernel boots on.

use std::fmt;

/// A machine of QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// A PC with PCI Express: interrupts by MSI-X.
    Q35,
    /// A PC above 4 GiB of memory, where firmware puts BARs beyond the reach of 32 bits.
    Q35Large,
    /// A small machine with virtio-mmio, version 2: interrupts by lines.
    Microvm,
    /// The same with virtio-mmio version 1, which is legacy.
    MicrovmLegacy,
    /// The same without ACPI: devices are named on the command line.
    MicrovmNoAcpi,
    /// A small machine with PCI Express, whose firmware places no BARs.
    MicrovmPci,
}

/// How virtio devices are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// On a PCI bus.
    Pci,
    /// By registers in memory.
    Mmio,
    /// The same, legacy.
    MmioLegacy,
}

impl Machine {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Q35,
        Self::Q35Large,
        Self::Microvm,
        Self::MicrovmLegacy,
        Self::MicrovmNoAcpi,
        Self::MicrovmPci,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Q35Large => "q35-3g",
            Self::Microvm => "microvm",
            Self::MicrovmLegacy => "microvm-legacy",
            Self::MicrovmNoAcpi => "microvm-noacpi",
            Self::MicrovmPci => "microvm-pci",
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
            Self::Q35 => &["-machine", "q35", "-m", "256M"],
            Self::Q35Large => &["-machine", "q35", "-m", "3G"],
            Self::Microvm => &["-machine", "microvm", "-m", "256M", "-global", MODERN],
            Self::MicrovmLegacy => &["-machine", "microvm", "-m", "256M"],
            Self::MicrovmNoAcpi => &["-machine", "microvm,acpi=off", "-m", "256M", "-global", MODERN],
            Self::MicrovmPci => &["-machine", "microvm,pcie=on", "-m", "256M"],
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Attach {
    /// QEMU's argument for a virtio device of a type, such as `blk`.
    pub(crate) fn device(self, kind: &str, properties: &str) -> String {
        match self {
            Self::Pci => format!("virtio-{kind}-pci,disable-legacy=on,{properties}"),
            Self::Mmio | Self::MmioLegacy => format!("virtio-{kind}-device,{properties}"),
        }
    }
}
