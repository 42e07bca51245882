#!/bin/bash
# SPDX-License-Identifier: MIT
# The bottom half of the test kernel proves itself: scenario hal on both architectures, 1 to 8 CPUs, TCG and KVM,
# both machines and 6 GiB of RAM; and what loader and tools/testkernel refuse. Prints `ok NAME`, `FAIL NAME: why` or
# `skip NAME: why` per case and ends with `N passed, N failed, N skipped`; exit status 1 on a failure.
#   VMKD_BUILD  the build folder (default build/)
set -u
cd "$(dirname "$0")/.." || exit 1
export VMKD_BUILD=${VMKD_BUILD:-$PWD/build}
work=$(mktemp -d) || exit 1
export VMKD_RUNTIME_DIR=$work/run
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

verdict() { # name, why it failed (empty = passed)
    if [ -z "$2" ]; then
        passed=$((passed + 1))
        echo "ok $1"
    else
        failed=$((failed + 1))
        echo "FAIL $1: $2"
    fi
}

skip() {
    skipped=$((skipped + 1))
    echo "skip $1: $2"
}

boot() { # tools/testkernel's arguments; its output goes to $work/log
    timeout 120 tools/testkernel "check-hal-$$" --link serial "$@" >"$work/log" 2>&1
}

selftest() { # name, arguments
    local name=$1 status why=''
    shift
    boot --scenario hal "$@"
    status=$?
    [ $status = 0 ] || why="exit status $status; $(grep -m 3 -e FAIL -e '^pe:' -e '^boot:' -e unhandled "$work/log" | tr '\n' ';')"
    [ $status != 0 ] || grep -q '^selftest: 0 failed' "$work/log" || why='no verdict in the log'
    verdict "$name" "$why"
}

refused() { # name, expected exit status, text that must be in the output, arguments
    local name=$1 expected=$2 text=$3 status why=''
    shift 3
    boot "$@"
    status=$?
    [ $status = "$expected" ] || why="exit status $status instead of $expected"
    grep -qF -- "$text" "$work/log" || why="$why; no \"$text\" in: $(tail -n 2 "$work/log" | tr '\n' ' ')"
    verdict "$name" "$why"
}

for cpus in 1 4 8; do
    selftest "x64 tcg, $cpus CPUs" --cpus $cpus
    selftest "x86 tcg, $cpus CPUs" --arch x86 --cpus $cpus
done
for machine in pc q35; do
    selftest "x64 tcg, 6 GiB, $machine" --ram 6G --machine $machine
    selftest "x86 tcg, 6 GiB, $machine" --ram 6G --machine $machine --arch x86
done
selftest "x64 tcg, 32 MiB" --ram 32M
selftest "x64 tcg, kernel under another name" --kernel-name krnl-7.exe
for cpus in 1 2 4; do
    if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
        selftest "x64 kvm, $cpus CPUs" --accel kvm --cpus $cpus
    else
        skip "x64 kvm, $cpus CPUs" "no usable /dev/kvm"
    fi
done

parts=$VMKD_BUILD/testkernel
echo "no image at all, and rather longer than a header, so that only its first bytes can be the reason: $(seq 2000)" >"$work/text.dll"
head -c 3000 "$parts/x64/kduart.dll" >"$work/short.dll"
cp "$parts/x64/ntoskrnl.exe" "$work/nokd.dll"
refused "a transport that is no PE" 2 "text.dll: not a PE image" --transport "$work/text.dll"
refused "a truncated transport" 2 "short.dll: a section lies beyond the end of the file" --transport "$work/short.dll"
refused "a transport for the other machine" 2 "built for another machine" --transport "$parts/x86/kduart.dll"
refused "a transport without the KD exports" 2 "imports KdSendPacket from KDCOM.dll, which has no such export" \
    --transport "$work/nokd.dll"
refused "too many CPUs" 64 '--cpus is a number from 1 to 8, got "9"' --cpus 9
refused "an unknown option" 64 "unknown option --sepcial" --sepcial
refused "an option without its value" 64 "--ram needs a value" --ram
refused "an unknown link" 64 '--link is hook, debugcon or serial, got "usb"' --link usb
refused "the hook without KVM" 64 "--link hook needs --accel kvm" --link hook --accel tcg
refused "a missing transport" 64 "is missing; run make" --transport "$work/none.dll"
refused "a file name with a path" 64 "plain name" --file "../x=$work/text.dll"
refused "less memory than it needs" 2 "too little memory" --ram 8M

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
