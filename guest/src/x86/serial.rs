//! Output on the first serial port.

use super::{cpu, port};
use core::fmt::{self, Write};
use spin::Mutex;

const COM1: u16 = 0x3f8;
const READY: u8 = 0x20;

struct Serial;

static OUTPUT: Mutex<Serial> = Mutex::new(Serial);

/// Sets the port up: no interrupts, 8 bits, FIFOs.
pub fn init() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        // SAFETY: a serial port touches no memory.
        unsafe { port::write8(COM1 + register, value) };
    }
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: a serial port touches no memory.
            unsafe {
                while port::read8(COM1 + 5) & READY == 0 {
                    core::hint::spin_loop();
                }
                port::write8(COM1, byte);
            }
        }
        Ok(())
    }
}

/// Writes a line, whole.
pub fn line(text: fmt::Arguments<'_>) {
    let _off = cpu::interrupts_off();
    // A serial port does not fail.
    let _ = writeln!(OUTPUT.lock(), "{text}");
}

/// Writes a line although somebody who will never go on may be in the middle of one.
pub fn last_line(text: fmt::Arguments<'_>) {
    let _off = cpu::interrupts_off();
    let _ = writeln!(Serial, "\n{text}");
}

/// Writes a line on the serial port.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::x86::serial::line(format_args!($($text)*)) };
}
