//! Places labels above a picture so that none covers another.

/// Rows of labels.
pub(super) const ROWS: usize = 3;
/// Width of a letter at the most, in units of the picture.
const LETTER: f64 = 6.6;
/// Between two labels.
const GAP: f64 = 8.0;

/// Finds room; labels must come from left to right.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// Where the last label of each row ends.
    ends: [f64; ROWS],
}

/// Where a label stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) row: usize,
    /// Its left end.
    pub(super) x: f64,
}

impl Labels {
    /// The place of a label that belongs to `x`; `None` when there is no room.
    pub(super) fn place(&mut self, x: f64, text: &str, right: f64) -> Option<Place> {
        let width = text.chars().count() as f64 * LETTER;
        // At the right edge it stands to the left of its line.
        let x = if x + width > right { (right - width).max(0.0) } else { x };
        let row = self.ends.iter().position(|end| *end <= x)?;
        self.ends[row] = x + width + GAP;
        Some(Place { row, x })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_would_touch_go_to_other_rows_until_there_is_none() {
        let mut labels = Labels::default();
        let rows: Vec<Option<usize>> = (0..4)
            .map(|index| labels.place(f64::from(index), "a label", 900.0).map(|place| place.row))
            .collect();
        assert_eq!(rows, [Some(0), Some(1), Some(2), None]);
        assert_eq!(labels.place(300.0, "far", 900.0).unwrap().row, 0);
    }

    #[test]
    fn a_label_at_the_right_edge_stays_inside() {
        let place = Labels::default().place(895.0, "primary killed", 900.0).unwrap();
        assert!(place.x + 14.0 * LETTER <= 900.0);
    }
}
