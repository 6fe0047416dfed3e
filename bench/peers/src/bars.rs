//! The bars: what must hold beside which peer.

use crate::measure::{Measured, Result};
use virtio_kit_bench::stats::Spread;

/// What of a cell is compared.
#[derive(Clone, Copy)]
enum Of {
    /// Instructions of these parts: submit, device, reap. Those for the bench's own pool of buffers are taken off the
    /// driver's: the peers' rows use the same buffers again and again.
    Instructions([bool; 3]),
    /// A value that was timed.
    Time(&'static str),
}

/// How much it may be at most.
#[derive(Clone, Copy)]
enum Most {
    Number(f64),
    /// So many times the best peer's, in the same round.
    Times(f64),
}

/// One row of the table.
struct Bar {
    what: String,
    group: String,
    ours: String,
    peers: Vec<String>,
    of: Of,
    most: Most,
}

/// What came of a bar.
pub(crate) struct Verdict {
    pub(crate) what: String,
    /// Which of the project's cells.
    pub(crate) ours: String,
    pub(crate) unit: &'static str,
    /// Its figure, and its spread where it was timed.
    pub(crate) value: Spread,
    /// The best peer and its figure.
    pub(crate) peer: Option<(String, Spread)>,
    /// Ours over the peer's, round by round.
    pub(crate) ratio: Option<Spread>,
    /// The most that figure or ratio may be.
    pub(crate) bar: f64,
    /// What has to be at most the bar.
    pub(crate) reached: f64,
}

impl Verdict {
    pub(crate) fn holds(&self) -> bool {
        self.reached <= self.bar
    }

