# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Sourced by the scripts that work with packages of another Debian than this machine's: its archives, as this machine's
# apt knows them, and an apt with a state of its own, so that nothing of the machine's is touched.

# Prints the address of the archive $1, Debian or Debian-Security, so that a site's own mirror is asked. Nothing: apt
# knows none.
debian_mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        sed -n "s/^$1 //p" | sort -u | head -n 1
}

# Makes $1, the state of an apt of its own, for the architecture $2; what it is to install from comes by standard input.
# Its dpkg has nothing installed: what it is asked to install comes with all that it needs.
make_private_apt() {
    mkdir -p "$1"/apt/{lists/partial,archives/partial,sources}
    : >"$1/apt/status"
    cat >"$1/apt/sources.list"
    cat >"$1/apt.conf" <<CONFIG
APT::Architecture "$2";
APT::Architectures { "$2"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dir::State "$1/apt";
Dir::State::Lists "$1/apt/lists";
Dir::State::status "$1/apt/status";
Dir::Cache "$1/apt";
Dir::Etc::SourceList "$1/apt/sources.list";
Dir::Etc::SourceParts "$1/apt/sources";
CONFIG
}

# Runs one of apt's programs, $2, with the state in $1. The machine's own settings (a proxy) still count, but for those
# of containers that keep no cache of the package lists: to read them takes ten seconds.
private_apt() {
    local state=$1 program=$2
    shift 2
    APT_CONFIG=$state/apt.conf "$program" -o Dir::Cache::pkgcache=pkgcache.bin -o Dir::Cache::srcpkgcache=srcpkgcache.bin \
        -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o Acquire::Retries=3 -o Acquire::http::Timeout=60 "$@"
}
