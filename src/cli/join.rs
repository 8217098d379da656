//! `mesync join`, and the request of other commands for a key after the hub has refused them.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::after;

use super::parse::Invocation;
use super::{CommandEnd, Context};
use crate::config::{self, Settings, server_url};
use crate::daemon::servers;
use crate::error::{Error, Kind, Result};
use crate::joining::{self, JoinRequest, JoinStep};
use crate::logger;
use crate::wire::{self, files::Hash, join::ASK_INTERVAL};

/// Bytes of an invitation on standard input at most.
const MAX_INVITATION_BYTES: u64 = 4096;

/// `URL`, or `URL#NAME.SECRET.FINGERPRINT`; the URL may be a list.
struct JoinTarget {
    url: String,
    invitation: Option<Invitation>,
}

struct Invitation {
    name: String,
    secret: String,
    fingerprint: Hash,
}

/// `mesync join URL`
pub fn join(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let target = target(invocation)?;
    let mut settings = (*context.settings).clone();
    let is_same =
        server_url::names(&settings.server_url, &target.url) && !settings.server_is_default;
    // a list that names the hub stays as it is
    if !is_same {
        settings.server_url = target.url;
    }
    let name = match (invocation.value("name")?, &target.invitation) {
        (Some(name), Some(invitation))
            if wire::check_host(name).as_ref() != Ok(&invitation.name) =>
        {
            let what = format!("the invitation is for {}, not for {name}", invitation.name);
            return Err(invocation.usage(what));
        }
        (_, Some(invitation)) => Some(invitation.name.clone()),
        (name, None) => name.map(String::from),
    };
    if let Some(name) = name {
        settings.host_id = wire::check_host(&name).map_err(|e| invocation.usage(e))?;
    }
    let watch = if invocation.has("watch") {
        super::watches::watches(&settings, invocation)?.pop()
    } else {
        None
    };
    let watch = watch.map(|watch| watch.path);
    let settings = Arc::new(settings);
    if is_same && !invocation.has("replace") && target.invitation.is_none() && is_joined(&settings)
    {
        if let Some(dir) = &watch {
            config::edit::set(&settings.config_file(), &[], Some(dir))?;
        }
        return Ok(told(context, &settings, "has joined already"));
    }
    let must_be = target.invitation.as_ref().map(|i| i.fingerprint);
    // a script that was interrupted may use its invitation again
    let was_invited = is_same
        && settings.host_id == context.settings.host_id
        && must_be.is_some_and(|must_be| settings.hub_fingerprint.contains(&must_be));
    let mut request = JoinRequest::open(&settings, must_be)?;
    request.replace = invocation.has("replace");
    request.invitation = target.invitation.map(|i| i.secret);
    request.watch = watch;
    match wait(&settings, &mut request) {
        Err(e) if e.kind == Kind::Refused && was_invited && is_joined(&settings) => {
            Ok(told(context, &settings, "has joined already"))
        }
        ended => ended.map(|()| told(context, &settings, "was let in")),
    }
}

fn told(context: &mut Context, settings: &Settings, how: &str) -> CommandEnd {
    let (name, url) = (&settings.host_id, logger::one_line(&settings.server_url));
    if context.out.json {
        let object = serde_json::json!({ "name": name, "server_url": url, "joined": true });
        context.out.object(&object);
    } else {
        let file = settings.config_file();
        let line = format!("{name} {how} by {url}, see {}", file.display());
        context.out.line(&line);
    }
    CommandEnd::All
}

fn is_joined(settings: &Arc<Settings>) -> bool {
    !settings.hub_fingerprint.is_empty()
        && servers::messages(settings).is_ok_and(|hub| hub.hosts().is_ok())
}

fn target(invocation: &Invocation) -> Result<JoinTarget> {
    let mut text = invocation.argument(0)?.to_string();
    if text == "-" {
        text.clear();
        let read = std::io::stdin()
            .take(MAX_INVITATION_BYTES)
            .read_to_string(&mut text);
        read.map_err(|e| Error {
            kind: Kind::Io,
            ..Error::io("read standard input", &e)
        })?;
        // accepts the whole line that "mesync invite" prints, or its last word
        let word = text.split_whitespace().last().unwrap_or_default();
        text = word.trim_matches('\'').to_string();
    }
    parse(&text).map_err(|e| invocation.usage(e))
}