    /// Whether the bar is on the figure itself, not on the ratio.
    pub(crate) fn is_absolute(&self) -> bool {
        self.ratio.is_none() || self.reached == self.value.median
    }
}

const DRIVER: Of = Of::Instructions([true, false, true]);
const DEVICE: Of = Of::Instructions([false, true, false]);

fn all() -> Vec<Bar> {
    let mut all = Vec::new();
    let mut bar = |what: &str, group: &str, ours: &str, peers: &[&str], of: Of, most: Most| {
        all.push(Bar {
            what: what.into(),
            group: group.into(),
            ours: format!("virtio-kit {ours}"),
            peers: peers.iter().map(|&peer| peer.to_owned()).collect(),
            of,
            most,
        });
    };
    let layouts = ["split", "split in-order", "packed", "packed in-order"];
    let linux = |layout: &str| if layout.starts_with("packed") { "Linux packed" } else { "Linux split" };
    let drivers = [
        "virtio-driver split",
        "virtio-driver packed",
        "virtio-drivers split",
        "Linux split",
        "Linux packed",
    ];
    for layout in layouts {
        let what = "driver's end, 3 descriptors, batch 32: instructions";
        bar(what, "driver/32", layout, &drivers, DRIVER, Most::Number(130.0));
    }
    for layout in layouts {
        let what = "driver's end, 3 descriptors, batch 32: time";
        bar(what, "driver/32", layout, &[linux(layout)], Of::Time("driver"), Most::Times(1.0 / 1.5));
    }
    for layout in layouts {
        let what = "driver's end, 3 descriptors, one at a time: time with the same other end";
        bar(what, "driver/1", layout, &[linux(layout)], Of::Time("ns"), Most::Times(1.0));
    }
    let walk = ["virtio-queue walk"];
    for layout in layouts {
        let what = "device's end, take, walk, complete, 3 descriptors: instructions";
        bar(what, "device/walk", layout, &walk, DEVICE, Most::Number(130.0));
    }
    for layout in layouts {
        let what = "device's end, take, walk, complete, 3 descriptors: time";
        bar(what, "device/walk", layout, &walk, Of::Time("device"), Most::Times(1.0 / 5.0));
    }
    let blk = ["virtio-queue split"];
    for layout in layouts {
        let what = "device's end, parse a block request: instructions";
        bar(what, "device/blk", layout, &blk, DEVICE, Most::Number(250.0));
    }
    for layout in layouts {
        let what = "device's end, parse a block request: time";
        bar(what, "device/blk", layout, &blk, Of::Time("device"), Most::Times(1.0 / 6.0));
    }
    let blk = [
        "virtio-driver split",
        "virtio-driver packed",
        "virtio-drivers split",
        "virtio-drivers split, indirect",
    ];
    for layout in layouts {
        let what = "block driver, submit and reap a read, owned buffers: time";
        bar(what, "driver/blk", layout, &blk, Of::Time("driver"), Most::Times(1.0));
    }
    for layout in layouts {
        let what =
            "block driver, submit and reap a read: instructions (half, beside virtio-driver over vhost-user)";
        bar(what, "driver/blk", layout, &["virtio-driver split"], DRIVER, Most::Times(0.5));
    }
    let pair = ["virtio-driver + virtio-queue, split"];
    for (depth, bars) in [
        (64, [("split", 0.4), ("packed in-order", 0.3)]),
        (16, [("split", 0.4), ("packed in-order", 0.3)]),
        (1, [("split", 0.8), ("packed", 0.6)]),
    ] {
        for (layout, most) in bars {
            let what = format!("two cores, chains of 3, depth {depth}: time");
            bar(&what, &format!("pair/{depth}"), layout, &pair, Of::Time("ns"), Most::Times(most));
        }
    }
    for (layout, peer, most) in [
        ("packed in-order", "Linux ringtest ring", 0.8),
        ("packed", "Linux ringtest ring", 1.0),
        ("split", "Linux ringtest virtio_ring_0_9", 0.5),
        ("split in-order", "Linux ringtest virtio_ring_inorder", 0.5),
        ("packed in-order", "rtrb echo, chunks of 32", 4.0),
    ] {
        let what = "two cores, one buffer, batch 32, 128 under way: time";
        bar(what, "pair/buffer", layout, &[peer], Of::Time("ns"), Most::Times(most));
    }
    for (depth, poll, bars) in crate::end_to_end::BARS {
        for &(cell, peers, most) in *bars {
            let how = if *poll { "polled" } else { "blocking" };
            let what = format!("vhost-user-blk, null, {how}, depth {depth}: time of a read");
            let group = format!("vhost-user/{how}/{depth}");
            bar(&what, &group, cell, peers, Of::Time("ns"), Most::Times(most));
        }
        let how = if *poll { "polled" } else { "blocking" };
        let what = format!("vhost-user-blk, null, {how}, depth {depth}: processor time of a read, both ends");
        let group = format!("vhost-user/{how}/{depth}");
        let (all, cpu) = (crate::end_to_end::THEIRS, Of::Time("CPU, ns"));
        bar(&what, &group, "vkit, ours", all, cpu, Most::Times(1.0));
    }
    all
}

impl Of {
    fn unit(self) -> &'static str {
        match self {
            Self::Instructions(_) => "instructions",
            Self::Time(_) => "ns",
        }
    }

    fn spread(self, cell: &Result) -> Option<Spread> {
        match self {
            Self::Instructions(parts) => {
                let counts = cell.counts?;
                let all: f64 =
                    parts.iter().zip(counts).map(|(&wanted, count)| if wanted { count } else { 0.0 }).sum();
                let sum = if parts[0] { all - counts[3] } else { all };
                Some(Spread { median: sum, min: sum, max: sum })
            }
            Self::Time(name) => cell.spread(name),
        }
    }

    /// Ours over the peer's, in each round.
    fn ratio(self, ours: &Result, peer: &Result) -> Option<Spread> {
        match self {
            Self::Instructions(_) => {
                let ratio = self.spread(ours)?.median / self.spread(peer)?.median;
                Some(Spread { median: ratio, min: ratio, max: ratio })
            }
            Self::Time(name) => {
                let rounds = ours.rounds.len().min(peer.rounds.len());
                let of = |i| Some(ours.value(i, name)? / peer.value(i, name)?);
                let ratios: Vec<f64> = (0..rounds).filter_map(of).collect();
                if ratios.is_empty() { None } else { Some(Spread::of(ratios)) }
            }
        }
    }
}

