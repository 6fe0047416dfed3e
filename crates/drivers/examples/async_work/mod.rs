//! What the two examples do with the four drivers: futures that know of no runtime, and no operating system.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::error::Error;
use embedded_io_async::{Read, Write};
use virtio_kit::DmaBuf;
use virtio_kit_drivers::blk::BlkQueue;
use virtio_kit_drivers::console::{Console, Event};
use virtio_kit_drivers::net::{Offload, Pair};
use virtio_kit_drivers::rng::Rng;

/// How many bytes went there and came back right.
pub(crate) type Outcome = Result<usize, Box<dyn Error + Send + Sync>>;

/// What is written, sent and said.
fn content(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + number * 31) as u8).collect()
}

/// Writes 64 pieces of a block device, all of them in flight at once, and reads them again.
pub(crate) async fn blk(mut queue: BlkQueue<Vec<DmaBuf>, usize>) -> Outcome {
    const PIECES: usize = 64;
    for number in 0..PIECES {
        let mut buffer = queue.arena().alloc(4096)?;
        buffer.write(0, &content(number, 4096)).map_err(|_| "a buffer is too short")?;
        queue.write(8 * number as u64, vec![buffer], number)?;
    }
    queue.kick()?;
    // They come in any order; what was written is read into the same buffer.
    let mut back = 0;
    for _ in 0..PIECES {
        let done = queue.completed().await?;
        done.result?;
        let data = done.data.ok_or("a buffer is lost")?;
        queue.read(8 * done.token as u64, data, done.token)?;
        queue.kick()?;
    }
    for _ in 0..PIECES {
        let done = queue.completed().await?;
        done.result?;
        let mut bytes = vec![0; 4096];
        let data = done.data.ok_or("a buffer is lost")?;
        data[0].read(0, &mut bytes).map_err(|_| "a buffer is too short")?;
        if bytes != content(done.token, 4096) {
            return Err("what was read is not what was written".into());
        }
        back += bytes.len();
    }
    Ok(back)
}

/// Sends frames, which the other end of the wire sends back.
pub(crate) async fn net(mut pair: Pair) -> Outcome {
    let mut back = 0;
    for round in 0..50 {
        let frames: Vec<Vec<u8>> = (0..16).map(|number| frame(round * 16 + number)).collect();
        for frame in &frames {
            pair.tx.send_copy(frame, &Offload::default())?;
        }
        pair.tx.kick()?;
        for frame in &frames {
            let received = pair.rx.received().await?;
            let mut bytes = vec![0; received.frame.len()];
            received.frame.copy_to(&mut bytes);
            if bytes != *frame {
                return Err("a frame is not the one that was sent".into());
            }
            back += bytes.len();
            pair.rx.recycle(received.frame);
        }
    }
    Ok(back)
}

fn frame(number: usize) -> Vec<u8> {
    let mut bytes = content(number, 60 + number % 1400);
    // To everybody, from nobody in particular, of a type that is free for trials.
    bytes[..14].copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    bytes
}

/// Speaks to the port called `echo`, which says everything back.
pub(crate) async fn console(mut console: Console) -> Outcome {
    let port = loop {
        // The name comes after the port: each event is a reason to look.
        if let Some(id) = console.named("echo") {
            break console.port(id)?;
        }
        match console.next().await? {
            Event::Removed(_) => return Err("a port went away".into()),
            _ => continue,
        }
    };
    port.open()?;
    while !port.is_connected() {
        console.next().await?;
    }
    let (mut reader, mut writer) = port.split();
    let mut back = 0;
    for number in 0..50 {
        let said = content(number, 1 + 20 * number);
        writer.write_all(&said).await?;
        writer.flush().await?;
        let mut heard = vec![0; said.len()];
        reader.read_exact(&mut heard).await.map_err(|_| "the port was closed")?;
        if heard != said {
            return Err("the echo is another".into());
        }
        back += heard.len();
    }
    Ok(back)
}

/// Reads random bytes, no two pieces alike.
pub(crate) async fn rng(mut rng: Rng) -> Outcome {
    let (mut last, mut got) = ([0; 64], 0);
    for _ in 0..100 {
        let mut piece = [0; 64];
        rng.fill(&mut piece).await?;
        if piece == last {
            return Err("twice the same".into());
        }
        (last, got) = (piece, got + piece.len());
    }
    Ok(got)
}
