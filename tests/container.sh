#!/usr/bin/env bash
# Builds docker/Dockerfile as it stands with buildah, and runs the broker from the image's own files as
# the image's own user, in a network of its own where there are rights to make one.
#
# Base images cannot be pulled on every machine, so both are stand-ins made from files of this one:
#   build    bash, a few core tools, and a `cargo` that hands over the binary built before
#   runtime  the C libraries that the binary is linked with, and no shell
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
source tests/check.sh

readonly IMAGE_USER=65532
readonly TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
work=$(mktemp -d)

buildah() {
  command buildah --storage-driver vfs --root "$work/store" --runroot "$work/run" "$@" </dev/null
}

# On the way out: end the broker if it still runs, leave nothing behind.
cleanup() {
  [[ -s $work/broker.pid && ! -s $work/broker.status ]] && kill -9 "$(broker_pid)" 2>/dev/null
  rm -rf "$work"
}

# add_program ROOTFS PROGRAM...: copies programs and what they are linked with.
add_program() {
  local rootfs=$1 program library
  shift
  for program in "$@"; do
    install -D "$program" "$rootfs/usr/bin/$(basename "$program")" || return
    for library in $(ldd "$program" | grep -o '/[^ )]*'); do
      install -D "$library" "$rootfs$library" || return
    done
  done
}

stand_in() { # stand_in NAME: an image of the files below $work/NAME
  printf 'FROM scratch\nCOPY . /\n' >"$work/$1.dockerfile"
  buildah build --isolation chroot --quiet --tag "localhost/courser-test-$1" \
    --file "$work/$1.dockerfile" "$work/$1"
}

stand_ins() {
  local build="$work/build" runtime="$work/runtime"
  mkdir -p "$build"/{usr/bin,prebuilt,tmp} "$runtime"/{etc,tmp}
  ln -s usr/bin "$build/bin"
  add_program "$build" "$(command -v bash)" /usr/bin/{mkdir,cp,chmod} || return
  cp "$build/usr/bin/bash" "$build/usr/bin/sh"
  cp "$BIN" "$build/prebuilt/courser" || return
  cat >"$build/usr/bin/cargo" <<'CARGO'
#!/bin/bash
[[ "$*" == "build --release --locked --package courser" ]] || { echo "cargo $*?"; exit 1; }
for file in Cargo.toml Cargo.lock crates/courser/Cargo.toml proto/courser/v1/broker.proto tests/Cargo.toml; do
  [[ -f $file ]] || { echo "the build has no $file"; exit 1; }
done
[[ ! -e target ]] || { echo "the context carries target/"; exit 1; }
mkdir -p target/release && cp /prebuilt/courser target/release/courser
CARGO
  chmod +x "$build/usr/bin/cargo"
  for library in $(ldd "$BIN" | grep -o '/[^ )]*'); do
    install -D "$library" "$runtime$library" || return
  done
  echo "nonroot:x:$IMAGE_USER:$IMAGE_USER::/home/nonroot:/sbin/nologin" >"$runtime/etc/passwd"
  stand_in build && stand_in runtime
}

# The stand-in for cargo builds nothing: the real one goes through what a build of the image would have.
context_is_whole() {
  local container mounted
  printf 'FROM scratch\nCOPY . /src\n' >"$work/context.dockerfile"
  buildah build --isolation chroot --quiet --tag localhost/courser-test-context \
    --ignorefile docker/Dockerfile.dockerignore --file "$work/context.dockerfile" . || return
  container=$(buildah from localhost/courser-test-context) &&
    mounted=$(buildah mount "$container") || return
  (cd "$mounted/src" &&
    cargo check --locked --offline --package courser --target-dir "$TARGET_DIR")
}

build_image() {
  buildah build --isolation chroot --format docker --tag localhost/courser-test \
    --build-arg BUILD_IMAGE=localhost/courser-test-build \
    --build-arg RUNTIME_IMAGE=localhost/courser-test-runtime \
    --ignorefile docker/Dockerfile.dockerignore --file docker/Dockerfile .
}

# config EXPRESSION: a value of the image's configuration, as JSON.
config() {
  buildah inspect --type image localhost/courser-test | python3 -c '
import json, sys
config = json.load(sys.stdin)["Docker"]["config"]
print(json.dumps(eval(sys.argv[1]), separators=(",", ":")))' "$1"
}

