//! How much of the time somebody else had our cores.

use std::time::Instant;

/// Whose processor time counts as ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The calling thread's.
    Thread,
    /// This process's, all of its threads.
    Process,
    /// That of programs that this one has waited for.
    Children,
}

fn seconds(whose: Whose) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let clock = match whose {
        Whose::Thread => libc::CLOCK_THREAD_CPUTIME_ID,
        Whose::Process => libc::CLOCK_PROCESS_CPUTIME_ID,
        Whose::Children => return children(),
    };
    // SAFETY: fills the struct that it is given.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn children() -> f64 {
    // SAFETY: all zero is a value of this struct, which is filled.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Runs what keeps `cores` cores busy all the time; which share of that time it did not get.
pub fn lost<T>(whose: Whose, cores: f64, run: impl FnOnce() -> T) -> (T, f64) {
    let (began, before) = (Instant::now(), seconds(whose));
    let value = run();
    let (wall, own) = (began.elapsed().as_secs_f64(), seconds(whose) - before);
    (value, (1.0 - own / (wall * cores)).max(0.0))
}

/// Processor seconds of the calling thread.
pub fn thread_seconds() -> f64 {
    seconds(Whose::Thread)
}

/// Processor seconds of all threads of another process.
pub fn process_seconds(pid: u32) -> f64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    tasks.filter_map(of).sum::<f64>() / 1e9
}

/// Busy and stolen seconds of all processors since the machine was started.
fn machine() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: f64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&i| ticks.get(i)).sum();
    // SAFETY: no preconditions.
    busy / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// Runs something of this process and of `others`; how many cores' worth of time belonged to neither.
pub fn foreign<T>(others: &[u32], run: impl FnOnce() -> T) -> (T, f64) {
    let own = || seconds(Whose::Process) + others.iter().map(|&pid| process_seconds(pid)).sum::<f64>();
    let (began, all, mine) = (Instant::now(), machine(), own());
    let value = run();
    let foreign = (machine() - all) - (own() - mine);
    (value, foreign.max(0.0) / began.elapsed().as_secs_f64())
}
