//! Keys for SSH: one for each guest's service, and one of the user's that opens every guest.

use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};

/// A pair of ed25519 keys, as ssh-keygen(1) writes them.
pub struct KeyPair {
    /// The private half: a file in OpenSSH's format, without a passphrase.
    pub private: String,
    /// The public half: one line.
    pub public: String,
}

impl KeyPair {
    /// A new pair; `comment` says in the public half whose it is.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn new(comment: &str) -> Result<KeyPair, ssh_key::Error> {
        let pair = Ed25519Keypair::from_seed(&sys::rand::bytes());
        let key = PrivateKey::new(KeypairData::Ed25519(pair), comment)?;
        let public = key.public_key().to_openssh()? + "\n";
        Ok(KeyPair { private: key.to_openssh(LineEnding::LF)?.to_string(), public })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_keygen_takes_the_private_half_for_the_public_ones() {
        let (one, other) = (KeyPair::new("whose it is").unwrap(), KeyPair::new("").unwrap());
        assert!(one.public.starts_with("ssh-ed25519 ") && one.public.ends_with(" whose it is\n"), "{}", one.public);
        assert_ne!(one.public, other.public);
        let dir = tempfile::tempdir().unwrap();
        for pair in [one, other] {
            let file = dir.path().join("key");
            std::fs::write(&file, &pair.private).unwrap();
            sys::fs::set_mode(&file, 0o600).unwrap();
            let mut command = sys::process::command("ssh-keygen");
            let told = sys::process::run(command.args(["-y", "-P", "", "-f"]).arg(&file)).unwrap();
            let told = String::from_utf8(told).unwrap();
            let key = |line: &str| line.split(' ').nth(1).unwrap().trim_end().to_owned();
            assert_eq!(key(&told), key(&pair.public));
        }
    }
}
