//! A path against the form of events: what it names must be able to be there, and its filters able to hold.

use super::query::{Comparable, Comparison, Logical, PatternOf, Query, Segment, Selector};
use crate::base::nearest::suggestion;
use crate::event::describe::{ViewType, payload};
use crate::reaction::rules::feasibility::{misfit, unmatched};
use crate::reaction::rules::filters::Kinds;
use crate::reaction::rules::node_types::{Place, Places, member, shown};
use crate::store::Operator;

/// What the path finds in events of these kinds; the error says what can never be there.
pub(super) fn check(segments: &[Segment], kinds: Kinds<'_>) -> Result<Places, String> {
    Checker { kinds }.segments(Places::one(ViewType::Event), segments)
}

struct Checker<'d> {
    kinds: Kinds<'d>,
}

/// A side of a comparison.
enum Side<'q> {
    Literal(&'q serde_json::Value),
    Found(Places),
}

impl Checker<'_> {
    fn segments(&self, mut places: Places, segments: &[Segment]) -> Result<Places, String> {
        for segment in segments {
            places = match segment {
                Segment::Children(selectors) => self.selectors(&places, selectors)?,
                Segment::Descendants(selectors) => self.selectors(&self.with_descendants(places), selectors)?,
            };
        }
        Ok(places)
    }

    fn selectors(&self, places: &Places, selectors: &[Selector]) -> Result<Places, String> {
        let mut found = Places::default();
        for selector in selectors {
            found.join(self.selector(places, selector)?);
        }
        Ok(found)
    }

    fn selector(&self, places: &Places, selector: &Selector) -> Result<Places, String> {
        match selector {
            Selector::Name(name) => self.named(places, name),
            Selector::Index(_) | Selector::Slice { .. } => {
                let elements = |place| match place {
                    ViewType::List(element) => vec![Some(element.view_type())],
                    _ => Vec::new(),
                };
                inside(places, elements)
                    .ok_or_else(|| format!("takes an element by its index of {}, which is no list", places.describe()))
            }
            Selector::Wildcard => self.each(places),
            Selector::Filter(filter) => {
                let elements = self.each(places)?;
                self.logical(&elements, filter)?;
                Ok(elements)
            }
        }
    }

    fn named(&self, places: &Places, name: &str) -> Result<Places, String> {
        let mut found = Places { known: Vec::new(), open: places.open, optional: places.optional || places.open };
        let mut wrong = None;
        for place in &places.known {
            match member(*place, name, self.kinds) {
                Ok(holds) => {
                    // Messages and the entries of maps may be missing.
                    found.optional |= matches!(place, ViewType::Map(_) | ViewType::Struct);
                    found.optional |= matches!(holds, Some(ViewType::Message(_) | ViewType::Struct));
                    found.add(holds);
                }
                Err(detail) => {
                    found.optional = true;
                    wrong.get_or_insert(detail);
                }
            }
        }
        match wrong {
            Some(detail) if found.is_empty() && places.known.len() == 1 => Err(detail),
            _ if found.is_empty() => {
                let names = places.known.iter().flat_map(|place| self.fields(*place));
                Err(format!("names a field `{}` that nothing there has{}", shown(name), suggestion(name, names)))
            }
            _ => Ok(found),
        }
    }

    /// What `*` and filters range over.
    fn each(&self, places: &Places) -> Result<Places, String> {
        inside(places, |place| self.children(place))
            .ok_or_else(|| format!("looks for members of {}", places.describe()))
    }

    fn with_descendants(&self, mut places: Places) -> Places {
        places.optional = true;
        let mut at = 0;
        while let Some(place) = places.known.get(at).copied() {
            self.children(place).into_iter().for_each(|child| places.add(child));
            at += 1;
        }
        places
    }

    /// What a place has inside; `None` stands for anything.
    fn children(&self, place: ViewType) -> Vec<Place> {
        match place {
            ViewType::List(element) | ViewType::Map(element) => vec![Some(element.view_type())],
            ViewType::Struct => vec![None],
            ViewType::Event | ViewType::Message(_) => {
                self.fields(place).into_iter().map(|name| place.field(name)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The names of the fields that events of these kinds have there.
    fn fields(&self, place: ViewType) -> Vec<&'static str> {
        let mut names = place.fields();
        if let ViewType::Event = place {
            names.retain(|name| payload(name).is_none_or(|kind| self.kinds.include(kind)));
        }
        names
    }

    fn logical(&self, node: &Places, logical: &Logical) -> Result<(), String> {
        match logical {
            Logical::Any(parts) | Logical::All(parts) => parts.iter().try_for_each(|part| self.logical(node, part)),
            Logical::Not(inner) => self.logical(node, inner),
            Logical::Exists(query) => self.query(node, query).map(|_| ()),
            Logical::Compare(left, comparison, right) => match (self.side(node, left)?, self.side(node, right)?) {
                (Side::Found(places), Side::Literal(value)) => against_literal(&places, *comparison, value),
                (Side::Literal(value), Side::Found(places)) => against_literal(&places, turned(*comparison), value),
                (Side::Found(left), Side::Found(right)) => against_each_other(&left, *comparison, &right),
                (Side::Literal(_), Side::Literal(_)) => Ok(()),
            },
            Logical::Matches { subject, pattern, whole } => {
                let name = if *whole { "match" } else { "search" };
                let (known, found) = match pattern {
                    PatternOf::Constant(pattern) => (Some(pattern), None),
                    PatternOf::Found(found) => (None, Some(self.side(node, found)?)),
                };
                let sides = [Some((self.side(node, subject)?, known)), found.map(|side| (side, None))];
                for (side, known) in sides.into_iter().flatten() {
                    let wrong = match side {
                        Side::Found(places) => unmatched(&places, known),
                        Side::Literal(value) if value.is_string() => None,
                        Side::Literal(_) => Some("takes strings".to_owned()),
                    };
                    if let Some(detail) = wrong {
                        return Err(format!("calls `{name}`, which {detail}"));
                    }
                }
                Ok(())
            }
        }
    }

    fn side<'q>(&self, node: &Places, comparable: &'q Comparable) -> Result<Side<'q>, String> {
        let number = Places { optional: true, ..Places::one(ViewType::Int { min: 0, max: i64::MAX }) };
        match comparable {
            Comparable::Literal(value) => Ok(Side::Literal(value)),
            Comparable::Singular(query) => self.query(node, query).map(Side::Found),
            Comparable::ValueOf(query) => {
                let found = self.query(node, query)?;
                Ok(Side::Found(Places { optional: true, ..found }))
            }
            Comparable::Count(query) => {
                self.query(node, query)?;
                Ok(Side::Found(Places { optional: false, ..number }))
            }
            Comparable::Length(of) => {
                let without = |place: &ViewType| classes_of(*place) & (TEXT | OBJECT | LIST) == 0;
                match self.side(node, of)? {
                    Side::Found(places) if places.known().is_some_and(|known| known.iter().all(without)) => {
                        Err(format!("takes the `length` of {}, which has none", places.describe()))
                    }
                    Side::Literal(value) if !value.is_string() => {
                        Err(format!("takes the `length` of `{}`, which has none", shown(&value.to_string())))
                    }
                    _ => Ok(Side::Found(number)),
                }
            }
        }
    }

    fn query(&self, node: &Places, query: &Query) -> Result<Places, String> {
        let from = if query.from_root { Places::one(ViewType::Event) } else { node.clone() };
        // The node in hand is there.
        self.segments(Places { optional: false, ..from }, &query.segments)
    }
}

