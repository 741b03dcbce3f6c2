#!/bin/sh
# Runs the Triton server of setup.sh: KServe v2 over gRPC on this machine alone, and Prometheus' metrics over HTTP where they have a port.
# It answers when all models are loaded, and says nothing but what fails, and that it has no CUDA. Told to end (SIGTERM) it answers what it
# has begun and takes two seconds; killed it is gone at once.
#
#   tools/remote/triton.sh REPOSITORY PORT [METRICS_PORT] [--OPTION=VALUE...]     the options are tritonserver's
set -eu
here=$(dirname "$0")
. "$here/../setup/fetch.sh"
home=$cache/triton-$(pinned "$here/triton.txt" nvidia-pytriton)
server=$home/pytriton/tritonserver
[ -x "$server/bin/tritonserver" ] || { echo "error: there is no $server" >&2 && echo "hint: tools/remote/setup.sh" >&2 && exit 3; }
[ $# -ge 2 ] || { echo "usage: $0 REPOSITORY PORT [METRICS_PORT] [--OPTION=VALUE...]" >&2 && exit 2; }

repository=$1 port=$2
shift 2
metrics="--allow-metrics=false"
case ${1:-} in
    [0-9]*)
        metrics="--metrics-address=127.0.0.1 --metrics-port=$1 --allow-gpu-metrics=false --allow-cpu-metrics=false"
        shift
        ;;
esac

# The Python that the backend embeds is the system's; another's on the path would be taken for its home.
export PATH=/usr/bin:/bin
# A server that is killed, or told to end while it starts, leaves processes of the backend that wait for it for ever, and memory that
# they shared with it. Both bear its id.
mark=livediffusion-triton-$$-
(
    trap '' HUP INT TERM
    while [ -e "/proc/$$/exe" ]; do sleep 0.2; done
    for process in /proc/[0-9]*; do
        ! grep -qs "$mark" "$process/cmdline" || kill -KILL "${process#/proc/}"
    done
    rm -f "/dev/shm/$mark"*
) </dev/null >/dev/null 2>&1 &

# The configuration is whole: to have the model complete it would only start Python twice.
# shellcheck disable=SC2086 # the words are meant to be split
exec "$server/bin/tritonserver" --model-repository="$repository" --disable-auto-complete-config \
    --backend-directory="$server/backends" --backend-config=python,shm-region-prefix-name="$mark" \
    --allow-http=false --grpc-address=127.0.0.1 --grpc-port="$port" $metrics \
    --log-info=false --log-warning=false --pinned-memory-pool-byte-size=0 --exit-timeout-secs=5 "$@"
