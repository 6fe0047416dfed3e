//! A kernel that does nothing but drive virtio devices: the project's drivers, unchanged, on bare metal.
//!
//! [`x86`] is the machine, and nothing of virtio. [`platform`] is what virtio-kit needs of a kernel: memory, time,
//! registers, interrupts. [`work`] is what is then done with each device. `cargo guest` at the root of the project
//! builds this, boots it on every machine, and checks from outside what it did.
#![no_std]
#![no_main]

extern crate alloc;

#[cfg(feature = "compare")]
mod compare;
mod platform;
mod work;
mod x86;

use alloc::boxed::Box;
use core::panic::PanicInfo;
use virtio_kit::Arena;
use virtio_kit::bus::{Bus, DeviceState};
use virtio_kit::mmio::MmioBus;
use virtio_kit::pci::PciHost;
use x86::acpi::Tables;
use x86::boot::BootInfo;

/// Exit codes; QEMU ends with twice as much and one.
const SUCCESS: u8 = 0x10;
const FAILURE: u8 = 0x11;
const PANIC: u8 = 0x7f;

/// Memory for devices: rings, requests, data.
const ARENA: usize = 32 << 20;

#[unsafe(no_mangle)]
extern "C" fn guest_start(start_info: u32) -> ! {
    x86::serial::init();
    // SAFETY: this is the first CPU, and nothing else has run on it.
    unsafe {
        x86::cpu::init(0);
        x86::interrupts::init();
    }
    // SAFETY: the loader's pointer; memory below the image, where it points, is left alone.
    let boot = unsafe { BootInfo::new(start_info as usize) };
    let arena = memory(boot);
    x86::apic::init();
    x86::cpu::interrupts_on();
    x86::time::init();
    // SAFETY: the loader's pointer; firmware's tables are not in free memory.
    let tables = unsafe { Tables::read(boot.rsdp()) };
    // SAFETY: once, here; the page belongs to nobody, since free memory begins at the image's end.
    let cpus = unsafe { x86::smp::start(&tables) };
    println!("virtio-kit guest: {cpus} cpus");
    let code = match run(boot, &tables, arena) {
        Ok(()) => SUCCESS,
        Err(error) => {
            println!("failed: {}", error.0);
            FAILURE
        }
    };
    x86::exit(code)
}

/// Divides free memory into the heap and the arena.
fn memory(boot: BootInfo) -> Arena {
    let free = boot.free_memory();
    let middle = (free.end - ARENA) & !0xfff;
    assert!(free.start < middle, "too little memory");
    // SAFETY: nobody's, and below 4 GiB, where everything is mapped to its own address from the start.
    unsafe {
        x86::memory::init(free.start..middle);
        platform::memory::donate(middle..middle + ARENA).expect("an aligned range of memory")
    }
}

/// Installs the back-ends that this machine has, registers the drivers, and does some work with every device.
fn run(boot: BootInfo, tables: &Tables, arena: Arena) -> Result<(), work::Failure> {
    let mut bus = Bus::new();
    let controllers = platform::lines::Controllers::new(tables);
    let pci = platform::pci::Pci::new(tables, controllers.clone(), arena.clone())?;
    bus.install_backend(Box::new(PciHost::new(pci)));
    let places = platform::mmio::places(boot.command_line(), tables);
    // SAFETY: the places that firmware names.
    let mmio = unsafe { platform::mmio::Mmio::new(places.clone(), controllers, arena.clone()) };
    #[cfg(feature = "compare")]
    if boot.argument("compare").is_some() {
        return compare::run(mmio, places, &arena);
    }
    bus.install_backend(Box::new(MmioBus::new(mmio, places)));
    let devices = work::Devices::default();
    for driver in devices.drivers() {
        bus.register_driver(driver)?;
    }
    for (_, key, state) in bus.devices() {
        match state {
            DeviceState::Failed(error) => println!("device {key:#x}: {error}"),
            DeviceState::Unbound => println!("device {key:#x}: no driver"),
            _ => {}
        }
    }
    devices.work(boot.argument("seed").and_then(|seed| seed.parse().ok()).unwrap_or(0))?;
    Ok(())
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86::serial::last_line(format_args!("guest: {info}"));
    x86::exit(PANIC)
}
