//! `vkit blk read` and `vkit blk write`: between a device and a file, many requests at a time, in bounded
//! memory.

use super::pump::{Buffers, Pump};
use super::session::{Session, Want};
use super::sink::Sink;
use super::source::Source;
use crate::cli::{ReadArgs, WriteArgs};
use crate::failure::{Failure, Result};
use crate::output;
use crate::units::{rate, size, thousands};
use indicatif::ProgressBar;
use std::time::Instant;
use virtio_kit_drivers::blk::Kind;

pub(super) fn read(args: &ReadArgs) -> Result<()> {
    let target = &args.target;
    let mut session = Session::open(target, &Want::COPY)?;
    let length = session.range(target, args.offset, args.length)?;
    let mut sink = Sink::open(&args.output)?;
    let bar = output::progress(Some(length));
    bar.set_message(format!("reading {}", size(length)));
    let began = Instant::now();
    let copied = copy_out(&mut session, args.offset, length, &mut sink, &bar);
    bar.finish_and_clear();
    if let Err(why) = copied {
        return Err(sink.abandon(why.before(target)));
    }
    sink.complete()?;
    output::remark(&format!("read {} at {}", size(length), rate(length, began.elapsed())));
    Ok(())
}

fn copy_out(
    session: &mut Session,
    offset: u64,
    length: u64,
    sink: &mut Sink,
    bar: &ProgressBar,
) -> Result<()> {
    let (features, want) = (session.features, Want::COPY.within(&session.host));
    let mut pump = Pump::new(session.queue()?, &want, features)?;
    let most = pump.max_request() as u64;
    let mut scratch = vec![0; most as usize];
    // What came back before something that was asked for earlier, by number. A failure waits its turn too, so
    // that all before it arrives.
    let window = usize::from(Want::COPY.depth);
    let mut early: Vec<Option<Result<Buffers>>> = (0..window).map(|_| None).collect();
    let (mut asked, mut next, mut written) = (0u64, 0u64, 0);
    let count = length.div_ceil(most);
    let len_of = |number: u64| most.min(length - number * most);
    while next < count {
        while asked < count
            && asked < next + window as u64
            && let Some(mut buffers) = pump.buffers()
        {
            let len = len_of(asked);
            buffers.shape(len as usize, 1);
            pump.transfer(Kind::Read, offset + asked * most, len, asked, buffers)?;
            asked += 1;
        }
        pump.turn(|pump, done| {
            let place = done.tag as usize % window;
            early[place] = Some(done.ok());
            while let Some(buffers) = early[next as usize % window].take() {
                let buffers = buffers?;
                let piece = &mut scratch[..len_of(next) as usize];
                buffers.copy_to(piece);
                pump.give_back(buffers);
                sink.write(piece)?;
                next += 1;
                written += piece.len() as u64;
            }
            bar.set_position(written);
            Ok(())
        })?;
    }
    Ok(())
}

pub(super) fn write(args: &WriteArgs) -> Result<()> {
    let target = &args.target;
    let mut source = Source::open(&args.input)?;
    let expected = source.expect(args.length)?;
    let mut session = Session::open(target, &Want::COPY)?;
    session.writable(target)?;
    let room = session.range(target, args.offset, None)?;
    session.range(target, args.offset, expected)?;
    let bar = output::progress(expected);
    bar.set_message(expected.map_or("writing".into(), |length| format!("writing {}", size(length))));
    let began = Instant::now();
    let mut done = 0;
    let copied = copy_in(&mut session, args.offset, expected, room, &mut source, &bar, &mut done);
    bar.finish_and_clear();
    if let Err(why) = copied {
        let why = why.before(target);
        let what = format!("{} bytes were written, and perhaps more, and not flushed", thousands(done));
        return Err(if done == 0 { why } else { why.after(what) });
    }
    output::remark(&format!("wrote {} at {}", size(done), rate(done, began.elapsed())));
    Ok(())
}

fn copy_in(
    session: &mut Session,
    offset: u64,
    expected: Option<u64>,
    room: u64,
    source: &mut Source,
    bar: &ProgressBar,
    done: &mut u64,
) -> Result<()> {
    let (features, want) = (session.features, Want::COPY.within(&session.host));
    let mut pump = Pump::new(session.queue()?, &want, features)?;
    let most = pump.max_request() as u64;
    let mut scratch = vec![0; most as usize];
    let end = expected.unwrap_or(room);
    let (mut taken, mut ended) = (0, false);
    loop {
        while !ended && let Some(mut buffers) = pump.buffers() {
            let wanted = most.min(end - taken);
            let got = if wanted > 0 { source.fill(&mut scratch[..wanted as usize])? as u64 } else { 0 };
            ended = got < wanted || taken + got == end;
            if got < wanted
                && let Some(expected) = expected
            {
                return Err(source.short(taken + got, expected));
            }
            if got == 0 {
                if taken == 0 {
                    return Err(source.empty());
                }
                pump.give_back(buffers);
                break;
            }
            buffers.shape(got as usize, 1);
            buffers.fill(&scratch[..got as usize]);
            pump.transfer(Kind::Write, offset + taken, got, 0, buffers)?;
            taken += got;
        }
        if pump.in_flight() == 0 {
            break;
        }
        pump.turn(|pump, finished| {
            *done += finished.len;
            pump.give_back(finished.ok()?);
            bar.set_position(*done);
            Ok(())
        })?;
    }
    if expected.is_none() && source.fill(&mut scratch[..512])? > 0 {
        return Err(source.long(room));
    }
    pump.flush().map_err(|failure: Failure| failure.before("flush"))
}
