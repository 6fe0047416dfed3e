//! A line of the kernel's on a device: `KIND NAME: LAYOUT key=value key=value`.

use crate::Error;
use crate::run::Device;
use std::time::Duration;

/// What the kernel said of one device.
pub(crate) struct Line<'a> {
    kind: &'static str,
    name: &'static str,
    text: &'a str,
}

impl<'a> Line<'a> {
    /// The line of a device in all that was said.
    pub(crate) fn find(said: &'a str, kind: &'static str, name: &'static str) -> Result<Self, Error> {
        let prefix = format!("{kind} {name}: ");
        let text = said.lines().find_map(|line| line.trim_end().strip_prefix(&prefix));
        let text = text.ok_or_else(|| Error::Silent(name, said.into()))?;
        Ok(Self { kind, name, text })
    }

    pub(crate) fn wrong(&self, what: &str) -> Error {
        Error::Wrong { device: self.name, what: format!("{what}: {}", self.text) }
    }

    pub(crate) fn expect_layout(&self, layout: &str) -> Result<(), Error> {
        match self.text.split_whitespace().next() {
            Some(found) if found == layout => Ok(()),
            _ => Err(self.wrong("another layout was negotiated")),
        }
    }

    pub(crate) fn value(&self, key: &str) -> Result<&'a str, Error> {
        let mut words = self.text.split_whitespace();
        let found = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        found.ok_or_else(|| self.wrong(&format!("the kernel does not say `{key}`")))
    }

    pub(crate) fn number(&self, key: &str) -> Result<u64, Error> {
        self.value(key)?.parse().map_err(|_| self.wrong(&format!("`{key}` is no number")))
    }

    /// What is the same for all devices.
    pub(crate) fn device(&self, bytes: u64) -> Result<Device, Error> {
        let (interrupts, polled) = (self.number("interrupts")?, self.number("polled")?);
        if interrupts == 0 {
            return Err(self.wrong("not a single interrupt came"));
        }
        // For each queue one that was on its way when polling began, and one that had been asked for before.
        if polled > 2 * self.number("queues")? {
            return Err(self.wrong("polling was interrupted"));
        }
        let bits = self.value("features")?.strip_prefix("0x").map(|hex| u128::from_str_radix(hex, 16));
        let Some(Ok(features)) = bits else { return Err(self.wrong("`features` are no bits")) };
        Ok(Device {
            kind: self.kind,
            name: self.name,
            features,
            cpus: self.number("cpus")?.min(255) as u8,
            requests: self.number("requests")?,
            interrupts,
            bytes,
            time: Duration::from_micros(self.number("us")?),
        })
    }
}
