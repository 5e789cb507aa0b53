# Completion of agent-mailer in fish, for packagers: install as share/fish/vendor_completions.d/agent-mailer.fish.
# A person needs none of it: agent-mailer --install-completion
function __agent_mailer_complete
    env _AGENT_MAILER_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) agent-mailer 2>/dev/null
end
complete --command agent-mailer --no-files --condition "__agent_mailer_complete is-args" \
    --arguments "(__agent_mailer_complete get-args)"
