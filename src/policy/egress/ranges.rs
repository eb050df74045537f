//! The table of addresses that deliveries must not go to, after the IANA special-purpose address registries.
//!
//! Never asks who owns an address; only what its range is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// IPv4 is public unless it is here.
pub(super) const V4_DENIED: [Ipv4Net; 19] = [
    v4([0, 0, 0, 0], 8),        // this network
    v4([10, 0, 0, 0], 8),       // private
    v4([100, 64, 0, 0], 10),    // carrier-grade NAT
    v4([127, 0, 0, 0], 8),      // loopback
    v4([168, 63, 129, 16], 32), // Azure wire server
    v4([169, 254, 0, 0], 16),   // link-local
    v4([172, 16, 0, 0], 12),    // private
    v4([192, 0, 0, 0], 24),     // IETF protocol assignments
    v4([192, 0, 2, 0], 24),     // documentation
    v4([192, 31, 196, 0], 24),  // AS112
    v4([192, 52, 193, 0], 24),  // AMT
    v4([192, 88, 99, 0], 24),   // 6to4 relay
    v4([192, 168, 0, 0], 16),   // private
    v4([192, 175, 48, 0], 24),  // AS112
    v4([198, 18, 0, 0], 15),    // benchmarks
    v4([198, 51, 100, 0], 24),  // documentation
    v4([203, 0, 113, 0], 24),   // documentation
    v4([224, 0, 0, 0], 4),      // multicast
    v4([240, 0, 0, 0], 4),      // reserved, broadcast
];

/// IPv6 is public only in here: the one block of global unicast that IANA assigns from. Everything with an
/// IPv4 address in front (`::/96`, mapped, NAT64), unique local, link-local and multicast lies outside.
pub(super) const V6_GLOBAL: Ipv6Net = v6([0x2000, 0, 0], 3);

/// And not in here.
pub(super) const V6_DENIED: [Ipv6Net; 5] = [
    v6([0x2001, 0, 0], 23),         // IETF: Teredo, benchmarks, AMT, ORCHID, drones
    v6([0x2001, 0xdb8, 0], 32),     // documentation
    v6([0x2002, 0, 0], 16),         // 6to4
    v6([0x2620, 0x4f, 0x8000], 48), // AS112
    v6([0x3fff, 0, 0], 20),         // documentation
];

/// Where clouds hand out credentials. No rule of the operator opens these.
pub(super) const METADATA: [IpAddr; 10] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // most clouds
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // AWS ECS
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),  // AWS EKS
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), // AWS EKS
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)), // OpenStack
];

const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0], 16);
const COMPATIBLE: Ipv6Net = v6([0, 0, 0], 96);

const fn v4(octets: [u8; 4], prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]), prefix_len)
}

const fn v6(head: [u16; 3], prefix_len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(head[0], head[1], head[2], 0, 0, 0, 0, 0), prefix_len)
}

/// Whether anyone may be sent there.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !V4_DENIED.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => V6_GLOBAL.contains(&address) && !V6_DENIED.iter().any(|net| net.contains(&address)),
    }
}

/// Whether it is a metadata service.
pub(super) fn is_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address)
}

/// Whether it is an IPv4 address in IPv6 dress (`::ffff:0:0/96`), which nobody publishes in good faith.
pub(super) fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// The IPv4 address to which a gateway would pass this one on: NAT64 (RFC 6052), 6to4 (RFC 3056), or the old
/// compatible form. `::` and `::1` are none.
pub(super) fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [_, _, a, b, c, d, ..] = address.octets();
    let [.., w, x, y, z] = address.octets();
    if SIX_TO_FOUR.contains(&address) {
        return Some(Ipv4Addr::new(a, b, c, d));
    }
    let compatible = COMPATIBLE.contains(&address) && !address.is_loopback() && !address.is_unspecified();
    (compatible || NAT64.contains(&address)).then(|| Ipv4Addr::new(w, x, y, z))
}
