//! Generates completions for bash, zsh and fish from the table.
//!
//! They complete commands, flags and fixed words by themselves; names of hosts, keys, messages and files come from `mesync words`,
//! which prints nothing where it fails.

use super::CommandEnd;
use super::output::Output;
use super::parse::Invocation;
use super::table::{ArgumentCount, COMMANDS, Command, Flag, GLOBAL, ValueKind, first_words, rows};
use crate::error::Result;

/// `mesync completions SHELL`
pub fn run(invocation: &Invocation, out: &mut Output) -> Result<CommandEnd> {
    let text = match invocation.argument(0)? {
        "bash" => bash(),
        "zsh" => zsh(),
        _ => fish(),
    };
    out.text(&text);
    Ok(CommandEnd::All)
}

/// The flags that have a value, each once.
fn valued() -> Vec<&'static Flag> {
    let mut flags: Vec<&Flag> = COMMANDS
        .iter()
        .flat_map(|c| c.flags)
        .filter(|f| f.value.is_some())
        .collect();
    flags.sort_by_key(|f| f.long);
    flags.dedup_by_key(|f| f.long);
    flags
}

/// The short and long forms of the flags.
fn typed<'a>(flags: impl Iterator<Item = &'a Flag>, between: &str) -> String {
    let forms = flags.map(|f| {
        f.short.map_or(String::new(), |c| format!("-{c}{between}")) + &format!("--{}", f.long)
    });
    forms.collect::<Vec<_>>().join(between)
}

fn dashed<'a>(flags: impl Iterator<Item = &'a Flag>, between: &str) -> String {
    flags
        .map(|f| format!("--{}", f.long))
        .collect::<Vec<_>>()
        .join(between)
}

fn command_words() -> String {
    first_words().join(" ")
}

/// The second words of the forms of a command.
fn forms(first: &str) -> Vec<&'static Command> {
    rows(first)
        .into_iter()
        .filter(|r| r.first_word() == first && r.name != first)
        .collect()
}

fn second_word(row: &Command) -> &'static str {
    row.name.split_once(' ').map_or("", |(_, second)| second)
}

/// The first words of two-word commands, each once.
fn formed() -> Vec<&'static str> {
    first_words()
        .into_iter()
        .filter(|w| !forms(w).is_empty())
        .collect()
}

fn bash() -> String {
    let words = |words: &str| format!("COMPREPLY=($(compgen -W '{words}' -- \"$cur\"))");
    let files = |which: char| {
        format!("compopt -o filenames; mapfile -t COMPREPLY < <(compgen -{which} -- \"$cur\")")
    };
    let reply = |values: ValueKind| match values {
        ValueKind::Text => ":".to_string(),
        ValueKind::Words(list) => words(&list.join(" ")),
        ValueKind::File => files('f'),
        ValueKind::Directory => files('d'),
        ValueKind::Command => words(&command_words()),
        ValueKind::Names(kind) => {
            let options = match kind {
                "files" => "compopt -o filenames -o nospace; ",
                "trash" => "compopt -o filenames; ",
                _ => "",
            };
            format!(
                "{options}mapfile -t COMPREPLY < <(\"${{COMP_WORDS[0]}}\" words {kind} -- \"$cur\" 2>/dev/null)"
            )
        }
    };
    let mut out = format!(
        "# bash completion for mesync\n_mesync() {{\n    local cur=${{COMP_WORDS[COMP_CWORD]}} flags= skip= word words=()\n    COMPREPLY=()\n    \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n        if [[ -n $skip && $word != = ]]; then skip=; continue; fi\n        \
         case $word in\n            {}) skip=$word;;\n            -*|=) ;;\n            *) words+=(\"$word\");;\n        esac\n    done\n    \
         [[ $cur == = ]] && cur=\n    case $skip in\n",
        typed(valued().into_iter(), "|")
    );
    for flag in valued() {
        out += &format!(
            "        {}) {}; return;;\n",
            typed(std::iter::once(flag), "|"),
            reply(flag.values)
        );
    }
    out += "    esac\n    case \"${words[*]} \" in\n";
    // longer names first, because `case` takes the first match
    let mut commands: Vec<&Command> = COMMANDS.iter().collect();
    commands.sort_by_key(|c| !c.name.contains(' '));
    for row in commands {
        out += &format!(
            "        '{} '*) flags='{}'",
            row.name,
            dashed(row.flags.iter(), " ")
        );
        let (own, forms) = (row.name.split(' ').count(), forms(row.name));
        if let Some(argument) = row
            .arguments
            .first()
            .filter(|a| a.values != ValueKind::Text)
        {
            let comparison =
                if matches!(argument.count, ArgumentCount::One | ArgumentCount::Optional) {
                    "=="
                } else {
                    ">="
                };
            out += &format!(
                "\n            [[ ${{#words[@]}} {comparison} {own} ]] && {{ {}; }}",
                reply(argument.values)
            )
            .replace(" >= ", " -ge ");
            if !forms.is_empty() {
                let list: Vec<_> = forms.into_iter().map(second_word).collect();
                out += &format!(
                    "\n            [[ ${{#words[@]}} == 1 ]] && COMPREPLY+=($(compgen -W '{}' -- \"$cur\"))",
                    list.join(" ")
                );
            }
        } else if !forms.is_empty() {
            let list: Vec<_> = forms.into_iter().map(second_word).collect();
            out += &format!(
                "\n            [[ ${{#words[@]}} == 1 ]] && {}",
                words(&list.join(" "))
            );
        }
        out += ";;\n";
    }
    for first in formed()
        .into_iter()
        .filter(|f| COMMANDS.iter().all(|c| c.name != *f))
    {
        let list: Vec<_> = forms(first).into_iter().map(second_word).collect();
        out += &format!("        '{first} ') {};;\n", words(&list.join(" ")));
    }
    out += &format!("        ' ') {};;\n    esac\n", words(&command_words()));
    out += &format!(
        "    if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"$flags {}\" -- \"$cur\")); fi\n}}\ncomplete -F _mesync mesync s3ec\n",
        dashed(GLOBAL.iter(), " ")
    );
    out
}

