# Completion of agent-mailer in bash, for packagers: install as share/bash-completion/completions/agent-mailer.
# A person needs none of it: agent-mailer --install-completion
_agent_mailer() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _AGENT_MAILER_COMPLETE=complete_bash \
        agent-mailer 2> /dev/null))
}
complete -o default -F _agent_mailer agent-mailer
