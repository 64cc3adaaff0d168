//! What is never a backend in a cluster.

/// Networks with what they are. A pod's or machine's own address is in none of them.
pub(super) const RESERVED: [(&str, &str); 16] = [
    ("0.0.0.0/8", "unspecified"),
    ("::/128", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("::1/128", "loopback"),
    // Here are the metadata services of AWS, Azure, Google Cloud, Oracle, DigitalOcean, Hetzner, OpenStack and others
    // (169.254.169.254), and AWS's credentials of tasks and pods (169.254.170.2, 169.254.170.23).
    ("169.254.0.0/16", "link-local, where clouds have their metadata"),
    ("fe80::/10", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("ff00::/8", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    // AWS: metadata (::254), credentials of pods (::23), name and time servers.
    ("fd00:ec2::/32", "AWS's services on its machines, with their metadata"),
    ("fd20:ce::254/128", "Google Cloud's metadata"),
    ("168.63.129.16/32", "Azure's services on its machines"),
    ("100.100.100.200/32", "Alibaba Cloud's metadata"),
    ("192.0.0.192/32", "Oracle Cloud's metadata"),
    ("fd00:c1::a9fe:a9fe/128", "Oracle Cloud's metadata"),
    ("fd00:42::42/128", "Scaleway's metadata"),
];
