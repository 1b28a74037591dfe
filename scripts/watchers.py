"""Prometheus, Jaeger and Grafana beside `scripts/up`: whichever is there is started. ganesh runs
without them, so a missing one is said in a line, and one that ends does not end the run."""

import shutil
import subprocess

from children import Child

STANDARD_PORTS = {
    "prometheus": 9090, "jaeger": 16686, "jaeger_otlp": 4317, "jaeger_metrics": 8888, "jaeger_health": 13133,
    "grafana": 3000,
}  # fmt: skip

# In the order of starting: what it shows, the path of its page, and how to get it.
WATCHERS = {
    "jaeger": ("traces", "/search?service=ganesh", "version 2.20 from https://www.jaegertracing.io/download/, as `jaeger` on PATH"),
    "prometheus": ("metrics", "/alerts", "scripts/fetch prometheus (Debian), or `prometheus` on PATH"),
    "grafana": ("graphs", "", "version 13.2 from https://grafana.com/grafana/download, with `grafana-server` on PATH"),
}
# What PATH is searched for; Prometheus may be in .tools/ too, and scripts/fetch knows.
PROGRAMS = {"jaeger": ["jaeger"], "grafana": ["grafana-server", "grafana"]}


def is_there(name, root):
    if name in PROGRAMS:
        return any(shutil.which(program) for program in PROGRAMS[name])
    found = subprocess.run([root / "scripts" / "fetch", "--print", name], capture_output=True)
    return found.returncode == 0


class Watchers:
    def __init__(self, root, local, log_dir, pid_dir):
        self.root = root
        self.local = local
        self.present = {name: is_there(name, root) for name in WATCHERS}
        self.by_name = {name: Child(name, log_dir, pid_dir) for name in WATCHERS}
        self.mourned = set()  # ended by themselves, and said so

    @property
    def children(self):
        return list(self.by_name.values())

    def own_settings(self, name, ports):
        """What the script in scripts/infrastructure/NAME/run takes."""
        at = {known: f"127.0.0.1:{port}" for known, port in ports.items()}
        settings = {"PORT": str(ports[name]), "DATA_DIR": str(self.local / name), "STOP_WITH_STDIN": "1"}
        if name == "jaeger":
            numbers = {"OTLP_PORT": "jaeger_otlp", "METRICS_PORT": "jaeger_metrics", "HEALTH_PORT": "jaeger_health"}
            settings |= {variable: str(ports[port]) for variable, port in numbers.items()}
        elif name == "prometheus":
            settings["GANESH_TARGETS"] = at["admin"]
            if self.present["jaeger"]:
                settings["JAEGER_TARGETS"] = at["jaeger_metrics"]
        else:
            settings |= {"PROMETHEUS_URL": f"http://{at['prometheus']}", "JAEGER_URL": f"http://{at['jaeger']}"}
            settings["POSTGRES_ADDR"] = at["postgres"]
        return settings

    def start(self, environment, ports, stdin):
        for name, child in self.by_name.items():
            if self.present[name]:
                run = self.root / "scripts" / "infrastructure" / name / "run"
                child.start([str(run)], {**environment, **self.own_settings(name, ports)}, stdin)

    def otlp_endpoint(self, ports):
        """Where ganesh sends its traces; None leaves that to its own setting."""
        return f"http://127.0.0.1:{ports['jaeger_otlp']}" if self.present["jaeger"] else None

    def addresses(self, ports):
        """One line for each: where its page is, or how to get it."""
        for name, (shows, path, how) in WATCHERS.items():
            title = name.capitalize()
            if self.present[name]:
                yield f"{shows:<9} http://127.0.0.1:{ports[name]}{path}   ({title})"
            else:
                yield f"{shows:<9} none, as {title} is missing: {how}"

    def ended(self):
        """Those that ended by themselves since this was last asked."""
        for name, child in self.by_name.items():
            code = child.exit_code()
            if code is not None and not child.stopped and name not in self.mourned:
                self.mourned.add(name)
                yield f"{name} ended with {code}; the rest goes on. The end of {child.log}:\n{child.log_tail(5)}"