/// Quotes a text in single quotes for bash and zsh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn zsh() -> String {
    let doc = |text: &str| {
        text.replace('\\', r"\\")
            .replace('[', r"\[")
            .replace(']', r"\]")
            .replace(':', r"\:")
    };
    let action = |values: ValueKind| match values {
        ValueKind::Text => " ".to_string(),
        ValueKind::Words(list) => format!("({})", list.join(" ")),
        ValueKind::File => "_files".into(),
        ValueKind::Directory => "_files -/".into(),
        ValueKind::Command => format!("({})", command_words()),
        ValueKind::Names(kind) => format!(" _mesync_names {kind}"),
    };
    let flag = |f: &Flag| match (f.value, f.short) {
        (Some(value), Some(c)) => {
            format!(
                "{{-{c}+,--{}=}}{}",
                f.long,
                quoted(&format!("[{}]:{value}:{}", doc(f.doc), action(f.values)))
            )
        }
        (Some(value), None) => quoted(&format!(
            "{}--{}=[{}]:{value}:{}",
            if f.repeatable { "*" } else { "" },
            f.long,
            doc(f.doc),
            action(f.values)
        )),
        (None, Some(c)) => format!(
            "{{-{c},--{}}}{}",
            f.long,
            quoted(&format!("[{}]", doc(f.doc)))
        ),
        (None, None) => quoted(&format!("--{}[{}]", f.long, doc(f.doc))),
    };
    let global: Vec<_> = GLOBAL.iter().map(flag).collect();
    let arguments = |row: &Command| {
        let mut specs: Vec<String> = row.flags.iter().map(flag).collect();
        specs.extend(
            row.arguments
                .iter()
                .enumerate()
                .map(|(i, a)| match a.count {
                    ArgumentCount::One => {
                        quoted(&format!("{}:{}:{}", i + 1, a.name, action(a.values)))
                    }
                    ArgumentCount::Optional => {
                        quoted(&format!("{}::{}:{}", i + 1, a.name, action(a.values)))
                    }
                    ArgumentCount::Some | ArgumentCount::Any => {
                        quoted(&format!("*:{}:{}", a.name, action(a.values)))
                    }
                }),
        );
        format!("_arguments $global {}", specs.join(" "))
    };
    let described = |names: Vec<(&str, &str)>| {
        names
            .iter()
            .map(|(n, d)| quoted(&format!("{n}:{}", doc(d))))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let first: Vec<_> = first_words()
        .into_iter()
        .map(|w| (w, rows(w)[0].doc))
        .collect();
    let mut out = format!(
        "#compdef mesync s3ec\n_mesync_names() {{\n    local -a found\n    \
         found=(${{(f)\"$(mesync words $1 -- \"$PREFIX\" 2>/dev/null)\"}})\n    \
         if [[ $1 == files ]]; then compadd -S '' -a found; else compadd -a found; fi\n}}\n_mesync() {{\n    local context state line\n    typeset -A opt_args\n    local -a global names\n    global=({})\n    \
         _arguments -C $global '1:command:->command' '*::argument:->argument'\n    case $state in\n        command) names=({}); \
         _describe command names;;\n        argument) case $words[1] in\n",
        global.join(" "),
        described(first)
    );
    for word in first_words() {
        let forms = forms(word);
        if forms.is_empty() {
            out += &format!("            {word}) {};;\n", arguments(rows(word)[0]));
            continue;
        }
        let own = match rows(word)[0].arguments.first().map(|a| a.values) {
            Some(ValueKind::Names(kind)) if rows(word)[0].name == word => {
                format!("; _mesync_names {kind}")
            }
            _ => String::new(),
        };
        let names = described(forms.iter().map(|r| (second_word(r), r.doc)).collect());
        out += &format!(
            "            {word})\n                _arguments -C $global '1:form:->form' '*::argument:->rest'\n                case $state in\n                    \
             form) names=({names}); _describe form names{own};;\n                    rest) case $words[1] in\n"
        );
        for row in forms {
            out += &format!(
                "                        {}) {};;\n",
                second_word(row),
                arguments(row)
            );
        }
        out += "                    esac;;\n                esac;;\n";
    }
    out += "        esac;;\n    esac\n}\n";
    // works as a file in $fpath and through eval
    out += "if [[ $funcstack[1] == _mesync ]]; then _mesync \"$@\"; else compdef _mesync mesync s3ec; fi\n";
    out
}

