//! Reads mmdebstrap's output (with `--verbose`, so apt's and dpkg's too) and says how far the build is.

use crate::model::progress::Progress;

/// What was understood of the output so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    packages: u64,
    steps: u64,
    percent: Option<u8>,
    download_bytes: Option<u64>,
    downloaded_bytes: u64,
}

/// What mmdebstrap says when it begins something, and the stage people are told. Its own words are lower-case after `I: `.
const STAGES: &[(&str, &str)] = &[
    ("running apt-get update", "fetch package lists"),
    ("downloading packages", "download base system"),
    ("extracting archives", "unpack base system"),
    ("installing essential packages", "install base system"),
    ("installing remaining packages", "install packages"),
    ("cleaning package lists", "clean up"),
    ("creating tarball", "write archive"),
];

impl Output {
    /// Takes one line; gives what there is to report.
    pub(super) fn line(&mut self, line: &str) -> Option<Progress> {
        if let Some(said) = line.strip_prefix("I: ") {
            return self.stage(said);
        }
        if let Some((_, rest)) = line.split_once(" upgraded, ") {
            let count = rest.split(' ').next().and_then(|text| text.parse().ok());
            (self.packages, self.steps) = (count.unwrap_or(0), 0);
            return None;
        }
        if let Some(rest) = line.strip_prefix("Need to get ") {
            // "38.0 MB of archives." or, with some of them cached, "0 B/38.0 MB of archives."
            let size = rest.split_once(" of archives").map(|(size, _)| size.split('/').next().unwrap_or(size));
            self.download_bytes = size.and_then(apt_bytes);
            self.downloaded_bytes = 0;
            return None;
        }
        if line.starts_with("Get:") {
            let size = line.rsplit_once('[').and_then(|(_, rest)| apt_bytes(rest.strip_suffix(']')?));
            self.downloaded_bytes += size.unwrap_or(0);
            let total = self.download_bytes.map(|total| total.max(self.downloaded_bytes));
            return Some(Progress::Bytes { done: self.downloaded_bytes, total });
        }
        if (line.starts_with("Unpacking ") || line.starts_with("Setting up ")) && self.packages > 0 {
            self.steps += 1;
            let percent = (self.steps * 100 / (2 * self.packages)).min(100) as u8;
            if self.percent.replace(percent) != Some(percent) {
                return Some(Progress::Percent(percent));
            }
        }
        None
    }

    fn stage(&mut self, said: &str) -> Option<Progress> {
        let name = if let Some((_, command)) = said.split_once("-hook directly: ") {
            let program = command.split(' ').next().unwrap_or(command);
            format!("run {}", program.rsplit('/').next().unwrap_or(program))
        } else {
            STAGES.iter().find(|(begins, _)| said.starts_with(begins))?.1.to_owned()
        };
        (self.download_bytes, self.downloaded_bytes, self.percent) = (None, 0, None);
        Some(Progress::Stage(name.into()))
    }
}

/// Bytes in apt's notation: decimal units, "38.0 MB", "8790 kB", "6924 B".
fn apt_bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let unit_bytes = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    let number: f64 = number.replace(',', "").parse().ok()?;
    let bytes = number * unit_bytes;
    (bytes.is_finite() && (0.0..1e15).contains(&bytes)).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_build_is_followed() {
        let mut output = Output::default();
        let log = "\
I: automatically chosen format: tar
I: running apt-get update...
Get:4 http://deb.debian.org/debian bookworm/main amd64 Packages [8790 kB]
I: downloading packages with apt...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Need to get 1.5 MB/38.0 MB of archives.
Get:1 http://deb.debian.org/debian bookworm/main amd64 a amd64 1 [500 kB]
Get:2 http://deb.debian.org/debian bookworm/main amd64 b amd64 1 [1000 kB]
I: installing essential packages...
Unpacking a (1) ...
Unpacking b (1) ...
Setting up a (1) ...
Setting up b (1) ...
I: running --customize-hook directly: /x/hooks/boot.sh /tmp/root
I: creating tarball...
";
        let seen: Vec<_> = log.lines().filter_map(|line| output.line(line)).collect();
        let stage = |name: &'static str| Progress::Stage(name.into());
        let bytes = |done, total| Progress::Bytes { done, total };
        assert_eq!(
            seen,
            [
                stage("fetch package lists"),
                bytes(8_790_000, None),
                stage("download base system"),
                bytes(500_000, Some(1_500_000)),
                bytes(1_500_000, Some(1_500_000)),
                stage("install base system"),
                Progress::Percent(25),
                Progress::Percent(50),
                Progress::Percent(75),
                Progress::Percent(100),
                stage("run boot.sh"),
                stage("write archive"),
            ]
        );
    }

    #[test]
    fn apt_sizes() {
        for (text, bytes) in [("6924 B", Some(6924)), ("8,790 kB", Some(8_790_000)), ("1.5 GB", Some(1_500_000_000))] {
            assert_eq!(apt_bytes(text), bytes, "{text}");
        }
        for bad in ["", "x MB", "1 parsec", "1e300 GB", "NaN B", "-1 B"] {
            assert_eq!(apt_bytes(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(lines in proptest::collection::vec("(Get:|I: |Need to get |Unpacking |[0-9]+ upgraded, )?[ -~]{0,30}", 0..20)) {
            let mut output = Output::default();
            for line in lines {
                let _progress = output.line(&line);
            }
        }
    }
}
