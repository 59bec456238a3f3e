# Completion of banger for fish: installed as share/fish/vendor_completions.d/banger.fish.
banger completion fish | source
