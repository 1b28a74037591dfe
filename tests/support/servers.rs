//! Real servers, started by the project's own scripts, killed with the test.

use std::collections::{BTreeSet, HashMap};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::PATIENCE;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/infrastructure");

/// A port that nobody listens on at the moment, and that no other caller gets: the
/// kernel would hand out the port of a server that a test has stopped for a while.
pub fn free_port() -> u16 {
    static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("the loopback interface has free ports")
            .port();
        let mut handed_out = HANDED_OUT.lock().expect("nothing panics under this lock");
        if handed_out.insert(port) {
            return port;
        }
    }
}

/// Sends a signal to a process; it may be gone.
pub fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = kill_process(pid.expect("a child has a pid"), signal);
}

/// Writes a configuration for NATS: the project's own, and lines that add to it. What both set is
/// set by the lines. Without the project's limits, JetStream's would follow the free disk, and on a
/// disk with less than 14 GiB left there would be no stream of 10 GiB.
pub fn write_nats_conf(file: &Path, lines: &str) {
    let own = include_str!("../../deploy/nats.conf");
    std::fs::write(file, format!("{own}\n{lines}\n")).expect("the folder is writable");
}

/// One server: a folder, a port, and a process that can be stopped and started again.
pub struct Server {
    component: &'static str,
    env: HashMap<&'static str, String>,
    port: u16,
    child: Option<Child>,
    folder: TempDir,
}

impl Server {
    /// Starts `scripts/infrastructure/<component>/run` on a free port.
    pub fn start(component: &'static str, env: &[(&'static str, &str)]) -> Self {
        let mut server = Self {
            component,
            env: env.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
            port: free_port(),
            child: None,
            folder: tempfile::Builder::new()
                .prefix("ganesh-test-")
                .tempdir()
                .expect("the temporary folder is writable"),
        };
        server.run();
        server
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it (again), on the same port and data.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.component);
        let log = std::fs::File::create(self.folder.path().join("log"))
            .expect("the server's folder is writable");
        let child = Command::new(format!("{SCRIPTS}/{}/run", self.component))
            .env("PORT", self.port.to_string())
            .env("DATA_DIR", self.folder.path().join("data"))
            // Dies with this process, however that ends.
            .env("STOP_WITH_STDIN", "1")
            .envs(&self.env)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file handle can be cloned"))
            .stderr(log)
            .spawn()
            .expect("the script is there and executable");
        self.child = Some(child);
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&mut self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok().flatten());
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "{} did not start: {}",
                self.component,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has said since it was started last.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Its process and those that it forked.
    pub fn family(&self) -> Vec<u32> {
        let mut family = vec![self.pid()];
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for entry in processes {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // pid (name) state ppid …; the name may hold anything but is the last in brackets.
            let parent = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let (Some(pid), Some(parent)) = (pid, parent)
                && parent == self.pid()
            {
                family.push(pid);
            }
        }
        family
    }

    /// SIGSTOP to all of it: it neither answers nor closes connections.
    pub fn pause(&self) {
        for pid in self.family() {
            send_signal(pid, Signal::STOP);
        }
    }

    /// SIGCONT to all of it.
    pub fn resume(&self) {
        for pid in self.family() {
            send_signal(pid, Signal::CONT);
        }
    }

    /// SIGQUIT, which to Postgres is a crash of all of its processes at once ("immediate shutdown").
    pub fn crash(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        send_signal(child.id(), Signal::QUIT);
        let _ = child.wait();
    }

    /// Starts it again if it has ended by itself.
    pub fn run_if_ended(&mut self) {
        let ended = self.child.as_mut().is_none_or(|child| {
            let status = child.try_wait();
            status.is_ok_and(|status| status.is_some())
        });
        if ended {
            self.child = None;
            self.run();
        }
    }

    /// SIGTERM, and waits until it has ended.
    pub fn terminate(&mut self) {
        send_signal(self.pid(), Signal::TERM);
        let _ = self.child.take().expect("the server runs").wait();
    }

    /// Ends its standard input, as the end of this process does, and waits for its end. Its cluster or
    /// store.
    pub fn abandon(&mut self) -> PathBuf {
        let _ = self.child.take().expect("the server runs").wait();
        self.folder.path().join("data/data")
    }

    /// Of a Postgres: a copy of its cluster that waits for more to replay, and answers reads.
    pub fn copy_as_standby(&mut self) -> Self {
        let mut standby = postgres();
        let (from, to) = (self.abandon(), standby.abandon());
        std::fs::remove_dir_all(&to).expect("it is the test's own");
        let copied = Command::new("cp").arg("-Rp").args([&from, &to]).status();
        assert!(copied.expect("cp is there").success());
        std::fs::write(to.join("standby.signal"), "").expect("the folder is writable");
        self.run();
        standby.run();
        standby
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.resume();
            self.kill();
        }
        if std::env::var_os("GANESH_TEST_KEEP").is_some() {
            self.folder.disable_cleanup(true);
        }
    }
}

/// A Postgres of its own, for tests that stop it.
pub fn postgres() -> Server {
    postgres_with(&[])
}

/// The same, with more in the environment of its script.
pub fn postgres_with(env: &[(&'static str, &str)]) -> Server {
    let templates = concat!(env!("CARGO_TARGET_TMPDIR"), "/postgres-template");
    std::fs::create_dir_all(templates).expect("cargo's temporary folder is writable");
    Server::start("postgres", &[&[("TEMPLATE_DIR", templates)], env].concat())
}

/// The Postgres that all other tests share, each with a database of its own.
pub fn shared_postgres_port() -> u16 {
    static SHARED: OnceLock<Server> = OnceLock::new();
    let shared = || {
        postgres_with(&[
            // What is static is never dropped, and its folder would stay, with all databases.
            ("REMOVE_DATA", "1"),
            // It would look into each of hundreds of databases once a minute.
            ("POSTGRES_ARGS", "-c autovacuum=off"),
        ])
    };
    SHARED.get_or_init(shared).port()
}
