//! Processor time of the machine's programs, in nanoseconds from the scheduler. `/proc`'s ticks miss what runs
//! between two of them: a third of a busy pipeline was seen in nobody's ticks.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// Programs of the same name, such as the sessions of Postgres, count together.
pub(super) type ByProgram = BTreeMap<String, Duration>;

/// The processor time of every thread that runs, and of the machine.
pub(super) struct Sample {
    threads: HashMap<u32, (String, Duration)>,
    busy: Duration,
}

/// What was used between two samples.
pub(super) struct Used {
    pub(super) by_program: ByProgram,
    /// Of the whole machine, in ticks.
    pub(super) busy: Duration,
}

impl Sample {
    pub(super) fn take() -> anyhow::Result<Self> {
        let mut threads = HashMap::new();
        for process in fs::read_dir("/proc")
            .context("/proc: the bench needs Linux")?
            .flatten()
        {
            let is_process = process.file_name().to_string_lossy().parse::<u32>().is_ok();
            if is_process && let Some(program) = program(&process.path()) {
                threads.extend(threads_of(&process.path(), &program));
            }
        }
        Ok(Self {
            threads,
            busy: busy()?,
        })
    }

    /// What was used since, by threads that run still.
    pub(super) fn until_now(&self) -> anyhow::Result<Used> {
        let now = Self::take()?;
        let mut by_program = ByProgram::new();
        for (thread, (program, used)) in &now.threads {
            let before = self
                .threads
                .get(thread)
                .map_or(Duration::ZERO, |before| before.1);
            *by_program.entry(program.clone()).or_default() += used.saturating_sub(before);
        }
        Ok(Used {
            by_program,
            busy: now.busy.saturating_sub(self.busy),
        })
    }
}

/// The program's name; of ganesh with its subcommand. `None` for a process that is gone, and for the kernel's.
fn program(process: &Path) -> Option<String> {
    let command = fs::read(process.join("cmdline")).ok()?;
    let mut words = command
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy);
    let path = words.next().filter(|path| !path.is_empty())?;
    // Sessions of Postgres write `postgres: user database` over their command line.
    let name = path.split([' ', ':']).next().unwrap_or(&path);
    let name = name.rsplit('/').next().unwrap_or(name).to_owned();
    match words.next() {
        Some(subcommand) if name == "ganesh" => Some(format!("{name} {subcommand}")),
        _ => Some(name),
    }
}

fn threads_of(process: &Path, program: &str) -> Vec<(u32, (String, Duration))> {
    let tasks = fs::read_dir(process.join("task"))
        .into_iter()
        .flatten()
        .flatten();
    let used = |task: fs::DirEntry| {
        let id = task.file_name().to_string_lossy().parse().ok()?;
        // https://docs.kernel.org/scheduler/sched-stats.html: time on a processor comes first.
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos = stat.split(' ').next()?.parse().ok()?;
        Some((id, (program.to_owned(), Duration::from_nanos(nanos))))
    };
    tasks.filter_map(used).collect()
}

/// Of all processors: user, nice, system, and the time of interrupts (proc(5)).
fn busy() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|tick| tick.parse().ok())
        .collect();
    let busy: u64 = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|field| ticks.get(*field))
        .sum();
    Ok(Duration::from_secs(busy)
        / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_is_counted_as_this_programs() {
        let before = Sample::take().expect("there is /proc");
        let began = Instant::now();
        let mut sum = 0_u64;
        while began.elapsed() < Duration::from_millis(100) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let used = before.until_now().expect("there is /proc");
        let own = program(Path::new("/proc/self")).expect("it runs");
        assert!(used.by_program[&own] >= Duration::from_millis(10));
    }
}
