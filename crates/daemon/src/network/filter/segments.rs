//! What a guest leaves to its NIC, done in its place: sums, and the cutting of long TCP segments.
//!
//! passt takes no frame longer than the longest IP packet, its Ethernet header included, and slirp4netns none whose sums are
//! not whole. virtio 1.2, section 5.1.6, says what the header in front of a frame means.

use sys::seclusion::VNET_HEADER_BYTES;

use super::LENGTH_BYTES;

/// The sum is to be completed.
const NEEDS_SUM: u8 = 1;
/// Kinds of segments to be cut: TCP over IPv4, over IPv6; a flag beside them about congestion.
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const ECN: u8 = 0x80;
/// Bytes of the Ethernet and of the longest usual headers of IP and TCP.
const ETHERNET: usize = 14;
/// Where a TCP header has its flags, and those that belong to the last segment alone.
const FLAGS: usize = 13;
const FIN_AND_PUSH: u8 = 0x09;
/// What says for the first segment alone that the sender has slowed down.
const CWR: u8 = 0x80;

/// The frames that `frame` is meant to be, each behind its length, to the end of `out`. One whose header makes no sense, and
/// what would not fit into [`super::FRAME_MAX`] in the end, is left out: the guest's peer misses it.
pub(super) fn finish(frame: &mut [u8], header: [u8; VNET_HEADER_BYTES], out: &mut Vec<u8>) {
    match header[1] & !ECN {
        TCP_V4 | TCP_V6 => {
            // Nothing is sent of one that is odd.
            let _: Option<()> = cut(frame, usize::from(u16::from_ne_bytes([header[4], header[5]])), out);
        }
        _ => {
            if header[0] & NEEDS_SUM != 0 {
                let word = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
                complete(frame, word(6), word(8));
            }
            push(out, frame);
        }
    }
}

fn push(out: &mut Vec<u8>, frame: &[u8]) {
    if let Ok(length) = u32::try_from(frame.len()) {
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(frame);
    }
}

