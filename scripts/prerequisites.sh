#!/bin/sh
# Checks what must be on the machine before anything is built, and installs Debian packages as root.
#
# Prints the Python interpreter to use on stdout, everything else on stderr. Reports all that is
# missing at once, each with the command that helps, and changes nothing while something that it
# cannot install itself is missing.
set -eu

RUST_OLDEST=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
PYTHON_OLDEST=3.11

say() { printf '%s\n' "$*" >&2; }

sudo=
[ "$(id -u)" = 0 ] || sudo='sudo '

missing=
# need WHAT HOW: notes something that is missing and how to get it.
need() {
    missing="${missing}  - $1
      $2
"
}

# at_least OLDEST FOUND: whether the version FOUND is not older than OLDEST.
at_least() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

is_debian() { command -v apt-get >/dev/null 2>&1 && command -v dpkg-query >/dev/null 2>&1; }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

python_usable() {
    "$1" -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$PYTHON_OLDEST'.split('.'))))" \
        >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null 2>&1 && python_usable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

packages=
want() { packages="$packages $1"; }

python=$(find_python)
if [ -z "$python" ] && [ -n "${PYTHON:-}" ]; then
    need "Python $PYTHON_OLDEST or newer; PYTHON=$PYTHON is not one" \
        "name another interpreter, or none: make setup PYTHON=/usr/bin/python3"
elif [ -z "$python" ]; then
    want python3
    want python3-venv
    want python3-dev
else
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || want "python$version-venv"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        want "python$version-dev"
fi
command -v cc >/dev/null 2>&1 || want gcc
[ -e /usr/include/stdlib.h ] || want libc6-dev
command -v containerd >/dev/null 2>&1 || want containerd
command -v runc >/dev/null 2>&1 || want runc
command -v ip >/dev/null 2>&1 || want iproute2
command -v nft >/dev/null 2>&1 || [ -x /usr/sbin/nft ] || want nftables
command -v mke2fs >/dev/null 2>&1 || [ -x /sbin/mke2fs ] || want e2fsprogs
if is_debian; then
    installed busybox-static || want busybox-static
else
    command -v busybox >/dev/null 2>&1 || want busybox-static
fi
packages=${packages# }

if ! command -v cargo >/dev/null 2>&1 || ! command -v rustc >/dev/null 2>&1; then
    # A shell that was open before Rust was installed, or sudo's own path.
    if [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        need "cargo on the path; it is in ${CARGO_HOME:-$HOME/.cargo}/bin" \
            ". \"${CARGO_HOME:-$HOME/.cargo}/env\""
    else
        curl="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs"
        command -v curl >/dev/null 2>&1 || ! is_debian ||
            curl="${sudo}apt-get update && ${sudo}apt-get install --yes curl ca-certificates && $curl"
        need "Rust $RUST_OLDEST or newer (Debian 12 and 13 ship older ones)" \
            "$curl | sh -s -- -y && . \"\$HOME/.cargo/env\""
    fi
else
    found=$(rustc --version | cut -d ' ' -f 2)
    at_least "$RUST_OLDEST" "$found" ||
        need "Rust $RUST_OLDEST or newer; $(command -v rustc) is $found" \
            "rustup update stable   # or, without rustup, see https://rustup.rs"
fi

if [ -n "$packages" ]; then
    if ! is_debian; then
        need "these, named as on Debian: $packages" "install them with this system's package manager"
    elif [ "$(id -u)" != 0 ]; then
        need "Debian packages: $packages" \
            "sudo apt-get update && sudo apt-get install --yes --no-install-recommends $packages"
    elif [ -n "$missing" ]; then
        need "Debian packages: $packages" "make installs them itself, being root, once the rest is there"
    fi
fi

if [ -n "$missing" ]; then
    say "Warren cannot be built here yet. Missing, and how to get it:"
    say "$missing"
    say "Then run the same make command again. Nothing has been changed."
    exit 1
fi

if [ -n "$packages" ]; then
    say "Installing Debian packages (the only thing outside the checkout): $packages"
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of words
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes \
        --no-install-recommends $packages; } >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        say "apt-get failed; its words are above. Once it works, run the same make command again:"
        say "  apt-get install --yes --no-install-recommends $packages"
        exit 1
    fi
    rm -f "$log"
    python=${python:-$(find_python)}
    if [ -z "$python" ]; then
        say "Python $PYTHON_OLDEST or newer is needed, and this release's python3 is older:"
        say "  use Debian 12 or newer, or name an interpreter: make setup PYTHON=/path/to/python3.12"
        exit 1
    fi
fi

printf '%s\n' "$python"
