//! Files that look like secrets, by their names.

/// Beginnings of such names, in small letters.
const BEGINNINGS: [&str; 7] = [".env", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "credentials", "service-account"];
/// Ends of such names.
const ENDS: [&str; 8] = [".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk"];
/// Such names.
const NAMES: [&str; 10] = [
    ".npmrc",
    ".netrc",
    ".pypirc",
    ".pgpass",
    ".git-credentials",
    ".htpasswd",
    ".dockercfg",
    "secrets.yml",
    "secrets.yaml",
    "secrets.json",
];
/// Ends of names that only look like it: public keys, and examples of how a file should look.
const HARMLESS: [&str; 6] = [".pub", ".example", ".sample", ".template", ".dist", ".md"];

/// Whether a file of this path looks like a secret.
pub(super) fn looks_secret(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let is_meant = BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || ENDS.iter().any(|end| name.ends_with(end))
        || NAMES.contains(&name.as_str());
    is_meant && !HARMLESS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for secret in
            [".env", "a/.env.local", ".envrc", "x.pem", "tls/Server.KEY", "id_rsa", "id_ed25519-work", ".npmrc"]
        {
            assert!(looks_secret(secret.as_bytes()), "{secret}");
        }
        assert!(looks_secret(b"aws/credentials") && looks_secret(b"\xff.pem"));
        for harmless in ["env", "id_rsa.pub", ".env.example", "key", "src/keys.rs", "credentials.md", ".env/x"] {
            assert!(!looks_secret(harmless.as_bytes()), "{harmless}");
        }
    }
}
