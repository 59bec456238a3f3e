//! The last segment of a TCP handshake, which passt up to 2024 owes the guest.
//!
//! Somebody connects to a published port; passt sends the guest a SYN, the guest answers SYN,ACK, and passt acknowledges
//! that only together with the caller's first bytes. Where the server speaks first (SSH, SMTP, MySQL) each waits for the
//! other until the connection times out. A second acknowledgement of the same says nothing new, so the guest gets one for
//! each SYN,ACK whether or not its passt sends one too.

/// Bytes of the headers in front of a segment: Ethernet; IPv4 without options.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// Flags of TCP: RFC 9293, section 3.1.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// In the unit the handshake agreed on. Small: passt's own next segment says what is true.
const WINDOW: u16 = 512;

/// What acknowledges `frame`, when that is the SYN,ACK of an IPv4 connection. (Ports are published on 127.0.0.1 alone.)
pub(super) fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let ethernet = frame.get(..ETHERNET)?;
    let ip = frame.get(ETHERNET..ETHERNET + IPV4)?;
    let header_bytes = usize::from(ip[0] & 0x0f) * 4;
    let is_whole = ip[6] & 0x3f == 0 && ip[7] == 0;
    if ethernet[12..] != [8, 0] || ip[0] >> 4 != 4 || header_bytes < IPV4 || ip[9] != 6 || !is_whole {
        return None;
    }
    let tcp = frame.get(ETHERNET + header_bytes..)?.first_chunk::<20>()?;
    if tcp[13] & 0x3f != SYN | ACK {
        return None;
    }
    let begun = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let (from, to) = (&ip[16..20], &ip[12..16]);
    let mut segment = [&tcp[2..4], &tcp[0..2], &tcp[8..12], &begun.wrapping_add(1).to_be_bytes()].concat();
    segment.extend_from_slice(&[5 << 4, ACK]);
    segment.extend_from_slice(&WINDOW.to_be_bytes());
    segment.extend_from_slice(&[0; 4]);
    let sum = checksum(&[from, to, &[0, 6, 0, 20], &segment].concat());
    segment[16..18].copy_from_slice(&sum);
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend_from_slice(from);
    packet.extend_from_slice(to);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    Some([&ethernet[6..12], &ethernet[0..6], &[8, 0], &packet, &segment].concat())
}

/// The internet checksum of an even number of bytes, RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "02fc00000001525400000002 0800 4500002c00004000400622bc0a00020f0a000202 \
                       00168458 00001000 00002000 6012ffff 00000000 020405b4";

    fn syn_ack() -> Vec<u8> {
        let digits: Vec<u8> = HEX.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn a_syn_ack_is_acknowledged_to_its_sender() {
        let answer = answer(&syn_ack()).unwrap();
        assert_eq!(answer.len(), 54);
        assert_eq!(answer[..14], [0x52, 0x54, 0, 0, 0, 2, 2, 0xfc, 0, 0, 0, 1, 8, 0]);
        assert_eq!(answer[26..34], [10, 0, 2, 2, 10, 0, 2, 15]);
        assert_eq!(answer[34..48], [0x84, 0x58, 0, 22, 0, 0, 0x20, 0, 0, 0, 0x10, 1, 0x50, 0x10]);
        assert_eq!(checksum(&answer[14..34]), [0, 0], "a sum over itself is nothing");
        assert_eq!(checksum(&[&answer[26..34], &[0, 6, 0, 20], &answer[34..]].concat()), [0, 0]);
    }

    #[test]
    fn nothing_else_is() {
        for (at, value) in
            [(12, 0x86), (14, 0x65), (14, 0x44), (20, 0x20), (21, 1), (23, 17), (47, 0x10), (47, 0x02), (47, 0x13)]
        {
            let mut frame = syn_ack();
            frame[at] = value;
            assert_eq!(answer(&frame), None, "{value:#x} at {at}");
        }
        for length in 0..54 {
            assert_eq!(answer(&syn_ack()[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(mut frame in proptest::collection::vec(any::<u8>(), 0..100), ihl in 0_u8..16) {
            answer(&frame);
            if frame.len() > 50 {
                frame[12..15].copy_from_slice(&[8, 0, 0x40 | ihl]);
                (frame[20], frame[21], frame[23]) = (0, 0, 6);
                answer(&frame);
            }
        }
    }
}
