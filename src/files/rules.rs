//! The rules that keep files from being lost, by name, so that a test can switch one off and see that the simulation notices.
//!
//! In the program all of them hold: [`holds`] is a constant there. It decides nothing else and keeps no state.

/// One rule each; what goes wrong without it is told by the simulation that runs without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A local delete wins over a remote change of the mode alone, and the reverse.
    ModeLosesToDelete,
    EditBeatsDelete,
    /// The mode is merged apart from the content.
    ModeApart,
    /// The time of a file is merged apart from it, too.
    TimeApart,
    /// A directory with a mode of its own has a row, however much is in it.
    DirsHaveModes,
    /// A mode taken over from the hub is written down before the edit is sent.
    MergedModeIsStored,
    /// Equal bytes are no conflict.
    Adopt,
    /// Two edits are a conflict; without it the later one wins.
    KeepBoth,
    /// Look at what came out of an exchange, and keep it.
    LookAtWhatCameOut,
    /// Its bytes, too: its stamp may be that of before.
    ReadWhatCameOut,
    /// Look at what went to the trash, and put it back.
    LookInTrash,
    /// A temporary name that is there may hold what came out: compare the inode.
    CompareInode,
    /// Ask the hub what became of a request without an answer.
    AskOpenKeys,
    /// Deletes have keys too.
    DeletesHaveKeys,
    /// Take the records as they are now, not what the request once made.
    CurrentFromKey,
    /// What a refused request says stands there is not believed: it does not say in which epoch.
    RefusalsTellNothing,
    ApplyIntent,
    /// A write that failed may have happened: look before something is concluded from it.
    FailedMayHaveHappened,
    TrashIntent,
    /// The cursor is stored together with its rows.
    CursorWithRows,
    /// What a full listing does not name is gone.
    UnlistedIsGone,
    /// What it does not name keeps its base: it is a delete, nothing new.
    UnlistedKeepsBase,
    /// What both were in sync with after the revision to which a hub was set back is sent again, in the place of what the hub
    /// has from before; without it all of it is new on either side.
    LostGoesUp,
    /// What the hub has from after that is another change, and is not replaced.
    LostMeetsNews,
    /// A file against a directory at one name is decided.
    ClashIsResolved,
    /// But only when the feed has said that this is all.
    ClashWaitsForFeed,
    /// Deletes below go before a file at that name, and that file's delete before uploads below.
    OrderBelow,
    /// The directory goes before the base of its last entry is written.
    PruneFirst,
    /// A newly ignored path leaves the base without a delete.
    IgnoredIsNotDeleted,
    Guard,
    GuardIsStored,
    /// Deletes of one burst are weighed together: none passes before the burst has ended.
    GuardGathers,
    /// What was renamed onto an existing name is not deleted.
    RenameOver,
    /// What was moved to another directory of the same machine is not deleted.
    MovesBetween,
    /// But each file that came there is the move of one file only.
    OneMoveEach,
    /// What the disk takes for another name is renamed to that only if the hub has nothing under its own.
    TwinKeepsItsName,
    /// Deletes under that name are sent before.
    DeletesBeforeRespelling,
}

#[cfg(not(test))]
#[inline(always)]
pub const fn holds(_: Rule) -> bool {
    true
}

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub fn holds(rule: Rule) -> bool {
    BROKEN.with(|b| b.get() != Some(rule))
}

/// Switches one rule off on this thread, or all on again.
#[cfg(test)]
pub fn without(rule: Option<Rule>) {
    BROKEN.with(|b| b.set(rule));
}
