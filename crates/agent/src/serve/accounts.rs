//! Users and groups of the guest: passwd(5) and group(5), read by hand because a static glibc must not load NSS modules of
//! whatever image it meets.

use wire::agent::message::Failure;

/// Most bytes read of either file.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name; the number when the user has none.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// A line of passwd(5).
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next()?;
        let home = fields.next()?;
        Some(User { name, uid, gid, home, shell: fields.next().unwrap_or("").trim_end() })
    })
}

/// Names, ids and members of group(5).
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("").trim_end()))
    })
}

/// Finds who `spec` (`name|uid[:group|gid]`) is. A number needs no line in passwd(5); it is then in group 0 with home `/`,
/// as container engines have it. With a group named there are no supplementary ones.
///
/// # Errors
/// [`Failure::NoSuchUser`] when a name is unknown.
pub fn find(spec: &str, passwd: &str, group: &str) -> Result<Account, Failure> {
    let unknown = || Failure::NoSuchUser { user: spec.to_owned() };
    let (who, with) = match spec.split_once(':') {
        Some((who, with)) if !with.is_empty() => (who, Some(with)),
        Some((who, _)) => (who, None),
        None => (spec, None),
    };
    let number: Option<u32> = who.parse().ok();
    let user =
        users(passwd).find(|u| u.name == who).or_else(|| users(passwd).find(|u| Some(u.uid) == number)).map(|u| {
            Account {
                name: u.name.to_owned(),
                uid: u.uid,
                gid: u.gid,
                groups: Vec::new(),
                home: u.home.to_owned(),
                shell: u.shell.to_owned(),
            }
        });
    let mut account = match (user, number) {
        (Some(account), _) => account,
        (None, Some(0)) => root(),
        (None, Some(uid)) => Account {
            name: uid.to_string(),
            uid,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
            shell: String::new(),
        },
        (None, None) if who == "root" => root(),
        (None, None) => return Err(unknown()),
    };
    match with {
        Some(with) => {
            let named = groups(group).find(|(name, ..)| *name == with).map(|(_, gid, _)| gid);
            account.gid = named.or_else(|| with.parse().ok()).ok_or_else(unknown)?;
        }
        None => {
            let member = |members: &str| members.split(',').any(|m| m == account.name);
            account.groups =
                groups(group).filter(|(.., members)| member(members)).map(|(_, gid, _)| gid).take(1024).collect();
        }
    }
    if account.home.is_empty() {
        account.home = "/".to_owned();
    }
    if account.shell.is_empty() {
        account.shell = "/bin/sh".to_owned();
    }
    Ok(account)
}

/// Root of an image without passwd(5).
fn root() -> Account {
    Account {
        name: "root".to_owned(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: "/root".to_owned(),
        shell: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nweb:x:33:34:w:/var/www:\nbroken\n7:x:70:71::/seven:/bin/zsh\n";
    const GROUP: &str = "root:x:0:\ndocker:x:999:web,me\nadm:x:4:me,web\nstaff:x:50:\n";

    #[test]
    fn users_as_asked() {
        for (spec, uid, gid, supplementary, home) in [
            ("root", 0, 0, vec![], "/root"),
            ("web", 33, 34, vec![999, 4], "/var/www"),
            ("33", 33, 34, vec![999, 4], "/var/www"),
            ("web:staff", 33, 50, vec![], "/var/www"),
            ("web:1234", 33, 1234, vec![], "/var/www"),
            ("web:", 33, 34, vec![999, 4], "/var/www"),
            ("4711", 4711, 0, vec![], "/"),
            ("4711:4712", 4711, 4712, vec![], "/"),
            ("7", 70, 71, vec![], "/seven"),
        ] {
            let account = find(spec, PASSWD, GROUP).unwrap();
            let got = (account.uid, account.gid, account.groups, account.home.as_str());
            assert_eq!(got, (uid, gid, supplementary, home), "{spec}");
        }
        assert_eq!(find("root", "", "").unwrap().home, "/root");
        for spec in ["nobody", "", "web:none", "-1"] {
            assert!(matches!(find(spec, PASSWD, GROUP), Err(Failure::NoSuchUser { .. })), "{spec}");
        }
    }

    proptest! {
        #[test]
        fn any_files_are_answered(spec in ".{0,20}", passwd in ".{0,200}", group in ".{0,200}") {
            let _: Result<Account, Failure> = find(&spec, &passwd, &group);
        }
    }
}