/// Completes a sum over everything from `start` on, in the field at `offset` behind it.
fn complete(frame: &mut [u8], start: usize, offset: usize) {
    let Some(covered) = frame.get_mut(start..) else {
        return;
    };
    let sum = match !folded(sum(covered)) {
        // Of UDP this would mean that there is none; both are zero to whoever checks.
        0 => 0xffff,
        sum => sum,
    };
    if let Some(field) = covered.get_mut(offset..offset.saturating_add(2)) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// The internet checksum's sum, RFC 1071.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(0, |sum, pair| sum + (u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))))
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

/// Cuts a TCP segment into such that carry at most `size` bytes.
fn cut(frame: &[u8], size: usize, out: &mut Vec<u8>) -> Option<()> {
    let is_v4 = frame.get(12..14)? == [8, 0];
    let ip_bytes = if is_v4 { usize::from(frame.get(ETHERNET)? & 0x0f) * 4 } else { 40 };
    let (tcp_at, least) = (ETHERNET + ip_bytes, if is_v4 { 20 } else { 40 });
    let tcp_bytes = usize::from(frame.get(tcp_at + 12)? >> 4) * 4;
    let body_at = tcp_at + tcp_bytes;
    // Headers of IPv6 between the two would be in the way; no guest's kernel offers such a segment.
    let is_tcp =
        if is_v4 { *frame.get(ETHERNET + 9)? == 6 } else { frame[12..14] == [0x86, 0xdd] && *frame.get(20)? == 6 };
    let body = frame.get(body_at..)?;
    if size == 0 || !is_tcp || ip_bytes < least || tcp_bytes < 20 || out.len() > 4 * super::FRAME_MAX {
        return None;
    }
    let begun = u32::from_be_bytes(*frame.get(tcp_at + 4..)?.first_chunk()?);
    let number = u16::from_be_bytes(*frame.get(ETHERNET + 4..)?.first_chunk()?);
    let count = body.len().div_ceil(size).max(1);
    for index in 0..count {
        let piece = body.get(index * size..)?;
        let piece = piece.get(..size).unwrap_or(piece);
        let mut part = [frame.get(..body_at)?, piece].concat();
        let ip_length = part.len() - ETHERNET;
        let offset = u32::try_from(index * size).ok()?;
        part[tcp_at + 4..tcp_at + 8].copy_from_slice(&begun.wrapping_add(offset).to_be_bytes());
        let flags = &mut part[tcp_at + FLAGS];
        *flags &= if index == 0 { 0xff } else { !CWR };
        *flags &= if index + 1 == count { 0xff } else { !FIN_AND_PUSH };
        let addresses = if is_v4 {
            let ip = part.get_mut(ETHERNET..tcp_at)?;
            ip[2..4].copy_from_slice(&u16::try_from(ip_length).ok()?.to_be_bytes());
            ip[4..6].copy_from_slice(&number.wrapping_add(u16::try_from(index).ok()?).to_be_bytes());
            ip[10..12].fill(0);
            let of_header = !folded(sum(ip));
            ip[10..12].copy_from_slice(&of_header.to_be_bytes());
            sum(&ip[12..20])
        } else {
            let ip = part.get_mut(ETHERNET..tcp_at)?;
            ip[4..6].copy_from_slice(&u16::try_from(ip_length - 40).ok()?.to_be_bytes());
            sum(&ip[8..40])
        };
        let segment = part.get_mut(tcp_at..)?;
        segment[16..18].fill(0);
        let whole = addresses + 6 + u64::try_from(segment.len()).ok()? + sum(segment);
        segment[16..18].copy_from_slice(&(!folded(whole)).to_be_bytes());
        push(out, &part);
    }
    Some(())
}

const _: () = assert!(LENGTH_BYTES == size_of::<u32>(), "what `push` writes");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut all = Vec::new();
        while let Ok(Some(frame)) = super::super::first_frame(bytes) {
            all.push(frame);
            bytes = &bytes[LENGTH_BYTES + frame.len()..];
        }
        assert!(bytes.is_empty());
        all
    }

    #[test]
    fn a_sum_that_was_left_to_the_nic_is_completed() {
        let mut frame = [0xaa, 0xbb, 0x12, 0x34, 0, 0, 0, 7, 0xff, 0xff, 1];
        let (mut header, mut out) = ([0; VNET_HEADER_BYTES], Vec::new());
        finish(&mut frame, header, &mut out);
        assert_eq!(frames(&out), [&frame[..]], "nothing was left");
        header[0] = NEEDS_SUM;
        header[6..8].copy_from_slice(&2_u16.to_ne_bytes());
        header[8..].copy_from_slice(&2_u16.to_ne_bytes());
        out.clear();
        finish(&mut frame, header, &mut out);
        assert_eq!(folded(sum(&frames(&out)[0][2..])), 0xffff, "a sum over itself is nothing");
    }

    /// A segment of `body` bytes over IPv4 or IPv6, its sequence number about to overflow.
    fn segment(is_v4: bool, body: usize) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if is_v4 {
            frame.extend([8, 0, 0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 192, 0, 2, 1]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64]);
            frame.extend([0x20; 32]);
        }
        frame.extend([1, 2, 3, 4, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x99, 1, 0, 0xab, 0xcd, 0, 0]);
        frame.extend((0..body).map(|at| u8::try_from(at % 251).unwrap()));
        frame
    }

    #[test]
    fn a_long_segment_becomes_several_that_are_whole() {
        for (is_v4, ip_bytes) in [(true, 20), (false, 40)] {
            let frame = segment(is_v4, 3000);
            let mut header = [0; VNET_HEADER_BYTES];
            (header[0], header[1]) = (NEEDS_SUM, if is_v4 { TCP_V4 | ECN } else { TCP_V6 });
            header[4..6].copy_from_slice(&1400_u16.to_ne_bytes());
            let mut out = Vec::new();
            finish(&mut frame.clone(), header, &mut out);
            let (parts, tcp_at) = (frames(&out), 14 + ip_bytes);
            let lengths: Vec<usize> = parts.iter().map(|part| part.len() - tcp_at - 20).collect();
            assert_eq!(lengths, [1400, 1400, 200]);
            let body: Vec<u8> = parts.iter().flat_map(|part| part[tcp_at + 20..].iter().copied()).collect();
            assert_eq!(body, frame[tcp_at + 20..]);
            let flags: Vec<u8> = parts.iter().map(|part| part[tcp_at + FLAGS]).collect();
            assert_eq!(flags, [0x90, 0x10, 0x19], "the first slows down, the last ends");
            assert_eq!(parts[1][tcp_at + 4..tcp_at + 8], (0xffff_fff0_u32.wrapping_add(1400)).to_be_bytes());
            for part in &parts {
                let addresses = if is_v4 { &part[26..34] } else { &part[22..54] };
                let tcp = &part[tcp_at..];
                assert_eq!(folded(sum(addresses) + 6 + tcp.len() as u64 + sum(tcp)), 0xffff);
                if is_v4 {
                    assert_eq!(folded(sum(&part[14..34])), 0xffff);
                    assert_eq!(usize::from(u16::from_be_bytes([part[16], part[17]])), part.len() - 14);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says(mut frame in proptest::collection::vec(any::<u8>(), 0..200), header: [u8; 10], ihl: u8) {
            let mut out = Vec::new();
            finish(&mut frame, header, &mut out);
            frames(&out);
            if frame.len() > 40 {
                (frame[12], frame[13], frame[14], frame[23]) = (8, 0, 0x40 | ihl & 0xf, 6);
                let mut header = header;
                header[1] = TCP_V4;
                finish(&mut frame, header, &mut out);
                frames(&out);
            }
        }
    }
}
