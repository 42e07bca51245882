# SPDX-License-Identifier: MIT
# fish completion for vmkd. Commands, options and their values are read from `vmkd help` and `vmkd COMMAND --help`, so they are those of the vmkd that is installed.

# The commands and what each does.
function __vmkd_commands
    vmkd help 2>/dev/null | awk '/^  vmkd [a-z]+ / && $2 != "help" { c = $2; next } c != "" { sub(/^ +/, ""); print c "\t" $0; c = "" }'
    printf '%s\t%s\n' help 'the commands' --version 'its version, and those of the guest module and the link'
end

# The options of the command that is being typed, with what is said of them.
function __vmkd_options
    vmkd $argv[1] --help 2>/dev/null | awk '
        { if (match($0, /^  -[-a-z]+/)) { o = substr($0, 3, RLENGTH - 2); t = $0; sub(/^  [^ ]+( [^ ]+)?  +/, "", t); said[o] = t } }
        NR == 1 { u = $0; while (match(u, /[[ |(]-[-a-z]*[a-z]/)) { o = substr(u, RSTART + 1, RLENGTH - 1); if (!(o in said)) said[o] = ""; u = substr(u, RSTART + RLENGTH) } }
        END { said["--help"] = "what the command does"; for (o in said) print o "\t" said[o] }'
end

function __vmkd_vms
    vmkd list 2>/dev/null | awk 'NR > 1 && /^[A-Za-z0-9_]/ { print $1 }'
end

# Candidates for the words of a usage line.
function __vmkd_words
    string match -q '*NAME*' -- $argv[1]; and __vmkd_vms
    string match -q '*TARGET*' -- $argv[1]; and begin
        __vmkd_vms | sed 's/^/vm:/'
        printf '%s\n' unix: tcp: serial: trace:
    end
    string match -q '*DOMAIN*' -- $argv[1]; and virsh list --all --name 2>/dev/null
    string match -q '*PID*' -- $argv[1]; and pgrep qemu
    string split ' ' -- $argv[1] | sed -n 's/^[[(]*\([a-z][a-z]*\(|[a-z][a-z]*\)*\)[])]*$/\1/p' | string split '|'
    string match -qr 'FILE|IMAGE|SOCKET|PATH|FOLDER' -- $argv[1]; and __fish_complete_path (commandline -ct)
end

function __vmkd_complete
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    if test (count $typed) -eq 1
        __vmkd_commands
        return
    end
    if contains -- -- $typed # what follows `--` is another program's
        __fish_complete_subcommand --commandline (string join ' ' -- $typed[(math (contains -i -- -- $typed) + 1)..-1] $current)
        return
    end
    set -l help (vmkd $typed[2] --help 2>/dev/null); or return
    set -l usage (string replace -r '^usage: vmkd [a-z]* *' '' -- $help[1] | string replace -r ' -- .*' '')
    set -l value
    if string match -q -- '-*' $typed[-1]
        set value (string match -r -- "[\\[ |(]$typed[-1] ([A-Za-z][^\\] ]*)" $help[1])[2]
    end
    if test -n "$value"
        __vmkd_words $value
    else if string match -q -- '-*' $current
        __vmkd_options $typed[2]
    else
        __vmkd_words (string replace -ra '\[?-[-a-z]+ [A-Za-z][^\] ]*' '' -- $usage)
    end
end

complete -c vmkd -f -a '(__vmkd_complete)'
