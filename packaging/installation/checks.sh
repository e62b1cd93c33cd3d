# shellcheck shell=sh
# What `test` and `units` count, and how they say it; read by both.

passed=0
failed=0

# check WHAT COMMAND...: what the command says is shown when it fails.
check() {
    what=$1
    shift
    # Not as a condition: within one bash has no `set -e`.
    output=$("$@" 2>&1)
    status=$?
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
        echo "passed  $what"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s\n%s\n' "$what" "$output"
    fi
}

# The last line, and the exit status.
summary() {
    echo "$1: $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
