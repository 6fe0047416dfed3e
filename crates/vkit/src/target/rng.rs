//! Entropy devices: over the kernel's generator, or over a file.

use super::options::{self, Options};
use super::{Host, Recipe, Type};
use crate::failure::{Failure, Result};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use virtio_kit::DeviceId;
use virtio_kit::device::Device;
use virtio_kit_devices::rng::{Limit, Rng, Source};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::entropy::{FileSource, KernelSource};

/// Entropy devices, for the table of types.
pub(crate) const TYPE: Type = Type {
    name: "rng",
    id: DeviceId::ENTROPY,
    a: "an entropy device",
    usage: "\
in-process:rng               an entropy device in this process, over the kernel's generator
in-process:rng?source=FILE   the same, over a file: what it gives once it gives never again
                             more with &: max_bytes=N period_ms=N (no more than N bytes in each period)",
    parse: |options| Ok(Arc::new(parse(options)?)),
    // It has no features of its own, and need not have a configuration space.
    unlike: |_, _| None,
    config: |_, _| Ok(Value::Null),
};

/// An entropy device in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entropy {
    /// The kernel's generator without one.
    pub(crate) source: Option<PathBuf>,
    pub(crate) limit: Option<Limit>,
}

fn parse(options: &mut Options<'_>) -> options::Result<Entropy> {
    let source = options.file("source")?;
    let bytes = options.number("max_bytes", 1..=u32::MAX)?;
    let period = options.number("period_ms", 1..=3_600_000)?;
    let limit = match (bytes, period) {
        (None, None) => None,
        (Some(bytes), Some(period)) => {
            Some(Limit { bytes: bytes as usize, period: Duration::from_millis(period.into()) })
        }
        _ => return Err("max_bytes and period_ms go together".into()),
    };
    Ok(Entropy { source, limit })
}

impl fmt::Display for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "source={}", source.display()),
            None => Ok(()),
        }
    }
}

impl Recipe for Entropy {
    fn build(&self, _: &mut Host) -> Result<Box<dyn Device>> {
        Ok(match &self.source {
            Some(path) => self.over(FileSource::open(path).map_err(Failure::new)?),
            None => self.over(KernelSource),
        })
    }
}

impl Entropy {
    fn over(&self, source: impl Source + 'static) -> Box<dyn Device> {
        match self.limit {
            Some(limit) => Box::new(Rng::limited(source, limit, Arc::new(MonotonicClock))),
            None => Box::new(Rng::new(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> options::Result<Entropy> {
        let mut options = Options::new(text)?;
        let entropy = parse(&mut options)?;
        options.finish()?;
        Ok(entropy)
    }

    #[test]
    fn entropy_devices_are_read_with_their_options() {
        assert_eq!(read(""), Ok(Entropy { source: None, limit: None }));
        let limit = Limit { bytes: 100, period: Duration::from_millis(20) };
        let expected = Entropy { source: Some("/dev/hwrng".into()), limit: Some(limit) };
        assert_eq!(read("source=/dev/hwrng&max_bytes=100&period_ms=20"), Ok(expected));
        for text in ["source=", "max_bytes=100", "max_bytes=0&period_ms=1", "x", "source=a&source=b"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
