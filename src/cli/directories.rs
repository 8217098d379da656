//! Shows synced directories for `mesync status`.

use super::counted;
use super::output::Output;
use crate::clock;
use crate::files::overview::DirectoryRow;
use crate::files::status::DirectoryCondition;
use crate::logger::one_line;

/// Unsyncable paths that are shown to a person at most.
const MAX_SHOWN_PATHS: usize = 10;

fn condition(of: &DirectoryRow) -> String {
    let time = |text: &Option<String>| {
        text.as_deref()
            .and_then(clock::parse_rfc3339)
            .map(clock::local)
    };
    let seen = of.seen_at.as_deref().and_then(clock::parse_rfc3339);
    let age = seen
        .and_then(clock::since)
        .map_or(String::new(), |age| format!(", {} ago", clock::age(age)));
    let words = match of.condition {
        DirectoryCondition::Starting if of.seen_at.is_none() => "never synced".to_string(),
        DirectoryCondition::Starting => "being scanned".into(),
        DirectoryCondition::InSync => "in sync".into(),
        DirectoryCondition::Syncing => "syncing".into(),
        DirectoryCondition::Stuck => "not in sync".into(),
        DirectoryCondition::Held => "held: mesync changes nothing there".into(),
        DirectoryCondition::Failed => "cannot be opened".into(),
    };
    match (&of.process, time(&of.seen_at)) {
        (Some(process), _) => {
            let since = time(&of.in_sync_since).map_or(String::new(), |at| format!(" since {at}"));
            format!("{words}{since}, process {process}")
        }
        // between attempts to open the directory, its process does not hold the lock
        (None, Some(at))
            if matches!(
                of.condition,
                DirectoryCondition::Held | DirectoryCondition::Failed
            ) =>
        {
            format!("{words} (seen {at}{age})")
        }
        (None, Some(at)) => format!("not running; last seen {words}, {at}{age}"),
        (None, None) => format!("not running; {words}"),
    }
}

pub fn print(of: &DirectoryRow, out: &mut Output) {
    let mut lines = vec![one_line(&of.dir), condition(of)];
    let pending = of.pending.saturating_sub(of.held_deletes);
    if pending > 0 {
        lines.push(format!("{} pending", counted(pending, "path")));
    }
    lines.extend(of.problems.iter().map(|problem| one_line(problem)));
    if of.unsyncable_count > 0 {
        lines.push(format!(
            "{} cannot be synced:",
            counted(of.unsyncable_count, "path")
        ));
        lines.extend(
            of.unsyncable
                .iter()
                .take(MAX_SHOWN_PATHS)
                .map(|c| format!("  {}: {}", one_line(&c.path), one_line(&c.why))),
        );
    }
    lines.extend(
        of.waiting
            .iter()
            .take(MAX_SHOWN_PATHS)
            .map(|w| format!("{} waits: {}", one_line(&w.path), one_line(&w.why))),
    );
    if of.conflict_copies > 0 {
        lines.push(format!(
            "{}: see \"mesync conflicts\"",
            counted(of.conflict_copies, "conflict copy")
        ));
    }
    for (n, what, first) in [
        (
            of.skipped_special,
            "a socket, FIFO or device",
            &of.first_special,
        ),
        (
            of.skipped_names,
            "a name that is not UTF-8, or too long",
            &of.first_name,
        ),
    ] {
        if let (1.., Some(first)) = (n, first) {
            let more = if n > 1 {
                format!(", and {} more", n - 1)
            } else {
                String::new()
            };
            lines.push(format!(
                "skipped, since it is {what}: {}{more}",
                one_line(first)
            ));
        }
    }
    for (n, text) in lines.iter().enumerate() {
        let name = out.bold(&format!("{:<13}", if n == 0 { "directory" } else { "" }));
        out.line(&format!("{name} {text}"));
    }
}
