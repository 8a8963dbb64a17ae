# Completion of mcpdaemon(8) for fish. Goes to /usr/share/fish/vendor_completions.d/mcpdaemon.fish.

# Behind -- stands a command.
function __mcpdaemon_in_command
    contains -- -- (commandline -opc)
end

function __mcpdaemon_command
    set -l words (commandline -opc)
    set -e words[1..(contains -i -- -- $words)]
    complete -C (string join ' ' -- (string escape -- $words) (commandline -ct))
end

set -l own 'not __mcpdaemon_in_command'
complete -c mcpdaemon -n $own -f
complete -c mcpdaemon -n $own -s c -l config -r -k -a '(__fish_complete_suffix .ron)' -d 'The instance file, or a folder of them'
complete -c mcpdaemon -n $own -s f -l foreground -d 'Stay in front and log to standard error'
complete -c mcpdaemon -n $own -s t -l test -d 'Check the configuration, print every problem, and exit'
complete -c mcpdaemon -n $own -s T -l dump -d 'Print the effective configuration, secrets masked, and exit'
complete -c mcpdaemon -n $own -l listen -x -d 'Listen here instead of where the file says'
complete -c mcpdaemon -n $own -l name -x -d 'The name of the instance'
complete -c mcpdaemon -n $own -l port-conflict -x -d 'Where a port is in use, try so many after it'
complete -c mcpdaemon -n $own -l run-dir -x -a '(__fish_complete_directories)' -d 'The folder of PID and status files'
complete -c mcpdaemon -n $own -l log-level -x -a 'off error warn info debug trace' -d 'What to log'
complete -c mcpdaemon -n $own -l allow-root -d 'Let servers run as root'
complete -c mcpdaemon -n $own -l cleanup -d 'End what a killed predecessor left behind, and exit'
complete -c mcpdaemon -n $own -l notify-fd -x -d 'Write a newline to this descriptor once the instance serves'
complete -c mcpdaemon -n $own -l import -r -k -a '(__fish_complete_suffix .json)' -d 'Turn a client configuration into an instance file'
complete -c mcpdaemon -n $own -s o -l output -r -d 'Write it to this new file'
complete -c mcpdaemon -n $own -l connect -x -d 'Be an MCP server that is a running instance'
complete -c mcpdaemon -n $own -l export -x -a 'claude-code claude-desktop cursor vscode codex gemini opencode zed' -d 'Print what a client needs for a running instance'
complete -c mcpdaemon -n $own -l start -d 'With --connect, start the instance if it does not run'
complete -c mcpdaemon -n $own -l token-file -r -d 'With --connect, the file with the token to show'
complete -c mcpdaemon -n $own -l new-token -x -d 'Print a line for the file of tokens, and its token'
complete -c mcpdaemon -n $own -s V -l version -d 'Print the version and exit'
complete -c mcpdaemon -n $own -l help -d 'Print a summary of the options and exit'
complete -c mcpdaemon -n __mcpdaemon_in_command -x -a '(__mcpdaemon_command)'
