# SPDX-License-Identifier: MIT
"""What help, man pages and completions say about a command, each read by itself: for tests/test_package.py."""
import os
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUARD_S = 120  # a shell that does not answer hangs
OPTION = re.compile(r"(?<=[\[ |(])-{1,2}[a-z][-a-z]*")


def output(*command, **more):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=GUARD_S, **more)


class Help:
    """What a vmkd says of itself."""

    def __init__(self, vmkd):
        self.vmkd = vmkd
        self.commands = [c for c in re.findall(r"^  vmkd ([a-z]+) ", output(vmkd, "help").stdout, re.M) if c != "help"]

    def text(self, command):
        done = output(self.vmkd, command, "--help")
        if done.returncode:
            raise ValueError(f"vmkd {command} --help ends with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def usage(self, command):
        return self.text(command).splitlines()[0]

    def options(self, command):
        """Options in the usage line and at the beginning of lines."""
        text = self.text(command)
        lines = re.findall(r"^  (-{1,2}[a-z][-a-z]*)", text, re.M)
        return set(lines) | set(OPTION.findall(text.splitlines()[0]))

    def values(self, command):
        """Option -> its fixed values, where the usage line has some: --link -> {hook, debugcon}."""
        return {option: set(values.split("|")) for option, values in re.findall(r"(?<=[\[ |(])(--[a-z-]+) ([a-z]+(?:\|[a-z]+)+)", self.usage(command))}


class Page:
    """A page as its author wrote it, docs/man/NAME.scd."""

    def __init__(self, name):
        self.path = ROOT / "docs" / "man" / f"{name}.scd"
        self.text = self.path.read_text() if self.path.exists() else ""

    def section(self, title):
        found = re.search(rf"^# {title}\n(.*?)(?=^# |\Z)", self.text, re.M | re.S)
        return found.group(1) if found else ""

    def described(self):
        """Options with a paragraph of their own."""
        heads = [line for line in self.section("OPTIONS").splitlines() if line.startswith("*-")]
        return {option for line in heads for option in re.findall(r"\*(-{1,2}[a-z][-a-z]*)\*", line)}

    def in_synopsis(self):
        return set(re.findall(r"\*(-{1,2}[a-z][-a-z]*)\*", self.section("SYNOPSIS")))


# ---- what the shells offer -----------------------------------------------------------------------------------------------------------


def environment(folder):
    """Only what a completion needs: `vmkd` of that folder first."""
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "HOME": str(folder)}


BASH = r"""
source "$1"; shift
COMP_WORDBREAKS=$' \t\n"\x27@><=;|&(:'
for line; do COMP_LINE=$line COMP_POINT=${#line}; COMPREPLY=(); _vmkd; printf '%s\x1f' "${COMPREPLY[@]}"; printf '\x1e'; done
"""


def bash(folder, lines):
    done = output("bash", "-c", BASH, "bash", ROOT / "packaging/completion/vmkd.bash", *lines, env=environment(folder), cwd=folder)
    return dict(zip(lines, [set(filter(None, part.split("\x1f"))) for part in done.stdout.split("\x1e")]))


FISH = r"source $argv[1]; for line in $argv[2..-1]; complete -C $line; printf '\x1e'; end"


def fish(folder, lines):
    done = output("fish", "--no-config", "-c", FISH, ROOT / "packaging/completion/vmkd.fish", *lines, env=environment(folder), cwd=folder)
    parts = [{row.split("\t")[0] for row in part.splitlines() if row} for part in done.stdout.split("\x1e")]
    return dict(zip(lines, parts))


# A zsh with a line editor of its own: what it would offer passes through compadd, and a mark follows each line.
ZSH = r"""
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "fpath=(${2:h} \$fpath); autoload -U compinit; compinit -u -D; autoload -U $2:t; compdef $2:t vmkd"
zpty -w z "compadd () { local -a out; builtin compadd -O out \"\$@\"; (( \$#out )) && print -rl -- \$out >>$1; builtin compadd \"\$@\" }"
zpty -w z "offer () { zle list-choices; print -r -- '<end>' >>$1; zle kill-whole-line }; zle -N offer; bindkey '^I' offer"
for line in "${@[3,-1]}"; do
	zpty -w -n z "$line"$'\t'
	(( lines++ ))
	until (( $(grep -c '<end>' $1) == lines )); do sleep 0.02; zpty -r -t z chunk; done
done
zpty -d z
"""


def zsh(folder, lines):
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch) / "said"
        said.touch()
        output("zsh", "-f", "-c", ZSH, "zsh", said, ROOT / "packaging/completion/_vmkd", *lines, env=environment(folder), cwd=folder)
        parts = said.read_text().split("<end>\n")
    return dict(zip(lines, [set(part.splitlines()) for part in parts]))


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
