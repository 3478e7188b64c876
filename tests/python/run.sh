#!/usr/bin/env bash
# Clients that nobody here wrote by hand: Python's grpcio, with stubs generated from proto/ on the spot, and
# with nothing but server reflection. Installs both in tests/.venv, and runs them against a fresh broker.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
source tests/check.sh

readonly VENV=tests/.venv
work=$(mktemp -d)
broker=

cleanup() {
  [[ -n $broker ]] && kill "$broker" && wait "$broker"
  rm -rf "$work"
}

# The packages are installed once for each version of the requirements.
install_packages() {
  cmp -s tests/python/requirements.txt "$VENV/installed.txt" && return
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv || return
  fi
  rm -rf "$VENV" && python3 -m venv "$VENV" &&
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -r tests/python/requirements.txt &&
    cp tests/python/requirements.txt "$VENV/installed.txt"
}

generate_stubs() {
  mkdir "$work/stubs" && "$VENV/bin/python" -m grpc_tools.protoc --proto_path=proto \
    --python_out="$work/stubs" --grpc_python_out="$work/stubs" proto/courser/v1/*.proto
}

# Any free ports: the broker says in its log which ones it got.
start_broker() {
  "$BIN" serve --data-dir "$work/data" --listen 127.0.0.1:0 --http 127.0.0.1:0 --log-format json \
    >"$work/broker.log" 2>&1 </dev/null &
  broker=$!
  wait_until 20 grep -q '"grpc":"' "$work/broker.log" || { cat "$work/broker.log"; return 1; }
  address=$(sed -n 's/.*"grpc":"\([^"]*\)".*/\1/p' "$work/broker.log")
}

main() {
  trap cleanup EXIT
  check "grpcio is installed" install_packages
  check "stubs are generated from proto/" generate_stubs
  start_broker || { echo "the broker does not start"; echo "0 passed, 1 failed"; exit 1; }
  local script
  for script in stubs reflection; do
    PYTHONPATH="$work/stubs:tests/python" timeout 120 "$VENV/bin/python" "tests/python/$script.py" "$address" |
      tee "$work/$script.log"
    check "tests/python/$script.py ran to its end" test "${PIPESTATUS[0]}" = 0
    # Its own checks are counted with ours.
    passed=$((passed + $(grep -c '^ok ' "$work/$script.log")))
    failed=$((failed + $(grep -c '^FAILED ' "$work/$script.log")))
  done
  finish
}
main