is() { # is EXPECTED FILTER
  local value
  value=$(config "$2") && [[ $value == "$1" ]] || { echo "$2 is $value, not $1"; return 1; }
}

image_rootfs() {
  local container mounted
  container=$(buildah from localhost/courser-test) && mounted=$(buildah mount "$container") || return
  ln -s "$mounted" "$work/rootfs"
}

# As a container runtime would start it: the image's environment and user, and no other.
in_image() {
  env -i COURSER_DATA_DIR=/data COURSER_LISTEN=0.0.0.0:7420 COURSER_HTTP=0.0.0.0:7421 \
    "$(command -v chroot)" --userspec="$IMAGE_USER:$IMAGE_USER" "$work/rootfs/" /usr/local/bin/courser "$@"
}

serve() {
  in_image serve &
  echo $! >"$work/broker.pid"
  wait $!
  echo $? >"$work/broker.status"
}

start_broker() {
  serve >"$work/broker.log" 2>&1 </dev/null &
  wait_until 20 in_image health || { cat "$work/broker.log"; return 1; }
}

broker_pid() { pgrep --parent "$(<"$work/broker.pid")" || cat "$work/broker.pid"; }

runs_as_nonroot() {
  local uid
  uid=$(awk '/^Uid:/ { print $2 }' "/proc/$(broker_pid)/status")
  [[ $uid == "$IMAGE_USER" ]] || { echo "runs as $uid"; return 1; }
}

owns_its_data() {
  [[ $(stat -c %u "$work/rootfs/data") == "$IMAGE_USER" && -n $(ls -A "$work/rootfs/data") ]] ||
    { ls -lan "$work/rootfs/data"; return 1; }
}

http_answers() { curl -fsS "http://127.0.0.1:7421$1"; }

publish_and_consume() {
  in_image queue create orders && in_image publish orders hello &&
    in_image consume orders --count 1 --ack | grep hello
}

no_shell() { [[ ! -e $work/rootfs/bin/sh && ! -e $work/rootfs/usr/bin/sh ]]; }

stops_cleanly() {
  kill -TERM "$(broker_pid)"
  wait_until 12 test -s "$work/broker.status" || { echo "still runs after 12 s"; return 1; }
  [[ $(<"$work/broker.status") == 0 ]] ||
    { echo "exit status $(<"$work/broker.status")"; cat "$work/broker.log"; return 1; }
}

# 3: not reachable.
health_fails() {
  in_image health
  (($? == 3))
}

main() {
  trap cleanup EXIT
  check "stand-ins for the base images are made" stand_ins
  check "the context has all that cargo wants for the build" context_is_whole
  check "docker/Dockerfile builds" build_image
  check "the image runs as a user that is not root" is "\"$IMAGE_USER:$IMAGE_USER\"" 'config["User"]'
  check "the image keeps its data in a volume" is '{"/data":{}}' 'config["Volumes"]'
  check "the image names both ports" is '["7420/tcp","7421/tcp"]' 'sorted(config["ExposedPorts"])'
  check "the image checks health with the binary itself" \
    is '["CMD","/usr/local/bin/courser","health"]' 'config["Healthcheck"]["Test"]'
  check "the image starts the broker" \
    is '["/usr/local/bin/courser","serve"]' 'config["Entrypoint"] + config["Cmd"]'
  check "the image listens on all addresses" \
    is 'true' '"COURSER_LISTEN=0.0.0.0:7420" in config["Env"] and "COURSER_HTTP=0.0.0.0:7421" in config["Env"]'
  check "the image's files are there" image_rootfs
  check "the image has no shell" no_shell
  check "the broker starts from the image and is healthy" start_broker
  check "it does not run as root" runs_as_nonroot
  check "its data is in /data and its own" owns_its_data
  check "/healthz answers" http_answers /healthz
  check "/metrics answers" http_answers /metrics
  check "publish and consume work" publish_and_consume
  check "it ends within 10 s of SIGTERM with exit status 0" stops_cleanly
  check "its health check fails when it is gone" health_fails
  finish
}

# A network of its own, so that the default ports are free and nothing outside can be reached.
if [[ ${1:-} != --inside ]] && unshare --net true 2>/dev/null && command -v ip >/dev/null; then
  exec env COURSER_BIN="$BIN" unshare --net bash -c 'ip link set lo up && exec "$0" --inside' "$PWD/tests/container.sh"
fi
main
