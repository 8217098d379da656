//! The commands about messages and their queues.

use super::{
    Argument, ArgumentCount, BYTES, Command, CommandGroup, ValueKind, any, one, switch, valued,
};
use crate::wire::Priority;

const QUEUES: ValueKind = ValueKind::Words(&["outbox", "inbox", "sent", "failed", "hooks"]);
// includes the outbox, so that the command itself can explain its refusal
const FLUSHABLE: ValueKind = ValueKind::Words(&["sent", "failed", "inbox", "hooks", "outbox"]);

pub const SEND: Command = Command {
    name: "send",
    group: CommandGroup::Messages,
    arguments: &[Argument {
        name: "TYPE",
        count: ArgumentCount::Optional,
        values: ValueKind::Text,
    }],
    flags: &[
        switch(
            "batch",
            "read messages from standard input, one JSON object a line",
        ),
        valued(
            "payload",
            "JSON",
            ValueKind::Text,
            "the payload (default: null)",
        ),
        valued(
            "payload-file",
            "FILE",
            ValueKind::File,
            "read the payload from a file, or from standard input if it is \"-\"",
        ),
        valued(
            "target",
            "HOST",
            ValueKind::Names("hosts"),
            "for this machine only (default: all others)",
        ),
        valued(
            "priority",
            "PRIORITY",
            ValueKind::Words(&Priority::NAMES),
            "high, normal or low (default: normal)",
        ),
        valued(
            "ttl",
            "SECONDS",
            ValueKind::Text,
            "the hub drops it if it is not delivered within this time (1 to 604800)",
        ),
    ],
    doc: "write a message to the outbox and print its id",
    long: &[
        "Needs neither hub nor daemon: the message is on the disk when the command returns, and is sent when both are running. The payload is any JSON and arrives unchanged. A message has at most 256 KiB: send a reference to larger data.",
        "TYPE is 1 to 64 letters, digits, dots, dashes and underscores. The receiving machine runs hooks/TYPE, if it exists.",
        "With --batch and without TYPE, each line of standard input is one message, as a file in the outbox is: {\"type\": \"x\", \"target\": \"web-1\", \"payload\": 1}. Only \"type\" is required. Lines that arrive together (up to 1000) share their syncs, so many messages cost little more than one; the ids are printed in the same order. The first line that is not a message ends the command; the messages before it are in the outbox. A line with an \"id\" can be sent again without being delivered twice.",
        "In a hook, the message carries the number of hooks that led to it, and after three in a row it is refused: hooks that answer each other would loop.",
    ],
    examples: &[
        (
            "mesync send deploy.done --payload '{\"rev\": 42}'",
            "tell all other machines",
        ),
        (
            "uname -a | jq -R . | mesync send uname --payload-file - --target web-1",
            "one machine, payload from a pipe",
        ),
        (
            "jq -c '.[] | {type: \"row\", payload: .}' rows.json | mesync send --batch",
            "a message for each row",
        ),
    ],
};

pub const LIST: Command = Command {
    name: "list",
    group: CommandGroup::Messages,
    arguments: &[one("QUEUE", QUEUES)],
    flags: &[BYTES],
    doc: "list outbox, inbox, sent, failed or hooks",
    long: &[
        "The outbox is listed in the order of sending, the others by time. An id is shortened to as many of its last digits as tell the messages apart; show and retry accept them, and --json has the whole id. Files that are not messages are listed with the reason. In the inbox, \"hook failed\" marks messages whose hook has failed: see retry --hooks.",
        "\"list hooks\" shows pending and failed hooks: why one failed, and the remedy. Their messages may have left the inbox.",
    ],
    examples: &[
        ("mesync list failed", "what was refused, and why"),
        ("mesync list hooks", "which hooks failed, and why"),
        (
            "mesync list inbox --json",
            "for a script: one object a line",
        ),
    ],
};

pub const SHOW: Command = Command {
    name: "show",
    group: CommandGroup::Messages,
    arguments: &[one("ID", ValueKind::Names("messages"))],
    flags: &[BYTES],
    doc: "show a whole message and where it is",
    long: &[
        "ID is the id of a message, at least four characters of its beginning or its end, or the name of its file.",
    ],
    examples: &[(
        "mesync show 7c1e",
        "the message whose id begins or ends with this",
    )],
};

pub const RETRY: Command = Command {
    name: "retry",
    group: CommandGroup::Messages,
    arguments: &[any("ID", ValueKind::Names("failed"))],
    flags: &[switch("hooks", "run failed hooks again, not messages")],
    doc: "send failed messages again, or run failed hooks again",
    long: &[
        "Without ID: all of them. A message keeps its id and its content, and gets a new time limit. A file in failed/ that is not a message can be corrected there and retried.",
        "ID is the id of a message, at least four characters of its beginning or its end, or the name of its file.",
    ],
    examples: &[
        ("mesync retry", "everything in failed/"),
        ("mesync retry --hooks 7c1e", "the hook for one message"),
    ],
};

pub const FLUSH: Command = Command {
    name: "flush",
    group: CommandGroup::Messages,
    arguments: &[one("QUEUE", FLUSHABLE), any("ID", ValueKind::Text)],
    flags: &[],
    doc: "remove all from sent, failed or inbox, or the failed hooks",
    long: &[
        "Messages removed from the inbox do not arrive again, and pending hooks still run. The outbox is never flushed: its messages would be lost.",
        "\"flush hooks\" removes the hooks that failed, all of them or those of the given messages. Their messages stay where they are.",
    ],
    examples: &[
        ("mesync flush sent", "forget what was sent"),
        (
            "mesync flush hooks 7c1e",
            "give up the failed hook for one message",
        ),
    ],
};