/// What came of the bars for which everything was measured.
pub(crate) fn verdicts(measured: &[Measured]) -> Vec<Verdict> {
    let mut all: Vec<Verdict> = all().iter().filter_map(|bar| verdict(bar, measured)).collect();
    all.extend(flat(measured));
    all.extend(regions(measured));
    all
}

fn instructions(group: &Measured, name: &str) -> Option<f64> {
    let [submit, device, reap, _] = group.cells.iter().find(|cell| cell.name == name)?.counts?;
    Some(if name.starts_with("driver") { submit + reap } else { device })
}

/// A row about the project alone: `value` is to be at most `bar`.
fn alone(what: &str, ours: &str, value: f64, bar: f64) -> Verdict {
    let value = Spread { median: value, min: value, max: value };
    let (what, ours) = (what.to_owned(), ours.to_owned());
    Verdict { what, ours, unit: "ratio", value, peer: None, ratio: None, bar, reached: value.median }
}

/// Whether the cost of a request is the same in rings of all sizes.
fn flat(measured: &[Measured]) -> Vec<Verdict> {
    let Some(group) = measured.iter().find(|group| group.id == "scale/size") else { return Vec::new() };
    let mut ends: Vec<&str> =
        group.cells.iter().filter_map(|cell| Some(cell.name.rsplit_once(", ")?.0)).collect();
    ends.dedup();
    let verdict = |end: &&str| {
        let of_end =
            group.cells.iter().filter(|cell| cell.name.rsplit_once(", ").is_some_and(|(e, _)| e == *end));
        let all: Vec<f64> = of_end.filter_map(|cell| instructions(group, &cell.name)).collect();
        let (least, most) = (all.iter().copied().reduce(f64::min)?, all.iter().copied().reduce(f64::max)?);
        let what = "instructions of a request, ring sizes 8 to 32768: the most over the least";
        Some(alone(what, end, most / least, 1.1))
    };
    ends.iter().filter_map(verdict).collect()
}

/// Whether finding a buffer among many regions is logarithmic, and free in the region of the one before.
fn regions(measured: &[Measured]) -> Vec<Verdict> {
    let Some(group) = measured.iter().find(|group| group.id == "scale/regions") else { return Vec::new() };
    let of = |name: &str, count: u32| instructions(group, &format!("{name}, {count}"));
    let verdicts = || {
        let (one, all) = (of("same region", 1)?, of("same region", 4096)?);
        let (few, some, many) = (one, of("another region each", 64)?, of("another region each", 4096)?);
        Some(vec![
            alone("buffers in the region of the one before, 4096 regions over 1", "device", all / one, 1.01),
            // As many doublings in both.
            alone(
                "buffers in another region each: what 64 to 4096 regions add over what 1 to 64 do",
                "device",
                (many - some) / (some - few),
                1.0,
            ),
        ])
    };
    verdicts().unwrap_or_default()
}

fn verdict(bar: &Bar, measured: &[Measured]) -> Option<Verdict> {
    let group = measured.iter().find(|group| group.id == bar.group)?;
    let cell = |name: &String| group.cells.iter().find(|cell| cell.name == *name);
    let ours = cell(&bar.ours)?;
    let value = bar.of.spread(ours)?;
    let best = bar
        .peers
        .iter()
        .filter_map(cell)
        .filter_map(|peer| Some((peer, bar.of.spread(peer)?)))
        .min_by(|(_, a), (_, b)| a.median.total_cmp(&b.median));
    let ratio = best.as_ref().and_then(|(peer, _)| bar.of.ratio(ours, peer));
    let (most, reached) = match bar.most {
        Most::Number(most) => (most, value.median),
        Most::Times(most) => (most, ratio?.median),
    };
    Some(Verdict {
        what: bar.what.clone(),
        ours: bar.ours.trim_start_matches("virtio-kit ").to_owned(),
        unit: bar.of.unit(),
        value,
        peer: best.map(|(peer, spread)| (peer.name.clone(), spread)),
        ratio,
        bar: most,
        reached,
    })
}
