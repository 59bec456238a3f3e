//! Docker in a guest of the default image: a container, and two services that find each other.

use super::host::Host;
use super::images::{Registry, busybox, run, with_own_images};

/// One service serves a page, the other asks for it until it has it.
const COMPOSE: &str = r#"
version: "3"
services:
  web:
    image: "team/busybox:1"
    command: ["sh", "-c", "mkdir -p /srv && echo from-web >/srv/index.html && exec httpd -f -p 80 -h /srv"]
  asks:
    image: "team/busybox:1"
    depends_on: [web]
    command: ["sh", "-c", "until wget -q -O - http://web/; do sleep 1; done"]
"#;

fn put(host: &Host, content: &[u8], path: &str) {
    host.pipe(&["exec", "-i", "docker", "--", "sh", "-c", &format!("cat >{path}")], content).code(0);
}

#[test]
fn a_container_and_two_services_run_in_the_default_image() {
    let Some(registry) = Registry::start() else { return };
    let host = with_own_images();
    registry.push("busybox", &[busybox(&registry)], &["--config.cmd", "sh"]);
    let archive = registry.path("busybox-archive.tar");
    let to = format!("docker-archive:{}:team/busybox:1", archive.display());
    run("skopeo", ["copy", "-q", &format!("oci:{}", registry.layout("busybox")), &to]);

    host.ok(&["image", "build", "-q", "--name", "full"]);
    host.ok(&["run", "-q", "-d", "--name", "docker", "--image", "full", "--memory", "2G"]);
    put(&host, &std::fs::read(&archive).unwrap(), "/root/busybox.tar");
    put(&host, COMPOSE.as_bytes(), "/root/compose.yml");
    let script =
        "docker load -q -i /root/busybox.tar && docker run --rm team/busybox:1 sh -c 'echo $((6 * 7)) in $(ls /)'";
    assert_eq!(
        host.ok(&["exec", "docker", "--", "sh", "-c", script]),
        "Loaded image: team/busybox:1\n42 in bin dev etc proc sys"
    );
    let script = "cd /root && docker-compose --no-ansi -p two -f compose.yml up --no-color --abort-on-container-exit --exit-code-from asks";
    let said = host.ok(&["exec", "docker", "--", "sh", "-c", script]);
    assert!(said.lines().any(|line| line.starts_with("asks_1") && line.ends_with("from-web")), "{said}");
    host.ok(&["rm", "-q", "docker"]);
    host.ends_clean();
}
