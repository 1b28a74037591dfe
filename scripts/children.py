"""The processes of `scripts/up`: starts them, stops them, and finds those that a killed run left."""

import os
import pathlib
import signal
import socket
import subprocess
import time


def identity(pid):
    """Boot and time of start: tells a process from a later one with the same pid. None: it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        fields = stat[stat.rindex(")") + 2 :].split()
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] == "Z" else f"{boot}/{fields[19]}"
    except OSError:
        if os.path.isdir("/proc/self"):
            return None
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.strip() or None


def wait_until(condition, seconds, step=0.1):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True


def free_ports(preferred):
    """For each name the standard port, or a free one when it is taken. All are held until the last is
    chosen, so they differ."""
    held, ports = [], {}
    for name, port in preferred.items():
        listener = socket.socket()
        held.append(listener)
        # As servers do: a port in TIME_WAIT is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            listener.close()
            listener = socket.socket()
            held.append(listener)
            listener.bind(("127.0.0.1", 0))
        ports[name] = listener.getsockname()[1]
    for listener in held:
        listener.close()
    return ports


class Child:
    """One process, with its log and its pid file."""

    def __init__(self, name, log_dir, pid_dir, stop_signal=signal.SIGTERM, grace_seconds=10):
        self.name = name
        self.log = log_dir / f"{name}.log"
        self.pid_file = pid_dir / f"{name}.pid"
        self.stop_signal = stop_signal
        self.grace_seconds = grace_seconds
        self.process = None
        self.stopped = False  # its exit code is expected: we stopped it, or go on without it

    def start(self, command, environment, stdin):
        # A session of its own: Ctrl-C reaches only `up`, which stops its children in order.
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid_file.write_text(f"{self.process.pid} {identity(self.process.pid)}\n")

    def exit_code(self):
        """None while it runs, and before it starts."""
        return self.process.poll() if self.process else None

    def stop(self):
        self.stopped = True
        if self.process:
            self._stop_pid(self.process.pid, lambda: self.process.poll() is not None)
            self.process.wait()
        self.pid_file.unlink(missing_ok=True)

    def stop_left_over(self):
        """Stops the process that a killed run left. True if there was one."""
        try:
            pid, known = self.pid_file.read_text().strip().split(" ", 1)
        except (OSError, ValueError):
            return False
        left = known == identity(int(pid))
        if left:
            self._stop_pid(int(pid), lambda: identity(int(pid)) != known)
        self.pid_file.unlink(missing_ok=True)
        return left

    def _stop_pid(self, pid, is_gone):
        for number in (self.stop_signal, signal.SIGKILL):
            if is_gone():
                return
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            wait_until(is_gone, self.grace_seconds)

    def log_tail(self, lines=20):
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"    {line}" for line in text[-lines:])
