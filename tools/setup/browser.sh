#!/bin/sh
# What the page's test needs: Debian's Chromium, Node.js, and the driver that package-lock.json pins. Says nothing when all is
# there. Where it cannot be had, the test says that it was skipped.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
code=0
"$here/packages.sh" "$here/packages-browser.txt" || code=$?
# 3: no Debian. The other tests need none of this.
[ "$code" != 3 ] || exit 0
[ "$code" = 0 ] || exit "$code"
cd "$here/../../web/tests/browser"
# npm leaves this file behind a complete installation.
[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --silent --no-audit --no-fund
