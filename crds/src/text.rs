//! Values that are checked after reading: durations and quantities.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use understudy_conf::{DurationError, GatewayDuration};

/// A duration as it was written (`1h2m3s4ms`), not yet checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

impl DurationText {
    /// The duration that was meant.
    ///
    /// # Errors
    /// [`DurationError`] if the text is no Gateway API duration.
    pub fn parse(&self) -> Result<GatewayDuration, DurationError> {
        self.0.parse()
    }

    /// The duration of a field that `validate()` has checked, or the default.
    #[must_use]
    pub fn or(field: Option<&Self>, default: GatewayDuration) -> GatewayDuration {
        field.and_then(|text| text.parse().ok()).unwrap_or(default)
    }
}

/// Why a text is no quantity of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity of bytes")]
pub struct QuantityError(pub String);

/// A quantity of bytes as it was written: `32Ki`, `1M` or a plain number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

impl Quantity {
    /// The number of bytes. Fractions are allowed as long as whole bytes come out.
    ///
    /// # Errors
    /// [`QuantityError`] if the text is no quantity, or beyond 2^64.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        let wrong = || QuantityError(self.0.clone());
        let units = self.0.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.0.len());
        let (number, unit) = self.0.split_at(units);
        let factor: u128 = match unit {
            "" => 1,
            "k" | "K" => 1000,
            "M" => 1000_u128.pow(2),
            "G" => 1000_u128.pow(3),
            "T" => 1000_u128.pow(4),
            "P" => 1000_u128.pow(5),
            "E" => 1000_u128.pow(6),
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            "Ei" => 1 << 60,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() > 20 || (whole.is_empty() && fraction.is_empty()) {
            return Err(wrong());
        }
        let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| wrong())?;
        // Below 20 digits, so the power fits.
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let product = digits.checked_mul(factor).ok_or_else(wrong)?;
        if product % scale != 0 {
            return Err(wrong());
        }
        u64::try_from(product / scale).map_err(|_| wrong())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 32Ki, or a number of bytes")
            }
            fn visit_str<E>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.to_owned()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes_with_the_units_of_kubernetes() {
        for (text, bytes) in [
            ("32Ki", 32_768),
            ("65536", 65_536),
            ("1M", 1_000_000),
            ("1.5Ki", 1536),
            ("0", 0),
            ("1Gi", 1 << 30),
            ("4k", 4000),
        ] {
            assert_eq!(Quantity(text.to_owned()).bytes(), Ok(bytes), "{text}");
        }
        for bad in
            ["", "Ki", "1.0001Ki", "-1", "1KB", "1 Ki", ".", "1.2.3", "99999999999999999999999Ei", "16Ei"]
        {
            assert!(Quantity(bad.to_owned()).bytes().is_err(), "{bad}");
        }
    }
}
