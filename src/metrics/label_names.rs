//! Names of documents as label values.

use std::collections::HashSet;

/// Names with a label value of their own; all others share one.
const NAMED_MAX: usize = 100;
const OTHERS: &str = "(others)";

/// Bounds the values of a label: the first names that come keep theirs.
#[derive(Debug, Default)]
pub struct LabelNames(HashSet<String>);

impl LabelNames {
    pub fn label<'n>(&mut self, name: &'n str) -> &'n str {
        if self.0.contains(name) {
            return name;
        }
        if self.0.len() == NAMED_MAX {
            return OTHERS;
        }
        self.0.insert(name.to_owned());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_names_keep_theirs() {
        let mut names = LabelNames::default();
        for n in 0..NAMED_MAX {
            let name = n.to_string();
            assert_eq!(names.label(&name), name);
        }
        assert_eq!(names.label("late"), OTHERS);
        assert_eq!(names.label("0"), "0");
    }
}
