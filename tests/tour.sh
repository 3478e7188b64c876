#!/usr/bin/env bash
# Pastes the README's tour into a shell, line by line, against a fresh broker on the default ports, and
# checks that each command succeeds and prints what the README says it prints (`#> part of the output`).
#
# Runs in a network of its own where there are rights to make one, so that the default ports are free.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
source tests/check.sh

work=$(mktemp -d)
broker=

cleanup() {
  [[ -n $broker ]] && kill -9 "$broker" && wait "$broker" 2>/dev/null
  rm -rf "$work"
}

# The block that begins with "```sh tour".
tour() { awk '/^```sh tour$/ { on = 1; next } /^```$/ { on = 0 } on' README.md; }

# run LINE: in this shell, as pasted; what it prints is kept for the expectations below it.
run() {
  eval "$1" >"$work/output" 2>&1
  local status=$?
  cat "$work/output"
  return $status
}

prints() { grep -F -- "$1" "$work/output" || { echo "printed:"; cat "$work/output"; return 1; }; }

start_broker() {
  "$BIN" serve --data-dir "$work/data" >"$work/broker.log" 2>&1 </dev/null &
  broker=$!
  wait_until 20 curl -fsS http://127.0.0.1:7421/readyz || { cat "$work/broker.log"; return 1; }
}

stops_cleanly() {
  kill -TERM "$broker" && wait "$broker"
  local status=$?
  broker=
  ((status == 0)) || { echo "exit status $status"; cat "$work/broker.log"; return 1; }
}

main() {
  local line lines=0
  trap cleanup EXIT
  # Not inside `check`: the broker must be a child of this shell.
  start_broker || { echo "the broker does not start"; echo "0 passed, 1 failed"; exit 1; }
  check "it says where it listens" grep -F 7420 "$work/broker.log"
  check "it says where its data is" grep -F "$work/data" "$work/broker.log"
  check "it says what to try next" grep -F 'courser queue create' "$work/broker.log"
  # The tour's own PATH line names the folder of a release build; another binary comes first.
  mkdir "$work/bin" && ln -s "$BIN" "$work/bin/courser"
  while IFS= read -r line; do
    case $line in
      '' | '# '*) ;;
      '#> '*) check "    prints: ${line:3}" prints "${line#'#> '}" ;;
      'export '*) eval "$line" && PATH="$work/bin:$PATH" ;;
      *) lines=$((lines + 1)) && check "$line" run "$line" ;;
    esac
  done < <(tour)
  check "the tour was found" test "$lines" -ge 10
  # Not inside `check` either: a shell waits for its own children only.
  stops_cleanly >"$work/stop"
  check "the broker ends by SIGTERM with exit status 0" test $? = 0
  cat "$work/stop"
  finish
}

if [[ ${1:-} != --inside ]] && unshare --net true 2>/dev/null && command -v ip >/dev/null; then
  exec env COURSER_BIN="$BIN" unshare --net bash -c 'ip link set lo up && exec "$0" --inside' "$PWD/tests/tour.sh"
fi
main
