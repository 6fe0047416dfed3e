//! Images that qemu-img makes, served, and judged by qemu-img afterwards.

mod common;

use common::{Folder, LIMIT, Server, run};
use std::ops::Range;
use std::process::{Command, Output};
use std::time::Instant;
use virtio_kit::driver::Found;
use virtio_kit::{DeviceId, DmaBuf};
use virtio_kit_drivers::blk::{self, BlkQueue};
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};

const LEN: usize = 24 << 20;
const SECTOR: usize = 512;

type Queue = BlkQueue<Vec<DmaBuf>, u64>;

fn qemu_img(args: &[&str]) -> Output {
    let ran = Command::new("qemu-img").args(args).output();
    ran.expect("qemu-img is needed: ci/install-qemu.sh installs it")
}

#[track_caller]
fn good(args: &[&str]) {
    let ran = qemu_img(args);
    let said = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&said));
}

/// A small generator, so that runs can be repeated.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What is done to a range of sectors.
#[derive(Clone, Copy)]
enum Step {
    Write(u8),
    Read,
    Zero { unmap: bool },
    Discard,
}

fn buffers(queue: &Queue, mut bytes: usize, fill: u8) -> Vec<DmaBuf> {
    let mut data = Vec::new();
    while bytes > 0 {
        let len = bytes.min(256 << 10);
        let mut buffer = queue.arena().alloc(len).unwrap();
        buffer.fill(fill);
        data.push(buffer);
        bytes -= len;
    }
    data
}

/// Does some things at once, in ranges that do not overlap: what was read, for those that read.
fn perform(queue: &mut Queue, steps: &[(Range<u64>, Step)]) -> Vec<Vec<u8>> {
    for (token, (range, step)) in (0..).zip(steps) {
        let (first, count) = (range.start, (range.end - range.start) as u32);
        let bytes = count as usize * SECTOR;
        let begun = match *step {
            Step::Write(value) => {
                let data = buffers(queue, bytes, value);
                queue.write(first, data, token)
            }
            Step::Read => {
                let data = buffers(queue, bytes, 0xee);
                queue.read(first, data, token)
            }
            Step::Zero { unmap } => queue.write_zeroes(first, count, unmap, token),
            Step::Discard => queue.discard(first, count, token),
        };
        begun.unwrap();
    }
    queue.kick().unwrap();
    let mut found = vec![Vec::new(); steps.len()];
    let (mut left, deadline) = (steps.len(), Instant::now() + LIMIT);
    while left > 0 {
        let Some(done) = queue.complete().unwrap() else {
            assert!(Instant::now() < deadline, "{left} requests never completed");
            queue.wait(LIMIT).unwrap();
            continue;
        };
        assert_eq!(done.result, Ok(()), "{:?}", steps[done.token as usize].0);
        if matches!(steps[done.token as usize].1, Step::Read) {
            for buffer in done.data.unwrap() {
                let mut bytes = vec![0; buffer.len()];
                buffer.read(0, &mut bytes).unwrap();
                found[done.token as usize].extend(bytes);
            }
        }
        left -= 1;
    }
    found
}

fn bytes_of(range: &Range<u64>) -> Range<usize> {
    range.start as usize * SECTOR..range.end as usize * SECTOR
}

/// Does many things, and keeps `model` as the disk is to be.
fn exercise(queue: &mut Queue, rng: &mut Rng, model: &mut [u8], rounds: u64) {
    let sectors = (LEN / SECTOR) as u64;
    for round in 0..rounds {
        let mut steps: Vec<(Range<u64>, Step)> = Vec::new();
        for _ in 0..12 {
            // Some within a cluster, some over many; some the same ones again.
            let count = [1, 7, 128, 300, 2000][rng.below(5) as usize];
            let first = rng.below(sectors - count);
            let range = first..first + count;
            if steps.iter().any(|(other, _)| other.start < range.end && range.start < other.end) {
                continue;
            }
            let step = match rng.below(8) {
                0..4 => Step::Write((round * 12 + steps.len() as u64) as u8 | 1),
                4..6 => Step::Read,
                6 => Step::Zero { unmap: rng.below(2) == 0 },
                _ => Step::Discard,
            };
            steps.push((range, step));
        }
        let found = perform(queue, &steps);
        for ((range, step), found) in steps.iter().zip(found) {
            let model = &mut model[bytes_of(range)];
            match step {
                Step::Write(value) => model.fill(*value),
                Step::Zero { .. } => model.fill(0),
                Step::Read => assert!(found == model, "sectors {range:?}"),
                // What it reads as is up to the image; but that it stays.
                Step::Discard => {
                    model.copy_from_slice(&perform(queue, &[(range.clone(), Step::Read)])[0]);
                }
            }
        }
    }
    queue.flush(0).unwrap();
    queue.kick().unwrap();
    while queue.complete().unwrap().is_none() {
        queue.wait(LIMIT).unwrap();
    }
}

