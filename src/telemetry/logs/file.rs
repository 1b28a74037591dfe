//! `app.log`: a copy of every line, written by a thread of its own, so that a disk that is full,
//! slow or gone costs lines and nothing else.
//!
//! The file is opened to append, so that truncating it in place (logrotate's `copytruncate`)
//! works; and it is opened anew when another file, or none, has its name, so that renaming it
//! works too, and no signal is needed.
//!
//! tracing-appender 0.2.5 was tried on a disk of 1 MiB. After a rename it wrote on into the renamed file.
//! When the disk was full, it lost 3 of 4 MiB, and `dropped_lines` was 0. Its queue is bounded in lines
//! (128,000), not in bytes.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::OutageLog;

const NAME: &str = "app.log";
/// Lines that wait for the disk; what comes on top is lost, and counted.
const WAITING_MAX_BYTES: usize = 1 << 20;
/// How often it is seen whether the file still has its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the process's end waits for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Takes log lines. Cloning clones an `Arc`.
#[derive(Clone)]
pub(crate) struct LogFile(Arc<Backlog>, Sender<Order>);

#[derive(Default)]
struct Backlog {
    /// Bounds the channel.
    waiting_bytes: AtomicUsize,
    /// There was no room for them.
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
        let backlog = Arc::new(Backlog::default());
        let (sender, orders) = channel();
        let writer = LogWriter {
            path,
            file: Some(file),
            looked_at: Instant::now(),
            torn: false,
            outage: OutageLog::default(),
            backlog: backlog.clone(),
        };
        std::thread::Builder::new()
            .name("log-file".to_owned())
            .spawn(move || writer.run(&orders))?;
        Ok(Self(backlog, sender))
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
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &LogFile {
    /// Takes one line in one piece, as the formatting layer writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let waiting = &self.0.waiting_bytes;
        let before = waiting.fetch_add(line.len(), Ordering::Relaxed);
        let fits = before + line.len() <= WAITING_MAX_BYTES;
        if !fits || self.1.send(Order::Write(line.to_vec())).is_err() {
            waiting.fetch_sub(line.len(), Ordering::Relaxed);
            self.0.lost_lines.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LogWriter {
    path: PathBuf,
    /// Opened with the next line where there is none.
    file: Option<File>,
    looked_at: Instant,
    /// The file ends in the middle of a line.
    torn: bool,
    outage: OutageLog,
    backlog: Arc<Backlog>,
}

impl LogWriter {
    fn run(mut self, orders: &Receiver<Order>) {
        for order in orders {
            match order {
                Order::Write(line) => {
                    self.write(&line);
                    let waiting = &self.backlog.waiting_bytes;
                    waiting.fetch_sub(line.len(), Ordering::Relaxed);
                }
                // Whoever asked may have stopped waiting.
                Order::Flush(done) => drop(done.send(())),
            }
        }
    }

    /// Losses are logged, too: standard error shows them while this file does not.
    fn write(&mut self, line: &[u8]) {
        if self.looked_at.elapsed() >= LOOK_EVERY {
            self.look();
        }
        let lost = self.backlog.lost_lines.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.outage.add_lost(lost);
        }
        if let Err(why) = self.append(line) {
            if let Some(lines) = self.outage.failed(1) {
                tracing::error!(
                    file = %self.path.display(),
                    %why,
                    lines,
                    "log lines are lost: the log file cannot be written"
                );
            }
        } else if let Some(lines) = self.outage.succeeded() {
            tracing::warn!(lines, "log lines did not reach the log file");
        }
    }

    /// Closes the file unless it still has its name.
    fn look(&mut self) {
        self.looked_at = Instant::now();
        let id = |file: Metadata| (file.dev(), file.ino());
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok());
        let named = fs::metadata(&self.path).ok();
        if named.is_none() || ours.map(id) != named.map(id) {
            self.file = None;
            self.torn = false;
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            closed => closed.insert(open(&self.path)?),
        };
        if self.torn {
            // The lost end of a line must not cost the next one too.
            file.write_all(b"\n")?;
            self.torn = false;
        }
        let written = file.write(line)?;
        if written < line.len() {
            self.torn = true;
            // Written, or the reason why it cannot be.
            file.write_all(&line[written..])?;
            self.torn = false;
        }
        Ok(())
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
    fn what_waits_is_bounded_and_the_rest_is_counted() {
        let (sender, orders) = channel();
        // The thread's side is here, and takes nothing yet.
        let file = LogFile(Arc::default(), sender);
        for _ in 0..2_000 {
            (&file).write_all(&[b'x'; 1_024]).expect("never fails");
        }
        let waiting = file.0.waiting_bytes.load(Ordering::Relaxed);
        let lost = file.0.lost_lines.load(Ordering::Relaxed);
        assert_eq!((waiting, lost), (WAITING_MAX_BYTES, 2_000 - 1_024));
        assert_eq!(orders.try_iter().count(), 1_024);
    }
}
