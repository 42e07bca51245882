# SPDX-License-Identifier: MIT
# bash completion for vmkd. Commands, options and their values are read from `vmkd help` and `vmkd COMMAND --help`, so they are those of the vmkd that is installed.
# shellcheck shell=bash

_vmkd_commands() {
	vmkd help 2>/dev/null | sed -n 's/^  vmkd \([a-z][a-z]*\) .*/\1/p'
	echo --version
}

# Every option of the help text in $1: what begins a line of it, and what stands in its usage line.
_vmkd_options() {
	printf '%s\n' "$1" | awk '
		match($0, /^  -[-a-z]+/) { print substr($0, 3, RLENGTH - 2) }
		NR == 1 { while (match($0, /[[ |(]-[-a-z]*[a-z]/)) { print substr($0, RSTART + 1, RLENGTH - 1); $0 = substr($0, RSTART + RLENGTH) } }
		END { print "--help" }' | sort -u
}

# What follows option $2 in the usage line of $1: "hook|debugcon", "FILE", or nothing when it takes no value.
_vmkd_value() {
	printf '%s\n' "$1" | sed -n "1s/.*[[ |(]$2 \([A-Za-z][^] ]*\).*/\1/p"
}

_vmkd_vms() { vmkd list 2>/dev/null | awk 'NR > 1 && /^[A-Za-z0-9_]/ { print $1 }'; }

# Candidates for the words of a usage line that stand in $1, one a line.
_vmkd_words() {
	case $1 in *NAME*) _vmkd_vms ;; esac
	case $1 in *TARGET*) _vmkd_vms | sed 's/^/vm:/'; printf '%s\n' unix: tcp: serial: trace: ;; esac
	case $1 in *DOMAIN*) virsh list --all --name 2>/dev/null ;; esac
	case $1 in *PID*) pgrep qemu ;; esac
	printf '%s\n' "$1" | tr ' ' '\n' | sed -n 's/^[[(]*\([a-z][a-z]*\(|[a-z][a-z]*\)*\)[])]*$/\1/p' | tr '|' '\n'
}

# Candidates ($1, one a line) that begin with $2. Not compgen -W: that would expand what a name of somebody's VM or domain contains.
_vmkd_offer() {
	local word
	while read -r word; do
		[[ -n $word && $word == "$2"* ]] && printf -v word %q "$word" && COMPREPLY+=("$word")
	done <<<"$1"
}

_vmkd() {
	local line=${COMP_LINE:0:COMP_POINT} command help usage value candidates word
	local -a words
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	local cur=${words[-1]} previous=${words[-2]}
	COMPREPLY=()
	if ((${#words[@]} <= 2)); then
		_vmkd_offer "$(_vmkd_commands)" "$cur"
		return
	fi
	command=${words[1]}
	for word in "${words[@]:2:${#words[@]}-3}"; do # what follows `--` is another program's
		[[ $word == -- ]] && { mapfile -t COMPREPLY < <(compgen -c -f -- "$cur"); return; }
	done
	help=$(vmkd "$command" --help 2>/dev/null) || return
	usage=$(printf '%s\n' "$help" | head -n 1 | sed 's/^usage: vmkd [a-z]* *//; s/ -- .*//')
	value=
	[[ $previous == -* ]] && value=$(_vmkd_value "$help" "$previous")
	if [[ -n $value ]]; then
		usage=$value
		candidates=$(_vmkd_words "$value")
	elif [[ $cur == -* ]]; then
		usage=
		candidates=$(_vmkd_options "$help")
	else
		candidates=$(_vmkd_words "$(printf '%s\n' "$usage" | sed -E 's/\[?-[-a-z]+ [A-Za-z][^] ]*//g')")
	fi
	_vmkd_offer "$candidates" "$cur"
	[[ $usage == *FILE* || $usage == *IMAGE* || $usage == *SOCKET* || $usage == *PATH* || $usage == *FOLDER* ]] && compopt -o default 2>/dev/null
	if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then # readline replaces what stands behind the last colon only
		COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*:}"}"}")
	fi
}
complete -F _vmkd vmkd
