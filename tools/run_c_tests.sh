#!/usr/bin/env bash
# run_c_tests.sh: runs C test executables, some at a time, and adds up their counts.
#
#   tools/run_c_tests.sh VARIANT JOBS EXECUTABLE...
#
# The output of each goes to EXECUTABLE.log; it is shown when the test fails. The last line is
# "VARIANT: N passed, M failed".
set -u

variant=$1
jobs=$2
shift 2

export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}"
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1:allocator_may_return_null=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}"

# A kernel that randomises addresses over many bits puts mappings where TSAN keeps its shadow.
launcher=
if [ "$variant" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
    launcher="setarch $(uname -m) -R"
fi
export launcher

run_one() {
    local log=$1.log
    if $launcher "$1" >"$log" 2>&1; then
        return 0
    fi
    printf '%s failed:\n' "$1"
    sed 's/^/    /' "$log"
    return 1
}
export -f run_one

if [ $# -eq 0 ]; then
    echo "$variant: no tests"
    exit 0
fi
printf '%s\0' "$@" | xargs -0 -n 1 -P "$jobs" bash -c 'run_one "$0"'
failed=$?

logs=()
for executable in "$@"; do
    logs+=("$executable.log")
done
awk -v variant="$variant" '
    /^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 }
    /^(CRASH|TIMEOUT|FAILED) / { print FILENAME ": " $0 }
    END { printf "%s: %d passed, %d failed\n", variant, passed, failed }
' "${logs[@]}"
[ "$failed" -eq 0 ]
