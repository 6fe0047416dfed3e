//! Commands on network devices.

pub(crate) mod frames;
pub(crate) mod packet;
pub(crate) mod rounds;
pub(crate) mod session;

mod bench;
mod ping;

use crate::cli::NetCommand;
use crate::failure::Result;

pub(crate) fn run(command: &NetCommand) -> Result<()> {
    match command {
        NetCommand::Ping(args) => ping::run(args),
        NetCommand::Bench(args) => bench::run(args),
    }
}
