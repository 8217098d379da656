//! Machines as a person meets them: a BusyBox shell each, with its own network, host name and home directory, and nothing but
//! mesync, BusyBox and jq on its path.
//!
//! `hub.internal` is the hub's machine, on port 8080. `ssh` reaches another of these machines, `mail` writes a file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::space::{Net, left_out};
use super::world::{World, binary, wait_for, write_program};

/// Makes the machine, and becomes its shell: scratch directory, machine, hub's address. All machines see the scratch directory
/// as `/mnt`.
const BOOT: &str = r#"
set -e
mount --bind "$1" /mnt
printf '127.0.0.1 localhost\n%s hub.internal hub\n' "$3" >/mnt/$2.hosts
mount --bind /mnt/$2.hosts /etc/hosts
mount -t tmpfs none /usr/local/sbin
cp /mnt/deploy /usr/local/sbin/
mount -t tmpfs none /tmp
hostname "$2"
cd "/mnt/$2"
exec env -i HOME="/mnt/$2" PATH=/mnt/bin /mnt/bin/sh -e
"#;

/// The programs beside mesync and BusyBox.
const SCRIPTS: [(&str, &str); 3] = [
    (
        "bin/ssh",
        r#"#!/bin/sh
host=$1; shift
pid=$(cat /mnt/$host.pid)
exec /usr/bin/nsenter --target "$pid" --net --mount --uts /usr/bin/env -i HOME=/mnt/$host PATH=/mnt/bin sh -c 'cd && exec "$@"' sh "$@"
"#,
    ),
    ("bin/mail", "#!/bin/sh\necho \"$@\" >~/mail; cat >>~/mail\n"),
    ("deploy", "#!/bin/sh\necho \"$1\" >>~/deployed\n"),
];

/// The hub's machine and others. Their files and logs are in the scratch directory of the world.
pub struct Shells {
    pub world: World,
    machines: Vec<Shell>,
    _net: Net,
}

struct Shell {
    name: &'static str,
    child: Child,
    /// Commands that were sent.
    count: usize,
    /// Bytes of the log before the last command.
    before: usize,
}

impl Shells {
    /// `None`, with a word, where such machines cannot be made.
    pub fn start(others: &[&'static str]) -> Option<Shells> {
        for tool in [
            "/usr/bin/busybox",
            "/usr/bin/jq",
            "/usr/bin/nsenter",
            "/usr/bin/unshare",
        ] {
            if !Path::new(tool).exists() {
                left_out(&format!("no {tool}: blocks of the manuals are not run"));
                return None;
            }
        }
        let net = Net::lay(others)?;
        let world = World::new();
        let bin = world.dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let list = Command::new("busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            symlink("/usr/bin/busybox", bin.join(applet)).unwrap();
        }
        symlink("/usr/bin/jq", bin.join("jq")).unwrap();
        let copied = Command::new("cp")
            .arg(binary())
            .arg(bin.join("mesync"))
            .status();
        assert!(copied.unwrap().success());
        for (name, text) in SCRIPTS {
            let path = world.dir.path().join(name);
            let _ = fs::remove_file(&path);
            write_program(&path, text);
        }
        let mut shells = Shells {
            world,
            machines: Vec::new(),
            _net: net,
        };
        for name in ["hub"].into_iter().chain(others.iter().copied()) {
            shells.boot(name);
        }
        Some(shells)
    }

    fn boot(&mut self, name: &'static str) {
        let place = match name {
            "hub" => self._net.inside(8080),
            other => self._net.place(other, 8080),
        };
        let dir = self.world.dir.path();
        fs::create_dir(dir.join(name)).unwrap();
        let log = fs::File::create(dir.join(format!("{name}.log"))).unwrap();
        let mut words = place.wrap();
        words.extend(["unshare", "--mount", "--uts", "sh", "-c", BOOT, "sh"].map(String::from));
        words.extend([
            dir.display().to_string(),
            name.into(),
            place.hub.ip().to_string(),
        ]);
        let child = Command::new(&words[0])
            .args(&words[1..])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        fs::write(dir.join(format!("{name}.pid")), child.id().to_string()).unwrap();
        self.machines.push(Shell {
            name,
            child,
            count: 0,
            before: 0,
        });
        self.run(name, "umask 022");
    }

    /// The home directory of a machine.
    pub fn home(&self, name: &str) -> PathBuf {
        self.world.dir.path().join(name)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.world.dir.path().join(format!("{name}.log"))).unwrap()
    }

    fn shell(&mut self, name: &str) -> &mut Shell {
        self.machines.iter_mut().find(|m| m.name == name).unwrap()
    }

    /// All output of a machine since the last command was sent to it.
    pub fn output(&self, name: &str) -> String {
        let shell = self.machines.iter().find(|m| m.name == name).unwrap();
        self.log(name)[shell.before..].to_string()
    }

    /// Sends lines to a machine's shell, without waiting.
    fn send(&mut self, name: &str, lines: &str) {
        let before = self.log(name).len();
        let shell = self.shell(name);
        shell.before = before;
        writeln!(shell.child.stdin.as_mut().unwrap(), "{lines}").unwrap();
    }

    /// Runs lines to their end; each command must succeed. Gives their output.
    #[track_caller]
    pub fn run(&mut self, name: &str, lines: &str) -> String {
        let shell = self.shell(name);
        shell.count += 1;
        let mark = format!("<<{}>>", shell.count);
        self.send(name, &format!("{lines}\necho '{mark}'"));
        self.wait(name, &mark);
        let said = self.output(name);
        said.split(&mark).next().unwrap().to_string()
    }

    /// Waits until the output since the last command has this text.
    #[track_caller]
    pub fn wait(&mut self, name: &str, text: &str) {
        let dir = self.world.dir.path().to_path_buf();
        let Shell { child, before, .. } =
            self.machines.iter_mut().find(|m| m.name == name).unwrap();
        wait_for(&format!("{name} says {text:?}"), &self.world, || {
            let ended = child.try_wait().unwrap();
            let log = fs::read_to_string(dir.join(format!("{name}.log"))).unwrap();
            let is_said = log[*before..].contains(text);
            assert!(
                is_said || ended.is_none(),
                "{name} ended: {}",
                self.world.logs()
            );
            is_said
        });
    }

    /// Sends lines whose last command does not end by itself; [`Shells::end_last`] ends it.
    pub fn begin(&mut self, name: &str, lines: &str) {
        self.send(name, &format!("set +e\n{lines}\nset -e"));
    }

    #[track_caller]
    pub fn end_last(&mut self, name: &str) {
        let shell = self.shell(name).child.id();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        let last = children.split_whitespace().next_back().unwrap();
        let pid = rustix::process::Pid::from_raw(last.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.run(name, ":");
    }
}

impl Drop for Shells {
    fn drop(&mut self) {
        for shell in &mut self.machines {
            let group = rustix::process::Pid::from_child(&shell.child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = shell.child.wait();
        }
    }
}
