//! A guest set up for its repository: tools that a stand-in for mise installs, which says what it was asked; a development
//! container's environment, ports and command.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use super::host::Host;

/// Notes what it is asked, and in which directory. With HOLD it installs only once it may; with FAIL it fails to.
const MISE: &str = r#"#!/bin/sh
echo "$PWD: $*" >>/root/mise.log
case $1 in
    install)
        echo installing
        if [ -n "$HOLD" ]; then until [ -e /root/go-on ]; do sleep 0.1; done; fi
        printf 'installed \033[1mall\033[0m\n'
        exit "${FAIL-0}"
        ;;
    exec)
        shift 2
        TOOL=on exec "$@"
        ;;
esac
"#;

/// A host whose guests have the stand-in where mise's own installer puts mise.
fn host() -> Host {
    let host = Host::new();
    fs::write(host.home().join("mise"), MISE).unwrap();
    host.configure("[[file_sync]]\nhost = \"~/mise\"\nguest = \"~/.local/bin/mise\"\nmode = \"0755\"\n");
    host
}

/// A repository of these files.
fn repository(host: &Host, files: &[(&str, &str)]) -> PathBuf {
    let top = host.home().join("project");
    fs::create_dir(&top).unwrap();
    for (name, text) in files {
        fs::write(top.join(name), text).unwrap();
    }
    let identity = ["-c", "user.name=T", "-c", "user.email=t@example.com"];
    for args in [&["init", "-q"][..], &["add", "-A"], &["commit", "-qm", "first"]] {
        let status = Command::new("git").args(identity).arg("-C").arg(&top).args(args).status().unwrap();
        assert!(status.success(), "git {args:?}");
    }
    top
}

/// What mise was asked, without what ran through it.
fn asked(host: &Host) -> Vec<String> {
    let log = host.ok(&["exec", "-w", "/", "web", "--", "cat", "/root/mise.log"]);
    log.lines().filter(|line| !line.contains(": exec --")).map(str::to_owned).collect()
}

#[test]
fn tools_are_installed_behind_the_shell_and_serve_every_command() {
    let host = host();
    let repo = repository(&host, &[(".mise.toml", "[tools]\nnode = \"22\"\n"), ("go.mod", "module x\ngo 1.25\n")]);
    let repo = repo.to_str().unwrap();
    let refused = host.run(&["run", "-d", repo]).code(125);
    assert!(refused.stderr.contains("--nat") && refused.stderr.contains("--no-bootstrap"), "{}", refused.stderr);
    // The tools are not there before the shell is: it lets them go on.
    let shell = ["run", "-t", "--nat", "--name", "web", "-e", "HOLD=1", repo];
    let ran = host.pipe(&shell, b"echo tool is $TOOL in $PWD; touch /root/go-on; exit 4\n").code(4);
    assert!(ran.text().contains("tool is on in /root/repo"), "{}", ran.text());
    assert!(ran.stderr.contains("banger logs -f --tooling web"), "{}", ran.stderr);
    let log = "+ mise install\ninstalling\ninstalled \u{1b}[1mall\u{1b}[0m\n+ mise use -g --pin go@1.25";
    assert_eq!(host.ok(&["logs", "--tooling", "-f", "web"]), log);
    let all = ["trust --quiet --all", "install", "use -g --pin go@1.25"];
    assert_eq!(asked(&host), all.map(|words| format!("/root/repo: {words}")));
    commands_have_them(&host);
    // Where no tool is pinned, mise runs nothing.
    fs::remove_file(host.home().join("project/.mise.toml")).unwrap();
    host.ok(&["workspace", "prepare", "web"]);
    assert_eq!(host.ok(&["exec", "web", "--", "sh", "-c", "echo tool $TOOL"]), "tool");
    host.ok(&["delete", "--discard", "web"]);
    host.leaves_nothing();
}

