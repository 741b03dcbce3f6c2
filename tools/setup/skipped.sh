#!/bin/sh
# Tells which tests of the last run were skipped and why: nextest shows no output of tests that pass.
set -eu
cd "$(dirname "$0")/../.."
report=${CARGO_TARGET_DIR:-target}/nextest/default/junit.xml
[ -e "$report" ] || exit 0
awk '
    match($0, /<testcase name="[^"]*"/) { name = substr($0, RSTART + 16, RLENGTH - 17) }
    match($0, /skipped: .*/) {
        why = substr($0, RSTART)
        gsub(/&quot;/, "\"", why); gsub(/&apos;/, "\047", why); gsub(/&lt;/, "<", why); gsub(/&gt;/, ">", why); gsub(/&amp;/, "\\&", why)
        sub(/<\/system-(out|err)>.*/, "", why)
        print name ": " why
        count++
    }
    END { if (!count) print "no test was skipped" }
' "$report"
