//! Command lines of the form `--name value`, where a value may be missing.

use std::fmt::Display;
use std::str::FromStr;

/// The program's arguments.
pub struct Args(Vec<String>);

impl Args {
    /// Those that the program was started with.
    pub fn parse() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// Whether `--name` is there.
    pub fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|a| a.strip_prefix("--") == Some(name))
    }

    /// What follows `--name`, if it is there and something other than an option follows.
    pub fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a.strip_prefix("--") == Some(name))?;
        self.0.get(at + 1).map(String::as_str).filter(|a| !a.starts_with("--"))
    }

    /// The value of `--name`, or `otherwise`.
    ///
    /// # Panics
    ///
    /// If the value cannot be parsed.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &str, otherwise: T) -> T {
        self.text(name)
            .map_or(otherwise, |text| text.parse().unwrap_or_else(|e| panic!("--{name} {text}: {e}")))
    }
}
