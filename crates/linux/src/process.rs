//! Child processes that end with this one, whatever ends it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

struct Job {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

/// Starts a child that the kernel kills when this process ends, even by SIGKILL. It is no more than that:
/// whoever starts it should still end it and wait for it.
pub fn spawn_tied(command: Command) -> io::Result<Child> {
    // The kernel watches the thread that forks and not its process, so one thread does it for all, and stays.
    static SPAWNER: OnceLock<Result<Mutex<Sender<Job>>, io::ErrorKind>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, todo) = channel();
        let thread = thread::Builder::new().name("spawner".into()).spawn(move || spawn_all(&todo));
        thread.map(|_| Mutex::new(jobs)).map_err(|error| error.kind())
    });
    let jobs = match spawner {
        Ok(jobs) => jobs.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        Err(kind) => return Err((*kind).into()),
    };
    let (reply, done) = channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    jobs.send(Job { command, reply }).map_err(|_| gone())?;
    done.recv().map_err(|_| gone())?
}

fn spawn_all(todo: &Receiver<Job>) {
    while let Ok(Job { mut command, reply }) = todo.recv() {
        let parent = getpid();
        // SAFETY: only system calls between fork and exec; nothing is allocated or locked.
        unsafe { command.pre_exec(move || end_with(parent)) };
        // If nobody waits for it any more, then nobody will end it either.
        if let Err(lost) = reply.send(command.spawn())
            && let Ok(mut child) = lost.0
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// In the child: asks to be killed when the parent ends, which may have happened already.
fn end_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_outlive_the_thread_that_asked_for_them() {
        let start = || spawn_tied(Command::new("cat"));
        let mut command = Command::new("cat");
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut child = thread::spawn(move || spawn_tied(command).unwrap()).join().unwrap();
        // Another one by the same thread, which would be gone had it been the asking one.
        let mut other = start().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        let _ = other.kill();
        other.wait().unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let child = spawn_tied(Command::new("/nowhere/program"));
        assert_eq!(child.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