fn serve_and_compare(create: &[&str], backing: bool, direct: bool) {
    let folder = Folder::new();
    let (image, raw, socket) = (folder.at("disk.qcow2"), folder.at("model"), folder.at("s"));
    let mut model = vec![0; LEN];
    let len = LEN.to_string();
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    args.extend(create);
    if backing {
        // Shorter than the image, and named as it is from there.
        let base = folder.file("base", LEN / 2);
        model[..LEN / 2].copy_from_slice(&std::fs::read(base).unwrap());
        args.extend(["-b", "base", "-F", "raw"]);
    }
    args.extend([image.as_str(), len.as_str()]);
    good(&args);
    let mut rng = Rng(0x9c03_77aa);
    // The second server finds what the first has left.
    for _ in 0..2 {
        let mut args = vec!["blk", "--socket", &socket, "--image", &image, "--format", "qcow2", "--discard"];
        if direct {
            args.push("--direct");
        }
        let server = Server::start(&args);
        assert_eq!(run(&format!("info vhost-user:{socket} --json")).ok().json()["config"]["bytes"], LEN);
        let options = Options { arena_len: 64 << 20, timeout: LIMIT, ..Options::new(DeviceId::BLOCK) };
        let front = FrontEnd::connect(&socket, options).unwrap();
        let (mut blk, device) = blk::open(Found::new(Box::new(front)), &blk::Options::default()).unwrap();
        exercise(&mut blk.queues[0], &mut rng, &mut model, 60);
        // Others are kept away while it is used.
        let busy = qemu_img(&["check", "-q", &image]);
        let said = String::from_utf8_lossy(&busy.stderr).into_owned();
        assert!(!busy.status.success() && said.contains("lock"), "{said}");
        drop((blk, device));
        server.end();
        good(&["check", "-q", &image]);
        std::fs::write(&raw, &model).unwrap();
        good(&["compare", "-q", "-f", "qcow2", "-F", "raw", &image, &raw]);
    }
}

#[test]
fn an_image_is_as_it_was_written() {
    serve_and_compare(&[], false, false);
}

#[test]
fn an_image_of_small_clusters_is_as_it_was_written_past_the_page_cache() {
    serve_and_compare(&["-o", "cluster_size=4096"], false, true);
}

#[test]
fn an_image_of_the_older_version_is_as_it_was_written() {
    serve_and_compare(&["-o", "compat=0.10"], false, false);
}

#[test]
fn an_image_over_another_is_as_it_was_written() {
    serve_and_compare(&[], true, false);
}

#[test]
fn an_image_that_may_not_be_written_is_read() {
    let folder = Folder::new();
    let (raw, image, socket) = (folder.file("raw", LEN), folder.at("disk.qcow2"), folder.at("s"));
    // Compressed, too.
    good(&["convert", "-q", "-c", "-f", "raw", "-O", "qcow2", &raw, &image]);
    let before = std::fs::read(&image).unwrap();
    let server =
        Server::start(&["blk", "--socket", &socket, "--image", &image, "--format", "qcow2", "--read-only"]);
    let read = run(&format!("blk read vhost-user:{socket}")).ok();
    assert!(read.stdout == common::pattern(LEN));
    assert_eq!(run(&format!("blk zero vhost-user:{socket}")).code(), Some(1));
    server.end();
    assert!(std::fs::read(&image).unwrap() == before);
}

#[test]
fn what_is_no_image_is_one_line() {
    let folder = Folder::new();
    let (raw, socket, none) = (folder.file("raw", 1 << 20), folder.at("s"), folder.at("none"));
    for path in [&raw, &none] {
        let ran = run(&format!("serve blk --socket {socket} --image {path} --format qcow2"));
        assert_eq!((ran.code(), ran.stderr.lines().count()), (Some(1), 1), "{ran:?}");
        assert!(ran.stderr.starts_with(&format!("vkit: {path}: no ")), "{ran:?}");
    }
}
