//! Just enough of the DNS wire format (RFC 1035): one question in, one answer out.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Record type of an IPv4 address.
pub(crate) const TYPE_A: u16 = 1;
/// Record type of an IPv6 address.
pub(crate) const TYPE_AAAA: u16 = 28;
const TYPE_SOA: u16 = 6;
const CLASS_IN: u16 = 1;
/// A pointer to the question's name, which stands right after the header.
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, 12];

/// A parsed query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    id: [u8; 2],
    recursion_desired: bool,
    /// The name in lower case, without the trailing dot.
    pub(crate) name: String,
    /// The record type that is asked for.
    pub(crate) record_type: u16,
    /// The question as it came, with the case of its letters, which resolvers may check.
    question: &'a [u8],
}

/// Response codes that are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    NoError = 0,
    ServFail = 2,
    NxDomain = 3,
    Refused = 5,
}

impl<'a> Query<'a> {
    /// Parses a query; `None` for anything but one well-formed question.
    pub(crate) fn parse(packet: &'a [u8]) -> Option<Self> {
        let id = [*packet.first()?, *packet.get(1)?];
        let flags = *packet.get(2)?;
        let is_response = flags & 0x80 != 0;
        if is_response || packet.get(4..6)? != [0, 1] {
            return None;
        }
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*packet.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // Longer ones are pointers, which a question never needs.
            if length > 63 {
                return None;
            }
            labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
            at += length;
        }
        let end = at + 4;
        let question = packet.get(12..end)?;
        Some(Self {
            id,
            recursion_desired: flags & 1 != 0,
            name: labels.join("."),
            record_type: u16::from_be_bytes([packet[at], packet[at + 1]]),
            question,
        })
    }

    /// Encodes an answer with these addresses of the type that was asked for.
    pub(crate) fn answer(&self, v4: &[Ipv4Addr], v6: &[Ipv6Addr], ttl: u32) -> Vec<u8> {
        let data: Vec<Vec<u8>> = match self.record_type {
            TYPE_A => v4.iter().map(|a| a.octets().to_vec()).collect(),
            TYPE_AAAA => v6.iter().map(|a| a.octets().to_vec()).collect(),
            _ => Vec::new(),
        };
        if data.is_empty() {
            return self.negative(Code::NoError, ttl);
        }
        let mut packet = self.header(Code::NoError, data.len() as u16, 0);
        for data in &data {
            packet.extend_from_slice(&POINTER_TO_QUESTION);
            record(&mut packet, self.record_type, ttl, data);
        }
        packet
    }

    /// Encodes "no such name" or "no such record" with an SOA record, whose minimum says how long that holds.
    pub(crate) fn negative(&self, code: Code, ttl: u32) -> Vec<u8> {
        let mut packet = self.header(code, 0, 1);
        // The root's name, for an owner, a server and a mailbox that do not matter.
        packet.push(0);
        let mut soa = vec![0, 0];
        for number in [1, 60, 60, 60, ttl] {
            soa.extend_from_slice(&number.to_be_bytes());
        }
        record(&mut packet, TYPE_SOA, ttl, &soa);
        packet
    }

    /// Encodes a failure.
    pub(crate) fn failure(&self, code: Code) -> Vec<u8> {
        self.header(code, 0, 0)
    }

    fn header(&self, code: Code, answers: u16, authorities: u16) -> Vec<u8> {
        let mut packet = self.id.to_vec();
        // A response, authoritative; recursion available.
        packet.push(0x84 | u8::from(self.recursion_desired));
        packet.push(0x80 | code as u8);
        for count in [1, answers, authorities, 0] {
            packet.extend_from_slice(&count.to_be_bytes());
        }
        packet.extend_from_slice(self.question);
        packet
    }
}

fn record(packet: &mut Vec<u8>, record_type: u16, ttl: u32, data: &[u8]) {
    packet.extend_from_slice(&record_type.to_be_bytes());
    packet.extend_from_slice(&CLASS_IN.to_be_bytes());
    packet.extend_from_slice(&ttl.to_be_bytes());
    packet.extend_from_slice(&(data.len() as u16).to_be_bytes());
    packet.extend_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `Www.example` of type A with recursion desired.
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03Www\x07example\x00\x00\x01\x00\x01";

    #[test]
    fn a_query_is_read_with_its_name_in_lower_case() {
        let query = Query::parse(QUERY).unwrap();
        assert_eq!((query.name.as_str(), query.record_type), ("www.example", TYPE_A));
    }

    #[test]
    fn an_answer_repeats_the_question_as_it_came_and_has_the_address() {
        let answer = Query::parse(QUERY).unwrap().answer(&[Ipv4Addr::new(127, 0, 0, 9)], &[], 7);
        assert_eq!(&answer[..12], b"\x12\x34\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00");
        assert_eq!(&answer[12..12 + QUERY.len() - 12], &QUERY[12..]);
        assert_eq!(
            &answer[QUERY.len()..],
            b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x07\x00\x04\x7f\x00\x00\x09"
        );
    }

    #[test]
    fn no_prefix_of_a_query_and_no_response_is_taken_for_a_query() {
        for length in 0..QUERY.len() {
            assert_eq!(Query::parse(&QUERY[..length]), None, "{length} bytes");
        }
        let mut response = QUERY.to_vec();
        response[2] |= 0x80;
        assert_eq!(Query::parse(&response), None);
    }
}
