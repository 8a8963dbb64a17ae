# Completion of mcpctl(8) for bash. Goes to /usr/share/bash-completion/completions/mcpctl, or is sourced.

# The instances that have a PID file in this run directory.
_mcpctl_names() {
    local dir=$1 file
    if [[ -z $dir ]]; then
        if ((EUID == 0)); then
            dir=/run/mcp
        elif [[ -n $XDG_RUNTIME_DIR ]]; then
            dir=$XDG_RUNTIME_DIR/mcp
        else
            dir=${XDG_STATE_HOME:-$HOME/.local/state}/mcp/run
        fi
        dir=${MCP_RUN_DIR:-$dir}
    fi
    # Root's mcpctl looks one folder deep.
    for file in "$dir"/*.pid "$dir"/*/*.pid; do
        [[ $EUID == 0 || ${file%/*} == "$dir" ]] || continue
        [[ ! -e $file ]] || basename "$file" .pid
    done
}

_mcpctl() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb='' dir='' flags='' names='' i
    COMPREPLY=()
    # --key=value comes as three words.
    if [[ $word == = ]]; then
        word=''
    elif [[ $before == = ]] && ((COMP_CWORD > 1)); then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --run-dir)
            [[ ${COMP_WORDS[++i]-} != = ]] || ((i++))
            dir=${COMP_WORDS[i]-}
            ;;
        -*) ;;
        *) verb=${verb:-${COMP_WORDS[i]}} ;;
        esac
    done
    case $before in
    --run-dir)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
        ;;
    --timeout)
        mapfile -t COMPREPLY < <(compgen -W '10s 30s 60s 2m' -- "$word")
        return
        ;;
    -n | --lines | --server | --port) return ;;
    esac
    case $verb in
    '') flags='--run-dir -V --version --help' names='list status stop reload restart wait logs' ;;
    list) flags='--json --help' ;;
    status) flags='--json --watch --check --help' ;;
    stop) flags='--timeout --force --all --port --help' ;;
    reload) flags='--timeout --all --help' ;;
    restart) flags='--timeout --all --server --help' ;;
    wait) flags='--timeout --help' ;;
    logs) flags='-f --follow -n --lines --server --audit --help' ;;
    esac
    case $verb in
    status | stop | reload | restart | wait | logs) names=$(_mcpctl_names "$dir") ;;
    esac
    [[ $word != -* ]] || names=''
    [[ $word == -* ]] || flags=''
    mapfile -t COMPREPLY < <(compgen -W "$flags $names" -- "$word")
}

complete -F _mcpctl mcpctl
