//! I/O ports.

use core::arch::asm;

macro_rules! ports {
    ($($read:ident, $write:ident, $type:ty, $register:tt);+ $(;)?) => {$(
        /// # Safety
        ///
        /// What the device behind the port does must not break what Rust code relies on.
        #[inline]
        pub unsafe fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: the instruction touches nothing but its registers and the device, as the caller allows.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), out($register) value, in("dx") port,
                     options(nostack, preserves_flags))
            };
            value
        }

        /// # Safety
        ///
        /// What the device behind the port does must not break what Rust code relies on.
        #[inline]
        pub unsafe fn $write(port: u16, value: $type) {
            // SAFETY: as above.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                     options(nostack, preserves_flags))
            };
        }
    )+};
}

ports! {
    read8, write8, u8, "al";
    read16, write16, u16, "ax";
    read32, write32, u32, "eax";
}
