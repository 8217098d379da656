# bash completion for mesync
_mesync() {
    local cur=${COMP_WORDS[COMP_CWORD]} flags= skip= word words=()
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ -n $skip && $word != = ]]; then skip=; continue; fi
        case $word in
            --api-key|--api-key-file|--code|--data|--debounce|--files|--for|--limit|--listed|--listen|--name|--offset|-o|--output|--path|--payload|--payload-file|--priority|--remote|--rev|--search|--send|--server|--since|--target|--to|--ttl|--url|--wait|-w|--watch|--workers) skip=$word;;
            -*|=) ;;
            *) words+=("$word");;
        esac
    done
    [[ $cur == = ]] && cur=
    case $skip in
        --api-key) :; return;;
        --api-key-file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return;;
        --code) :; return;;
        --data) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return;;
        --debounce) :; return;;
        --files) :; return;;
        --for) :; return;;
        --limit) :; return;;
        --listed) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return;;
        --listen) :; return;;
        --name) :; return;;
        --offset) :; return;;
        -o|--output) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return;;
        --path) :; return;;
        --payload) :; return;;
        --payload-file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return;;
        --priority) COMPREPLY=($(compgen -W 'high normal low' -- "$cur")); return;;
        --remote) :; return;;
        --rev) :; return;;
        --search) :; return;;
        --send) :; return;;
        --server) :; return;;
        --since) :; return;;
        --target) mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words hosts -- "$cur" 2>/dev/null); return;;
        --to) :; return;;
        --ttl) :; return;;
        --url) :; return;;
        --wait) :; return;;
        -w|--watch) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return;;
        --workers) :; return;;
    esac
    case "${words[*]} " in
        'trash list '*) flags='--bytes'
            [[ ${#words[@]} == 2 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'trash restore '*) flags='--to'
            [[ ${#words[@]} == 2 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words trash -- "$cur" 2>/dev/null); };;
        'trash empty '*) flags=''
            [[ ${#words[@]} == 2 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'hub page '*) flags='--url --data';;
        'hub renew-certificate '*) flags='--data';;
        'hub backup '*) flags='--data'
            [[ ${#words[@]} == 2 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'hub move '*) flags='--data --to-bucket --to-disk';;
        'hub recover '*) flags='--data --without-view';;
        'hub check '*) flags='--data --repair';;
        'key add '*) flags='--data --files --read-only --no-files --send --no-messages --admin';;
        'key list '*) flags='--data';;
        'key set '*) flags='--data --files --read-only --read-write --no-files --send --no-messages --messages --admin --no-admin'
            [[ ${#words[@]} == 2 ]] && { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words keys -- "$cur" 2>/dev/null); };;
        'key rotate '*) flags='--data'
            [[ ${#words[@]} == 2 ]] && { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words keys -- "$cur" 2>/dev/null); };;
        'key remove '*) flags='--data'
            [[ ${#words[@]} == 2 ]] && { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words keys -- "$cur" 2>/dev/null); };;
        'hosts rebind '*) flags=''
            [[ ${#words[@]} == 2 ]] && { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words hosts -- "$cur" 2>/dev/null); };;
        'hosts remove '*) flags=''
            [[ ${#words[@]} == 2 ]] && { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words hosts -- "$cur" 2>/dev/null); };;
        'send '*) flags='--batch --payload --payload-file --target --priority --ttl';;
        'list '*) flags='--bytes'
            [[ ${#words[@]} == 1 ]] && { COMPREPLY=($(compgen -W 'outbox inbox sent failed hooks' -- "$cur")); };;
        'show '*) flags='--bytes'
            [[ ${#words[@]} == 1 ]] && { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words messages -- "$cur" 2>/dev/null); };;
        'retry '*) flags='--hooks'
            [[ ${#words[@]} -ge 1 ]] && { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words failed -- "$cur" 2>/dev/null); };;
        'flush '*) flags=''
            [[ ${#words[@]} == 1 ]] && { COMPREPLY=($(compgen -W 'sent failed inbox hooks outbox' -- "$cur")); };;
        'sync '*) flags='--watch --yes --remote --send-only --receive-only --dry-run --allow-deletes --bytes'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'daemon '*) flags='--watch --yes --remote --send-only --receive-only --debounce'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'approve '*) flags='--dry-run --listed --everywhere'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'adopt '*) flags=''
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'conflicts '*) flags='--bytes'
            [[ ${#words[@]} -ge 1 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'forget '*) flags=''
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'login '*) flags='--server --api-key --api-key-file';;
        'upload '*) flags='--path --name --recursive --bytes'
            [[ ${#words[@]} -ge 1 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); };;
        'download '*) flags='--output --recursive --bytes'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames -o nospace; mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words files -- "$cur" 2>/dev/null); };;
        'ls '*) flags='--path --search --limit --offset --all --ids --bytes'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames -o nospace; mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words files -- "$cur" 2>/dev/null); };;
        'info '*) flags='--bytes'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames -o nospace; mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words files -- "$cur" 2>/dev/null); };;
        'rm '*) flags='--recursive'
            [[ ${#words[@]} -ge 1 ]] && { compopt -o filenames -o nospace; mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words files -- "$cur" 2>/dev/null); };;
        'versions '*) flags='--bytes'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames -o nospace; mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words files -- "$cur" 2>/dev/null); };;
        'restore '*) flags='--rev --bytes'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames -o nospace; mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words files -- "$cur" 2>/dev/null); };;
        'events '*) flags='--since --follow --bytes';;
        'start '*) flags='--watch --yes --once'
            [[ ${#words[@]} == 1 ]] && { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); };;
        'join '*) flags='--name --watch --yes --replace';;
        'status '*) flags='--watch --bytes';;
        'serve '*) flags='--listen --data --workers --allow-anonymous --start --watch --yes';;
        'accept '*) flags='--all --for --code --replace --data --files --read-only --no-files --send --no-messages --admin';;
        'invite '*) flags='--for --url --replace --data --files --read-only --no-files --send --no-messages --admin';;
        'hosts '*) flags='--wait'
            [[ ${#words[@]} -ge 1 ]] && { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" words hosts -- "$cur" 2>/dev/null); }
            [[ ${#words[@]} == 1 ]] && COMPREPLY+=($(compgen -W 'rebind remove' -- "$cur"));;
        'completions '*) flags=''
            [[ ${#words[@]} == 1 ]] && { COMPREPLY=($(compgen -W 'bash zsh fish' -- "$cur")); };;
        'words '*) flags=''
            [[ ${#words[@]} == 1 ]] && { COMPREPLY=($(compgen -W 'hosts keys messages failed files trash' -- "$cur")); };;
        'help '*) flags=''
            [[ ${#words[@]} -ge 1 ]] && { COMPREPLY=($(compgen -W 'send list show retry flush sync daemon approve adopt conflicts trash forget login upload download ls info rm versions restore events start join status serve accept invite hub key hosts completions words help' -- "$cur")); };;
        'trash ') COMPREPLY=($(compgen -W 'list restore empty' -- "$cur"));;
        'hub ') COMPREPLY=($(compgen -W 'page renew-certificate backup move recover check' -- "$cur"));;
        'key ') COMPREPLY=($(compgen -W 'add list set rotate remove' -- "$cur"));;
        ' ') COMPREPLY=($(compgen -W 'send list show retry flush sync daemon approve adopt conflicts trash forget login upload download ls info rm versions restore events start join status serve accept invite hub key hosts completions words help' -- "$cur"));;
    esac
    if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "$flags --json --quiet --verbose --help --version" -- "$cur")); fi
}
complete -F _mesync mesync s3ec
