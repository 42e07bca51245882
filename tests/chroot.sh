#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A fresh Debian 12 (debootstrap) in which a user does the first things: installs the packages, runs doctor, runs the demo with what was installed, takes the packages
# off again; and, from a copy of this tree, ./demo, which installs what it needs and builds.
#
#   tests/chroot.sh [--without-source-demo]
#
# Root only, with a Debian mirror in reach (VMKD_MIRROR, else deb.debian.org). Everything happens in a mount and a process namespace of its own: when this script ends, however it does, its
# mounts and processes are gone, and nothing of the host was mounted into the new system but device nodes made for it.
# shellcheck disable=SC2317 # the functions are called through check
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
tree=$PWD
mirror=${VMKD_MIRROR:-http://deb.debian.org/debian}
build=$(readlink -f "${VMKD_BUILD:-$tree/build}")

# ---- Outside: the namespaces, and the removal ----------------------------------------------------------------------------

if [ "${1:-}" != --inside ]; then
	[ "$(id -u)" = 0 ] || { echo "chroot: root is needed for debootstrap"; exit 77; }
	command -v debootstrap >/dev/null || { echo "chroot: debootstrap is not installed"; exit 77; }
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/vmkd-chroot-XXXXXX") || exit 1
	status=0
	unshare --mount --propagation private --pid --fork --kill-child "$tree/tests/chroot.sh" --inside "$scratch" "$@" || status=$?
	if findmnt -rn -o TARGET | grep -q "^$scratch"; then
		echo "FAIL chroot: something is still mounted below $scratch, which therefore stays" && exit 1
	fi
	rm -rf --one-file-system "$scratch"
	exit $status
fi

# ---- Inside ------------------------------------------------------------------------------------------------------------

scratch=$2 root=$2/debian with_source=yes
[ "${3:-}" = --without-source-demo ] && with_source=no
passed=0 failed=0
check() { # name, command...: its output goes to $scratch/log, whose end is shown when it fails
	local name=$1
	shift
	if "$@" >"$scratch/log" 2>&1 </dev/null; then
		echo "ok chroot: $name"
		passed=$((passed + 1))
	else
		echo "FAIL chroot: $name (status $?): $(tail -n 12 "$scratch/log" | tr '\n' '|')"
		failed=$((failed + 1))
		return 1
	fi
}
finish() { echo "$passed passed, $failed failed, 0 skipped"; [ "$failed" = 0 ]; exit; }
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/nonexistent LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
as_user() { inside setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/srv/somebody "$@"; }

packages() {
	mkdir -p "$scratch/packages/vmkd" &&
		python3 -c "import sys; sys.path.insert(0, 'tests'); from tree import files; print(*files(), sep='\n')" | tar -cT - | tar -xC "$scratch/packages/vmkd" &&
		(cd "$scratch/packages/vmkd" && env -u O -u VMKD_BUILD unshare --net dpkg-buildpackage -us -uc -b)
}
new_system() {
	debootstrap --variant=minbase bookworm "$root" "$mirror" &&
		mount -t proc proc "$root/proc" &&
		cp --dereference /etc/resolv.conf "$root/etc/resolv.conf" &&
		printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" && chmod +x "$root/usr/sbin/policy-rc.d" &&
		mkdir -p "$root/dev/shm" && chmod 1777 "$root/dev/shm" && device_nodes &&
		inside useradd --uid 1000 --user-group --create-home --home-dir /srv/somebody somebody
}
device_nodes() { # debootstrap has made the usual ones; this one is the VM's
	[ ! -c /dev/kvm ] || mknod -m 666 "$root/dev/kvm" c "$((0x$(stat -c %t /dev/kvm)))" "$((0x$(stat -c %T /dev/kvm)))"
}
# What the packages depend on and what this test uses, so that the list of files before and after is about our packages alone.
dependencies() {
	mkdir "$root/packages" && cp "$scratch"/packages/*.deb "$root/packages/" && rm -f "$root"/packages/*-dbgsym_*.deb &&
		inside apt-get -q update &&
		install_ours qemu-system-x86 python3 gcc libc6-dev pkgconf man-db &&
		inside apt-get -q -y purge vmkd libvmkd0 libvmkd-dev vmkd-guest
}
listing() { (cd "$root" && find . -xdev \( -path ./proc -o -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache -o -path ./tmp -o -path ./packages \) -prune -o -print | sort); }
install_ours() { inside sh -c 'apt-get -q -y install --no-install-recommends /packages/*.deb "$@"' sh "$@"; }
# What the demo needs besides: the test kernel, which is no part of any package, and the scripts. Its vmkd, its library and its guest module are the installed ones.
demo_parts() {
	mkdir -p "$root/demo/build" && cp -r tools tests "$root/demo/" && cp -r "$build/testkernel" "$build/benchmarks" "$build/tools" "$root/demo/build/" &&
		ln -s /usr/bin/vmkd "$root/demo/build/vmkd" && ln -s /usr/share/vmkd/guest "$root/demo/build/guest"
}
demo() { as_user env VMKD_BUILD=/demo/build timeout 900 python3 /demo/tools/demo.py | tee "$scratch/demo"; }
shows() { grep -qE -- "$1" "$scratch/demo"; }
doctor() {
	local status=0
	as_user vmkd doctor >"$scratch/doctor" || status=$?
	cat "$scratch/doctor"
	[ "$status" -le 1 ] && [ "$(grep -cE '(passed|FAILED|unknown)' "$scratch/doctor")" -ge 3 ] && grep -q 'QEMU' "$scratch/doctor"
}
source_demo() {
	mkdir -p "$root/src" && cp -r "$scratch/packages/vmkd/." "$root/src/" && rm -rf "$root/src/debian/build" && timeout 2400 chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin CI=true /src/demo
}

check "the packages build without a network" packages || finish
check "a fresh Debian 12" new_system || finish
check "its dependencies can be installed" dependencies || finish
listing >"$scratch/before"
check "the packages install" install_ours || finish
check "what was installed is in order" as_user sh -c "$(cat debian/tests/smoke)"
check "vmkd doctor, as somebody" doctor
cat "$scratch/doctor"
check "the demo's parts" demo_parts
if check "the demo, with the installed vmkd, as somebody" demo; then
	check "... a breakpoint was hit" shows 'Breakpoint 0 hit'
	check "... and figures" shows 'KB/s'
fi
check "the packages can be purged" inside apt-get -q -y purge vmkd libvmkd0 libvmkd-dev vmkd-guest
rm -rf "$root/demo"
listing >"$scratch/after"
check "nothing is left behind" diff "$scratch/before" "$scratch/after"
[ $with_source = no ] || check "./demo from the sources, in a system that has nothing for it" source_demo
finish
