//! The items that tests, fuzz targets and benchmarks use; no part of the program uses this module.
//!
//! All other items are private to the library, so the compiler reports an unused item. No module is
//! listed as a whole, because that would keep all its items alive.

pub mod chunking {
    pub use crate::chunking::Splitter;
}

pub mod cli {
    pub mod table {
        pub use crate::cli::table::{COMMANDS, Flag, GLOBAL, SHELLS};
    }
}

pub mod client {
    pub use crate::client::{
        ByteSource, ChangeHeaders, Download, ErrorDetail, Failure, HubClient, UploadOutcome,
    };
}

pub mod clock {
    pub use crate::clock::{
        compact, day, millis, monotonic, now, parse_compact, parse_rfc3339, rfc3339,
    };
}

pub mod config {
    pub use crate::config::{Reserve, SETTINGS, Section, Settings, check_key};

    pub mod limits {
        pub use crate::config::limits::{
            FILE_MEMORY_BYTES, KEYS, SEEN_DAYS, WAITING_HANDSHAKES, WRONG_KEYS,
        };
    }
    pub mod watch {
        pub use crate::config::watch::SETTINGS;
    }
}

pub mod credentials {
    pub use crate::credentials::{Access, local_key};
}

pub mod error {
    pub use crate::error::Kind;
}

pub mod hub {
    pub use crate::hub::{Hub, add_key, list_keys, remove_key};

    pub mod files {
        pub mod lines {
            pub use crate::hub::files::lines::Lines;
        }
        pub mod head {
            pub use crate::hub::files::head::{ByteRange, content_type, disposition, span, time};
        }
        pub mod multipart {
            pub use crate::hub::files::multipart::{
                FormPart, MAX_PARTS, Malformed, Parser, Sink, boundary,
            };
        }
    }
    pub mod http {
        pub use crate::hub::http::{Caller, Job, Reply, Request};
    }
    pub mod keys {
        pub use crate::hub::keys::hash;
    }
    pub mod memory {
        pub use crate::hub::memory::Room;
    }
    pub mod messages {
        pub mod batch {
            pub use crate::hub::messages::batch::read;
        }
    }
    pub mod protected {
        pub use crate::hub::protected::check;
    }
    pub mod routes {
        pub use crate::hub::routes::{Route, find, is_public};
    }
    pub mod server {
        pub use crate::hub::server::{Admission, Config, Gate, Head, Responder, Server, Wire};

        pub mod head {
            pub use crate::hub::server::head::{Head, MAX_HEAD, MAX_TARGET, end, parse};
        }
    }
    pub mod token {
        pub use crate::hub::token::{LIFETIME, fingerprint, issue, verify};
    }
}

pub mod messages {
    pub use crate::messages::{file_name, is_hidden, parse_file_name};

    pub mod hooks {
        pub use crate::messages::hooks::HookRecord;
    }
    pub mod plan {
        pub use crate::messages::plan::{
            CheckedFile, FileContent, MIN_UNTOUCHED_TIME, OutboxStep, complete, step,
        };
    }
    pub mod spool {
        pub use crate::messages::spool::{create, send};
    }
}

#[cfg(feature = "tls")]
pub mod pins {
    pub use crate::pins::{Pins, client_config};
}

pub mod relpath {
    pub use crate::relpath::MAX_PATH_BYTES;
}

pub mod sse {
    pub use crate::sse::{MAX_EVENT, SseParser};
}

pub mod wire {
    pub use crate::wire::{
        ErrorAnswer, ID_MEMORY, KEEP_ALIVE, LoginAnswer, MAX_BATCH, MAX_MESSAGE, Message,
        NotAMessage, OWN_TYPES, PullAnswer, Status, brief, check_host, check_type,
    };

    pub mod files {
        pub use crate::wire::files::{
            BATCH_FILE, BATCH_FILES, BatchAnswer, BatchItem, Chunk, Commit, EntryKind,
            ExtraMetadata, FetchHead, FetchItem, FileEvent, Hash, MAX_BASES, MAX_PARTS_BYTES,
            MOST_CHUNKS, Metadata, Name, OldName, PAGE, PartList, Record, Restore, SINGLE,
        };
    }
    pub mod revision {
        pub use crate::wire::revision::{Condition, Tag};
    }
    pub mod scope {
        pub use crate::wire::scope::Scope;
    }
}
