//! TARGET: which device, and how to get at it.
//!
//! A device type is one file here and one line of [`TYPES`]; a mechanism is one variant of [`Target`].

pub(crate) mod blk;
pub(crate) mod console;
mod host;
pub(crate) mod net;
mod options;
pub(crate) mod qtest;
pub(crate) mod rng;
mod vhost_user;
pub(crate) mod vsock;

pub(crate) use host::{Host, InProcess, Ring};

use crate::failure::{Failure, Result};
use options::Options;
use qtest::Qtest;
use serde_json::Value;
use std::fmt::{self, Debug, Display};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use virtio_kit::device::Device;
use virtio_kit::spec::features;
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{DeviceId, Features};

/// Every device type that there is here: each is one line.
pub(crate) const TYPES: &[Type] = &[blk::TYPE, net::TYPE, console::TYPE, rng::TYPE, vsock::TYPE];

/// A device type: what it is called, what it looks like, and how one is made in this process.
#[derive(Clone, Copy)]
pub(crate) struct Type {
    /// What users write.
    pub(crate) name: &'static str,
    pub(crate) id: DeviceId,
    /// In a sentence: `a block device`.
    pub(crate) a: &'static str,
    /// Lines of the help on targets.
    usage: &'static str,
    /// Reads what follows `?`, all but the options of [`Ring`] and what is left over.
    parse: fn(&mut Options<'_>) -> options::Result<Arc<dyn Recipe>>,
    /// What shows that a back-end which offers these features, with or without a configuration space, is not of
    /// this type. That it offers features of other types need not be said here.
    unlike: fn(Features, bool) -> Option<String>,
    /// Reads and decodes the configuration space.
    pub(crate) config: fn(&mut dyn Transport, Features) -> std::result::Result<Value, TransportError>,
}

impl Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A device that can be made: the options that were given. Displayed as these.
pub(crate) trait Recipe: Debug + Display + Send + Sync {
    /// Makes the device. What has to live beside it goes to `host`. An error names the file.
    fn build(&self, host: &mut Host) -> Result<Box<dyn Device>>;
}

/// Bits 0 to 23 belong to the device's type.
const OF_TYPE: Features = Features::from_low(0xff_ffff);

impl Type {
    /// The type of this name.
    pub(crate) fn named(name: &str) -> options::Result<&'static Self> {
        TYPES.iter().find(|t| t.name == name).ok_or_else(|| {
            let names: Vec<&str> = TYPES.iter().map(|t| t.name).collect();
            format!(
                "no device `{name}`: there {} {}",
                if names.len() == 1 { "is" } else { "are" },
                list(&names, "and")
            )
        })
    }

    /// The type of this number, if it is here.
    pub(crate) fn of(id: DeviceId) -> Option<&'static Self> {
        TYPES.iter().find(|t| t.id == id)
    }

    /// What shows that a back-end is not of this type. No message asks one for it, but types have features of
    /// their own.
    pub(crate) fn unlike(&self, offered: Features, has_config: bool) -> Option<String> {
        let own = (offered & OF_TYPE).numbers();
        let mut foreign = own.filter(|&bit| features::name(self.id, bit).is_none());
        if let Some(bit) = foreign.next() {
            let noun = self.a.split_once(' ').map_or(self.a, |(_, noun)| noun);
            return Some(format!("it offers feature {bit}, which no {noun} has"));
        }
        (self.unlike)(offered, has_config)
    }
}

/// `a, b and c`, or with another word.
pub(crate) fn list(names: &[&str], word: &str) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).into(),
        [others @ .., last] => format!("{} {word} {last}", others.join(", ")),
    }
}

/// The help on targets.
pub(crate) fn help() -> String {
    let mut text = String::from("TARGET is a device:\n");
    text += "  vhost-user:SOCKET            a device that another process serves on a Unix socket\n";
    for line in TYPES.iter().flat_map(|t| t.usage.lines()) {
        text += &format!("  {line}\n");
    }
    text += "  in-process:TYPE?...          all take layout=packed in_order=on\n";
    text += "                               threads=on (the device on threads of its own)\n";
    for line in qtest::USAGE.lines() {
        text += &format!("  {line}\n");
    }
    text += "\nSizes are in bytes, or with K, M, G or T in powers of 1024.";
    text
}

/// A device that this process can serve: `TYPE?options`.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) kind: &'static Type,
    pub(crate) recipe: Arc<dyn Recipe>,
}

impl Local {
    /// A device from its options, for use from within.
    pub(crate) fn new(id: DeviceId, recipe: impl Recipe + 'static) -> Self {
        // Each recipe is of a type in the table.
        let kind = Type::of(id).unwrap_or(&TYPES[0]);
        Self { kind, recipe: Arc::new(recipe) }
    }

