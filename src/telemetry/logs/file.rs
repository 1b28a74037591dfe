//! `app.log`: a copy of every line, written by a thread of its own, so that a disk that is full,
//! slow or gone costs lines and nothing else.
//!
//! The file is opened to append, so that truncating it in place (logrotate's `copytruncate`)
//! works; and it is opened anew when another file, or none, has its name, so that renaming it
//! works too, and no signal is needed.
//!
//! tracing-appender 0.2 has no such reopening. Its queue is bounded in lines, not in bytes; a
//! failed write is neither counted nor said, and tears a line; its wait at the end is fixed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::RateLimit;

const NAME: &str = "app.log";
/// Lines that wait for the disk; what comes on top is lost, and counted.
const WAITING_MAX_BYTES: usize = 1 << 20;
/// How often it is seen whether the file still has its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the process's end waits for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// How often a loss is reported.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Takes log lines. Cloning clones an `Arc`.
#[derive(Clone)]
pub(crate) struct LogFile(Arc<Backlog>, Sender<Order>);

#[derive(Default)]
struct Backlog {
    /// Bounds the channel.
    waiting_bytes: AtomicUsize,
    lost_lines: AtomicU64,
}

enum Order {
    Write(Vec<u8>),
    /// Acknowledges that all earlier lines were handled.
    Flush(SyncSender<()>),
}

impl LogFile {
    /// Opens `app.log` in `folder`; both are made when missing.
    ///
    /// # Errors
    /// When that cannot be done, or the thread cannot be started.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        let file = open(&path)?;
        let shared = Arc::new(Backlog::default());
        let (sender, orders) = channel();
        let writer = LogWriter {
            path,
            file: Ok(file),
            looked_at: Instant::now(),
            torn: false,
            failing: false,
            failures: RateLimit::new(1, REPORT_EVERY),
            recoveries: RateLimit::new(1, REPORT_EVERY),
            shared: shared.clone(),
        };
        std::thread::Builder::new()
            .name("log-file".to_owned())
            .spawn(move || writer.run(&orders))?;
        Ok(Self(shared, sender))
    }

    /// Waits for the lines so far to be written, a second at most, and no longer than
    /// `until`: blocking, for the end.
    pub(crate) fn flush(&self, until: Instant) {
        let (done, wait) = sync_channel(1);
        let left = until.saturating_duration_since(Instant::now());
        if self.1.send(Order::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(left.min(FLUSH_LIMIT));
        }
    }

    fn hand_in(&self, line: &[u8]) {
        let waiting = &self.0.waiting_bytes;
        let before = waiting.fetch_add(line.len(), Ordering::Relaxed);
        let fits = before + line.len() <= WAITING_MAX_BYTES;
        if !fits || self.1.send(Order::Write(line.to_vec())).is_err() {
            waiting.fetch_sub(line.len(), Ordering::Relaxed);
            self.0.lost_lines.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Takes one line in one piece, as the formatting layer writes it.
pub(crate) struct Line<'a>(&'a LogFile);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.hand_in(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LogWriter {
    path: PathBuf,
    /// Or why there is none.
    file: io::Result<File>,
    looked_at: Instant,
    /// The file ends in the middle of a line.
    torn: bool,
    /// The loss of lines was reported.
    failing: bool,
    failures: RateLimit,
    recoveries: RateLimit,
    shared: Arc<Backlog>,
}

impl LogWriter {
    fn run(mut self, orders: &Receiver<Order>) {
        for order in orders {
            match order {
                Order::Write(line) => {
                    self.write(&line);
                    let waiting = &self.shared.waiting_bytes;
                    waiting.fetch_sub(line.len(), Ordering::Relaxed);
                }
                // Whoever asked may have stopped waiting.
                Order::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        if self.looked_at.elapsed() >= LOOK_EVERY {
            self.look();
        }
        match self.append(line) {
            Ok(()) => self.say_what_was_lost(),
            Err(why) => {
                self.shared.lost_lines.fetch_add(1, Ordering::Relaxed);
                self.say_that_it_fails(&why);
            }
        }
    }

    /// Opens the file anew unless it still has its name.
    fn look(&mut self) {
        self.looked_at = Instant::now();
        let there = fs::metadata(&self.path);
        if let (Ok(file), Ok(there)) = (&self.file, there)
            && file
                .metadata()
                .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        {
            return;
        }
        self.file = open(&self.path);
        self.torn = false;
    }

    fn append(&mut self, line: &[u8]) -> Result<(), String> {
        let file = self.file.as_mut().map_err(|why| why.to_string())?;
        let mut write = || -> io::Result<()> {
            if self.torn {
                // The lost end of a line must not cost the next one too.
                file.write_all(b"\n")?;
                self.torn = false;
            }
            let mut rest = line;
            while !rest.is_empty() {
                match file.write(rest) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(bytes) => {
                        rest = &rest[bytes..];
                        self.torn = !rest.is_empty();
                    }
                    Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                    Err(why) => return Err(why),
                }
            }
            Ok(())
        };
        write().map_err(|why| why.to_string())
    }

    /// Reports a failure once, until the file works again. The line goes to standard error, as
    /// every line does.
    fn say_that_it_fails(&mut self, why: &str) {
        if !self.failing && self.failures.allow().is_some() {
            self.failing = true;
            tracing::error!(
                file = %self.path.display(),
                why,
                "log lines are lost: the log file cannot be written"
            );
        }
    }

    fn say_what_was_lost(&mut self) {
        let lost = &self.shared.lost_lines;
        if lost.load(Ordering::Relaxed) > 0 && self.recoveries.allow().is_some() {
            self.failing = false;
            let lines = lost.swap(0, Ordering::Relaxed);
            tracing::warn!(lines, "log lines did not reach the log file");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_holds_up_the_end_no_longer_than_it_may() {
        let (sender, _orders) = channel();
        let file = LogFile(Arc::default(), sender);
        let began = Instant::now();
        file.flush(began + Duration::from_millis(50));
        let took = began.elapsed();
        assert!((50..500).contains(&took.as_millis()), "{took:?}");
    }

    #[test]
    fn what_waits_is_bounded_and_the_rest_is_counted() {
        let (sender, orders) = channel();
        // The thread's side is here, and takes nothing yet.
        let file = LogFile(Arc::default(), sender);
        let line = [b'x'; 1_024];
        for _ in 0..2_000 {
            file.hand_in(&line);
        }
        let waiting = file.0.waiting_bytes.load(Ordering::Relaxed);
        let lost = file.0.lost_lines.load(Ordering::Relaxed);
        assert_eq!((waiting, lost), (WAITING_MAX_BYTES, 2_000 - 1_024));
        assert_eq!(orders.try_iter().count(), 1_024);
    }
}
