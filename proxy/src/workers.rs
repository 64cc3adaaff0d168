//! The threads that carry connections.
//!
//! Purpose: one single-threaded runtime per thread, so that a connection stays on the core that took it and no
//! work is stolen; that costs the least CPU per request. Inputs: how many threads. Outputs: handles to spawn
//! on, one after the other. A task that panics ends alone: its runtime catches it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// How long a worker waits for blocking work that it started, once it was told to stop.
const BLOCKING_BOUND: Duration = Duration::from_secs(1);

/// Threads with a single-threaded runtime each.
pub struct Workers {
    handles: Box<[Handle]>,
    next: AtomicUsize,
    stop: watch::Sender<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// If the system gives no thread, or no event queue for its runtime.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut handles = Vec::new();
        let mut joins = Vec::new();
        for index in 0..threads.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let mut stopped = stopped.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                // An error means that the sender is gone, which is a stop as well.
                let _ = runtime.block_on(stopped.wait_for(|stop| *stop));
                runtime.shutdown_timeout(BLOCKING_BOUND);
            })?;
            joins.push(thread);
        }
        Ok(Self {
            handles: handles.into_boxed_slice(),
            next: AtomicUsize::new(0),
            stop,
            threads: Mutex::new(joins),
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// The runtime of worker `index`, counted round where it is too big.
    #[must_use]
    pub fn handle(&self, index: usize) -> &Handle {
        &self.handles[index % self.handles.len()]
    }

    /// The runtime whose turn it is.
    pub fn next(&self) -> &Handle {
        self.handle(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Stops: tasks are dropped where they wait, and every thread has ended when this returns. Blocks for as
    /// long as a task runs without waiting; must not be called on a worker.
    pub fn shut_down(&self) {
        self.stop.send_replace(true);
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                log::error!("a worker thread ended by a panic");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Whoever forgot to shut down still leaves no thread behind, but is not made to wait.
        self.stop.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    #[test]
    fn tasks_go_round_over_all_workers() {
        let workers = Workers::start(3).unwrap();
        assert_eq!(workers.count(), 3);
        let (sender, receiver) = mpsc::channel();
        for _ in 0..6 {
            let sender = sender.clone();
            workers.next().spawn(async move { sender.send(std::thread::current().id()).unwrap() });
        }
        let ids: Vec<_> = (0..6).map(|_| receiver.recv_timeout(BOUND).unwrap()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3);
        workers.shut_down();
    }

    #[test]
    fn zero_threads_become_one() {
        assert_eq!(Workers::start(0).unwrap().count(), 1);
    }

    #[test]
    fn a_panicking_task_leaves_its_worker_running() {
        let workers = Workers::start(1).unwrap();
        let (sender, receiver) = mpsc::channel();
        workers.handle(0).spawn(async { panic!("on purpose") });
        workers.handle(0).spawn(async move { sender.send(7).unwrap() });
        assert_eq!(receiver.recv_timeout(BOUND), Ok(7));
        workers.shut_down();
    }

    #[test]
    fn shutting_down_drops_waiting_tasks_and_ends_the_threads() {
        let workers = Workers::start(2).unwrap();
        let held = Arc::new(());
        for index in 0..2 {
            let held = Arc::clone(&held);
            workers.handle(index).spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        workers.shut_down();
        assert_eq!(Arc::strong_count(&held), 1);
        workers.shut_down();
    }
}
