//! VMs become images: what a guest changed of its system, over the image it is made of.

use super::host::Host;
use super::images::with_own_images;

/// Everything that a layer has a form of its own for.
const CHANGES: &str = r#"
set -e
mkdir -p /opt/kept /opt/gone /opt/both/below /opt/moved
echo one >/opt/kept/one; echo two >/opt/gone/two; echo three >/opt/both/below/three; echo four >/opt/moved/four
ln /opt/kept/one /opt/kept/same; ln -s one /opt/kept/link; mknod /opt/kept/null c 1 3; mkfifo /opt/kept/fifo
truncate -s 50M /opt/kept/sparse; echo end >>/opt/kept/sparse
chown 1234:4321 /opt/kept/one; chmod 4711 /opt/kept/one; touch -d '2001-02-03 04:05:06' /opt/kept/one
setfattr -n user.mark -v yes /opt/kept/one 2>/dev/null || true
long=/opt/kept/$(printf 'n%.0s' $(seq 200)); echo long >$long
rm /etc/issue; rm -r /usr/share/doc; mkdir /usr/share/doc; echo new >/usr/share/doc/only
mv /usr/share/zoneinfo /usr/share/zones 2>/dev/null || mkdir /usr/share/zones
echo home >/root/mine; mkdir -p /home/me
"#;

/// What a VM of the image says of it.
const LOOKS: &str = r#"
stat -c '%n %F %a %u:%g %h %s %Y' /opt/kept/one /opt/kept/link /opt/kept/null /opt/kept/fifo
cat /opt/kept/same /opt/kept/n*; tail -c 4 /opt/kept/sparse; stat -c %b /opt/kept/sparse
test ! -e /etc/issue; ls /usr/share/doc; test ! -e /usr/share/zoneinfo; ls -d /usr/share/zones
test ! -e /root/mine && test ! -e /home/me && echo homes stayed
"#;

const LOOKED: &str = "\
/opt/kept/one regular file 4711 1234:4321 2 4 981173106
/opt/kept/link symbolic link 777 0:0 1 3 TIME
/opt/kept/null character special file 644 0:0 1 0 TIME
/opt/kept/fifo fifo 644 0:0 1 0 TIME
one
long
end
8
only
/usr/share/zones
homes stayed";

fn look(host: &Host, vm: &str) -> String {
    let said = host.ok(&["exec", vm, "--", "sh", "-ec", LOOKS]);
    let timeless = said.lines().map(|line| match line.rsplit_once(' ') {
        Some((rest, time)) if line.starts_with("/opt") && !line.contains("/one ") && time.len() > 9 => {
            format!("{rest} TIME")
        }
        _ => line.to_owned(),
    });
    timeless.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_vm_becomes_an_image_and_an_image_of_that_another() {
    let host = with_own_images();
    host.ok(&["run", "-q", "-d", "--name", "web", "--wait", "agent"]);
    host.ok(&["exec", "web", "--", "sh", "-c", CHANGES]);
    assert_eq!(host.ok(&["commit", "-q", "web", "changed"]), "changed");
    // What goes on in the VM is no part of the image any more.
    host.ok(&["exec", "web", "--", "rm", "-r", "/opt/kept"]);
    host.ok(&["run", "-q", "-d", "--name", "two", "--image", "changed", "--wait", "agent"]);
    assert_eq!(look(&host, "two"), LOOKED);
    let (first, second) = (host.ok(&["exec", "web", "--", "hostname"]), host.ok(&["exec", "two", "--", "hostname"]));
    assert_eq!((first.as_str(), second.as_str()), ("web", "two"));

    host.ok(&["exec", "two", "--", "rm", "-r", "/opt/gone", "/opt/both/below/three"]);
    host.ok(&["commit", "-q", "two", "again"]);
    host.ok(&["run", "-q", "-d", "--name", "three", "--image", "again", "--wait", "agent"]);
    assert_eq!(look(&host, "three"), LOOKED);
    assert_eq!(host.ok(&["exec", "three", "--", "find", "/opt", "-name", "two", "-o", "-name", "three"]), "");
    let shown = host.ok(&["image", "show", "again"]);
    assert!(shown.contains("two, of changed"), "{shown}");

    let refused = host.run(&["image", "delete", "-q", "changed"]).code(1);
    assert!(refused.stderr.contains("two"), "{}", refused.stderr);
    host.ok(&["stop", "-q", "three"]);
    let off = host.run(&["commit", "-q", "three", "never"]).code(1);
    assert!(off.stderr.contains("three is not running") && off.stderr.contains("banger start three"), "{}", off.stderr);
    host.ok(&["rm", "-q", "web", "two", "three"]);
    host.ends_clean();
}
