#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The self tests of wire/ as mingw built them, run at CPL 0 by the test kernel, for both architectures. The numbers of tests must be those of the
# host's build: a test that vanished there would not be missed otherwise.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${VMKD_BUILD:-$PWD/build}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export VMKD_RUNTIME_DIR=$work/run
passed=0 failed=0
expected=$("$build/tests/wire-selftest" | grep -c '^ok ')
for arch in x64 x86; do
	timeout 300 tools/testkernel "wire-$arch" --arch "$arch" --accel tcg --link serial --file "wiretest.dll=$build/$arch/wiretest.dll" \
		--scenario selftest --set selftest=wiretest.dll >"$work/log" 2>&1
	status=$?
	sed "s/^/$arch: /" "$work/log"
	count=$(grep -c '^ok ' "$work/log")
	if [ $status -eq 0 ] && [ "$count" -eq "$expected" ] && ! grep -q '^not ok' "$work/log"; then
		echo "ok $count tests of wire/ in the guest, $arch"
		passed=$((passed + count))
	else
		echo "FAIL wire/ in the guest, $arch: exit status $status, $count of $expected tests passed; $(grep -m1 '^not ok' "$work/log")"
		failed=$((failed + 1))
	fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
