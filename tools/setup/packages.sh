#!/bin/sh
# Installs the Debian packages of packages.txt, or of the list that is named, which are missing; says nothing when none is.
set -eu
here=$(dirname "$0")
missing=""
for package in $(sed 's/#.*//' "${1:-$here/packages.txt}"); do
    # Those that are not Debian's own serve as well.
    case $package in
        python3) command -v python3 >/dev/null && continue ;;
        chromium | npm) command -v "$package" >/dev/null && continue ;;
        nodejs) command -v node >/dev/null && continue ;;
        python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
    esac
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "error: this script installs Debian packages and found no apt-get" >&2
    echo "hint: install the equivalents of:$missing" >&2
    exit 3
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing$missing"
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq update
# shellcheck disable=SC2086 # the list is meant to be split
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
