//! Turns POSIX ACLs from the form the kernel shows them in into the form ext4 keeps them in, and back.
//!
//! Outside: version 2, eight bytes an entry (include/uapi/linux/posix_acl_xattr.h). On disk: version 1, where only
//! entries for a named user or group carry an id (fs/ext4/acl.h).

const XATTR_VERSION: u32 = 2;
const EXT4_VERSION: u32 = 1;
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;
/// The id of entries that have none (ACL_UNDEFINED_ID).
const NO_ID: &[u8] = &[0xff; 4];

/// The value ext4 stores for `value`; `None` if that is not an ACL.
pub(super) fn to_ext4(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_at_checked(4)?;
    if version != XATTR_VERSION.to_le_bytes() || entries.len() % 8 != 0 {
        return None;
    }
    let mut stored = EXT4_VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let has_id = tag == ACL_USER || tag == ACL_GROUP;
        stored.extend(&entry[..if has_id { 8 } else { 4 }]);
    }
    Some(stored)
}

/// The value the kernel shows for what ext4 stores; `None` if that is not an ACL.
pub(super) fn from_ext4(stored: &[u8]) -> Option<Vec<u8>> {
    let (version, mut entries) = stored.split_at_checked(4)?;
    if version != EXT4_VERSION.to_le_bytes() {
        return None;
    }
    let mut value = XATTR_VERSION.to_le_bytes().to_vec();
    while !entries.is_empty() {
        let (entry, rest) = entries.split_at_checked(4)?;
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let (id, rest) = if tag == ACL_USER || tag == ACL_GROUP { rest.split_at_checked(4)? } else { (NO_ID, rest) };
        value.extend([entry, id].concat());
        entries = rest;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_entries_keep_their_id() {
        let owner = [0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff];
        let named = [0x02, 0, 4, 0, 0x0a, 0, 0, 0];
        let value = [&[2, 0, 0, 0][..], &owner, &named].concat();
        assert_eq!(to_ext4(&value).unwrap(), [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0x0a, 0, 0, 0]);
        assert_eq!(from_ext4(&to_ext4(&value).unwrap()).unwrap(), value);
        for bad in [&[][..], &[1, 0, 0, 0], &[2, 0, 0, 0, 1]] {
            assert_eq!(to_ext4(bad), None);
        }
        for bad in [&[][..], &[2, 0, 0, 0], &[1, 0, 0, 0, 1], &[1, 0, 0, 0, 2, 0, 4, 0, 1]] {
            assert_eq!(from_ext4(bad), None);
        }
    }
}
