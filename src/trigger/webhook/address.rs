//! Which addresses are public. A name that leads anywhere else is not asked. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Says whether an address is out on the Internet: not this machine, not its networks, not a disguise of either.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0 | 10 | 127, _, _)
        | (100, 64..=127, _)      // shared by carriers
        | (169, 254, _)           // link-local, with the metadata services of clouds
        | (172, 16..=31, _)
        | (192, 0, 0 | 2)         // protocol assignments, documentation
        | (192, 88, 99)           // 6to4 relays
        | (192, 168, _)
        | (198, 18 | 19, _)       // benchmarks
        | (198, 51, 100)
        | (203, 0, 113) => false, // documentation
        (224.., _, _) => false,   // multicast, reserved, broadcast
        _ => true,
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    match segments {
        // Networks that reach IPv4 through a translator write public hosts like this: the inner address decides.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // 2001::/23 (Teredo and other special ones), 2001:db8::/32 and 3fff::/20 (documentation), 2002::/16 (6to4).
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x2002, ..] => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // All that is handed out is in 2000::/3. The rest is mapped, local, multicast or nothing yet.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_near_is_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "::8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!is_public(text.parse().expect(text)), "{text}");
        }
    }

    #[test]
    fn what_is_handed_out_is_public() {
        for text in [
            "8.8.8.8",
            "1.1.1.1",
            "20.60.128.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.1.1",
            "223.255.255.1",
            "2603:1030::1",
            "2a00:1450::1",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(text.parse().expect(text)), "{text}");
        }
    }
}
