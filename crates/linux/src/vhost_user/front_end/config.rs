//! The configuration space (`CONFIG`).

use virtio_kit::transport::TransportError;

use super::error::{Failed, Failure};
use super::session::Session;
use crate::vhost_user::codec::{ConfigSpace, MAX_CONFIG_SIZE, ProtocolFeatures, Reply, Request};

impl Session {
    /// Fills `to` from `offset` on, with zeros beyond what the device has.
    ///
    /// What is in the first 256 bytes is always asked for from 0, since a widespread back-end library does not
    /// look at the offset.
    pub(super) fn read_config(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        self.can_config()?;
        to.fill(0);
        let first = MAX_CONFIG_SIZE as usize;
        if offset < first {
            let (head, rest) = to.split_at_mut(to.len().min(first - offset));
            let start = self.config_start((offset + head.len()) as u32)?;
            if let Some(bytes) = start.get(offset..) {
                head[..bytes.len()].copy_from_slice(bytes);
            }
            return self.config_far(first, rest);
        }
        self.config_far(offset, to)
    }

    /// The first `size` bytes of the configuration space, or all that there are.
    fn config_start(&mut self, size: u32) -> Result<Vec<u8>, TransportError> {
        let size = size.min(self.config_len.unwrap_or(size));
        if let Some(bytes) = self.config_piece(0, size)? {
            return Ok(bytes);
        }
        // The device has fewer. How many, no message tells: look for the most that it gives.
        let (mut good, mut bad, mut bytes) = (0, size, Vec::new());
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match self.config_piece(0, middle)? {
                Some(found) => (good, bytes) = (middle, found),
                None => bad = middle,
            }
        }
        if good == 0 {
            return Err(TransportError::Refused("GET_CONFIG"));
        }
        self.config_len = Some(good);
        Ok(bytes)
    }

    /// What lies beyond the first 256 bytes; no device of the document has anything there.
    fn config_far(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        if self.config_len.is_some() {
            return Ok(());
        }
        for (at, piece) in to.chunks_mut(MAX_CONFIG_SIZE as usize).enumerate() {
            let start = offset + at * MAX_CONFIG_SIZE as usize;
            let start = u32::try_from(start).map_err(|_| TransportError::Unsupported("the offset"))?;
            match self.config_piece(start, piece.len() as u32)? {
                Some(bytes) => piece.copy_from_slice(&bytes),
                None => break,
            }
        }
        Ok(())
    }

    /// `None` if the back-end does not give such a piece.
    fn config_piece(&mut self, offset: u32, size: u32) -> Result<Option<Vec<u8>>, TransportError> {
        if size == 0 {
            return Ok(Some(Vec::new()));
        }
        match self.exchange(Request::GetConfig { offset, size, flags: 0 }, false)? {
            Some(Reply::Config(Some(config))) => Ok(Some(config.data)),
            _ => Ok(None),
        }
    }

    /// Writes a piece, as the driver does.
    pub(super) fn write_config(&mut self, offset: usize, from: &[u8]) -> Result<(), TransportError> {
        self.can_config()?;
        for (at, piece) in from.chunks(MAX_CONFIG_SIZE as usize).enumerate() {
            let start = offset + at * MAX_CONFIG_SIZE as usize;
            let offset = u32::try_from(start).map_err(|_| TransportError::Unsupported("the offset"))?;
            self.set(Request::SetConfig(ConfigSpace { offset, flags: 0, data: piece.to_vec() }))?;
        }
        Ok(self.settle()?)
    }

    fn can_config(&self) -> Result<(), TransportError> {
        if self.has(ProtocolFeatures::CONFIG) {
            return Ok(());
        }
        let what = "the back-end has no configuration space (CONFIG)";
        Err(Failed { during: "GET_CONFIG", why: Failure::Unusable(what) }.into())
    }
}