/// What is inside of the places, of those that have something inside.
fn inside(places: &Places, of: impl Fn(ViewType) -> Vec<Place>) -> Option<Places> {
    let mut found = Places { known: Vec::new(), open: places.open, optional: true };
    places.known.iter().flat_map(|place| of(*place)).for_each(|inner| found.add(inner));
    (!found.is_empty()).then_some(found)
}

/// The comparison with its sides exchanged.
fn turned(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Below => Comparison::Above,
        Comparison::AtMost => Comparison::AtLeast,
        Comparison::Above => Comparison::Below,
        Comparison::AtLeast => Comparison::AtMost,
        same => same,
    }
}

fn against_literal(places: &Places, comparison: Comparison, value: &serde_json::Value) -> Result<(), String> {
    let wrong = |operator| misfit(places, operator, value);
    // `<=` and `>=` hold for what is equal, even where it has no order.
    let unless_equal = |detail: Option<String>| detail.filter(|_| wrong(Operator::Eq).is_some());
    let detail = match comparison {
        Comparison::Equal => wrong(Operator::Eq),
        Comparison::NotEqual => wrong(Operator::Ne),
        Comparison::Below => wrong(Operator::Lt),
        Comparison::Above => wrong(Operator::Gt),
        Comparison::AtMost => unless_equal(wrong(Operator::Lte)),
        Comparison::AtLeast => unless_equal(wrong(Operator::Gte)),
    };
    match detail {
        Some(detail) => Err(format!("compares with `{}`, which {detail}", shown(&value.to_string()))),
        None => Ok(()),
    }
}

fn against_each_other(left: &Places, comparison: Comparison, right: &Places) -> Result<(), String> {
    let both = classes(left) & classes(right);
    let (possible, why) = match comparison {
        Comparison::Below | Comparison::Above => (both & (TEXT | NUMBER) != 0, "which have no order"),
        // Two that are missing are equal.
        _ => (both != 0 || (left.optional && right.optional), "which are never equal"),
    };
    if possible { Ok(()) } else { Err(format!("compares {} with {}, {why}", left.describe(), right.describe())) }
}

const TEXT: u8 = 1;
const NUMBER: u8 = 2;
const BOOL: u8 = 4;
const OBJECT: u8 = 8;
const LIST: u8 = 16;

/// Only values of one class can be equal.
fn classes(places: &Places) -> u8 {
    match places.known() {
        Some(known) => known.iter().fold(0, |all, place| all | classes_of(*place)),
        None => TEXT | NUMBER | BOOL | OBJECT | LIST,
    }
}

fn classes_of(place: ViewType) -> u8 {
    match place {
        ViewType::String => TEXT,
        ViewType::Enum(_) => TEXT | NUMBER,
        ViewType::Int { .. } | ViewType::Double => NUMBER,
        ViewType::Bool => BOOL,
        ViewType::Event | ViewType::Message(_) | ViewType::Struct | ViewType::Map(_) => OBJECT,
        ViewType::List(_) => LIST,
    }
}
