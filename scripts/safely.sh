# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Sourced by every script before it does anything else. They run as root, from wherever the operator happens to be:
# nothing that lies in the current directory, or where others can write, may be run or loaded by what they start.
# Python with -I ignores the current directory, PYTHON* and ~/.local by itself; what it starts in its turn (venv,
# ensurepip, pip's builds) does not, and other programs have ways of their own.

# PATH with its absolute entries only: an empty or relative one means the current directory.
safe_path() {
    local entry rest=$PATH: kept=
    while [[ -n $rest ]]; do
        entry=${rest%%:*} rest=${rest#*:}
        [[ $entry != /* ]] || kept+=:$entry
    done
    PATH=${kept#:}
    [[ -n $PATH ]] || PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    export PATH
    hash -r
}

# Whether a directory is as good as /tmp: nobody but its owner, and root, can exchange what we make in it.
good_for_temporary_files() {
    local mode owner
    read -r mode owner < <(stat -L -c '%a %u' -- "$1" 2>/dev/null) || return 1
    [[ $1 == /* && -d $1 ]] && ((owner == 0 || owner == EUID)) && ((!(8#$mode & 8#022) || 8#$mode & 8#1000))
}

safe_environment() {
    local name
    for name in "${!PYTHON@}"; do
        case $name in
        PYTHONDEVMODE | PYTHONDONTWRITEBYTECODE | PYTHONFAULTHANDLER | PYTHONHASHSEED | PYTHONTRACEMALLOC) ;;
        PYTHONUNBUFFERED | PYTHONUTF8 | PYTHON_GIL) ;; # these name no place
        *) unset "$name" ;;
        esac
    done
    unset BASH_ENV ENV CDPATH GLOBIGNORE
    for name in TMPDIR TEMP TMP; do
        [[ -z ${!name-} ]] || good_for_temporary_files "${!name}" || unset "$name"
    done
}

# Dies unless $1, whose programs are about to be run, can only have been made by who runs this, by root, or by who owns
# the checkout $2. One that does not exist is fine.
ours_or_die() {
    local mode owner of_checkout
    [[ -e $1 ]] || return 0
    of_checkout=$(stat -L -c %u -- "$2")
    read -r mode owner < <(stat -L -c '%a %u' -- "$1") || exit 1
    if ((owner != 0 && owner != EUID && owner != of_checkout)) || ((8#$mode & 8#002)); then
        distrust "$1" "$owner" "$mode" "and run this again"
    fi
}

# Makes the directory $1 if need be; dies unless only who runs this, or root, can have put anything in it.
own_directory() {
    local mode owner
    mkdir -p -m 755 -- "$1"
    read -r mode owner < <(stat -c '%a %u' -- "$1") # of a link: the link's own
    if [[ -L $1 ]] || ((owner != 0 && owner != EUID)) || ((8#$mode & 8#022)); then
        distrust "$1" "$owner" "$mode" "or name another directory"
    fi
}

distrust() {
    printf '%s: %s belongs to user %d (mode %s): others could have put anything in it, so it is not used.\n' \
        "${0##*/}" "$1" "$2" "$3" >&2
    printf '       Next step: look at it, remove it, %s.\n' "$4" >&2
    exit 1
}

safe_path
safe_environment
