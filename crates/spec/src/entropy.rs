//! Entropy source (5.4): device id 4, no feature bits, no configuration, no request header.
//!
//! Queue 0 takes device-writable buffers; the device fills each with random bytes, at least one and perhaps fewer
//! than there is room for: the used length says how many.

/// The request queue (5.4.2).
pub const REQUEST_QUEUE: u16 = 0;
