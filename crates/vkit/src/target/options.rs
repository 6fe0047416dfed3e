//! What follows the `?` of a target: `key=value`, joined by `&`.

use crate::units;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub(crate) type Result<T> = std::result::Result<T, String>;

/// Options that were given, and the names that were asked for: what is left over at the end has no meaning.
pub(crate) struct Options<'a> {
    given: Vec<(&'a str, Option<&'a str>)>,
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    /// Splits a text; no option may be there twice.
    pub(crate) fn new(text: &'a str) -> Result<Self> {
        let mut given: Vec<(&str, Option<&str>)> = Vec::new();
        for option in text.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (option, None),
            };
            if given.iter().any(|(other, _)| *other == key) {
                return Err(format!("`{key}` is given twice"));
            }
            given.push((key, value));
        }
        Ok(Self { given, known: Vec::new() })
    }

    /// The value of an option, empty if it has none; `None` if the option is not given.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        let at = self.given.iter().position(|(given, _)| *given == key)?;
        Some(self.given.remove(at).1.unwrap_or_default())
    }

    /// The value of an option, read by `parse`.
    pub(crate) fn value<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Result<Option<T>> {
        let Some(value) = self.text(key) else { return Ok(None) };
        parse(value).map(Some).map_err(|what| format!("`{key}={value}`: {what}"))
    }

    /// The name of a file.
    pub(crate) fn file(&mut self, key: &'static str) -> Result<Option<PathBuf>> {
        self.value(key, |value| if value.is_empty() { Err("name a file") } else { Ok(value.into()) })
    }

    /// A positive number of bytes that is whole sectors.
    pub(crate) fn sectors(&mut self, key: &'static str) -> Result<Option<u64>> {
        self.value(key, units::some_sectors)
    }

    /// A number between bounds.
    pub(crate) fn number(&mut self, key: &'static str, bounds: RangeInclusive<u32>) -> Result<Option<u32>> {
        self.value(key, |value| {
            let number = value.parse().ok().filter(|number| bounds.contains(number));
            number.ok_or_else(|| format!("write a number from {} to {}", bounds.start(), bounds.end()))
        })
    }

    /// `off` or `on`; off if it is not given.
    pub(crate) fn switch(&mut self, key: &'static str) -> Result<bool> {
        self.choice(key, ["off", "on"])
    }

    /// Whether it is the second of two words; the first if it is not given.
    pub(crate) fn choice(&mut self, key: &'static str, of: [&str; 2]) -> Result<bool> {
        let chosen = self.value(key, |value| match of.iter().position(|&word| word == value) {
            Some(at) => Ok(at == 1),
            None => Err(format!("write {} or {}", of[0], of[1])),
        })?;
        Ok(chosen.unwrap_or(false))
    }

    /// A word without a value; `on` and `off` are allowed too.
    pub(crate) fn flag(&mut self, key: &'static str) -> Result<bool> {
        let given = self.value(key, |value| match value {
            "" | "on" => Ok(true),
            "off" => Ok(false),
            _ => Err("write on or off, or nothing"),
        })?;
        Ok(given.unwrap_or(false))
    }

    /// Nothing may be left over.
    pub(crate) fn finish(self) -> Result<()> {
        let Some((key, _)) = self.given.first() else { return Ok(()) };
        let (last, others) = self.known.split_last().unwrap_or((&"none", &[]));
        let others = others.join(", ");
        Err(match others.as_str() {
            "" => format!("no option `{key}`: there is {last}"),
            _ => format!("no option `{key}`: there are {others} and {last}"),
        })
    }
}
