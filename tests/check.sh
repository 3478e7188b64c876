# Counting for the scripts beside this file, which source it: each `check` is a test of its own, and
# `finish` prints the closing line that tests/run adds up.
passed=0 failed=0

# The binary under test. Nothing else that the caller has set must reach it: it refuses variables that
# it does not know.
readonly BIN=${COURSER_BIN:-$PWD/target/release/courser}
unset "${!COURSER_@}"

# check WHAT COMMAND...: passes when the command succeeds; prints what it said when it does not.
check() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok      $what"
  else
    failed=$((failed + 1))
    echo "FAILED  $what"
    sed 's/^/        /' <<<"$output"
  fi
}

# wait_until SECONDS COMMAND...: succeeds as soon as the command does.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

finish() {
  echo "$passed passed, $failed failed"
  ((failed == 0))
}