    /// Reads `TYPE?options`; the options that are not the device's are read by `more`.
    pub(crate) fn parse<T>(
        text: &str,
        more: impl FnOnce(&mut Options<'_>) -> options::Result<T>,
    ) -> options::Result<(Self, T)> {
        let (name, rest) = text.split_once('?').unwrap_or((text, ""));
        let kind = Type::named(name)?;
        let mut options = Options::new(rest)?;
        let recipe = (kind.parse)(&mut options);
        let more = more(&mut options);
        // What is wrong with an option that exists says more than that another does not.
        let (recipe, more) = (recipe?, more?);
        options.finish()?;
        Ok((Self { kind, recipe }, more))
    }
}

impl Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.kind.name, self.recipe)
    }
}

impl Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.recipe.to_string();
        write!(f, "{}{}{options}", self.kind.name, if options.is_empty() { "" } else { "?" })
    }
}

/// A device as the user names it.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Served by another process on a Unix socket.
    VhostUser(PathBuf),
    /// In this process.
    InProcess(InProcess),
    /// A device of QEMU's, without a guest.
    Qtest(Qtest),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> options::Result<Self> {
        match text.split_once(':') {
            Some(("vhost-user", "")) => Err("no socket: write vhost-user:SOCKET".into()),
            Some(("vhost-user", socket)) => Ok(Self::VhostUser(socket.into())),
            Some(("in-process", rest)) => InProcess::parse(rest).map(Self::InProcess),
            Some(("qtest", rest)) => Qtest::parse(rest).map(Self::Qtest),
            _ => Err("not a device: write vhost-user:SOCKET, in-process:blk?image=FILE or \
                      qtest:virtio-blk-pci?file=FILE"
                .into()),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VhostUser(socket) => write!(f, "vhost-user:{}", socket.display()),
            Self::InProcess(device) => write!(f, "in-process:{}", device.local),
            Self::Qtest(device) => write!(f, "qtest:{device}"),
        }
    }
}

/// A way to a device.
pub(crate) struct Opened {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) host: Host,
    pub(crate) what: What,
}

/// What is known of the type of a device.
pub(crate) enum What {
    /// It is this.
    Is(DeviceId),
    /// Nobody says, and nothing shows it. Why.
    Unknown(String),
}

impl Target {
    /// Opens the way to a device of this type, with `memory` bytes that it can reach. An error names the file,
    /// the socket or the target.
    pub(crate) fn open(&self, wanted: DeviceId, memory: usize) -> Result<Opened> {
        let Some(kind) = Type::of(wanted) else { return Err(Failure::new("no such type of device")) };
        let opened = self.look(Some(kind), memory)?;
        let not = |why: &dyn Display| Failure::new(format_args!("{self}: not {}: {why}", kind.a));
        match &opened.what {
            What::Is(id) if *id == wanted => Ok(opened),
            What::Is(id) => Err(not(&match Type::of(*id) {
                Some(other) => format!("it is {}", other.a),
                None => format!("it is of type {id}"),
            })),
            What::Unknown(why) => Err(not(why)),
        }
    }

    /// Opens the way to a device of any type. One that nobody can ask is taken for an `assumed` one, if nothing
    /// shows that it is not.
    pub(crate) fn look(&self, assumed: Option<&'static Type>, memory: usize) -> Result<Opened> {
        match self {
            Self::VhostUser(socket) => vhost_user::open(socket, assumed, memory),
            Self::InProcess(device) => device.open(memory),
            Self::Qtest(device) => device.open(memory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> options::Result<Target> {
        text.parse()
    }

    #[test]
    fn targets_are_read_with_their_options() {
        assert!(matches!(parse("vhost-user:/a/b.sock"), Ok(Target::VhostUser(p)) if p.ends_with("b.sock")));
        let target = parse("in-process:blk?size=1G&layout=packed&in_order=on&threads=on").unwrap();
        assert_eq!(target.to_string(), "in-process:blk?size=1073741824");
        let Target::InProcess(device) = target else { unreachable!() };
        assert_eq!((device.ring, device.threads), (Ring { packed: true, in_order: true }, true));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "vhost-user:",
            "in-process:",
            "in-process:blk",
            "in-process:teapot?size=1G",
            "in-process:blk?image=",
            "in-process:blk?image=x&size=1G",
            "in-process:blk?size=100",
            "in-process:blk?size=1G&size=2G",
            "in-process:blk?size=1G&queues=0",
            "in-process:blk?size=1G&queues=x",
            "in-process:blk?size=1G&layout=other",
            "in-process:blk?size=1G&in_order=maybe",
            "in-process:blk?size=1G&colour=red",
            "in-process:blk?size=1G&read_only=on",
            "qtest:",
            "qtest:blk",
            "/dev/vda",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(list(&["a", "b", "c"], "or"), "a, b or c");
        let known = "image, size, null, queues, read_only, direct, layout, in_order and threads";
        assert_eq!(parse("in-process:blk?null&x").unwrap_err(), format!("no option `x`: there are {known}"));
    }
}
