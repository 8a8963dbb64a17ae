# Completion of mcpdaemon(8) for bash. Goes to /usr/share/bash-completion/completions/mcpdaemon, or is sourced.

_mcpdaemon() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} i
    COMPREPLY=()
    # --key=value comes as three words.
    if [[ $word == = ]]; then
        word=''
    elif [[ $before == = ]] && ((COMP_CWORD > 1)); then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    # Behind -- stands a command.
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] || continue
        if ((COMP_CWORD == i + 1)); then
            mapfile -t COMPREPLY < <(compgen -c -- "$word")
        fi
        compopt -o default 2>/dev/null
        return
    done
    case $before in
    -c | --config)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -X '!*.ron' -- "$word"; compgen -d -- "$word")
        ;;
    --import)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -X '!*.json' -- "$word"; compgen -d -- "$word")
        ;;
    --export) mapfile -t COMPREPLY < <(compgen -W 'claude-code claude-desktop cursor vscode codex gemini opencode zed' -- "$word") ;;
    --token-file)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    --run-dir)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        ;;
    --log-level) mapfile -t COMPREPLY < <(compgen -W 'off error warn info debug trace' -- "$word") ;;
    --connect | --listen | --name | --notify-fd | --port-conflict) ;;
    *)
        mapfile -t COMPREPLY < <(compgen -W '-c --config -f --foreground -t --test -T --dump --listen --name
            --port-conflict --run-dir --log-level --allow-root --cleanup --notify-fd --import -o --output --new-token
            --connect --export --start --token-file -V --version --help' -- "$word")
        ;;
    esac
}

complete -F _mcpdaemon mcpdaemon
