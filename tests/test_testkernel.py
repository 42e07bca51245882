#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The test kernel over its serial yardstick, driven by the independent client of kdclient.py.

    tests/test_testkernel.py [--arch x64|x86|both] [--link serial|debugcon|hook] [--accel tcg|kvm] [PATTERN…]

Prints `ok NAME` or `FAIL NAME: …` per case and ends with `N passed, N failed, N skipped`; exit status 1 on a failure. The
same cases run over the product's links (--link), where they show that the transport adds and loses nothing.
"""
import argparse
import os
import signal
import struct
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tk_look  # noqa: E402,F401  (importing a module registers its cases)
import tk_memory  # noqa: E402,F401
import tk_registers  # noqa: E402,F401
import tk_running  # noqa: E402,F401
import tk_processors  # noqa: E402,F401
import tk_talk  # noqa: E402,F401
import tk_link  # noqa: E402,F401
from kdclient import KdError  # noqa: E402
from tk_harness import CASES, Skip, run_case  # noqa: E402
from vm import Hang  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", choices=("x64", "x86", "both"), default="both")
    parser.add_argument("--link", choices=("serial", "debugcon", "hook"), default="serial")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg")
    parser.add_argument("--timeout", type=float, default=60.0, help="hang guard of one step, in seconds")
    parser.add_argument("--trace", action="store_true", help="print the stack of failures")
    parser.add_argument("patterns", nargs="*", help="only cases whose name contains one of these")
    return parser.parse_args()


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the VM of the moment ends with us
    passed = failed = skipped = 0
    for arch in ("x64", "x86") if options.arch == "both" else (options.arch,):
        for entry in CASES:
            if options.patterns and not any(p in entry[0] for p in options.patterns):
                continue
            name = f"{arch} {entry[0]}"
            try:
                run_case(options, arch, entry)
                passed += 1
                print(f"ok {name}", flush=True)
            except Skip as why:
                skipped += 1
                print(f"skip {name}: {why}", flush=True)
            except (AssertionError, KdError, Hang, OSError, KeyError, struct.error) as error:
                failed += 1
                print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
                if options.trace:
                    traceback.print_exc()
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
