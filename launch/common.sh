# shellcheck shell=bash
# What the launch scripts share: one-line errors, dry runs that print the exact commands, flags of the form --name=value.

DRY_RUN=""

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# help_if_asked SCRIPT WORDS: prints the comment at the head of a script, if one of its words (before --) asks for it.
help_if_asked() {
    local script=$1 word line
    shift
    for word in "$@"; do
        case $word in
            --) return ;;
            --help | -h | help)
                while read -r line; do
                    case $line in
                        '#!'* | '#SBATCH'* | '# shellcheck'*) ;;
                        '#'*) line=${line#\#}; printf '%s\n' "${line# }" ;;
                        *) exit 0 ;;
                    esac
                done <"$script"
                ;;
        esac
    done
}

# The words of a command as they would be typed: what is printed can be pasted.
quoted() {
    local words=""
    printf -v words '%q ' "$@"
    printf '%s' "${words% }"
}

# Run a command, or print it in a dry run.
run() {
    if [ -n "$DRY_RUN" ]; then
        quoted "$@"
        printf '\n'
    else
        "$@"
    fi
}

# need_tool NAME FIX: a program that must be there (a dry run needs none).
need_tool() {
    [ -n "$DRY_RUN" ] || command -v "$1" >/dev/null || die "$1 is not installed: $2"
}

# need_flag NAME VALUE EXAMPLE
need_flag() {
    [ -n "$2" ] || die "--$1 is missing: give --$1=$3"
}
