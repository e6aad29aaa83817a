//! One worker a key: what concerns one conversation is done in order; different ones side by side.

use std::{
    collections::HashMap, future::Future, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{Mutex, Notify},
    task::JoinSet,
};

/// When a worker is to look again without being woken.
pub enum Again {
    /// Only when it is woken.
    WhenWoken,
    /// After this time at the latest.
    After(Duration),
}

impl Again {
    /// This, or after this time if that is sooner.
    pub fn or_after(self, limit: Duration) -> Self {
        match self {
            Self::After(sooner) if sooner < limit => Self::After(sooner),
            Self::After(_) | Self::WhenWoken => Self::After(limit),
        }
    }
}

const AFTER_A_PANIC: Duration = Duration::from_secs(5);
/// After so long without anything to do a worker goes; the next wake makes another.
const IDLE: Duration = Duration::from_secs(60);

/// Workers by key. Dropping it ends them all.
pub struct Keyed<K> {
    workers: Arc<Mutex<Workers<K>>>,
    idle: Duration,
}

struct Workers<K> {
    woken: HashMap<K, Arc<Notify>>,
    tasks: JoinSet<()>,
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Keyed<K> {
    /// None yet.
    pub fn new() -> Self {
        Self::with_idle(IDLE)
    }

    fn with_idle(idle: Duration) -> Self {
        let workers = Workers { woken: HashMap::new(), tasks: JoinSet::new() };
        Self { workers: Arc::new(Mutex::new(workers)), idle }
    }

    /// Has the worker of this key look, now or as soon as it is done with what it does. `work` is what a new
    /// worker does each time it looks.
    pub async fn wake<W, F>(&self, key: &K, work: W)
    where
        W: Fn(K) -> F + Send + 'static,
        F: Future<Output = Again> + Send,
    {
        let mut workers = self.workers.lock().await;
        if let Some(worker) = workers.woken.get(key) {
            worker.notify_one();
            return;
        }
        // Those that have gone.
        while workers.tasks.try_join_next().is_some() {}
        let woken = Arc::new(Notify::new());
        woken.notify_one();
        workers.woken.insert(key.clone(), Arc::clone(&woken));
        let (key, all, idle) = (key.clone(), Arc::clone(&self.workers), self.idle);
        workers.tasks.spawn(async move {
            let mut again = Again::WhenWoken;
            loop {
                match again {
                    Again::WhenWoken => {
                        if tokio::time::timeout(idle, woken.notified()).await.is_err() {
                            // Whoever wakes it meanwhile waits until it is gone, or has done so before.
                            let mut workers = all.lock().await;
                            if woken.notified().now_or_never().is_none() {
                                workers.woken.remove(&key);
                                return;
                            }
                        }
                    }
                    Again::After(limit) => drop(tokio::time::timeout(limit, woken.notified()).await),
                }
                // A panic in one look must not end all later ones: nobody else would ever handle this key.
                again = match AssertUnwindSafe(work(key.clone())).catch_unwind().await {
                    Ok(again) => again,
                    Err(_) => Again::After(AFTER_A_PANIC),
                };
            }
        });
    }

    /// Ends all workers and waits until they have.
    pub async fn stop(&self) {
        let mut workers = self.workers.lock().await;
        workers.woken.clear();
        workers.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_a_key_and_a_wake_is_never_lost() {
        let keyed = Keyed::new();
        let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (done, mut looks) = mpsc::unbounded_channel();
        for _ in 0..50 {
            let (busy, most, done) = (Arc::clone(&busy), Arc::clone(&most), done.clone());
            let work = move |key: &'static str| {
                let (busy, most, done) = (Arc::clone(&busy), Arc::clone(&most), done.clone());
                async move {
                    most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    busy.fetch_sub(1, Ordering::SeqCst);
                    let _ = done.send(key);
                    Again::WhenWoken
                }
            };
            keyed.wake(&"one", work).await;
            looks.recv().await.expect("the worker looks after every wake");
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
        keyed.stop().await;
    }

    #[tokio::test]
    async fn a_worker_with_nothing_to_do_goes_and_comes_back() {
        let keyed = Keyed::with_idle(Duration::from_millis(1));
        let (done, mut looks) = mpsc::unbounded_channel();
        for _ in 0..3 {
            let done = done.clone();
            let work = move |(): ()| {
                let done = done.clone();
                async move {
                    let _ = done.send(());
                    Again::WhenWoken
                }
            };
            keyed.wake(&(), work).await;
            looks.recv().await.expect("it looks");
            while !keyed.workers.lock().await.woken.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        keyed.stop().await;
    }

    #[tokio::test]
    async fn it_looks_again_by_itself_when_asked() {
        let keyed = Keyed::new();
        let (done, mut looks) = mpsc::unbounded_channel();
        let work = move |(): ()| {
            let done = done.clone();
            async move {
                let _ = done.send(());
                Again::After(Duration::from_millis(1))
            }
        };
        keyed.wake(&(), work).await;
        for _ in 0..3 {
            looks.recv().await.expect("it looks again");
        }
        keyed.stop().await;
    }
}
