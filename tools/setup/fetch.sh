# What the scripts that put pinned wheels into the user's cache have in common; they read it by `.`. pip checks the hashes, and the
# folder appears whole or not at all: it is made as $work/lib beside its place, and moved there at the end.

cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}

# pinned FILE PACKAGE: the version of it that FILE names.
pinned() {
    sed -n "s/^$2==\([0-9.]*\).*/\1/p" "$1"
}

# begin TARGET: $work, and in it lib/ for what TARGET is to hold.
begin() {
    target=$1
    mkdir -p "$(dirname "$target")"
    work=$(mktemp -d "$(dirname "$target")/.unpack-XXXXXX")
    mkdir "$work/lib"
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
}

# download FILE PLATFORM...: the wheels that FILE names, as $work/*.whl.
download() {
    requirement=$1
    shift
    platforms=""
    for platform in "$@"; do platforms="$platforms --platform $platform"; done
    # Of wheels that are built for each Python it is one build's hash that is pinned; the libraries in them are the same.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        --python-version 311 --implementation cp --abi cp311 --abi none $platforms --dest "$work" --requirement "$requirement" >&2
}

# finish: TARGET is what was put into $work/lib.
finish() {
    rm -rf "$target"
    mv "$work/lib" "$target"
}
