//! Converts a footer's column statistics to those of the log: row and null counts, minimum and maximum.
//!
//! Readers skip files by these, so a bound may be too wide but never too narrow.

use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use serde_json::{Map, Value, json};

/// Bounds of texts are truncated to this many characters, as by other writers.
const BOUND_CHARACTERS_MAX: usize = 32;

/// The JSON document for an `add` action.
pub(super) fn of(metadata: &ParquetMetaData) -> String {
    let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
    let groups = metadata.row_groups();
    for (index, column) in metadata.file_metadata().schema_descr().columns().iter().enumerate() {
        let name = || column.name().to_owned();
        if let Some(count) = null_count(groups, index) {
            nulls.insert(name(), count.into());
        }
        if let Some((smallest, largest)) = bounds(groups, index) {
            min.extend(smallest.map(|value| (name(), value)));
            max.extend(largest.map(|value| (name(), value)));
        }
    }
    let rows = metadata.file_metadata().num_rows();
    json!({"numRecords": rows, "minValues": min, "maxValues": max, "nullCount": nulls}).to_string()
}

fn null_count(groups: &[RowGroupMetaData], index: usize) -> Option<u64> {
    groups.iter().map(|group| group.column(index).statistics()?.null_count_opt()).sum()
}

/// Returns `None` unless the bounds of every row group with values are known.
fn bounds(groups: &[RowGroupMetaData], index: usize) -> Option<(Option<Value>, Option<Value>)> {
    let mut all: Option<(Bound, Bound)> = None;
    for group in groups {
        let statistics = group.column(index).statistics()?;
        if statistics.null_count_opt() == Some(group.num_rows() as u64) {
            continue;
        }
        let (min, max) = Bound::pair(statistics)?;
        all = Some(match all {
            None => (min, max),
            Some((smallest, largest)) => {
                (if min < smallest { min } else { smallest }, if max > largest { max } else { largest })
            }
        });
    }
    let (min, max) = all?;
    Some((min.at_most(), max.at_least()))
}

#[derive(Debug, PartialEq, PartialOrd)]
enum Bound {
    Number(i64),
    Double(f64),
    /// Comparing UTF-8 bytes orders by characters.
    Text(String),
}

impl Bound {
    fn pair(statistics: &Statistics) -> Option<(Self, Self)> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(|text| Self::Text(text.to_owned()));
        match statistics {
            Statistics::Int32(values) => {
                Some((Self::Number((*values.min_opt()?).into()), Self::Number((*values.max_opt()?).into())))
            }
            Statistics::Int64(values) => Some((Self::Number(*values.min_opt()?), Self::Number(*values.max_opt()?))),
            Statistics::Double(values) => Some((Self::Double(*values.min_opt()?), Self::Double(*values.max_opt()?))),
            Statistics::ByteArray(values) => {
                let exact = values.min_is_exact() && values.max_is_exact();
                let bounds = (text(values.min_bytes_opt()?)?, text(values.max_bytes_opt()?)?);
                exact.then_some(bounds)
            }
            _ => None,
        }
    }

    fn at_most(self) -> Option<Value> {
        match self {
            Self::Number(number) => Some(number.into()),
            Self::Double(number) => Some(number.into()),
            Self::Text(text) => Some(text.chars().take(BOUND_CHARACTERS_MAX).collect::<String>().into()),
        }
    }

    /// Increments the last character of a truncated text.
    fn at_least(self) -> Option<Value> {
        let text = match self {
            Self::Number(number) => return Some(number.into()),
            Self::Double(number) => return Some(number.into()),
            Self::Text(text) => text,
        };
        let Some((end, _)) = text.char_indices().nth(BOUND_CHARACTERS_MAX) else { return Some(text.into()) };
        let mut text = text[..end].to_owned();
        while let Some(last) = text.pop() {
            if let Some(next) = (last..=char::MAX).nth(1) {
                text.push(next);
                return Some(text.into());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_bound_is_never_too_narrow() {
        let bounds = |text: &str| {
            let bound = || Bound::Text(text.to_owned());
            let text = |value: Value| value.as_str().map(str::to_owned);
            (bound().at_most().and_then(text), bound().at_least().and_then(text))
        };
        let short = "a".repeat(32);
        assert_eq!(bounds(&short), (Some(short.clone()), Some(short.clone())));
        let long = format!("{short}é");
        assert_eq!(bounds(&long), (Some(short.clone()), Some(format!("{}b", &short[1..]))));
        let before_gap = format!("{}\u{d7ff}x", &short[1..]);
        assert_eq!(bounds(&before_gap).1, Some(format!("{}\u{e000}", &short[1..])));
        let greatest = format!("a{}x", "\u{10ffff}".repeat(31));
        assert_eq!(bounds(&greatest).1.as_deref(), Some("b"));
        assert_eq!(bounds(&"\u{10ffff}".repeat(33)).1, None);
        for text in [long, before_gap, greatest] {
            let (min, max) = bounds(&text);
            assert!(min.unwrap() <= text && text <= max.unwrap(), "{text}");
        }
    }
}
