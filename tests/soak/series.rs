//! Figures that are taken again and again, and whether they grow.

use std::fmt::Write as _;

/// Columns of a plot.
const WIDTH: usize = 72;
/// Heights of a plot's marks.
const MARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One figure over the time of a run.
#[derive(Debug)]
pub(crate) struct Series {
    /// What it is, with its unit.
    pub(crate) name: &'static str,
    /// Share of the figure after the warm-up by which it may be higher at the end.
    share: f64,
    /// Growth that is no growth, in the figure's unit.
    slack: f64,
    values: Vec<Option<f64>>,
}

impl Series {
    /// A series that may grow by `share` of what it was after the warm-up, or by `slack`, whichever is more.
    pub(crate) fn new(name: &'static str, share: f64, slack: f64) -> Self {
        Self {
            name,
            share,
            slack,
            values: Vec::new(),
        }
    }

    /// Takes the next figure, where there is one at this moment.
    pub(crate) fn take(&mut self, value: Option<f64>) {
        self.values.push(value);
    }

    /// Medians of the second and of the last quarter; the first is the warm-up.
    pub(crate) fn quarters(&self) -> Option<(f64, f64)> {
        let quarter = self.values.len() / 4;
        let second = median(&self.values[quarter..2 * quarter])?;
        let last = median(&self.values[3 * quarter..])?;
        Some((second, last))
    }

    /// What it grew by beyond what it may, in words.
    pub(crate) fn growth(&self) -> Option<String> {
        let Some((before, after)) = self.quarters() else {
            return Some(format!("{}: too few figures", self.name));
        };
        let most = before + (before * self.share).max(self.slack);
        (after > most).then(|| {
            format!(
                "{}: {before:.1} after the warm-up, {after:.1} at the end, at most {most:.1}",
                self.name
            )
        })
    }

    /// The series as a line of marks with its bounds.
    pub(crate) fn plot(&self) -> String {
        let known = self.values.iter().flatten();
        let (low, high) = known.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let mut marks = String::new();
        for column in 0..WIDTH {
            let at = |c: usize| c * self.values.len() / WIDTH;
            let part =
                &self.values[at(column)..at(column + 1).max(at(column) + 1).min(self.values.len())];
            let mark = match median(part) {
                None => ' ',
                Some(_) if high <= low => MARKS[0],
                Some(v) => MARKS
                    .iter()
                    .enumerate()
                    .rfind(|(i, _)| {
                        (v - low) / (high - low) * 8.0 >= f64::from(u32::try_from(*i).unwrap_or(0))
                    })
                    .map_or(MARKS[0], |(_, m)| *m),
            };
            marks.push(mark);
        }
        let mut line = format!("{:<28} {marks}", self.name);
        if low <= high {
            let _ = write!(line, " {low:.1} to {high:.1}");
        }
        if let Some((before, after)) = self.quarters() {
            let _ = write!(line, ", {before:.1} -> {after:.1}");
        }
        line
    }

    /// The figure of a moment as a field of a table.
    pub(crate) fn field(&self, at: usize) -> String {
        let value = self.values.get(at).copied().flatten();
        value.map_or(String::new(), |v| format!("{v:.2}"))
    }

    /// How many moments it was taken at.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

fn median(values: &[Option<f64>]) -> Option<f64> {
    let mut known: Vec<f64> = values.iter().flatten().copied().collect();
    known.sort_by(f64::total_cmp);
    known.get(known.len() / 2).copied()
}

#[test]
fn what_grows_is_told() {
    let of = |values: &[f64]| {
        let mut series = Series::new("figure", 0.05, 1.0);
        values.iter().for_each(|v| series.take(Some(*v)));
        series
    };
    // The warm-up counts for nothing, and neither does a single peak.
    let flat = of(&[
        1.0, 50.0, 100.0, 100.0, 101.0, 100.0, 100.0, 500.0, 100.0, 104.0, 104.0, 104.0,
    ]);
    assert_eq!(flat.growth(), None);
    assert_eq!(flat.quarters(), Some((100.0, 104.0)));
    let grown = of(&[
        1.0, 50.0, 100.0, 100.0, 101.0, 100.0, 100.0, 500.0, 100.0, 106.0, 106.0, 106.0,
    ]);
    assert!(grown.growth().is_some_and(|g| g.contains("106.0")));
    // A small figure may differ by the slack.
    assert_eq!(of(&[1.0, 2.0, 2.0, 3.0]).growth(), None);
    assert!(of(&[1.0, 2.0, 2.0, 3.5]).growth().is_some());
    assert!(of(&[]).growth().is_some());
    assert!(grown.plot().contains('█'));
}
