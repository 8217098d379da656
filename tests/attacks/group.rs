//! Control groups: a hub with little memory or few threads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group (version 1, or 2 at `/sys/fs/cgroup`) for one hub, removed with the test.
pub struct Group {
    at: PathBuf,
}

impl Group {
    /// `controller`: `memory` or `pids`. `None`: this user may not, or there are none.
    pub fn make(controller: &str) -> Option<Group> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "mesync-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let root = PathBuf::from("/sys/fs/cgroup");
        let parents = [root.join(controller), root];
        let works = |group: &Group| group.file(controller).exists();
        let made = |parent: &PathBuf| {
            let group = Group {
                at: parent.join(&name),
            };
            (parent.join("cgroup.procs").exists() && std::fs::create_dir(&group.at).is_ok())
                .then_some(group)
        };
        parents.iter().filter_map(made).find(works)
    }

    fn file(&self, controller: &str) -> PathBuf {
        let names = if controller == "memory" {
            ["memory.limit_in_bytes", "memory.max"]
        } else {
            ["pids.max", "pids.max"]
        };
        names
            .iter()
            .map(|name| self.at.join(name))
            .find(|p| p.exists())
            .unwrap_or(self.at.join(names[0]))
    }

    pub fn limit(&self, controller: &str, value: impl std::fmt::Display) {
        std::fs::write(self.file(controller), value.to_string()).unwrap();
    }

    /// What runs a program in this group: it becomes the program, so the process id stays.
    pub fn wrap(&self) -> Vec<String> {
        let script = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.at.display());
        ["sh", "-c", &script, "sh"].map(String::from).to_vec()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.at);
    }
}
