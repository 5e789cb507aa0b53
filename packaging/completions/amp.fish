# Completion of amp in fish, for packagers: install as share/fish/vendor_completions.d/amp.fish.
# A person needs none of it: amp --install-completion
function __amp_complete
    env _AMP_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) amp 2>/dev/null
end
complete --command amp --no-files --condition "__amp_complete is-args" \
    --arguments "(__amp_complete get-args)"
