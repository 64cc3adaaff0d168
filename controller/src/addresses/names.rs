//! Names of what is made for a Gateway, and how it is told from what others made.

/// The label that says who keeps an object.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value on ours.
pub(crate) const MANAGER: &str = "understudy.dev";
/// The label with the Gateway's name (Gateway API, GEP-1762).
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The longest name of a Service, and the longest value of a label.
const LONGEST: usize = 63;

/// The name of a Gateway's Service: `understudy-NAME`. Where that is no name of a Service (too long, dots), it is
/// changed and gets a hash at its end, so that two Gateways never share one.
pub(crate) fn service_name(gateway: &str) -> String {
    let whole = format!("understudy-{gateway}");
    if whole.len() <= LONGEST && !gateway.contains('.') {
        return whole;
    }
    with_hash(&whole.replace('.', "-"), gateway)
}

/// The value of the label with the Gateway's name: as it is, or cut and with a hash where it is too long for a label.
pub(crate) fn gateway_label(gateway: &str) -> String {
    if gateway.len() <= LONGEST { gateway.to_owned() } else { with_hash(gateway, gateway) }
}

fn with_hash(text: &str, of: &str) -> String {
    // Names of objects are ASCII, and a text that is not is cut where a character begins.
    let mut end = text.len().min(LONGEST - 9);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{:08x}", text[..end].trim_end_matches(['-', '.']), fnv1a(of.as_bytes()) as u32)
}

/// FNV-1a: the same in every version and on every machine, which the standard library's hash is not.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gateway_has_a_service_name_of_its_own() {
        assert_eq!(service_name("eg"), "understudy-eg");
        let long = "a".repeat(253);
        let names = [
            service_name("a.b"),
            service_name("a-b"),
            service_name(&long),
            service_name(&long[..252]),
            service_name(&"a".repeat(52)),
            service_name(&"a".repeat(53)),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(name.len() <= 63 && !name.contains('.') && !name.ends_with('-'), "{name}");
            assert!(!names[..index].contains(name), "{name}");
        }
        assert_eq!(gateway_label("a.b"), "a.b");
        assert_eq!(gateway_label(&long).len(), 63);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
