#!/bin/sh
# What the page's test needs: Debian's Chromium, Node.js, and the driver that package-lock.json pins. Says nothing when all is
# there. Where it cannot be had, the test says that it was skipped.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
missing=""
command -v chromium >/dev/null || missing="$missing chromium"
command -v npm >/dev/null || missing="$missing nodejs npm"
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "the page's test needs the equivalents of:$missing" >&2
        exit 0
    fi
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing$missing"
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    # shellcheck disable=SC2086 # the list is meant to be split
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi
cd "$here/../../web/tests/browser"
# npm leaves this file behind a complete installation.
[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --silent --no-audit --no-fund
