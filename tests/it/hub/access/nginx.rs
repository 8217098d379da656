//! Through nginx on the machine of the hub.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::credentials::{api_key, bearer};
use super::{Rig, Who, ask, check};
use crate::support::space::left_out;
use crate::support::world::{World, wait_for};
use mesync::internals::hub::token;

/// nginx with the shipped configuration, its certificate and ports replaced.
struct Nginx(Child);

impl Nginx {
    fn start(world: &World) -> Option<(Nginx, u16)> {
        let there = |dir: &str| std::path::Path::new(dir).join("nginx").exists();
        if !["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
            .iter()
            .any(|dir| there(dir))
        {
            left_out("nginx is not installed: the hub behind it is not tested");
            return None;
        }
        let port = World::new().port;
        let shipped = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/contrib/nginx/mesync.conf"
        ))
        .unwrap();
        let kept = |line: &&str| !line.trim().starts_with("ssl_") && !line.contains("listen [::]");
        let server: Vec<&str> = shipped.lines().filter(kept).collect();
        let server = server
            .join("\n")
            .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port};"));
        let server = server.replace("127.0.0.1:8080", &format!("127.0.0.1:{}", world.port));
        let dir = world.dir.path().join("nginx");
        std::fs::create_dir(&dir).unwrap();
        let at = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|n| format!("{n}_temp_path {at}/{n};\n"))
            .collect();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}{server}\n}}\n"
        );
        std::fs::write(dir.join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command
            .env("PATH", "/usr/sbin:/usr/bin:/usr/local/sbin")
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(dir.join("nginx.conf"));
        let log = std::fs::File::create(world.dir.path().join("nginx.log")).unwrap();
        let nginx = Nginx(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
        wait_for("nginx listens", world, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some((nginx, port))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn through_nginx_no_caller_is_allowed_before_there_is_a_key() {
    let rig = Rig::start(false, &[], "127.0.0.1");
    let Some((_nginx, port)) = Nginx::start(&rig.world) else {
        return;
    };
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let through =
        |what: &str, who: Who, host: &str, lines: &str| check(&connect, what, who, host, lines);
    for host in ["hub.example.org", "localhost", "127.0.0.1"] {
        through("no key", Who::Outsider, host, "");
        through(
            "the hub's own key",
            Who::Outsider,
            host,
            &api_key(&rig.local()),
        );
    }
    let key = rig.world.hub_ok(&["key", "add", "web-1"]);
    through("no key", Who::Stranger, "localhost", "");
    // for the hub all callers behind nginx have one address, and wrong keys from it are counted
    // together
    let foreign = token::issue(
        b"another hub's secret: 32 characters",
        "web-1",
        "web-1:x".into(),
        0,
    );
    through(
        "a token of another hub",
        Who::Stranger,
        "localhost",
        &bearer(&foreign),
    );
    through("a key", Who::Host, "hub.example.org", &api_key(&key));
    let token = ask(
        connect(),
        "POST",
        "/api/auth/login",
        "hub",
        "",
        &format!(r#"{{"api_key":"{key}"}}"#),
    );
    let token: mesync::internals::wire::LoginAnswer = serde_json::from_str(&token.body).unwrap();
    through(
        "a token",
        Who::Host,
        "hub.example.org",
        &bearer(&token.token),
    );
}
