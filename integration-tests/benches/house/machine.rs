//! The machine: what a process has used of it, and what it is.

use std::{collections::HashMap, fs, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::process::Command;

/// The processor time that a process has used so far.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// Of each of its threads, to the nanosecond.
    threads: HashMap<String, Duration>,
    /// Of all threads it has ever had, in hundredths of a second.
    whole: Duration,
}

/// The kernel tells user and system time in these, each cut off.
const TICK: Duration = Duration::from_millis(10);

impl Cpu {
    /// What a process has used until now; nothing for one that is gone.
    pub fn of(pid: u32) -> Self {
        let mut threads = HashMap::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let nanos = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0);
            let name = thread.file_name().to_string_lossy().into_owned();
            threads.insert(name, Duration::from_nanos(nanos));
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        // utime and stime, the 14th and 15th of all fields, are the 12th and 13th after the name.
        let ticks: u32 = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
        Self { threads, whole: TICK * ticks }
    }

    /// What was used since an earlier reading. The threads' own count is exact, but lacks what a thread used that has
    /// ended; the other is coarse and lacks nothing.
    pub fn since(&self, before: &Self) -> Duration {
        let earlier = |name: &String| before.threads.get(name).copied().unwrap_or_default();
        let exact: Duration =
            self.threads.iter().map(|(name, used)| used.saturating_sub(earlier(name))).sum();
        let coarse = self.whole.saturating_sub(before.whole).saturating_sub(2 * TICK);
        exact.max(coarse)
    }
}

/// A process's memory in MB, that is, millions of bytes: now, and at most so far (VmRSS and VmHWM, proc(5)).
pub fn memory(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes: f64 =
            line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0.0);
        kilobytes * 1024.0 / 1e6
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// How much of the machine has been used so far, by anybody and by us.
#[derive(Clone, Copy, Debug)]
pub struct Busy {
    all: u64,
    busy: u64,
    ours: u64,
}

impl Busy {
    /// Until now. What our children have used counts as ours once they have ended.
    pub fn now() -> Self {
        let ticks = |text: &str, skip: usize, take: usize| -> Vec<u64> {
            let fields = text.split_whitespace().skip(skip).take(take);
            fields.filter_map(|field| field.parse().ok()).collect()
        };
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        // user, nice, system, idle, waiting for the disk, interrupts of two kinds, stolen by the host (proc(5)).
        let machine = ticks(stat.lines().next().unwrap_or_default(), 1, 8);
        let all: u64 = machine.iter().sum();
        let idle: u64 = machine.iter().skip(3).take(2).sum();
        let own = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ours = ticks(own.rsplit(')').next().unwrap_or_default(), 11, 4).iter().sum();
        Self { all, busy: all - idle, ours }
    }

    /// The share of the machine, in percent, that others have used since.
    pub fn others_since(self) -> f64 {
        let now = Self::now();
        let others = (now.busy - self.busy).saturating_sub(now.ours - self.ours);
        100.0 * others as f64 / (now.all - self.all).max(1) as f64
    }
}

/// Sends a process a signal by its name.
pub async fn signal(pid: u32, name: &str) {
    let mut command = Command::new("kill");
    command.args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null());
    let status = command.status().await.expect("`kill` runs");
    assert!(status.success(), "kill -{name}");
}

/// What it is measured on, and what is measured; `others` is the share of the machine that others used meanwhile.
pub fn described(synapse: &str, others: f64) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cores": cores,
        "processor": model.trim_matches([' ', '\t', ':']),
        "kernel": kernel.trim(),
        "parlour": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "synapse": synapse,
        "matrix-sdk-crypto": matrix_sdk_crypto::VERSION,
        "others_percent": others,
    })
}

/// The same in one line, for people.
pub fn in_a_line(machine: &Value) -> String {
    let text = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
    format!(
        "{} cores, {}, Linux {}; Parlour {} ({}), Synapse {}, matrix-sdk-crypto {}; others used {:.0} % of it",
        machine["cores"],
        text("processor"),
        text("kernel"),
        text("parlour"),
        text("build"),
        text("synapse"),
        text("matrix-sdk-crypto"),
        machine["others_percent"].as_f64().unwrap_or_default(),
    )
}
