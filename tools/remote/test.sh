#!/bin/sh
# The U-Net on a real Triton server, everything else here: pictures are those of the same network here, whatever happens to the server.
#
#   tools/remote/test.sh     the server is fetched (setup.sh, 91 MB); it computes on the CPU
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=${LIVEDIFFUSION_BINARY:-$root/target/release/livediffusion}
[ -x "$binary" ] || { echo "error: there is no $binary" >&2 && echo "hint: make build, or name one in LIVEDIFFUSION_BINARY" >&2 && exit 3; }
"$here/setup.sh"

work=$(mktemp -d)
servers=""
# Whatever is left of them ends too (triton.sh).
trap '[ $? = 0 ] || tail -n 2 "$work/$name.said"; for server in $servers; do kill -KILL "$server" 2>/dev/null || true; done; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
port=$(python3 -c 'import socket
ends = [socket.socket() for _ in range(2)]
for end in ends: end.bind(("127.0.0.1", 0))
print(*(end.getsockname()[1] for end in ends))')
second=${port#* } port=${port% *}
one=grpc://127.0.0.1:$port two=grpc://127.0.0.1:$second

# start REPOSITORY PORT: a server, once it answers. Its process is in $server.
start() {
    "$here/triton.sh" "$1" "$2" >>"$work/server.log" 2>&1 &
    server=$!
    servers="$servers $server"
    for _ in $(seq 300); do
        ! python3 -c "import socket; socket.create_connection(('127.0.0.1', $2), 1)" 2>/dev/null || return 0
        sleep 0.1
    done
    echo "error: the server does not start:" >&2 && cat "$work/server.log" >&2 && exit 1
}

# end SIGNAL: the server that was started last, and waits for its end.
end() {
    kill "-$1" "$server"
    wait "$server" 2>/dev/null || true
}

# paint NAME ARGUMENTS...: the clip's first frames, as bytes in $work/NAME; what was said is in $work/NAME.said.
paint() {
    name=$1
    shift
    "$binary" run --input "$root/assets/bigbuckbunny.mp4" --prompt "oil painting" --provider cpu --precision f32 --seed 3 --lanes 1 \
        --output "videoconvert ! video/x-raw,format=RGB ! filesink location=$work/$name" "$@" >"$work/$name.out" 2>"$work/$name.said"
}

failed=0
# expect WHAT CONDITION...: one line, and the end of the test's success where it is not so.
expect() {
    what=$1
    shift
    if result=$("$@" 2>&1); then echo "$what: ok"; else
        echo "$what: FAILED $result" && failed=1
        sed 's/^/  /' "$work/$name.said"
    fi
}

# near A B MOST: as many bytes, the mean difference of which is at most that many levels. Pictures of neighbours differ by levels.
near() {
    python3 -c 'import sys
a, b = (open(path, "rb").read() for path in sys.argv[1:3])
mean = sum(abs(x - y) for x, y in zip(a, b)) / len(a)
print(f"{len(a)} and {len(b)} bytes, off by {mean} levels")
sys.exit(len(a) != len(b) or mean > float(sys.argv[3]))' "$@"
}

# painted NAME: waits until a run has written a picture.
painted() {
    for _ in $(seq 600); do
        [ ! -s "$work/$1" ] || return 0
        sleep 0.1
    done
    echo "error: no picture is written:" >&2 && cat "$work/$1.said" >&2 && exit 1
}

says() { grep -q -e "$2" "$work/$1.said"; }
refuses() { [ "$code" = "$1" ] && [ "$(wc -l <"$work/$2.said")" = 2 ] && says "$2" "$3" && says "$2" '^hint: '; }

python3 "$here/repository.py" "$root/models/default" "$work/served/whole"
python3 "$here/repository.py" "$root/models/default" "$work/served/slow" --delay-ms 150
python3 "$here/repository.py" "$root/models/default" "$work/served/half" --half
python3 "$here/repository.py" "$root/onnx/tests/data/control" "$work/served/control"
steps="--frames 6 --t-index 32,45"
guided="--frames 4 --t-index 32,45 --cfg full --guidance 1.4"
# shellcheck disable=SC2086 # the words are meant to be split
{
    paint here $steps
    paint here-guided $guided
    paint long --frames 30
    paint control --frames 4 --model "$root/onnx/tests/data/control"

    start "$work/served/whole" "$port"
    paint there $steps --unet-server "$one"
    expect "a stream batch of two steps" near "$work/here" "$work/there" 0.01
    paint there-guided $guided --unet-server "$one"
    expect "full guidance" near "$work/here-guided" "$work/there-guided" 0.01
    code=0
    paint unknown $steps --unet-server "$one/nothing" || code=$?
    expect "a model that it has not" refuses 2 unknown "unknown model: 'nothing'"
    "$binary" doctor --unet-server "$one" >"$work/doctor.said" 2>&1 || true
    expect "doctor" says doctor "U-Net's servers.*triton.*8 rows"
    end TERM
    code=0
    paint nobody $steps --unet-server "$one" || code=$?
    expect "no server" refuses 3 nobody "is not there"

    start "$work/served/half" "$port"
    paint there-half $steps --unet-server "$one"
    expect "in f16" near "$work/here" "$work/there-half" 0.1
    end KILL
    start "$work/served/control" "$port"
    paint there-control --frames 4 --model "$root/onnx/tests/data/control" --unet-server "$one"
    expect "a ControlNet" near "$work/control" "$work/there-control" 0.01
    end KILL

    # It goes in the middle of a run, told to or without a word, and comes back.
    for signal in TERM KILL; do
        start "$work/served/slow" "$port"
        paint "back-$signal" --frames 30 --unet-server "$one" &
        run=$!
        painted "back-$signal"
        end "$signal"
        sleep 1
        start "$work/served/slow" "$port"
        wait "$run" || true
        end KILL
        expect "gone by SIG$signal and back, the pictures" near "$work/long" "$work/back-$signal" 0.01
        expect "gone by SIG$signal and back, the word" says "back-$signal" "is back"
    done

    # Of two the other one goes on.
    start "$work/served/slow" "$port"
    start "$work/served/slow" "$second"
    paint two --frames 30 --unet-server "$one" --unet-server "$two" &
    run=$!
    painted two
    end KILL
    wait "$run" || true
    expect "one of two gone, the pictures" near "$work/long" "$work/two" 0.01
    expect "one of two gone, the word" says two "$two/unet is away"
}
exit $failed
