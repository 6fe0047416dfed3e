//! Commands on block devices.

pub(crate) mod pump;
pub(crate) mod session;

mod bench;
mod copy;
mod range;
mod sink;
mod source;

use crate::cli::BlkCommand;
use crate::failure::Result;

pub(crate) fn run(command: &BlkCommand) -> Result<()> {
    match command {
        BlkCommand::Read(args) => copy::read(args),
        BlkCommand::Write(args) => copy::write(args),
        BlkCommand::Flush(args) => range::flush(args),
        BlkCommand::Discard(args) => range::discard(args),
        BlkCommand::Zero(args) => range::zero(args),
        BlkCommand::Bench(args) => bench::run(args),
    }
}
