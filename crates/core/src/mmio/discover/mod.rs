//! Where a machine says that its MMIO devices are.
//!
//! | module | who says so |
//! |---|---|
//! | [`command_line`] | the kernel's command line: `virtio_mmio.device=512@0xfeb00e00:12` |
//! | [`acpi`] | the DSDT, as devices of the id `LNRO0005` |
//! | `device_tree`, with the feature `fdt` | a device tree, as nodes compatible with `virtio,mmio` |

pub mod acpi;
pub mod command_line;
#[cfg(feature = "fdt")]
pub mod device_tree;
