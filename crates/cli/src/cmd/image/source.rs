//! Sources of images, as people type them.

use super::absolute;
use crate::error::Failure;

/// Transports that are followed by a path, and perhaps by a colon and which image of it.
const FILES: &[&str] = &["docker-archive:", "oci-archive:", "oci:", "bundle:"];

/// `source` with an absolute path, if it has one, because the daemon has another working directory.
pub(crate) fn absolute_source(source: &str) -> Result<String, Failure> {
    let Some(transport) = FILES.iter().find(|transport| source.starts_with(*transport)) else {
        return Ok(source.to_owned());
    };
    let rest = &source[transport.len()..];
    let choice_at = if *transport == "bundle:" { None } else { rest.find(':') };
    let (path, choice) = choice_at.map_or((rest, ""), |at| rest.split_at(at));
    if path.is_empty() { Ok(source.to_owned()) } else { Ok(format!("{transport}{}{choice}", absolute(path)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_become_absolute() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        let here = here.display();
        for (typed, sent) in [
            ("alpine", "alpine".to_owned()),
            ("docker-daemon:a:b", "docker-daemon:a:b".to_owned()),
            ("oci:src:v1", format!("oci:{here}/src:v1")),
            ("oci:src", format!("oci:{here}/src")),
            ("docker-archive:Cargo.toml:@0", format!("docker-archive:{here}/Cargo.toml:@0")),
            ("oci-archive:", "oci-archive:".to_owned()),
            ("bundle:Cargo.toml", format!("bundle:{here}/Cargo.toml")),
            ("catalog:Cargo.toml", "catalog:Cargo.toml".to_owned()),
        ] {
            assert_eq!(absolute_source(typed).unwrap(), sent, "{typed}");
        }
        assert!(absolute_source("oci-archive:nowhere.tar").is_err());
    }
}