fn commands_have_them(host: &Host) {
    let words = ["sh", "-c", "printf '%s|' \"$TOOL\" \"$0\" \"$@\"; exit 7", "a b", "it's", ""];
    let ran = host.run(&[&["exec", "web", "--"], &words[..]].concat()).code(7);
    assert_eq!(ran.text(), "on|a b|it's||");
    assert_eq!(host.ok(&["exec", "-l", "-w", "/root/repo", "web", "sh", "-c", "echo $TOOL"]), "on");
    assert_eq!(host.ok(&["exec", "-w", "/root", "web", "--", "sh", "-c", "echo none$TOOL"]), "none");
    for (word, status) in [("no-such-program", 127), ("/etc/passwd", 126)] {
        let ran = host.run(&["exec", "web", "--", word]).code(status);
        assert!(ran.stderr.contains(word) && !ran.stderr.contains("mise"), "{}", ran.stderr);
    }
    host.ok(&["exec", "-d", "--name", "left", "web", "--", "sh", "-c", "echo $TOOL"]);
    assert_eq!(host.ok(&["session", "attach", "--no-stdin", "web", "left"]), "on");
    let list = host.ok(&["session", "list", "web"]);
    assert!(list.lines().any(|line| line.starts_with("left") && line.ends_with("sh -c 'echo $TOOL'")), "{list}");
    host.ok(&["exec", "-w", "/", "web", "--", "mv", "/root/.local/bin/mise", "/root/.local/bin/gone"]);
    assert_eq!(host.ok(&["exec", "web", "--", "sh", "-c", "echo none$TOOL"]), "none");
}

#[test]
fn a_development_container_is_made_of_the_vm() {
    let host = host();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = busy.local_addr().unwrap().port();
    let description = format!(
        r#"{{
            // A server of the image, which the port leads to.
            "image": "mcr.microsoft.com/devcontainers/base:bookworm",
            "containerEnv": {{"MODE": "dev mode", "AT": "${{containerWorkspaceFolder}}", "SECRET": "${{localEnv:HOME}}"}},
            "forwardPorts": [{port}, "localhost:{taken}"],
            "postCreateCommand": {{
                "one": "echo $MODE in $PWD with $TOOL | tee /root/created",
                "two": ["sh", "-c", "mkdir -p /run/sshd && exec /usr/sbin/sshd -p \"$0\"", "{port}"],
                "three": "exit 9",
            }},
            "features": {{}},
        }}"#
    );
    let repo = repository(&host, &[(".devcontainer.json", &description), (".tool-versions", "node 22\n")]);
    let ran = host.run(&["run", "-d", "--nat", "--name", "web", "-e", "FAIL=3", repo.to_str().unwrap()]).code(0);
    assert_eq!(ran.text(), "web");
    for told in [
        "warning: .devcontainer.json: not supported and left out: features",
        "warning: .devcontainer.json: containerEnv SECRET is left out",
        "wants the image mcr.microsoft.com/devcontainers/base:bookworm, which is not here",
        &format!("warning: port {taken} of .devcontainer.json is not published on 127.0.0.1"),
        "+ mise install\ninstalling\ninstalled",
        "mise ended with status 3",
        "dev mode in /root/repo with on\n",
        "warning: postCreateCommand ended with status 9 in web",
    ] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    assert_eq!(host.ok(&["exec", "web", "--", "cat", "/root/created"]), "dev mode in /root/repo with on");
    let says = ["web", "--", "sh", "-c", "echo \"$MODE|$AT|$SECRET\""];
    assert_eq!(host.ok(&[&["exec"], &says[..]].concat()), "dev mode|/root/repo|");
    assert_eq!(host.ok(&[&["exec", "-w", "/", "-e", "MODE=mine"], &says[..]].concat()), "mine|/root/repo|");
    let mut greeting = [0; 4];
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"SSH-");
    let log = host.ok(&["logs", "--tooling", "web"]);
    assert!(log.starts_with("+ mise install\n") && log.contains("\n+ exit 9"), "{log}");
    host.leaves_nothing();
}
