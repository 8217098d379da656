//! Commands on the hub's machine: run the hub, back it up, check it. The hub itself is in `hub`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::after;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use uuid::Uuid;

use super::parse::Invocation;
use super::{CommandEnd, Context};
use crate::client::HubClient;
use crate::config::environment;
use crate::config::{HubSettings, Settings};
use crate::credentials::{self, Access};
use crate::error::{Error, Kind, Result, plain};
use crate::hub::bucket::recovery::{self, RecoverFrom, RecoveredHub};
use crate::hub::bucket::shared_files::BucketLink;
use crate::hub::bucket::{self, moving};
use crate::hub::data_dir::{self, DataDirLock, running};
use crate::hub::store::findings::{Findings, Lost};
use crate::hub::store::{Store, check};
use crate::logger::counted;
use crate::service::{self, ServicePart, Signals};
use crate::wire::files::Backup;
use crate::{clock, daemon, disk, hub, wire};

/// `mesync serve`. The context's settings include the flags.
pub fn serve(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    restart_frugal();
    if let Some(flag) = ["watch", "yes"]
        .into_iter()
        .find(|flag| invocation.has(flag) && !invocation.has("start"))
    {
        return Err(invocation.usage(format!(
            "--{flag} is for the client: add --start, or run \"mesync start\" beside the hub"
        )));
    }
    let signals = Signals::start()?;
    let hub = hub::Hub::start(&context.settings, invocation.has("allow-anonymous"))?;
    let address = hub.address();
    // the settings of the client that runs beside it
    let complete = |mut settings: Settings| {
        if settings.server_is_default {
            settings.server_url = url(address);
        }
        if invocation.has("start") {
            super::watches::with_watches(&settings, invocation)
        } else {
            Ok(settings)
        }
    };
    let mut parts: Vec<Box<dyn ServicePart>> = vec![Box::new(hub)];
    if invocation.has("start") {
        match complete((*context.settings).clone()).and_then(|settings| {
            daemon::Daemon::start(&Arc::new(settings), daemon::ClientHalves::Both)
        }) {
            Ok(client) => parts.push(Box::new(client)),
            Err(e) => {
                service::stop(parts);
                return Err(e);
            }
        }
    }
    service::run(&signals, parts, &|| {
        complete(super::read_settings(invocation)?)
    })
    .map(|()| CommandEnd::All)
}

/// What makes glibc return memory that was freed, see mallopt(3): one arena, because each thread would reserve 64 MB of
/// addresses for its own; fixed thresholds, because it would keep up to 64 MB after a long body; and few stacks of ended
/// threads instead of 40 MB (`ld.so --list-tunables`).
const FRUGAL_MALLOC: [(&str, &str); 4] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
    ("GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=1048576"),
];

/// If address space is limited, executes this program again with [`FRUGAL_MALLOC`]: otherwise an allocation fails that must
/// not. glibc reads these variables only at the start.
fn restart_frugal() {
    let is_set = |name: &str| environment::variable(name).is_some();
    if cfg!(not(target_env = "gnu"))
        || getrlimit(Resource::As).current.is_none()
        || is_set(FRUGAL_MALLOC[0].0)
    {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    let unset = FRUGAL_MALLOC.into_iter().filter(|(name, _)| !is_set(name));
    let e = Command::new(program)
        .arg0(name)
        .args(arguments)
        .envs(unset)
        .exec();
    log::warn!("cannot limit the memory that malloc keeps: {}", plain(&e));
}

/// The URL by which a client on this machine calls a hub that listens on `listen`.
fn url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// The longest time for a backup of a running hub.
const LONGEST_BACKUP: Duration = Duration::from_secs(86_400);

/// A backup in the output of `--json`.
#[derive(Serialize)]
struct BackupReport<'a> {
    dir: &'a Path,
    #[serde(flatten)]
    backup: Backup,
}

/// `mesync hub backup DIR`: a running hub makes the copy itself, because no other process can read its tables.
pub fn backup(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let (settings, argument) = (&context.settings, invocation.argument(0)?);
    let dir =
        std::path::absolute(argument).map_err(|e| Error::io(format!("find {argument}"), &e))?;
    let backup = match lock_existing(&settings.hub.data_dir) {
        Ok(_lock) => {
            let now = clock::millis(clock::now());
            Store::open(
                &settings.hub.data_dir,
                settings.hub.cache as usize,
                now,
                Uuid::new_v4(),
            )?
            .backup(&dir)?
        }
        Err(e) if e.kind == Kind::Busy => backup_running(settings, &dir, e)?,
        Err(e) => return Err(e),
    };
    if context.out.json {
        context.out.object(&BackupReport { dir: &dir, backup })
    } else {
        context.out.line(&format!(
            "{}: {}, {}",
            dir.display(),
            counted(backup.files, "file"),
            counted(backup.chunks, "chunk")
        ))
    }
    if backup.lost > 0 {
        let what = format!(
            "the backup in {} lacks {} that the hub has lost",
            dir.display(),
            counted(backup.lost, "chunk")
        );
        return Err(Error::new(Kind::Damaged, what).hint(format!(
            "\"mesync hub check --data {}\" names the files",
            dir.display()
        )));
    }
    Ok(CommandEnd::All)
}

