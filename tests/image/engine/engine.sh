#!/usr/bin/env bash
# A private Docker Engine: `engine.sh up|down|env DIR`. Real dockerd, BuildKit and compose from Debian's packages, which
# are only unpacked below DIR: nothing is installed, no firewall rule is changed. Needs root on an amd64 Debian.
#
# DIR/packages and DIR/data are worth keeping: with them the next `up` takes seconds, and the next build its cached layers.
# All else lies in DIR/run, which `down` removes together with the processes, the mounts and the bridge.
set -euo pipefail

suite=trixie # the oldest Debian that has BuildKit's plugin and compose
keys=/usr/share/keyrings/debian-archive-keyring.gpg
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  echo "usage: $0 up|down|env DIR" >&2
  exit 64
}

fail() {
  echo "engine.sh: $*" >&2
  exit 1
}

check_machine() {
  [ "$(id -u)" = 0 ] || fail "a private Docker Engine needs root"
  [ "$(uname -m)" = x86_64 ] || fail "a private Docker Engine needs an amd64 machine, this one is $(uname -m)"
  if ! [ -f "$keys" ] || ! command -v apt-get dpkg ip cc >/dev/null; then
    fail "a private Docker Engine is made of Debian's packages, and needs apt-get, dpkg, ip, cc and $keys"
  fi
  [ "$(printf %s "$run/docker.sock" | wc -c)" -lt 108 ] || fail "$run is too long a path for a socket: choose a shorter one"
}

fetch() {
  if [ -e "$root/.complete" ]; then return; fi
  local state=$dir/packages/apt mirror
  mirror=$(apt-get indextargets --format "\$(SITE)" | sed -n 1p)
  [ -n "$mirror" ] || mirror=http://deb.debian.org/debian
  mkdir -p "$state"/{lists/partial,cache/archives/partial,parts,debs} "$root"
  echo "deb [signed-by=$keys] $mirror $suite main" >"$state/sources.list"
  cat >"$state/apt.conf" <<END
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "$state/parts";
Dir::Etc::preferencesparts "$state/parts";
Dir::State::lists "$state/lists";
Dir::Cache "$state/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
END
  export APT_CONFIG=$state/apt.conf
  apt-get -qq update
  (cd "$state/debs" && apt-get -qq download docker.io docker-cli docker-buildx docker-compose containerd mmdebstrap)
  unset APT_CONFIG
  (cd "$state/debs" && of_this_suite runc tini)
  for package in "$state"/debs/*.deb; do dpkg -x "$package" "$root"; done
  rm -rf "$state"
  touch "$root/.complete"
}

# What is linked to the C library must come from the machine's own Debian.
of_this_suite() {
  apt-get -qq -o APT::Sandbox::User=root download "$@" ||
    { apt-get -qq update && apt-get -qq -o APT::Sandbox::User=root download "$@"; }
}

# dockerd offers `--gpus` and compose's `driver: nvidia` as soon as it finds a program of this hook's name.
install_fake_gpus() {
  local python
  python=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)')
  mkdir -p "$run/bin" "$run/client"
  ln -sf "$root/usr/bin/tini-static" "$run/bin/docker-init"
  sed "1s|.*|#!$python|" "$here/fakegpu/nvidia-container-runtime-hook" >"$run/bin/nvidia-container-runtime-hook"
  chmod 755 "$run/bin/nvidia-container-runtime-hook"
  # c99: a newer standard would ask for a newer C library than the image may have.
  cc -std=c99 -D_POSIX_C_SOURCE=200809L -O1 -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 \
    -o "$run/bin/libnvidia-ml.so.1" "$here/fakegpu/fake_nvml.c"
  printf '{"cliPluginsExtraDirs": ["%s"]}\n' "$root/usr/libexec/docker/cli-plugins" >"$run/client/config.json"
}

# A bridge of our own, for another engine may have docker0. Its addresses are of the range for tests of networks. What an
# earlier life knew of networks goes: dockerd would clear it away, and may take the other engine's docker0 for its own.
make_bridge() {
  rm -rf "$dir/data/network"
  local number
  for number in 0 1 2 3 4 5 6 7; do
    if ip link add "berth-test$number" type bridge 2>/dev/null; then
      echo "berth-test$number" >"$run/bridge"
      ip address add "198.18.$number.1/24" dev "berth-test$number"
      ip link set "berth-test$number" up
      return
    fi
  done
  fail "no bridge could be made (or berth-test0 to berth-test7 are there: 'ip link delete' those that nobody uses)"
}

answers() {
  docker version >/dev/null 2>&1
}

up() {
  if answers; then return; fi
  check_machine
  down
  fetch
  mkdir -p "$run"
  install_fake_gpus
  make_bridge
  PATH=$run/bin:$root/usr/sbin:$root/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    setsid dockerd --host "unix://$run/docker.sock" --pidfile "$run/dockerd.pid" --exec-root "$run/exec" \
    --data-root "$dir/data" --bridge "$(cat "$run/bridge")" \
    --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false >"$run/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 600); do
    if answers; then return; fi
    sleep 0.1
  done
  tail -n 20 "$run/dockerd.log" >&2
  fail "dockerd does not answer: its last words stand above"
}

# The pids of all that was started from DIR: dockerd, containerd, its shims.
ours() {
  # The pattern comes from a pipe, or grep would find itself.
  grep -lszF -f <(printf '%s' "$run/") /proc/[0-9]*/cmdline | cut -d / -f 3 || true
}

gone() {
  for _ in $(seq "$1"); do
    if [ -z "$(ours)" ]; then return; fi
    sleep 0.1
  done
  return 1
}

down() {
  if answers; then docker ps --all --quiet | xargs --no-run-if-empty docker rm --force --volumes >/dev/null; fi
  if [ -s "$run/dockerd.pid" ]; then kill -TERM "$(cat "$run/dockerd.pid")" 2>/dev/null || true; fi
  gone 300 || { ours | xargs --no-run-if-empty kill -KILL 2>/dev/null || true; gone 50 || fail "these do not end: $(ours)"; }
  awk -v dir="$dir/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | xargs --no-run-if-empty umount --lazy
  if [ -s "$run/bridge" ]; then ip link delete "$(cat "$run/bridge")" 2>/dev/null || true; fi
  rm -rf "$run"
}

[ $# = 2 ] || usage
mkdir -p "$2"
dir=$(cd "$2" && pwd -P)
root=$dir/packages/root run=$dir/run
export DOCKER_HOST=unix://$run/docker.sock DOCKER_CONFIG=$run/client PATH=$run/bin:$root/usr/bin:$PATH
case $1 in
  up) up ;;
  down) down ;;
  env) printf '%s\n' "DOCKER_HOST=$DOCKER_HOST" "DOCKER_CONFIG=$DOCKER_CONFIG" "PATH=$PATH" ;;
  *) usage ;;
esac
