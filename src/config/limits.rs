//! Limits without a setting, all in one place: every queue and table has a limit.

/// Wake-ups: one that waits is as good as many.
pub const WAKEUPS: usize = 1;
/// Events for the client's main loop.
pub const CLIENT_EVENTS: usize = 256;
/// Reads of inotify that wait for the debounce, some hundred events each.
pub const EVENT_BATCHES: usize = 64;
/// Names of files that have just arrived in the outbox.
pub const OUTBOX_ARRIVALS: usize = 1024;
/// Messages in the outbox that are remembered; later ones are found when there is room again.
pub const OUTBOX_MESSAGES: usize = 200_000;
/// Bytes of messages in one request of this client.
pub const BATCH_BYTES: usize = 1024 * 1024;
/// Paths of a synced directory that are known to be out of sync; a rescan finds the others.
pub const PATHS_OUT_OF_SYNC: usize = 100_000;
/// Paths of a synced directory that a rescan offers before it waits for some of them to be
/// handled.
pub const OFFERED_PATHS: usize = 4_000;
/// Paths of a synced directory that share a request, commits and syncs, at most, and the bytes of their contents, which
/// are in memory meanwhile. As many as a request may have, so that the hub renames a directory of so many files in one commit.
pub const GROUP_PATHS: usize = crate::wire::files::BATCH_FILES;
pub const GROUP_BYTES: u64 = 2 * 1024 * 1024;
/// A group of so many paths waits for no more.
pub const FULL_GROUP_PATHS: usize = 256;
/// From this many files on, one sync of the filesystem is cheaper than one for each file.
pub const SYNCFS_FROM: usize = 16;
/// Files of the log of received ids, one for each day: covers `wire::ID_MEMORY`.
pub const SEEN_DAYS: usize = 15;
/// Bytes of a hook's output that are kept.
pub const HOOK_OUTPUT_BYTES: usize = 64 * 1024;
/// Paths of a synced directory that are changing at one time; if there are more, the whole tree is
/// rescanned.
pub const BUSY_PATHS: usize = 10_000;
/// Unwatched directories that are remembered; beyond that the whole tree counts as unwatched.
pub const UNWATCHED_DIRECTORIES: usize = 1000;
/// Synced directories within another one that are remembered and excluded.
pub const NESTED_DIRECTORIES: usize = 1000;
/// Bytes of `.mesyncignore` that are read.
pub const IGNORE_BYTES: usize = 256 * 1024;
/// Hashes of recently read files that are remembered.
pub const REMEMBERED_HASHES: usize = 1024;
/// Hook records of one type in memory; the others are found when there is room again.
pub const HOOK_RECORDS: usize = 1000;
/// Failed hooks for directory events that are kept.
pub const FAILED_NEWS_HOOKS: usize = 100;
/// Messages requested in one pull.
pub const PULL_SIZE: usize = 1000;
/// Requests that wait for the hub's committer.
pub const WAITING_COMMITS: usize = 1024;
/// Threads that put the chunks of files into a hub's bucket.
pub const UPLOADERS: usize = 8;
/// Operations in one transaction of the hub.
pub const GROUP_OPERATIONS: usize = 256;
/// Bytes of short contents after which a transaction of the hub takes no more operations: with the
/// rows about them, they should fit into the half of the default `cache` that redb gives to changed
/// pages. It writes what does not fit, and then reads it and writes it again for the checksums.
pub const GROUP_INLINE_BYTES: u64 = 512 * 1024;
/// Keys of hosts on a hub.
pub const KEYS: usize = 10_000;
/// Wrong keys that one address may use within `WRONG_KEYS_WINDOW`.
pub const WRONG_KEYS: u32 = 10;
pub const WRONG_KEYS_WINDOW: std::time::Duration = std::time::Duration::from_secs(60);
/// Addresses for which wrong keys are counted; the oldest is dropped.
pub const WRONG_KEYS_ADDRESSES: usize = 1024;
/// Machines that ask a hub to join at one time, and for how long each.
pub const JOIN_REQUESTS: usize = 64;
pub const JOIN_REQUESTS_PER_ADDRESS: usize = 4;
pub const JOIN_TIME: std::time::Duration = std::time::Duration::from_secs(3600);
/// How often one of them may restart within that time.
pub const JOIN_RESTARTS: u32 = 8;
/// Accepted machines that a hub remembers.
pub const ACCEPTED_MACHINES: usize = 64;
/// How long all machines may be accepted, at most.
pub const JOIN_WINDOW: std::time::Duration = std::time::Duration::from_secs(86_400);
/// Deletes that are approved for all machines.
pub const MAX_APPROVALS: usize = 100_000;
/// For how long such an approval is good: as long as a deleted file can be restored.
pub const APPROVAL_DAYS: u64 = 30;
/// Unused invitations.
pub const INVITATIONS: usize = 1000;
/// Bytes of messages that were read and are being committed to the hub's tables.
pub const COMMIT_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of chunk lists and file batches that are being transferred, in both directions.
pub const FILE_MEMORY_BYTES: u64 = 32 * 1024 * 1024;
/// File events that are read from the store and written to a stream at once.
pub const EVENT_PAGE: usize = 64;
/// Free space and inodes of the hub's disk below which it accepts nothing new, whatever the
/// setting.
pub const LEAST_FREE_BYTES: u64 = 8 * 1024 * 1024;
pub const LEAST_INODES: u64 = 64;
/// TLS handshakes that wait for a processor. Further ones are refused, before they take the places of clients with keys.
pub const WAITING_HANDSHAKES: usize = 64;
/// The largest `max_hosts`.
pub const HOSTS: u64 = 10_000;
/// Message ids that the hub remembers: about 1 GB of disk. Beyond that the oldest are dropped before
/// `wire::ID_MEMORY` is over.
pub const MESSAGE_IDS: u64 = 10_000_000;
/// Versions that the hub keeps of one file.
pub const FILE_VERSIONS: usize = 100;
/// File events that the hub keeps; a client that asks for older ones lists the files.
pub const FILE_EVENTS: u64 = 100_000;
/// Commits of file changes that the hub can distinguish from those of another history; a client that asks for older
/// ones lists the files.
pub const FILE_COMMITS: u64 = 200_000;
/// Idempotency keys of file changes that the hub remembers; beyond that the oldest are dropped early.
pub const FILE_KEYS: u64 = 200_000;
/// Lost chunks that the hub remembers; it finds others again when these are restored.
pub const LOST_CHUNKS: usize = 10_000;
/// Files with lost chunks that it names to clients at one time.
pub const NAMED_LOST_FILES: usize = 100;
/// Files in the hub's staging directory: chunks that no commit has named yet, and bodies that are being
/// received.
pub const STAGED_FILES: u64 = 300_000;
