#!/usr/bin/env bash
# bootstrap.sh: what lsmkit needs of the machine, installed where it is missing.
#
#   tools/bootstrap.sh libraries    compiler, LZ4, Zstandard and xxHash with their headers
#   tools/bootstrap.sh sanitizers   the runtimes of ASAN, UBSAN and TSAN
#   tools/bootstrap.sh venv DIR     the above libraries, Python's headers, and a virtual
#                                   environment in DIR
#
# Each need is tried, by compiling or importing, and only what fails is installed: by apt-get, dnf,
# yum or brew, as root or through sudo where it asks no password. Where that may not be, the
# script says exactly what to install, and fails.
# PYTHON names the interpreter (python3, or the newest of 3.10 and later), CC the compiler.
set -euo pipefail

# dpkg calls programs that an ordinary user's PATH does not reach.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

die() {
    printf 'bootstrap: %s\n' "$*" >&2
    exit 1
}

# ---------------------------------------------------------------- package managers

manager() {
    local name
    for name in apt-get dnf yum brew; do
        if command -v "$name" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    echo none
}

MANAGER=$(manager)
MISSING=()

# need APT DNF BREW: notes the package that this machine's manager calls by one of these names;
# "-" where that system has it without a package of its own.
need() {
    local name
    case $MANAGER in
    apt-get) name=$1 ;;
    dnf | yum) name=$2 ;;
    brew) name=$3 ;;
    *) name=$1 ;;
    esac
    if [ "$name" != - ]; then
        MISSING+=("$name")
    fi
}

privilege() {
    if [ "$MANAGER" = brew ] || [ "$(id -u)" = 0 ]; then
        echo env
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        echo sudo
    else
        echo no
    fi
}

# EPEL carries xxHash for the older releases of Red Hat's family; Fedora needs no such thing.
enable_epel() {
    if [ -e /etc/redhat-release ] && ! grep -qi fedora /etc/redhat-release; then
        "$1" "$MANAGER" install -y epel-release || echo "bootstrap: no EPEL here, going on" >&2
    fi
}

install_missing() {
    [ ${#MISSING[@]} -gt 0 ] || return 0
    local as command
    case $MANAGER in
    apt-get) command="apt-get install -y --no-install-recommends ${MISSING[*]}" ;;
    dnf | yum) command="$MANAGER install -y ${MISSING[*]}" ;;
    brew) command="brew install ${MISSING[*]}" ;;
    none) die "please install, by the means of this system: ${MISSING[*]} (Debian's names)" ;;
    esac
    as=$(privilege)
    if [ "$as" = no ]; then
        die "missing: ${MISSING[*]}. Please run, as root:
    $command
and then make again."
    fi
    echo "bootstrap: $command"
    case $MANAGER in
    apt-get)
        "$as" apt-get update -q
        "$as" env DEBIAN_FRONTEND=noninteractive $command
        ;;
    dnf | yum)
        enable_epel "$as"
        "$as" $command
        ;;
    brew) $command ;;
    esac >"$scratch/install.log" 2>&1 || {
        cat "$scratch/install.log" >&2
        die "this failed: $command"
    }
    MISSING=()
}

# ---------------------------------------------------------------- compiler and libraries

brew_flags() {
    if [ "$MANAGER" = brew ]; then
        echo "-I$(brew --prefix)/include -L$(brew --prefix)/lib"
    fi
}

# compiles NAME "SOURCE" FLAGS...: whether a program of that text can be built.
compiles() {
    local name=$1 text=$2
    shift 2
    printf '%b\nint main(void) { return 0; }\n' "$text" >"$scratch/$name.c"
    ${CC:-cc} $(brew_flags) "$scratch/$name.c" -o "$scratch/$name" "$@" >/dev/null 2>&1
}

require_compiler() {
    command -v "${CC:-cc}" >/dev/null 2>&1 || need gcc gcc -
    compiles libc '#include <stdio.h>\n#include <pthread.h>' -pthread || need libc6-dev glibc-devel -
    install_missing
    compiles libc '#include <stdio.h>' || die "${CC:-cc} cannot build a program (on macOS: xcode-select --install)"
}

require_libraries() {
    require_compiler
    compiles lz4 '#include <lz4.h>' -llz4 || need liblz4-dev lz4-devel lz4
    compiles zstd '#include <zstd.h>' -lzstd || need libzstd-dev libzstd-devel zstd
    compiles xxhash '#define XXH_INLINE_ALL\n#include <xxhash.h>' || need libxxhash-dev xxhash-devel xxhash
    install_missing
    compiles lz4 '#include <lz4.h>' -llz4 || die "LZ4 is still not usable by ${CC:-cc}"
    compiles zstd '#include <zstd.h>' -lzstd || die "Zstandard is still not usable by ${CC:-cc}"
    compiles xxhash '#define XXH_INLINE_ALL\n#include <xxhash.h>' || die "xxhash.h is still not found by ${CC:-cc}"
}

require_sanitizers() {
    require_compiler
    # The apt packages come with gcc itself; they are named for systems that split them off.
    compiles asan '' -fsanitize=address,undefined || {
        need libgcc-"$(gcc_major)"-dev libasan -
        need - libubsan -
    }
    compiles tsan '' -fsanitize=thread || need libgcc-"$(gcc_major)"-dev libtsan -
    install_missing
    compiles asan '' -fsanitize=address,undefined || die "${CC:-cc} lacks -fsanitize=address,undefined"
    compiles tsan '' -fsanitize=thread || die "${CC:-cc} lacks -fsanitize=thread"
}

gcc_major() {
    gcc -dumpversion 2>/dev/null | cut -d. -f1
}

# ---------------------------------------------------------------- Python

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python of 3.10 or later"
        echo "$PYTHON"
        return
    fi
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$name" >/dev/null 2>&1 && is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    die "no Python of 3.10 or later on PATH; name one with PYTHON="
}

has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'
}

has_venv() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

require_python() {
    local python=$1 version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    has_headers "$python" || need "python$version-dev" "python$version-devel" -
    has_venv "$python" || need "python$version-venv" - -
    if [ "$MANAGER" = dnf ] || [ "$MANAGER" = yum ]; then
        # The distribution's own interpreter has its headers in a package without a number.
        if [ "$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')" = "$(realpath /usr/bin/python3)" ]; then
            MISSING=("${MISSING[@]/python$version-devel/python3-devel}")
        fi
    fi
    install_missing
    has_headers "$python" || die "Python.h of $python is missing, and no package brought it"
    has_venv "$python" || die "$python has no venv and ensurepip, and no package brought them"
}

make_venv() {
    local dir=$1 python
    python=$(find_python)
    require_libraries
    require_python "$python"
    if ! "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "bootstrap: virtual environment in $dir from $python"
        rm -rf "$dir"
        "$python" -m venv "$dir"
    fi
}

case ${1:-} in
libraries) require_libraries ;;
sanitizers) require_sanitizers ;;
venv) make_venv "${2:?the directory of the environment}" ;;
*) die "usage: tools/bootstrap.sh libraries | sanitizers | venv DIR" ;;
esac
