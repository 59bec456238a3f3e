# shellcheck shell=bash
# Completion of banger for bash: installed as share/bash-completion/completions/banger, loaded on first use.
# shellcheck disable=SC1090 # the script comes from the program, so that both are of one version
source <(banger completion bash)