/// The bucket of the settings. `doing`: the words of the error if there is none.
fn link_of(hub: &HubSettings, doing: &str) -> Result<BucketLink> {
    let credentials = environment::variable("CREDENTIALS_DIRECTORY");
    let link = bucket::start::link_of(hub, credentials.as_deref().map(Path::new))?;
    link.ok_or_else(|| {
        Error::new(Kind::Settings, format!("cannot {doing}: no bucket is set"))
            .hint("set bucket and bucket_key_file in [hub] of config.toml; see \"SEVERAL HUBS\" in mesync(7)")
    })
}

/// `mesync hub recover`.
pub fn recover_bucket(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let hub = &context.settings.hub;
    let link = link_of(hub, "recover the bucket")?;
    let from = if invocation.has("without-view") {
        RecoverFrom::Bucket
    } else {
        RecoverFrom::OpenedView
    };
    let _lock = data_dir::lock(&hub.data_dir)?;
    let recovered = recovery::recover(&link, hub, from, clock::millis(clock::now()))?;
    if context.out.json {
        context.out.object(&recovered);
    } else {
        for line in recovered_in_words(&recovered, &link.url) {
            context.out.line(&line);
        }
    }
    Ok(CommandEnd::All)
}

fn recovered_in_words(recovered: &RecoveredHub, url: &str) -> Vec<String> {
    if recovered.already {
        return vec![format!(
            "{url} was recovered already: start the hubs, which ask the machines for lost contents"
        )];
    }
    let mut lines: Vec<String> = (recovered.lost.iter())
        .map(|name| format!("lost: {name}; machines that have it send it again"))
        .collect();
    let unnamed = recovered.lost_files - recovered.lost.len() as u64;
    if unnamed > 0 {
        lines.push(format!("lost: {unnamed} more"));
    }
    if recovered.dropped_entries > 0 {
        lines.push(format!(
            "not in this view, and dropped: {} of the log of the bucket",
            counted(recovered.dropped_entries, "entry")
        ));
    }
    lines.push(format!(
        "recovered {url}: {}, {} put again; start the hubs",
        counted(recovered.files, "file"),
        counted(recovered.chunks, "chunk")
    ));
    lines
}

/// `mesync hub move --to-bucket` and `--to-disk`.
pub fn move_hub(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let hub = &context.settings.hub;
    let link = link_of(hub, "move the hub")?;
    let wall = clock::millis(clock::now());
    let moved = match (invocation.has("to-bucket"), invocation.has("to-disk")) {
        (true, false) => {
            let _lock = lock_existing(&hub.data_dir)?;
            moving::to_bucket(&link, &hub.data_dir, hub.cache as usize, wall)?
        }
        (false, true) => {
            let _lock = data_dir::lock(&hub.data_dir)?;
            moving::to_disk(&link, hub, wall)?
        }
        _ => return Err(invocation.usage("give one of --to-bucket and --to-disk")),
    };
    if context.out.json {
        context.out.object(&moved)
    } else {
        let to = if invocation.has("to-bucket") {
            link.url
        } else {
            hub.data_dir.display().to_string()
        };
        context.out.line(&format!(
            "moved to {to}: {}, {}",
            counted(moved.files, "file"),
            counted(moved.chunks, "chunk")
        ));
        if moved.lost > 0 {
            context.out.line(&format!(
                "lost, because the bucket has lost them: {}; \"mesync hub check\" names the files",
                counted(moved.lost, "chunk")
            ));
        }
    }
    Ok(CommandEnd::All)
}

/// `held`: the error if the hub does not listen yet, or its address is unknown.
fn backup_running(settings: &Settings, dir: &Path, held: Error) -> Result<Backup> {
    let hub = running_hub(settings, LONGEST_BACKUP)?.ok_or(held)?;
    hub.backup(dir).map_err(|failure| failure.error)
}

/// A client for the running hub of the settings' data directory, with the hub's local key.
pub fn local_client(settings: &Settings) -> Result<HubClient> {
    let dir = &settings.hub.data_dir;
    wait_for_hub(dir)?;
    running_hub(settings, settings.http_timeout)?.ok_or_else(|| {
        let what = format!("cannot ask the hub of {}: it does not run", dir.display());
        Error::new(Kind::Unreachable, what).hint("start it with \"mesync serve\"")
    })
}