fn parse(text: &str) -> std::result::Result<JoinTarget, String> {
    let (url, fragment) = text
        .split_once('#')
        .map_or((text, None), |(url, fragment)| (url, Some(fragment)));
    let url = server_url::list(url)?;
    if !server_url::each(&url).all(|url| url.starts_with("http://")) {
        return Err("a hub is joined by its own port, as http://HOST:PORT".into());
    }
    let invitation = |fragment: &str| {
        // from the right, because a name may have dots
        let mut parts = fragment.rsplitn(3, '.');
        let fingerprint = parts.next()?.parse().ok()?;
        let secret = parts.next().filter(|secret| !secret.is_empty())?;
        Some(Invitation {
            name: wire::check_host(parts.next()?).ok()?,
            secret: secret.to_string(),
            fingerprint,
        })
    };
    let invitation = match fragment {
        Some(fragment) => Some(invitation(fragment).ok_or("the invitation is cut or mistyped")?),
        None => None,
    };
    Ok(JoinTarget { url, invitation })
}

/// Asks in the foreground until it is accepted.
fn wait(settings: &Settings, request: &mut JoinRequest) -> Result<()> {
    let mut shown = None;
    loop {
        let mut pause = Duration::from_secs(ASK_INTERVAL);
        match request.step() {
            Ok(JoinStep::Accepted) => return Ok(()),
            Ok(JoinStep::Waits { code }) => {
                if shown.as_ref() != Some(&code) {
                    let words = joining::words(settings, request.name(), &code, request.replace);
                    logger::note(&words);
                    shown = Some(code);
                }
            }
            // after the first answer, keep asking while the hub restarts
            Err(failure) if shown.is_some() && failure.is_transient() => {
                log::warn!("{}", failure.error);
                pause = failure.retry_after.unwrap_or(pause);
            }
            Err(failure) => return Err(failure.error),
        }
        let _ = after(pause).recv();
    }
}

/// For a command in the foreground: if the hub refuses this machine because it has no key, requests one and waits. `true`:
/// the settings have changed.
pub fn ask_if_refused(settings: &Arc<Settings>) -> Result<bool> {
    if !joining::may_ask(settings) || !joining::is_refused(settings).unwrap_or(false) {
        return Ok(false);
    }
    wait(settings, &mut JoinRequest::open(settings, None)?)?;
    Ok(true)
}

/// For one pass of cron: asks once, and reports that as an error. `true`: the machine was admitted.
pub fn ask_once_if_refused(settings: &Arc<Settings>) -> Result<bool> {
    if !joining::may_ask(settings) || !joining::is_refused(settings).unwrap_or(false) {
        return Ok(false);
    }
    let mut request = JoinRequest::open(settings, None)?;
    match request.step()? {
        JoinStep::Accepted => Ok(true),
        JoinStep::Waits { code } => Err(Error::new(
            Kind::Busy,
            joining::words(settings, request.name(), &code, false),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_a_url_with_name_secret_and_fingerprint() {
        let f = "0".repeat(64);
        let target = parse(&format!("http://Hub:8080#web.1.s3cret.{f}"))
            .ok()
            .unwrap();
        let invitation = target.invitation.unwrap();
        assert_eq!(
            (
                target.url.as_str(),
                invitation.name.as_str(),
                invitation.secret.as_str()
            ),
            ("http://hub:8080", "web.1", "s3cret")
        );
        assert!(parse("http://hub:8080").is_ok_and(|t| t.invitation.is_none()));
        for bad in ["https://hub", "hub", "http://hub#", "http://hub#a.b.c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let bad = parse(&format!("http://hub#a..{f}")).err().unwrap();
        assert_eq!(bad, "the invitation is cut or mistyped");
    }
}
