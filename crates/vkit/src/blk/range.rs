//! `vkit blk flush`, `discard` and `zero`: requests without data.

use super::pump::Pump;
use super::session::{Session, Want};
use crate::cli::{FlushArgs, RangeArgs};
use crate::failure::{Failure, Result};
use crate::output;
use crate::units::{SECTOR, size};
use virtio_kit_drivers::blk::Kind;

pub(super) fn flush(args: &FlushArgs) -> Result<()> {
    let target = &args.target;
    let mut session = Session::open(target, &Want::NO_DATA)?;
    if !session.info.flush {
        output::remark("the device has no volatile cache: there is nothing to flush");
        return Ok(());
    }
    let (features, want) = (session.features, Want::NO_DATA.within(&session.host));
    let mut pump = Pump::without_data(session.queue()?, &want, features);
    pump.flush().map_err(|failure| failure.before(target))?;
    output::remark("flushed");
    Ok(())
}

pub(super) fn discard(args: &RangeArgs) -> Result<()> {
    all(args, Kind::Discard, "discarded")
}

pub(super) fn zero(args: &RangeArgs) -> Result<()> {
    all(args, Kind::WriteZeroes, "zeroed")
}

/// A range in as many requests as the device's limits ask for.
fn all(args: &RangeArgs, kind: Kind, past: &str) -> Result<()> {
    let target = &args.target;
    let mut session = Session::open(target, &Want::NO_DATA)?;
    session.writable(target)?;
    let limits = if kind == Kind::Discard { session.info.discard } else { session.info.write_zeroes };
    let Some(limits) = limits else {
        let what = if kind == Kind::Discard { "discard" } else { "write zeroes" };
        return Err(Failure::new(format_args!("{target}: the device does not offer to {what}")));
    };
    let length = session.range(target, args.offset, args.length)?;
    let aligned = limits.max_sectors / limits.alignment.max(1) * limits.alignment;
    let most = u64::from(if aligned > 0 { aligned } else { limits.max_sectors }) * SECTOR;
    let bar = output::progress(Some(length));
    let (features, want) = (session.features, Want::NO_DATA.within(&session.host));
    let mut pump = Pump::without_data(session.queue()?, &want, features);
    let (mut asked, mut done) = (0, 0);
    let worked = (|| {
        while done < length {
            while asked < length && pump.has_room() {
                let len = most.min(length - asked);
                pump.without_transfer(kind, args.offset + asked, len)?;
                asked += len;
            }
            pump.turn(|_, finished| {
                done += finished.len;
                bar.set_position(done);
                finished.ok().map(|_| ())
            })?;
        }
        pump.flush()
    })();
    bar.finish_and_clear();
    worked.map_err(|failure: Failure| failure.before(target))?;
    output::remark(&format!("{past} {}", size(length)));
    Ok(())
}
