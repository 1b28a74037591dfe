"""Prometheus, its exporters, Jaeger and Grafana for `scripts/up`. It starts those that are installed and
prints how to get the others. ganesh runs without them, so one that ends does not end the run."""

import os
import pathlib
import shutil
import subprocess

from children import Child

STANDARD_PORTS = {
    "prometheus": 9090, "jaeger": 16686, "jaeger_otlp": 4317, "jaeger_metrics": 8888, "jaeger_health": 13133,
    "grafana": 3000, "nats-exporter": 7777, "postgres-exporter": 9187,
}  # fmt: skip

# In the order of starting, by the folder of its script: title, what it shows, the path of its page, how
# to get it.
WATCHERS = {
    "jaeger": ("Jaeger", "traces", "/search?service=ganesh", "version 2.20 from https://www.jaegertracing.io/download/, as `jaeger` on PATH"),
    "nats-exporter": (
        "prometheus-nats-exporter", "exporter", "/metrics",
        "version 0.20 from https://github.com/nats-io/prometheus-nats-exporter/releases, on PATH",
    ),
    "postgres-exporter": (
        "postgres_exporter", "exporter", "/metrics",
        "version 0.20 from https://github.com/prometheus-community/postgres_exporter/releases, on PATH",
    ),
    "prometheus": ("Prometheus", "metrics", "/alerts", "scripts/fetch prometheus (Debian), or `prometheus` on PATH"),
    "grafana": ("Grafana", "graphs", "", "version 13.2 from https://grafana.com/grafana/download, with `grafana-server` on PATH"),
}  # fmt: skip
# Programs to look for on PATH. scripts/fetch knows where Prometheus is.
PROGRAMS = {
    "jaeger": ["jaeger"], "grafana": ["grafana-server", "grafana"],
    "nats-exporter": ["prometheus-nats-exporter"], "postgres-exporter": ["postgres_exporter"],
}  # fmt: skip


def fetched(root, tool):
    """The path of a server of scripts/fetch; None when it is missing."""
    found = subprocess.run([root / "scripts" / "fetch", "--print", tool], capture_output=True, text=True)
    return pathlib.Path(found.stdout.strip()) if found.returncode == 0 else None


def is_there(name, root):
    if name in PROGRAMS:
        return any(shutil.which(program) for program in PROGRAMS[name])
    return fetched(root, name) is not None


class Watchers:
    def __init__(self, root, local, log_dir, pid_dir):
        self.root = root
        self.local = local
        self.present = {name: is_there(name, root) for name in WATCHERS}
        self.by_name = {name: Child(name, log_dir, pid_dir) for name in WATCHERS}
        self.mourned = set()  # ended by themselves, and reported

    @property
    def children(self):
        return list(self.by_name.values())

    def targets(self, at):
        """The targets of Prometheus, as variables of its script. A target that is left out causes no alert."""
        asked = {"NATS_TARGETS": "nats-exporter", "POSTGRES_TARGETS": "postgres-exporter"}
        targets = {variable: at[name] for variable, name in asked.items() if self.present[name]}
        if self.present["jaeger"]:
            targets["JAEGER_TARGETS"] = at["jaeger_metrics"]
        cache = fetched(self.root, "redis-server")
        if cache and cache.name == "dragonfly":  # Redis has no metrics of its own
            targets["DRAGONFLY_TARGETS"] = at["dragonfly"]
        return {"GANESH_TARGETS": at["admin"], **targets}

    def own_settings(self, name, ports):
        """The variables of scripts/infrastructure/NAME/run."""
        at = {known: f"127.0.0.1:{port}" for known, port in ports.items()}
        settings = {"PORT": str(ports[name]), "DATA_DIR": str(self.local / name), "STOP_WITH_STDIN": "1"}
        if name == "jaeger":
            numbers = {"OTLP_PORT": "jaeger_otlp", "METRICS_PORT": "jaeger_metrics", "HEALTH_PORT": "jaeger_health"}
            settings |= {variable: str(ports[port]) for variable, port in numbers.items()}
        elif name == "nats-exporter":
            settings["NATS_HTTP_URL"] = f"http://{at['nats_http']}"
        elif name == "postgres-exporter":
            settings["POSTGRES_ADDR"] = at["postgres"]
        elif name == "prometheus":
            settings |= self.targets(at)
        else:
            urls = {"PROMETHEUS_URL": "prometheus", "JAEGER_URL": "jaeger", "ADMIN_URL": "admin"}
            settings |= {variable: f"http://{at[port]}" for variable, port in urls.items()}
            settings["POSTGRES_ADDR"] = at["postgres"]
        return settings

    def start(self, environment, ports, stdin):
        for name, child in self.by_name.items():
            if self.present[name]:
                run = self.root / "scripts" / "infrastructure" / name / "run"
                child.start([str(run)], {**environment, **self.own_settings(name, ports)}, stdin)

    def trace_settings(self, ports):
        """Where ganesh sends its traces, and reads them; None without a Jaeger."""
        if not self.present["jaeger"]:
            return None
        otlp, page = (f"http://127.0.0.1:{ports[name]}" for name in ("jaeger_otlp", "jaeger"))
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "JAEGER_URL": page}

    def prometheus_has_pages(self):
        """Debian's build looks for them in the folder of the installed package."""
        tools = pathlib.Path(os.environ.get("TOOLS_DIR", self.root / ".tools"))
        unpacked = fetched(self.root, "prometheus").is_relative_to(tools)
        return not unpacked or pathlib.Path("/usr/share/prometheus/web").exists()

    def addresses(self, ports):
        """One line each: the page, or how to get the program."""
        for name, (title, shows, path, how) in WATCHERS.items():
            if self.present[name]:
                if name == "prometheus" and not self.prometheus_has_pages():
                    path, title = "/api/v1/alerts", "Prometheus; Debian's, unpacked by scripts/fetch, has no pages"
                yield f"{shows:<9} http://127.0.0.1:{ports[name]}{path}   ({title})"
            else:
                yield f"{shows:<9} none, as {title} is missing: {how}"

    def ended(self):
        """Reports those that ended by themselves since the last call."""
        for name, child in self.by_name.items():
            code = child.exit_code()
            if code is not None and not child.stopped and name not in self.mourned:
                self.mourned.add(name)
                yield f"{name} ended with {code}; the rest goes on. The end of {child.log}:\n{child.log_tail(5)}"