fn fish() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
    let mut out = format!(
        "# fish completion for mesync\nfunction __mesync_words\n    set -l skip\n    for word in (commandline -opc)[2..]\n        \
         if set -q skip[1]\n            set skip\n            continue\n        end\n        switch $word\n            case {}\n                \
         set skip 1\n            case '-*'\n            case '*'\n                echo $word\n        end\n    end\nend\n\
         function __mesync_is\n    set -l words (__mesync_words)\n    test \"$words\" = \"$argv\"\nend\n\
         function __mesync_in\n    set -l words (__mesync_words)\n    string match -q -- \"$argv *\" \"$words \"\nend\n\
         complete -c mesync -f\ncomplete -c s3ec -w mesync\n",
        typed(valued().into_iter(), " ")
    );
    let action = |values: ValueKind| match values {
        ValueKind::Text => String::new(),
        ValueKind::Words(list) => format!(" -a '{}'", list.join(" ")),
        ValueKind::File => " -F".into(),
        ValueKind::Directory => " -a '(__fish_complete_directories)'".into(),
        ValueKind::Command => format!(" -a '{}'", command_words()),
        ValueKind::Names(kind) => {
            format!(" -a '(mesync words {kind} -- (commandline -ct) 2>/dev/null)'")
        }
    };
    let flag = |condition: &str, f: &Flag| {
        let short = f.short.map_or(String::new(), |c| format!(" -s {c}"));
        // -x: a value that is no file
        let needs = if f.values == ValueKind::File {
            "-r"
        } else {
            "-x"
        };
        let value = f
            .value
            .map_or(String::new(), |_| format!(" {needs}{}", action(f.values)));
        format!(
            "complete -c mesync{condition}{short} -l {}{value} -d {}\n",
            f.long,
            quoted(f.doc)
        )
    };
    for f in GLOBAL {
        out += &flag("", f);
    }
    for word in first_words() {
        out += &format!(
            "complete -c mesync -n '__mesync_is' -a {word} -d {}\n",
            quoted(rows(word)[0].doc)
        );
        for form in forms(word) {
            out += &format!(
                "complete -c mesync -n '__mesync_is {word}' -a {} -d {}\n",
                second_word(form),
                quoted(form.doc)
            );
        }
    }
    for row in COMMANDS {
        for f in row.flags {
            out += &flag(&format!(" -n '__mesync_in {}'", row.name), f);
        }
        for a in row.arguments.iter().filter(|a| a.values != ValueKind::Text) {
            let when = if matches!(a.count, ArgumentCount::One | ArgumentCount::Optional) {
                "is"
            } else {
                "in"
            };
            out += &format!(
                "complete -c mesync -n '__mesync_{when} {}'{}\n",
                row.name,
                action(a.values)
            );
        }
    }
    out
}
