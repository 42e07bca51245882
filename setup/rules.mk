# SPDX-License-Identifier: MIT
# setup -> util, and hivex. Part of build/vmkd (cli/rules.mk).
