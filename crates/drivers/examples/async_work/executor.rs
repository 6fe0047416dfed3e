//! An executor for one thread: `core` and `alloc` only.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

/// Tasks that each end with a `T`.
pub(crate) struct Executor<T> {
    tasks: Vec<Task<T>>,
}

struct Task<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    woken: Arc<Woken>,
    waker: Waker,
}

/// Set by whoever wakes the task: an interrupt's handler, or another thread.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl<T> Executor<T> {
    pub(crate) fn new() -> Self {
        Self { tasks: Vec::new() }
    }

    pub(crate) fn spawn(&mut self, future: impl Future<Output = T> + 'static) {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        self.tasks.push(Task { future: Box::pin(future), woken, waker });
    }

    /// Runs all tasks to their ends, in whichever order these come. `idle` is called while none is woken.
    pub(crate) fn run(mut self, idle: impl Fn()) -> Vec<T> {
        let mut done = Vec::new();
        while !self.tasks.is_empty() {
            let mut worked = false;
            self.tasks.retain_mut(|task| {
                if !task.woken.0.swap(false, Ordering::Acquire) {
                    return true;
                }
                worked = true;
                match task.future.as_mut().poll(&mut Context::from_waker(&task.waker)) {
                    Poll::Ready(output) => {
                        done.push(output);
                        false
                    }
                    Poll::Pending => true,
                }
            });
            if !worked {
                idle();
            }
        }
        done
    }
}
