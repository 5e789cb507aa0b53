# Completion of amp in bash, for packagers: install as share/bash-completion/completions/amp.
# A person needs none of it: amp --install-completion
_amp() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _AMP_COMPLETE=complete_bash \
        amp 2> /dev/null))
}
complete -o default -F _amp amp
