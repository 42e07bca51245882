#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ./demo as a build server would run it: no terminal, no HOME. It must end by itself, have shown each of its parts, and leave nothing behind.
set -u
cd "$(dirname "$0")/.." || exit 1
out=$(mktemp)
trap 'rm -f "$out"' EXIT
passed=0 failed=0
check() { # name, command...
	local name=$1
	shift
	if "$@"; then
		echo "ok demo: $name"
		passed=$((passed + 1))
	else
		echo "FAIL demo: $name"
		failed=$((failed + 1))
	fi
}
shows() { grep -qiE -- "$1" "$out"; }
nothing_left() { ! pgrep -f 'qemu-system.*-name demo(-serial)?( |$)' -s 0 >/dev/null; }

# A session of its own, so that what it leaves behind can be told from other people's VMs. 600 s is a hang guard.
env -u HOME CI=true timeout 600 setsid -w ./demo </dev/null >"$out" 2>&1
status=$?
cat "$out"
check "exit status 0 (got $status)" test $status -eq 0
check "says which accelerator and why" shows '(hardware speed|interprets instructions|not usable)'
check "processors" shows 'cpu|processor'
check "registers" shows 'rip=|rip '
check "modules" shows 'ntoskrnl|^.* nt '
check "memory" shows '4d 5a'
check "a breakpoint was hit" shows 'breakpoint .*hit|Breakpoint 0'
check "figures beside the serial yardstick" shows 'KB/s.*KB/s'
check "its VMs are gone" nothing_left
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
