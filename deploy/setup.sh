#!/usr/bin/env bash
# Everything `make demo` and `make test` need on a fresh Debian 12, done once: Debian packages, a virtual environment
# in .venv, and, where the running kernel has no ipvlan, Debian's kernel and an emulator to boot it. With `kernels`: the
# emulator always, and the kernels that the tests boot besides (tests/testbed/kernels.py says which and where they lie).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

packages=(gcc musl-tools libc6-dev linux-libc-dev python3-bpfcc python3-venv iproute2 iputils-ping iptables nftables curl tcpdump kmod
  procps util-linux containernetworking-plugins)
emulator=(qemu-system-x86 busybox-static)

missing() { # package... -> those that are not installed
  local name
  for name in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || printf '%s\n' "$name"
  done
}

install() {
  local wanted
  mapfile -t wanted < <(missing "$@")
  [ "${#wanted[@]}" -gt 0 ] || return 0
  say "installing Debian packages: ${wanted[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "${wanted[@]}" >build/apt.log 2>&1 && return 0
  apt-get update -qq >build/apt.log 2>&1
  apt-get install -y -qq --no-install-recommends "${wanted[@]}" >build/apt.log 2>&1 || {
    tail -n 20 build/apt.log >&2
    say "apt-get failed (the whole log is in build/apt.log)"
    exit 1
  }
}

has_ipvlan() { # a real link in a network namespace of its own; nothing of it outlives the command
  unshare --net sh -c 'ip link add v0 type veth peer name v1 && ip link add link v0 name i0 type ipvlan mode l2' \
    >/dev/null 2>&1
}

[ "$(id -u)" = 0 ] || { say "run this as root: it installs packages and makes network namespaces"; exit 1; }
mkdir -p build
install "${packages[@]}"
has_ipvlan || install "${emulator[@]}" linux-image-amd64
[ "${1:-}" != kernels ] || install "${emulator[@]}"

stamp=.venv/.stamp-$(sha256sum pyproject.toml deploy/setup.sh | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
  say "making the virtual environment .venv"
  rm -rf .venv
  /usr/bin/python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]' >build/pip.log 2>&1 || {
    tail -n 20 build/pip.log >&2
    say "pip failed (the whole log is in build/pip.log)"
    exit 1
  }
  # bcc belongs to Debian's Python; one link makes it visible without the other system packages.
  ln -sfn /usr/lib/python3/dist-packages/bcc "$(.venv/bin/python -c "import site; print(site.getsitepackages()[0])")/bcc"
  .venv/bin/python -c 'import bcc'
  touch "$stamp"
fi

# Without network only the tests of these kernels cannot run; they say so.
[ "${1:-}" != kernels ] || .venv/bin/python -m tests.testbed.kernels || say "going on without"
