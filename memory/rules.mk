# SPDX-License-Identifier: MIT
# memory/ depends on wire/'s headers only. MEMORY_SRC: for whoever links it; rules.mk files before this one in the alphabet name the two files.
MEMORY_SRC := memory/ram.c memory/walk.c
