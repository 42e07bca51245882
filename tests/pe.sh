#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What a loader and a kernel need of both kdvmkd.dll, seen in their bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
exec tools/check-pe "$@"
