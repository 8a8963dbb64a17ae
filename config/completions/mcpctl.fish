# Completion of mcpctl(8) for fish. Goes to /usr/share/fish/vendor_completions.d/mcpctl.fish.

# The instances that have a PID file in the run directory.
function __mcpctl_names
    set -l words (commandline -opc)
    set -l dir
    for i in (seq (count $words))
        switch $words[$i]
            case --run-dir
                set dir $words[(math $i + 1)]
            case '--run-dir=*'
                set dir (string replace -- --run-dir= '' $words[$i])
        end
    end
    if test -z "$dir"
        if set -q MCP_RUN_DIR
            set dir $MCP_RUN_DIR
        else if test (id -u) = 0
            set dir /run/mcp
        else if set -q XDG_RUNTIME_DIR
            set dir $XDG_RUNTIME_DIR/mcp
        else if set -q XDG_STATE_HOME
            set dir $XDG_STATE_HOME/mcp/run
        else
            set dir ~/.local/state/mcp/run
        end
    end
    set -l files $dir/*.pid
    # Root's mcpctl looks one folder deep.
    if test (id -u) = 0
        set files $files $dir/*/*.pid
    end
    for file in $files
        basename $file .pid
    end
end

set -l none 'not __fish_seen_subcommand_from list status stop reload restart wait logs'
set -l named '__fish_seen_subcommand_from status stop reload restart wait logs'
set -l acts '__fish_seen_subcommand_from stop reload restart'
set -l timed '__fish_seen_subcommand_from stop reload restart wait'
set -l logs '__fish_seen_subcommand_from logs'
complete -c mcpctl -f
complete -c mcpctl -n $none -l run-dir -x -a '(__fish_complete_directories)' -d 'The folder of PID and status files'
complete -c mcpctl -n $none -s V -l version -d 'Print the version and exit'
complete -c mcpctl -l help -d 'Print a summary and exit'
complete -c mcpctl -n $none -a list -d 'Lists the instances in the run directory'
complete -c mcpctl -n $none -a status -d 'Shows instances and their servers'
complete -c mcpctl -n $none -a stop -d 'Stops instances and waits until they are gone'
complete -c mcpctl -n $none -a reload -d 'Reloads configurations and reports the outcome'
complete -c mcpctl -n $none -a restart -d 'Upgrades instances in place'
complete -c mcpctl -n $none -a wait -d 'Waits until instances or servers are ready'
complete -c mcpctl -n $none -a logs -d 'Shows the log of an instance'
complete -c mcpctl -n $named -a '(__mcpctl_names)' -d Instance
complete -c mcpctl -n '__fish_seen_subcommand_from list status' -l json -d 'As JSON'
complete -c mcpctl -n '__fish_seen_subcommand_from status' -l watch -d 'Show every change'
complete -c mcpctl -n '__fish_seen_subcommand_from status' -l check -d 'Health, in a line and as status'
complete -c mcpctl -n $timed -l timeout -x -a '10s 30s 60s 2m' -d 'How long to wait'
complete -c mcpctl -n $acts -l all -d 'Every instance in the run directory'
complete -c mcpctl -n '__fish_seen_subcommand_from stop' -l force -d 'Kill what still runs after the timeout'
complete -c mcpctl -n '__fish_seen_subcommand_from stop' -l port -x -d 'The instance that listens at this port'
complete -c mcpctl -n '__fish_seen_subcommand_from restart' -l server -x -d 'New children for this server alone'
complete -c mcpctl -n $logs -s f -l follow -d 'Go on as it grows'
complete -c mcpctl -n $logs -s n -l lines -x -d 'How many lines from the end'
complete -c mcpctl -n $logs -l server -x -d 'Only lines of one server'
complete -c mcpctl -n $logs -l audit -d 'The audit record instead of the log'