/// The same; `None`: no hub runs there, or it does not listen yet.
pub fn running_hub(settings: &Settings, patience: Duration) -> Result<Option<HubClient>> {
    let data = &settings.hub.data_dir;
    let holder = disk::lock_holder(&data.join(wire::HUB_LOCK));
    let Some(listen) = holder.and_then(|text| text.trim().parse().ok()) else {
        return Ok(None);
    };
    let url = url(listen);
    let key = credentials::local_key(data, &url);
    let access = Access::to(url.clone(), key);
    let settings = Settings {
        server_url: url,
        http_timeout: patience,
        ca_file: None,
        hub_fingerprint: Vec::new(),
        ..settings.clone()
    };
    HubClient::new(&settings, Box::new(move || Ok(access.clone()))).map(Some)
}

/// Whether a process has the lock of the data directory; taking it may also fail for want of descriptors.
fn is_held(data: &Path) -> bool {
    disk::lock_holder(&data.join(wire::HUB_LOCK)).is_some()
}

/// Locks the data directory of a stopped hub. `Kind::Busy`: it runs, or the lock cannot be taken now.
fn lock_existing(data: &Path) -> Result<DataDirLock> {
    find_hub(data)?;
    data_dir::lock(data)
}

/// Checks that this data directory has a hub, running or not. If not, the error names hubs that run elsewhere.
pub fn find_hub(data: &Path) -> Result<()> {
    let tables = data.join(Store::FILE);
    match std::fs::metadata(&tables) {
        Ok(meta) if meta.is_file() => return Ok(()),
        Ok(_) => {}
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) => {}
        Err(e) => {
            let e = Error::io(format!("look at {}", tables.display()), &e);
            return Err(Error {
                kind: Kind::Settings,
                ..e
            }
            .hint("run this as the hub's user or as root"));
        }
    }
    let what = format!(
        "there is no hub in {}: it has no {}",
        data.display(),
        Store::FILE
    );
    let running: Vec<String> = running()
        .iter()
        .map(|dir| format!("--data {}", dir.display()))
        .collect();
    let hint = match running.as_slice() {
        [] => "start it with \"mesync serve\", or name its data directory with --data".to_string(),
        some => format!(
            "on this machine a hub runs with {}",
            some.join(", and one with ")
        ),
    };
    Err(Error::new(Kind::Settings, what).hint(hint))
}

/// `mesync hub check`
pub fn check(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let hub = &context.settings.hub;
    let dir = hub.data_dir.display();
    let _lock = lock_existing(&hub.data_dir).map_err(|e| match e.kind {
        Kind::Busy if is_held(&hub.data_dir) => Error::new(
            Kind::Busy,
            format!("cannot check {dir}: a hub is running with it"),
        )
        .hint("stop it, or make a backup and check that with --data"),
        _ => e,
    })?;
    let findings = check::check(&hub.data_dir, hub.cache as usize)?;
    let repair = invocation.has("repair");
    if repair {
        check::ask_for_lost(
            &hub.data_dir,
            hub.cache as usize,
            &findings.lost_chunks,
            clock::millis(clock::now()),
        )?;
    }
    if context.out.json {
        context.out.object(&findings);
    } else {
        findings
            .damage
            .iter()
            .for_each(|what| context.out.line(&format!("damaged: {what}")));
        findings
            .lost
            .iter()
            .for_each(|lost| context.out.line(&lost_in_words(lost, repair)));
        findings
            .orphans
            .iter()
            .for_each(|path| context.out.line(&format!("not needed: {path}")));
        let Findings {
            files,
            versions,
            chunks,
            bytes,
            ..
        } = findings;
        context.out.line(&format!(
            "{files} files, {versions} versions, {chunks} chunks of {bytes} bytes"
        ));
    }
    match findings.damage.len() as u64 + findings.more {
        0 => Ok(CommandEnd::All),
        n => {
            let hint = match (findings.lost.is_empty(), repair) {
                (true, _) => "restore a backup",
                (false, true) => {
                    "start the hub: machines that have the files send them again; restore the others from a backup"
                }
                (false, false) => {
                    "with --repair the hub asks the machines for the lost contents; or restore a backup"
                }
            };
            Err(Error::new(Kind::Damaged, format!("{n} things are damaged in {dir}")).hint(hint))
        }
    }
}

fn lost_in_words(lost: &Lost, repair: bool) -> String {
    let which = if lost.is_current {
        "current"
    } else {
        "kept as a version"
    };
    let asked = match (&lost.wanted_since, repair) {
        (Some(since), _) => format!("asked for since {since}, and no machine has sent it"),
        (None, true) => "asked for after the next start of the hub".to_string(),
        (None, false) => "not asked for yet".to_string(),
    };
    format!(
        "lost: {}, revision {}, {which}: {asked}",
        wire::brief(&lost.name),
        lost.rev
    )
}

/// The number of checks for a hub that may just have been started, and their interval.
const START_LOOKS: u32 = 20;
const START_PAUSE: Duration = Duration::from_millis(50);

/// Waits for a hub that was started a moment ago, as in "mesync serve & mesync key add".
pub fn wait_for_hub(dir: &Path) -> Result<()> {
    for _ in 0..START_LOOKS {
        if find_hub(dir).is_ok() {
            break;
        }
        let _ = after(START_PAUSE).recv();
    }
    find_hub(dir)
}
